"""The checks of a report, which find common problems of a run and suggest remedies."""

import dataclasses
import math

import ml_collections
import numpy as np

from moco_tf.config import chance_formula, chance_loss, num_negatives, suggested_queue_size
from moco_tf.data.unreadable import MAX_NAMES
from moco_tf.evaluation.quality import has_collapsed
from moco_tf.report.evidence import Evidence

# Names of the backbones that are compared.
TRAINED, RANDOM, PIXELS = "trained", "random initialization", "raw pixels"
PROTOCOLS = {"knn": "kNN", "linear_cached": "linear probe"}
# Titles of the findings by their names: that of a warning, and that of a passed check.
TITLES = {
    "not_finite": ("The loss or the features are not finite", "Loss and features are finite"),
    "not_finished": ("The run is not finished", "The run is finished"),
    "loss_at_chance": ("The loss is at chance level", "The loss is below chance level"),
    "leaking_normalization": (
        "BatchNormalization leaks the positive key",
        "No sign that BatchNormalization leaks the positive key",
    ),
    "collapsed_features": ("The features have collapsed", "The features have not collapsed"),
    "queue_larger_than_data": (
        "The queue is larger than the data set",
        "The queue is not larger than the data set",
    ),
    "few_images": ("The data set is small", "The data set is large enough"),
    "unreadable_images": ("Some images cannot be read", "All images can be read"),
    "worse_than_baselines": (
        "The features are worse than a baseline",
        "The features are at least as good as the baselines",
    ),
}

# A loss of at least this share of the chance level counts as chance level.
CHANCE = 0.97
# A contrastive accuracy from LEAK_TOP1 on is suspicious if the kNN accuracy is no more than
# LEAK_GAIN above that of random initialization.
LEAK_TOP1, LEAK_GAIN = 0.9, 0.05
# Well below the size of the demo's data set.
FEW_IMAGES = 5_000


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        name: Name of the check, for programs.
        is_warning: Whether something may be wrong.
        observation: The numbers behind it.
        remedy: What to do about a warning.
    """

    name: str
    is_warning: bool
    observation: str
    remedy: str

    @property
    def title(self) -> str:
        """The result in a few words."""
        warning, passed = TITLES[self.name]
        return warning if self.is_warning else passed


def check(evidence: Evidence) -> list[Finding]:
    """Apply all checks for which there is enough evidence.

    Args:
        evidence: What was measured.

    Returns:
        The findings, warnings first.
    """
    findings = [function(evidence) for function in CHECKS]
    return sorted(
        (finding for finding in findings if finding is not None),
        key=lambda finding: not finding.is_warning,
    )


def check_finite(evidence: Evidence) -> Finding:
    """Check that the loss and the features are finite numbers."""
    losses = [line["loss"] for line in evidence.metrics if "loss" in line]
    first = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    is_warning = first is not None or not evidence.finite
    observation = (
        "The features of the test images are finite"
        if evidence.finite
        else "The features of the test images are not finite"
    )
    if first is not None:
        observation += f", and the loss is not finite from line {first + 1} of {len(losses)} on"
    return Finding(
        "not_finite",
        is_warning,
        f"{observation}.",
        f"Training diverged. Lower config.learning_rate (now {_learning_rate(evidence.config)}), "
        "and check whether config.precision='float32' helps (now "
        f"'{evidence.config.precision}').",
    )


def check_finished(evidence: Evidence) -> Finding:
    """Check that the run is finished."""
    is_warning = evidence.step < evidence.total_steps
    epoch = evidence.step / evidence.steps_per_epoch
    epochs = evidence.total_steps / evidence.steps_per_epoch
    return Finding(
        "not_finished",
        is_warning,
        f"The newest checkpoint is at step {evidence.step:,} of {evidence.total_steps:,}, epoch "
        f"{epoch:.4g} of {epochs:.4g}.",
        "Start the training again with the same config and run directory to resume it, then "
        "create the report again.",
    )


def check_loss(evidence: Evidence) -> Finding | None:
    """Check that the loss is below its chance level."""
    loss = last_epoch_mean(evidence, "loss")
    if loss is None or not math.isfinite(loss):
        return None
    config, chance = evidence.config, chance_loss(evidence.config)
    is_warning = loss >= CHANCE * chance
    causes = [f"a learning rate that is too high or too low (now {_learning_rate(config)})"]
    if config.mechanism == "moco":
        causes.insert(
            0, f"a key encoder that changes too fast (config.momentum={config.momentum:g})"
        )
    return Finding(
        "loss_at_chance",
        is_warning,
        f"The mean loss of the last epoch is {loss:.2f}. Chance level, the loss of a model that "
        f"cannot tell the {num_negatives(config) + 1:,} keys apart, is {chance_formula(config)} = "
        f"{chance:.2f}.",
        "The model cannot tell the positive key from the negatives. Common causes: "
        f"{'; '.join(causes)}; views that have nothing in common (plot a preview of the run to "
        "see them).",
    )


def check_batch_normalization(evidence: Evidence) -> Finding | None:
    """Check that BatchNormalization does not leak which key is the positive one."""
    config, top1 = evidence.config, last_epoch_mean(evidence, "contrastive_top1")
    if top1 is None or config.mechanism == "memory_bank":  # It has no key encoder.
        return None
    settings = f"config.shuffle_bn={config.shuffle_bn} and config.bn_groups={config.bn_groups}"
    observation = f"The contrastive accuracy of the last epoch is {percent(top1)} with {settings}. "
    if evidence.accuracies is not None and evidence.most_frequent is not None:
        trained, random = (evidence.accuracies[name]["knn"] for name in (TRAINED, RANDOM))
        is_poor = trained < max(random, evidence.most_frequent) + LEAK_GAIN
        observation += (
            f"The kNN accuracy is {percent(trained)}, compared with {percent(random)} for random "
            f"initialization and {percent(evidence.most_frequent)} for always predicting the most "
            "frequent class."
        )
    else:
        is_poor = not config.shuffle_bn
        observation += "Without labels, the report cannot check whether the features are poor."
    is_warning = top1 >= LEAK_TOP1 and is_poor
    return Finding(
        "leaking_normalization",
        is_warning,
        observation,
        "The encoders recognize the positive key by the statistics of its batch and learn nothing "
        "else. Train with config.shuffle_bn=True and config.bn_groups=8 (the paper's eight GPUs).",
    )


def check_collapse(evidence: Evidence) -> Finding | None:
    """Check that different images have different features."""
    if evidence.low_cosine is None or evidence.effective_rank is None:
        return None
    config = evidence.config
    is_warning = has_collapsed(evidence.low_cosine, evidence.effective_rank)
    return Finding(
        "collapsed_features",
        is_warning,
        "The features of 95 % of the pairs of test images have a cosine similarity above "
        f"{evidence.low_cosine:.3f}. The effective rank of the features is "
        f"{evidence.effective_rank:.1f}: they vary in about as many directions. It is close to 1 "
        "if all features are almost the same.",
        "The features of different images are almost the same. Common causes: too few training "
        f"steps so far, a learning rate that is too high (now {_learning_rate(config)}), or a "
        f"weight decay that is too high (now {config.weight_decay:g}).",
    )


def check_queue(evidence: Evidence) -> Finding | None:
    """Check that the queue is not larger than the data set."""
    if evidence.config.mechanism != "moco":
        return None
    size, num_images = evidence.config.queue_size, evidence.num_images
    is_warning = size > num_images
    return Finding(
        "queue_larger_than_data",
        is_warning,
        f"The queue has {size:,} keys, and the data set has {num_images:,} images. In the paper, "
        "the queue has one key for every 20 images of ImageNet.",
        "Queries find keys of their own images among the negatives. Train a new run with "
        f"config.queue_size={suggested_queue_size(num_images)}, which is about an eighth of the "
        "images.",
    )


def check_num_images(evidence: Evidence) -> Finding:
    """Check that the data set is not very small."""
    is_warning = evidence.num_images < FEW_IMAGES
    return Finding(
        "few_images",
        is_warning,
        f"The run trains on {evidence.num_images:,} images. The demo of moco-tf trains on 8,116 "
        "images, and the paper on 1.28 million images or more.",
        "Add images, which need no labels, or use a backbone that was trained on more images: "
        "moco-evaluate and moco-export also take the published PyTorch checkpoints of MoCo.",
    )


def check_readable(evidence: Evidence) -> Finding:
    """Check that all images that the report uses can be read."""
    names, total = evidence.unreadable, evidence.num_images_used
    if not names:
        observation = f"The report uses {total:,} images."
    else:
        shown = ", ".join(sorted(names)[:MAX_NAMES])
        more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
        observation = f"{len(names):,} of the {total:,} images cannot be read: {shown}{more}."
    if evidence.unreadable_classes:
        classes = ", ".join(evidence.unreadable_classes)
        observation += f" No test image can be read of: {classes}."
    return Finding(
        "unreadable_images",
        bool(names),
        observation,
        "The results say nothing about these images. Replace the files, which may be damaged or "
        "incomplete, or remove them. All names are in eval/report_unreadable.txt.",
    )


def check_baselines(evidence: Evidence) -> Finding | None:
    """Check that the features are at least as good as random initialization and raw pixels."""
    if evidence.accuracies is None:
        return None
    accuracies = evidence.accuracies
    baselines = [name for name in accuracies if name != TRAINED]
    parts = [
        f"{protocol_name}: "
        + ", ".join(
            f"{name} {percent(accuracies[name][protocol])}" for name in (TRAINED, *baselines)
        )
        for protocol, protocol_name in PROTOCOLS.items()
    ]
    is_warning = any(
        accuracies[TRAINED][protocol] < accuracies[name][protocol]
        for name in baselines
        for protocol in PROTOCOLS
    )
    return Finding(
        "worse_than_baselines",
        is_warning,
        f"Top-1 accuracies on {evidence.num_test:,} test images: {'; '.join(parts)}.",
        "So far, training has not helped with these labels. Check in the curves whether the model "
        "is still learning, and train longer if it is. Also check whether the augmentation "
        "preserves what the labels depend on, such as color: the settings config.augment change "
        "it.",
    )


CHECKS = (
    check_finite,
    check_finished,
    check_loss,
    check_batch_normalization,
    check_collapse,
    check_baselines,
    check_queue,
    check_num_images,
    check_readable,
)


def percent(share: float) -> str:
    """Format a share in [0, 1] as a percentage.

    Example:
        >>> percent(0.6254)
        '62.5 %'
    """
    return f"{100 * share:.1f} %"


def last_epoch_mean(evidence: Evidence, key: str) -> float | None:
    """Return the mean of a metric over the last epoch, or None if it was not logged there."""
    start = evidence.step - evidence.steps_per_epoch
    values = [line[key] for line in evidence.metrics if key in line and line["step"] > start]
    return float(np.mean(values)) if values else None


def _learning_rate(config: ml_collections.ConfigDict) -> str:
    unit = " per 256 images" if config.scale_learning_rate else ""
    return f"{config.learning_rate:g}{unit}"
