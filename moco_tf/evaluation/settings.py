"""The settings of every evaluation protocol: defaults, ranges and help texts in one place.

The command line makes its flags from these classes, and results record them.
"""

import dataclasses
from typing import Any

import numpy as np

from moco_tf.errors import UserError
from moco_tf.ranges import Range, checked, plain


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    item: type | None = None,
) -> Any:
    """Declare a field of a settings class.

    Args:
        default: Default value.
        help: One sentence on what it is, with its unit.
        minimum: Smallest valid value.
        above: Number that a valid value is greater than.
        maximum: Largest valid value.
        choices: All valid values.
        item: Type of the items, for a setting that is a tuple.
    """
    is_whole = item is int or type(default) is int
    valid = Range(minimum, above, maximum, choices, is_whole=is_whole)
    return dataclasses.field(default=default, metadata=dict(help=help, range=valid, item=item))


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base class of the settings of a protocol; values out of range raise a `UserError`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, valid = getattr(self, field.name), field.metadata["range"]
            if value is None and field.default is None:
                continue
            if isinstance(field.default, str) and not isinstance(value, str):
                expected = f"choose {valid}" if valid.choices else "must be a text"
                raise UserError(f"{field.name}={value!r:.100}: {expected}")
            if item := field.metadata["item"]:
                items = _checked_items(field.name, value, valid, field.default)
                value = tuple(map(item, items))
            else:
                value = checked(field.name, value, valid)
                if type(field.default) is float:  # Keras takes no integer as a learning rate.
                    value = float(value)
            object.__setattr__(self, field.name, value)


def _checked_items(name: str, values: Any, valid: Range, default: Any) -> list[Any]:
    """Return the numbers of a setting that is a tuple.

    Args:
        name: Name of the setting.
        values: Its value.
        valid: The valid numbers.
        default: Its default, which is the example in the message unless it is empty.

    Raises:
        UserError: If it is no sequence of valid numbers.
    """
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, tuple | list):
        raise UserError(
            f"{name}={values!r:.100}: give a tuple of numbers, such as {default or (1, 5)}"
        )
    values = [plain(value) for value in values]
    if problem := valid.error(values):
        raise UserError(f"{name}={','.join(map(str, values))}: {problem}")
    return values


@dataclasses.dataclass(frozen=True)
class KNNSettings(Settings):
    """Settings of weighted k-nearest-neighbor classification."""

    k: int = setting(
        200, "Number of neighbors; clipped to the number of training images.", minimum=1
    )
    temperature: float = setting(
        0.07,
        "Temperature of the neighbors' votes, which are weighted by exp(similarity / temperature).",
        above=0,
    )
    ks: tuple[int, ...] = setting(
        (),
        "Numbers of neighbors to compare, separated by commas. The one with the best leave-one-out "
        "accuracy on the training images is used for the test images. Empty for k.",
        minimum=1,
        item=int,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ks and self.k != KNNSettings.k:
            raise UserError(
                f"k={self.k} has no effect with ks: add it to ks, or set one of the two"
            )


@dataclasses.dataclass(frozen=True)
class ProbeSettings(Settings):
    """Settings of the cached linear probe, a logistic regression on precomputed features."""

    l2: float = setting(1e-3, "Weight of the L2 penalty on the classifier's weights.", above=0)
    iterations: int = setting(200, "Maximum number of iterations of L-BFGS.", minimum=1)


@dataclasses.dataclass(frozen=True)
class FewShotSettings(ProbeSettings):
    """Settings of few-shot classification."""

    shots: tuple[int, ...] = setting(
        (1, 5, 10), "Numbers of labeled images per class, separated by commas.", minimum=1, item=int
    )
    draws: int = setting(
        10, "Number of random choices of the labeled images to average over.", minimum=2
    )
    seed: int = setting(0, "Random seed of the choice of the labeled images.", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shots:
            raise UserError("shots=: give at least one number of labeled images per class")


@dataclasses.dataclass(frozen=True)
class RetrievalSettings(Settings):
    """Settings of retrieval."""

    gallery: str = setting(
        "test",
        "Images that are ranked for each test image: the other test images, or the training "
        "images.",
        choices=("test", "train"),
    )
    ranks: tuple[int, ...] = setting(
        (1, 5, 10), "Ranks k of the recall at k, separated by commas.", minimum=1, item=int
    )


@dataclasses.dataclass(frozen=True)
class AnomalySettings(Settings):
    """Settings of anomaly detection."""

    normal: str = setting("good", "Name of the class of normal images.")
    level: str = setting(
        "image",
        "What is compared with normal images: the features of whole images, or patches of the map "
        "of the third stage of a ResNet, which localize anomalies.",
        choices=("image", "patch"),
    )
    k: int = setting(
        5,
        "Number of nearest normal images, whose mean distance is the score of a test image "
        "(level=image only).",
        minimum=1,
    )
    seed: int = setting(
        0, "Random seed of the choice of normal patches (level=patch only).", minimum=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        name = "k" if self.level == "patch" else "seed"
        if getattr(self, name) != getattr(AnomalySettings, name):
            raise UserError(
                f"{name}={getattr(self, name)} has no effect with level={self.level}: remove it"
            )


@dataclasses.dataclass(frozen=True)
class ClusterSettings(Settings):
    """Settings of clustering by k-means."""

    clusters: int = setting(
        0, "Number of clusters; 0 for as many as there are classes, if there are labels.", minimum=0
    )
    starts: int = setting(
        10, "Number of k-means initializations; the best result is kept.", minimum=1
    )
    seed: int = setting(0, "Random seed of the starts.", minimum=0)


@dataclasses.dataclass(frozen=True)
class SGDSettings(Settings):
    """What the protocols that train a classifier by SGD have in common."""

    epochs: int = setting(100, "Number of epochs to train.", minimum=1)
    batch_size: int = setting(256, "Number of images in a batch, over all devices.", minimum=1)
    sgd_momentum: float = setting(0.9, "Momentum of SGD.", minimum=0, maximum=1)
    weight_decay: float = setting(
        0.0, "Weight decay of all trained parameters, an L2 penalty in the gradient.", minimum=0
    )
    crop_scale: tuple[float, float] = setting(
        (0.08, 1.0),
        "Smallest and largest fraction of an image's area in a random crop, separated by a comma; "
        "1,1 for the central view of evaluations.",
        above=0,
        maximum=1,
        item=float,
    )
    seed: int = setting(
        0, "Random seed of the initial weights, the order of the images and the crops.", minimum=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.crop_scale) != 2 or self.crop_scale[0] > self.crop_scale[1]:
            raise UserError(
                f"crop_scale={','.join(f'{fraction:g}' for fraction in self.crop_scale)}: give "
                "the smallest and the largest fraction, such as 0.08,1"
            )


@dataclasses.dataclass(frozen=True)
class LinearSettings(SGDSettings):
    """Settings of the paper's linear protocol (section 4.1)."""

    learning_rate: float = setting(
        30.0, "Initial learning rate; 30 suits the paper's ResNet-50 on ImageNet.", above=0
    )
    learning_rates: tuple[float, ...] = setting(
        (),
        "Initial learning rates to compare, separated by commas: a layer for each is trained in "
        "one pass over four fifths of the training images, and the other fifth chooses the layer "
        "that is tested. Empty for one learning rate and all training images.",
        above=0,
        item=float,
    )
    milestones: tuple[int, ...] = setting(
        (60, 80),
        "Epochs at which the learning rate is divided by 10, separated by commas; empty for none.",
        item=int,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_milestones_within(self.milestones, "epoch", self.epochs, "epochs")
        if self.learning_rates and self.learning_rate != LinearSettings.learning_rate:
            raise UserError(
                f"learning_rate={self.learning_rate:g} has no effect with learning_rates: add it "
                "to learning_rates, or set only one of the two"
            )


@dataclasses.dataclass(frozen=True)
class FinetuneSettings(SGDSettings):
    """Settings of fine-tuning a classifier."""

    learning_rate: float = setting(0.01, "Initial learning rate of the backbone.", above=0)
    epochs: int = setting(20, "Number of epochs to train.", minimum=1)
    head_learning_rate: float = setting(0.2, "Initial learning rate of the new layer.", above=0)
    layers: str = setting(
        "all",
        "Layers to train: all, or only the new layer (head).",
        choices=("head", "all"),
    )
    batch_norm: str = setting(
        "tuned",
        "Whether to train BatchNormalization with the statistics of the global batch (tuned), or "
        "to keep it in inference mode (frozen).",
        choices=("tuned", "frozen"),
    )
    label_fraction: float = setting(
        1.0,
        "Fraction of the training images of each class to use, at least one image.",
        above=0,
        maximum=1,
    )
    evaluate_every: int = setting(
        1,
        "Number of epochs between evaluations on the test images. The last epoch is always "
        "evaluated.",
        minimum=1,
    )

    def evaluated_epochs(self) -> set[int]:
        """Return the epochs, counted from 1, after which the test images are evaluated."""
        return {*range(self.evaluate_every, self.epochs, self.evaluate_every), self.epochs}

    def used(self) -> dict[str, Any]:
        """Return the settings that affect the trained classifier.

        `evaluate_every` never does, and the settings of the backbone do not with `layers="head"`.
        """
        unused = {"evaluate_every"}
        if self.layers == "head":
            unused |= {"batch_norm", "learning_rate"}
        return {name: value for name, value in vars(self).items() if name not in unused}


@dataclasses.dataclass(frozen=True)
class TransferSettings(Settings):
    """What detection and segmentation have in common (section 4.2)."""

    learning_rate: float = setting(
        0.01, "Learning rate after the warm-up, before the first milestone.", above=0
    )
    steps: int = setting(24000, "Number of training steps.", minimum=1)
    milestones: tuple[int, ...] | None = setting(
        None,
        "Steps at which the learning rate is divided by 10, separated by commas; empty for none. "
        "By default two steps near the end of the training.",
        item=int,
    )
    warmup_steps: int = setting(
        100, "Number of warm-up steps, over which the learning rate rises linearly.", minimum=0
    )
    batch_size: int = setting(16, "Number of images in a batch, over all devices.", minimum=1)
    sgd_momentum: float = setting(0.9, "Momentum of SGD.", minimum=0, maximum=1)
    weight_decay: float = setting(
        1e-4, "Weight decay of all trained parameters, an L2 penalty in the gradient.", minimum=0
    )
    seed: int = setting(
        0, "Random seed of the new layers, the order of the images and the flips.", minimum=0
    )
    trials: int = setting(
        1, "Number of trainings with consecutive seeds to average over.", minimum=1
    )

    # Fractions of the steps after which the learning rate is divided by 10 by default.
    default_milestones = (3 / 4, 11 / 12)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.milestones is None:
            steps = [int(fraction * self.steps) for fraction in self.default_milestones]
            milestones = tuple(step for step in steps if 0 < step < self.steps)
            object.__setattr__(self, "milestones", milestones)
        _require_milestones_within(self.milestones or (), "step", self.steps, "steps")


@dataclasses.dataclass(frozen=True)
class DetectionSettings(TransferSettings):
    """Settings of object detection.

    The steps and the milestones are the paper's for PASCAL VOC. The learning rate is Detectron2's
    for RetinaNet; the paper's detector is another one.
    """


@dataclasses.dataclass(frozen=True)
class SegmentationSettings(TransferSettings):
    """Settings of segmentation; the schedule is the paper's for PASCAL VOC (its appendix)."""

    learning_rate: float = setting(
        0.003, "Learning rate after the warm-up, before the first milestone.", above=0
    )
    steps: int = setting(30000, "Number of training steps.", minimum=1)

    default_milestones = (7 / 10, 9 / 10)


# By the name that the result goes by.
SETTINGS: dict[str, type[Settings]] = {
    "knn": KNNSettings,
    "knn_head": KNNSettings,
    "linear": LinearSettings,
    "linear_cached": ProbeSettings,
    "few-shot": FewShotSettings,
    "retrieval": RetrievalSettings,
    "anomaly": AnomalySettings,
    "cluster": ClusterSettings,
    "finetune": FinetuneSettings,
    "finetune_comparison": FinetuneSettings,
    "detection": DetectionSettings,
    "detection_comparison": DetectionSettings,
    "segmentation": SegmentationSettings,
    "segmentation_comparison": SegmentationSettings,
}


def _require_milestones_within(
    milestones: tuple[int, ...], unit: str, end: int, length_name: str
) -> None:
    for milestone in milestones:
        if not 0 < milestone < end:
            raise UserError(
                f"milestones={','.join(map(str, milestones))}: {unit} {milestone} is not between "
                f"0 and {length_name}={end}; choose others, or none"
            )
