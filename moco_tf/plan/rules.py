"""The rules of a plan: how each setting follows from the images and the devices.

`RULES` is the table that docs/plan.md shows.
"""

import dataclasses
from collections.abc import Callable

from moco_tf.plan import choices
from moco_tf.plan.choices import (
    CPU_EPOCHS,
    CPU_EVALUATION_VIEW,
    CPU_IMAGES_SEEN,
    CPU_VIEW,
    FEW_IMAGES,
    LARGE_VIEW,
    MAX_STEPS,
    MIN_STEPS_PER_EPOCH,
    SMALL_VIEW,
    Choice,
    Values,
)
from moco_tf.plan.facts import Devices, Images


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule of the plan.

    Attributes:
        setting: The setting that it chooses.
        choose: Function of the images, the devices and the settings that are decided already, by
            their keys in the flat config, to a value and a reason in one line.
        text: The rule in words.
        source: Where it comes from: a paper, a study or a recipe of this repository, or judgment.
    """

    setting: str
    choose: Callable[[Images, Devices, Values], Choice]
    text: str
    source: str


PAPERS = "paper, section 4, and Chen et al. 2020"
CIFAR = "reference implementation's notebook (configs/cifar10.py)"
DEMO = "the demo (configs/photos.py), measured"
FOLDER = "[Your own images](your_images.md#queue-momentum-and-other-settings)"
WEIGHTS = "[Your own images](your_images.md#start-from-existing-weights)"
SMALL_DATA = "[small data sets](results.md#small-data-sets)"
STUDY = "[study](reproducing.md#the-study)"

# In the order in which they are decided: a rule uses the settings of the rules before it.
RULES = (
    Rule(
        "image_size",
        choices.image_size,
        f"{LARGE_VIEW}, or the largest multiple of 32 that the median of the shorter sides allows; "
        f"at most {SMALL_VIEW} for a given small stem; {CPU_VIEW} on a CPU if the stem is small, "
        "or if it is not given and neither weights nor a network come from elsewhere",
        f"{PAPERS}; on a CPU {DEMO}; between them judgment",
    ),
    Rule(
        "evaluation_size",
        choices.evaluation_size,
        f"for views of {CPU_VIEW} pixels on a CPU {CPU_EVALUATION_VIEW}, or the median of the "
        "shorter sides if it is less; otherwise image_size",
        f"{PAPERS}; on a CPU {DEMO}, and {SMALL_DATA}",
    ),
    Rule(
        "stem",
        choices.stem,
        f"small for views of at most {SMALL_VIEW} pixels, imagenet otherwise, and for "
        "weights or networks from elsewhere",
        f"{CIFAR} for 32 pixels; the limit is judgment",
    ),
    Rule(
        "encoder",
        choices.encoder,
        f"resnet50 for at least {FEW_IMAGES:,} distinct images; resnet18 for fewer or for the "
        "small stem; on a CPU resnet8 with the small stem and resnet18 with the other; resnet50 if "
        "the run starts from weights, and the network of the weights for `init=run:DIR` and "
        "`init=keras_hub:PRESET`",
        f"{PAPERS}; {CIFAR}; on a CPU {DEMO}; the limit is judgment",
    ),
    Rule(
        "head",
        choices.head,
        "linear with the small stem, mlp otherwise",
        f"Chen et al. 2020; {STUDY}: with small gray images, the linear probe had 64.4 ± 2.0 "
        "without and 60.6 ± 2.1 with an MLP head",
    ),
    Rule(
        "precision",
        choices.precision,
        "float32; mixed_bfloat16 on a CPU with AVX-512 BF16 or AMX, and where the batch needs more "
        "memory than there is and the device has bfloat16 (GPUs of compute capability 8.0, TPUs)",
        "paper; on such a CPU, a step takes 0.6 of the time for ResNet-50 and 0.4 for "
        "ResNet-18 with the small stem (`benchmarks/train_step.py`); the estimate of the memory is "
        "described below",
    ),
    Rule(
        "batch_size",
        choices.batch_size,
        "256, or 128 on a CPU; with more than 16 devices 16 for each; smaller powers of two so "
        f"that an epoch has at least {MIN_STEPS_PER_EPOCH} steps, but at least 32 unless that is "
        "more than a quarter of the images; halved until it fits into memory",
        f"{PAPERS}; on a CPU {DEMO}; the limits are judgment",
    ),
    Rule(
        "bn_groups",
        choices.bn_groups,
        "8, or as many as leave groups of 32 images, or of 16 with the small stem; a multiple of "
        "the number of devices, and at least 2",
        f"paper, section 3.3 (8 GPUs with 32 images each); {DEMO} (8 groups of 16); {SMALL_DATA}: "
        "1 to 16 groups differ by two points at most",
    ),
    Rule(
        "queue_size",
        choices.queue_size,
        "the power of two nearest to an eighth of the distinct images, from one batch to 65,536",
        f"paper (65,536, 5 % of ImageNet); {FOLDER}; {DEMO} (1,024 keys for 8,116 images); "
        f"{STUDY}: 0.8, 13 and 50 % of the images do not clearly differ, 3 % is better than 50 % "
        f"by 2.7 points; {SMALL_DATA}: of 1,000 images 6 to 100 % better than 2 %, of 4,000 images "
        "2 to 25 % and of 50,000 images 2 to 131 % within a point, of 5,518 images 5 to 74 % "
        "within chance (two seeds), but of 16,000 images 2 and 6 % better than 13 % by about two "
        "points (one seed)",
    ),
    Rule(
        "epochs",
        choices.epochs,
        f"200; 800 for fewer than {FEW_IMAGES:,} images, and at most {MAX_STEPS:,} steps, "
        "but at least one epoch; on a CPU "
        f"{', '.join(map(str, CPU_EPOCHS[:-1]))} or {CPU_EPOCHS[-1]}, the first that sees "
        f"{CPU_IMAGES_SEEN:,} images; 50 if the run starts from weights",
        f"{PAPERS}; {FOLDER}; {WEIGHTS}; on a CPU {DEMO}; {STUDY} and {SMALL_DATA}: longer is "
        "better",
    ),
    Rule(
        "momentum",
        choices.momentum,
        "0.999 for runs of at least 100,000 steps, 0.99 for shorter ones",
        f"paper, section 4.1; {CIFAR}; {STUDY}: no clear difference between 0.99 and 0.9999; "
        f"{SMALL_DATA}: with 2,016 steps 0.99 better than 0.9, and with 4,000 steps "
        "on 1,000, 4,000 and 50,000 images as good as 0.999, and on 16,000 better; the limit is "
        "judgment",
    ),
    Rule(
        "temperature",
        choices.temperature,
        "0.2 with the MLP head, 0.1 with the linear head",
        f"Chen et al. 2020; {CIFAR}; {DEMO}, also with {SMALL_DATA}",
    ),
    Rule(
        "learning_rate",
        choices.learning_rate,
        "0.03, 0.24 for resnet8, resnet14 and resnet20, or 0.01 for larger networks that start "
        "from weights; for 256 images and scaled linearly",
        f"{PAPERS}; {DEMO}; {WEIGHTS} for starts from weights, judgment",
    ),
    Rule(
        "augmentation",
        choices.augmentation,
        "v2; with the small stem cifar10 for color images and v1 for others",
        f"Chen et al. 2020; {CIFAR}; {DEMO}; {STUDY}: no clear difference between v1 and v2 on "
        f"small gray images, but on smaller views ({SMALL_DATA}) v1 better by 6.5 ± 3.6 points",
    ),
    Rule(
        "rgb_operations",
        choices.rgb_operations,
        "False for images that are all gray, do not have three channels or have more than 8 bits",
        "hue, saturation and grayscale have no effect on gray images, and are defined for RGB "
        "images with 8 bits only",
    ),
)
# The settings that a plan chooses.
PLANNED = tuple(rule.setting for rule in RULES)


def apply(images: Images, devices: Devices, given: Values) -> dict[str, Choice]:
    """Choose the settings that are not given.

    Args:
        images: What the images are.
        devices: What the devices are.
        given: All settings of the config by their keys in the flat config, with None for those
            that the rules choose.

    Returns:
        The value and the reason of each planned setting that was None, by its key.
    """
    values = dict(given)
    chosen = {}
    for rule in RULES:
        if values[rule.setting] is None:
            chosen[rule.setting] = rule.choose(images, devices, values)
            values[rule.setting] = chosen[rule.setting][0]
    return chosen
