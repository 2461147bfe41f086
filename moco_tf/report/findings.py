"""What a practitioner would say on seeing a run: each finding with its numbers, and the remedy."""

import dataclasses
import math

import ml_collections
import numpy as np

from moco_tf.config import chance_loss, num_negatives

# The loss counts as chance from this share of ln(K+1) on.
CHANCE = 0.97
# A contrastive accuracy from here on is "near 100 %", and a kNN accuracy that is no more than this
# above that of random initialisation is "near" it.
LEAK_TOP1, LEAK_GAIN = 0.9, 0.05
# Features have collapsed where 95 % of the pairs of images have a cosine above the one (on `photos`
# 0.94 to 0.99 in untrained encoders, 0.39 after four epochs), or where they vary in fewer
# directions than the other (38 to 155 there, and 31).
COLLAPSED_COSINE, COLLAPSED_RANK = 0.995, 2.0
# Well below the smallest data set whose figures are in the README.
FEW_IMAGES = 5_000


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known of a run.

    Attributes:
        config: the run's config.
        metrics: the lines of metrics.jsonl up to `step`, dicts.
        step, total_steps, steps_per_epoch: int; `step` is the checkpoint's.
        num_images: int, that it trains on.
        finite: bool, whether all features of the test images are finite numbers.
        low_cosine: float, the 5th percentile of the cosines between features of different images;
            None where they are not finite, or fewer than two.
        effective_rank: float, of `moco_tf.report.embedding.effective_rank`, or None as well.
        accuracies: `{backbone: {protocol: top-1}}` of "trained", "random initialisation" and "raw
            pixels", "knn" and "linear_cached", shares in 0 to 1; None without labels.
        most_frequent: float, the share of the most frequent class; None without labels.
        num_test: int, test images.
    """

    config: ml_collections.ConfigDict
    metrics: list
    step: int
    total_steps: int
    steps_per_epoch: int
    num_images: int
    finite: bool
    low_cosine: float | None
    effective_rank: float | None
    accuracies: dict | None
    most_frequent: float | None
    num_test: int


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        kind: str, its name to programs.
        warns: bool, whether there is something wrong.
        title: str, a few words.
        numbers: str, what was seen.
        remedy: str, what to do where it warns.
    """

    kind: str
    warns: bool
    title: str
    numbers: str
    remedy: str


def look(evidence):
    """All that can be looked at with this evidence.

    Args:
        evidence: an `Evidence`.

    Returns:
        A list of `Finding`, those that warn first.
    """
    found = [check(evidence) for check in CHECKS]
    return sorted((f for f in found if f is not None), key=lambda finding: not finding.warns)


def finite_numbers(e):
    losses = [line["loss"] for line in e.metrics if "loss" in line]
    lost = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    warns = lost is not None or not e.finite
    features = "are finite" if e.finite else "are not all finite"
    where = (
        "" if lost is None else f", and the loss is not from line {lost + 1} of {len(losses)} on"
    )
    return Finding(
        "not_finite",
        warns,
        "Numbers are no longer finite" if warns else "Loss and features are finite",
        f"The features of the test images {features}{where}.",
        f"Training diverged. Lower --config.learning_rate (here {e.config.learning_rate:g} for 256 "
        f"images), and see whether --config.precision=float32 helps (here {e.config.precision}).",
    )


def finished(e):
    warns = e.step < e.total_steps
    return Finding(
        "not_finished",
        warns,
        "The run is not finished" if warns else "The run is finished",
        f"The newest checkpoint is of step {e.step:,} of {e.total_steps:,}, epoch "
        f"{e.step / e.steps_per_epoch:.4g} of {e.total_steps / e.steps_per_epoch:.4g}.",
        "The same train.py command again goes on from there; then make the report again.",
    )


def loss_at_chance(e):
    loss = at_the_end(e, "loss")
    if loss is None or not math.isfinite(loss):
        return None
    chance, config = chance_loss(e.config), e.config
    warns = loss >= CHANCE * chance
    formula = "ln(N)" if config.mechanism == "end_to_end" else "ln(K+1)"
    causes = [f"a learning rate that is too high or too low (here {config.learning_rate:g})"]
    if config.mechanism == "moco":
        causes.insert(
            0, f"a key encoder that changes too fast (--config.momentum={config.momentum:g})"
        )
    return Finding(
        "loss_at_chance",
        warns,
        "The loss is at chance level" if warns else "The loss is below chance level",
        f"Over the last epoch it is {loss:.2f} in the mean; pure chance among "
        f"{num_negatives(config) + 1:,} keys is {formula} = {chance:.2f}.",
        f"The keys tell the queries nothing. Usual causes: {'; '.join(causes)}; views that show "
        "nothing in common, which train.py --preview=FILE.png draws.",
    )


def leaking_normalization(e):
    top1 = at_the_end(e, "contrastive_top1")
    if top1 is None or e.config.mechanism == "memory_bank":  # which has no key encoder
        return None
    seen = f"The contrastive accuracy over the last epoch is {percent(top1)}"
    shuffled = f"shuffle_bn={e.config.shuffle_bn}, bn_groups={e.config.bn_groups}"
    if e.accuracies is not None:
        trained, random = (e.accuracies[n]["knn"] for n in ("trained", "random initialisation"))
        poor = trained < max(random, e.most_frequent) + LEAK_GAIN
        seen += (
            f"; kNN is {percent(trained)}, with random initialisation {percent(random)}, and "
            f"{percent(e.most_frequent)} of the images are of the most frequent class. Here "
            f"{shuffled}."
        )
    else:
        poor = not e.config.shuffle_bn
        seen += (
            f", with {shuffled}. Without labels nothing tells here whether the features are poor."
        )
    warns = top1 >= LEAK_TOP1 and poor
    return Finding(
        "leaking_normalization",
        warns,
        "BatchNormalization leaks the answer"
        if warns
        else "BatchNormalization does not seem to leak",
        seen,
        "Query and key find each other by the statistics of their batch, and learn nothing else. "
        "Train with --config.shuffle_bn=True and --config.bn_groups=8 (the paper's eight GPUs).",
    )


def collapsed_features(e):
    if e.low_cosine is None:
        return None
    warns = e.low_cosine >= COLLAPSED_COSINE or e.effective_rank < COLLAPSED_RANK
    config = e.config
    return Finding(
        "collapsed_features",
        warns,
        "The features have collapsed" if warns else "The features have not collapsed",
        f"95 % of the pairs of test images have a cosine above {e.low_cosine:.3f}; the effective "
        f"rank of the features is {e.effective_rank:.1f}.",
        "Different images are all but the same to the backbone. Usual causes: too few steps so "
        f"far, a learning rate that is too high (here {config.learning_rate:g} for 256 images) or "
        f"a weight decay that is (here {config.weight_decay:g}).",
    )


def queue_of_data_set(e):
    if e.config.mechanism != "moco":
        return None
    size, images = e.config.queue_size, e.num_images
    warns = size > images
    return Finding(
        "queue_larger_than_data",
        warns,
        "The queue is larger than the data set" if warns else "The queue fits the data set",
        f"It has {size:,} keys, and there are {images:,} images: {size / images:.2g} keys an "
        "image, where the paper's ImageNet has 0.051.",
        "Queries meet their own images among the negatives. Set --config.queue_size well below "
        f"{images:,}.",
    )


def few_images(e):
    warns = e.num_images < FEW_IMAGES
    return Finding(
        "few_images",
        warns,
        "There are few images" if warns else "There are images enough",
        f"The run trains on {e.num_images:,}; the paper's smaller set has 1,280,000, and this "
        "project's demo 8,116.",
        "Add images; they need no labels. Or begin with a backbone that was trained on more "
        "(export/pytorch.py takes over published checkpoints).",
    )


def worse_than_baselines(e):
    if e.accuracies is None:
        return None
    words = {"knn": "kNN", "linear_cached": "linear probe"}
    trained = e.accuracies["trained"]
    baselines = [name for name in e.accuracies if name != "trained"]
    numbers = [
        f"{words[protocol]} {percent(trained[protocol])}, "
        + ", ".join(f"{name} {percent(e.accuracies[name][protocol])}" for name in baselines)
        for protocol in words
    ]
    warns = any(trained[p] < e.accuracies[name][p] for name in baselines for p in words)
    return Finding(
        "worse_than_baselines",
        warns,
        "The features are worse than untrained ones or raw pixels"
        if warns
        else "The features are no worse than untrained ones and raw pixels",
        f"{'; '.join(numbers)}. (On {e.num_test:,} test images.)",
        "Training did not pay, so far, for these labels. Train longer, see the curves for whether "
        "anything is learned, and ask whether the augmentation keeps what the labels are about: "
        "colour, say, is what --config.augmentation changes most.",
    )


CHECKS = (
    finite_numbers,
    finished,
    loss_at_chance,
    leaking_normalization,
    collapsed_features,
    worse_than_baselines,
    queue_of_data_set,
    few_images,
)


def percent(share):
    """A share of 0 to 1 in words."""
    return f"{100 * share:.1f} %"


def at_the_end(evidence, key):
    """The mean of a number of metrics.jsonl over the last epoch, or None where there is none."""
    since = evidence.step - evidence.steps_per_epoch
    values = [line[key] for line in evidence.metrics if key in line and line["step"] > since]
    return float(np.mean(values)) if values else None
