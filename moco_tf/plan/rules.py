"""The rules of a plan: how each setting follows from the images and the devices.

`RULES` at the end is the table; docs/plan.md shows it. A rule is a pure function of the facts and
of the settings that are decided already: those that were given, and those of the rules before it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from moco_tf.config import suggested_queue_size
from moco_tf.plan import memory
from moco_tf.plan.facts import Devices, Images

Values = Mapping[str, Any]
Choice = tuple[Any, str]  # A value and its reason.

# Below this number of images, a network is smaller and a run has more epochs.
FEW_IMAGES = 20_000
LARGE_VIEW = 224  # The papers' views.
SMALL_VIEW = 64  # Largest views, in pixels, that get the stem and the recipe for small images.
CPU_VIEW = 32
MIN_STEPS_PER_EPOCH = 15
MAX_STEPS = 1_250_000  # The paper's run on a billion images.
# On a CPU a run sees at least as many images as the demo.
CPU_IMAGES_SEEN = 32 * 8_116
CPU_EPOCHS = (32, 50, 80, 160, 200, 400, 800)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule of the plan.

    Attributes:
        setting: The setting that it chooses.
        choose: Function of the images, the devices and the settings that are decided already, by
            their keys in the flat config, to a value and a reason in one line.
        text: The rule in words.
        source: Where it comes from: a paper, a study or a recipe of this repository, or judgement.
    """

    setting: str
    choose: Callable[[Images, Devices, Values], Choice]
    text: str
    source: str


def _image_size(images: Images, devices: Devices, values: Values) -> Choice:
    has_large_stem = values["init"] or values["stem"] == "imagenet"
    if devices.kind == "cpu" and not has_large_stem:
        return CPU_VIEW, "a CPU: the size of the demo, whose runs take minutes and not days"
    size = max(min(images.side, LARGE_VIEW) // 32 * 32, CPU_VIEW)
    if size == LARGE_VIEW:
        return size, f"as in the papers; the images have {images.side} pixels or more"
    return size, f"the largest multiple of 32 within the images of {images.side} pixels"


def _stem(images: Images, devices: Devices, values: Values) -> Choice:
    size = values["image_size"]
    if values["init"]:
        return "imagenet", "published weights have it"
    if size <= SMALL_VIEW:
        return "small", f"views of {size} pixels, which the other stem would shrink to {size // 4}"
    return "imagenet", "as in the papers, for large views"


def _encoder(images: Images, devices: Devices, values: Values) -> Choice:
    if values["init"]:
        return "resnet50", "the network of most published weights"
    if devices.kind == "cpu":
        if values["stem"] == "small":
            return "resnet8", "a CPU: the network of the demo"
        return "resnet18", "a CPU: ResNet-50 takes three times as long"
    if values["stem"] == "small":
        return "resnet18", "small views, as in the recipe for CIFAR-10"
    if images.distinct < FEW_IMAGES:
        return "resnet18", f"{images.distinct:,} images are few for a ResNet-50"
    return "resnet50", "as in the papers"


def _head(images: Images, devices: Devices, values: Values) -> Choice:
    if values["stem"] == "small":
        return "linear", "small views: the MLP head was worse in the study"
    return "mlp", "MoCo v2"


def _precision(images: Images, devices: Devices, values: Values) -> Choice:
    size = values["batch_size"] or _wanted_batch(images, devices)
    if _fits(size, devices, {**values, "precision": "float32"}) or not devices.has_bfloat16:
        return "float32", "as in the papers"
    reason = f"in float32, a batch of {size} needs more memory than the device has (estimated)"
    return "mixed_bfloat16", reason


def _batch_size(images: Images, devices: Devices, values: Values) -> Choice:
    wanted = size = _wanted_batch(images, devices)
    if size >= 256:
        reason = "as in the papers" if size == 256 else "16 for each device, as in the paper"
    elif devices.kind == "cpu" and size == 128:
        reason = "as in the demo, for more steps in the same time"
    else:
        reason = f"{images.number // size} steps in an epoch; larger batches leave fewer"
    while not _fits(size, devices, values) and size > 2 * devices.replicas:
        size //= 2
    if size < wanted:
        reason = "the largest that fits into the memory of the device (estimated)"
    multiple = math.lcm(devices.replicas, values["bn_groups"] or 1)
    times = max(size // multiple, 1)
    # So that it can be split into groups of different sizes.
    rounded = multiple * (times - times % 16 if times > 16 else times)
    if rounded != size:
        reason = f"a multiple of {multiple}, the number of devices or of groups"
    return rounded, reason


def _wanted_batch(images: Images, devices: Devices) -> int:
    """Return the batch size without a limit of memory."""
    largest = 128 if devices.kind == "cpu" else max(256, 16 * devices.replicas)
    size = min(largest, max(_power_below(images.number / MIN_STEPS_PER_EPOCH), 32))
    return max(min(size, _power_below(images.number / 4)), 2)


def _fits(batch_size: int, devices: Devices, values: Values) -> bool:
    """Return whether a step fits into the memory of the devices, as far as is known."""
    return devices.memory is None or needed(batch_size, devices, values) <= (
        memory.USABLE * devices.memory
    )


def needed(batch_size: int, devices: Devices, values: Values) -> int:
    """Estimate the memory of a step on one device, in bytes."""
    has_two = values["symmetric_loss"] or values["mechanism"] == "end_to_end"
    return memory.estimate(
        values["encoder"],
        values["stem"],
        values["image_size"],
        math.ceil(batch_size / devices.replicas),
        values["queue_size"] or 0,
        values["dim"],
        values["precision"],
        backward_passes=2 if has_two else 1,
    )


def _bn_groups(images: Images, devices: Devices, values: Values) -> Choice:
    batch, replicas = values["batch_size"], devices.replicas
    size = 16 if values["stem"] == "small" else 32
    smallest = 2 if values["shuffle_bn"] and values["mechanism"] != "memory_bank" else 1
    wanted = max(replicas, min(8, batch // size), smallest)
    possible = [
        groups
        for groups in range(replicas, batch + 1, replicas)
        if batch % groups == 0 and groups >= smallest
    ]
    # Without one, the check of the config says what is wrong with the batch size.
    groups = min(possible, key=lambda groups: abs(math.log(groups / wanted)), default=wanted)
    like = "as in the papers" if batch // groups == 32 else "to shuffle the keys among them"
    return groups, f"groups of {batch // groups} images, {like}"


def _queue_size(images: Images, devices: Devices, values: Values) -> Choice:
    if values["mechanism"] == "end_to_end":
        return 0, "end_to_end has no queue"
    distinct, name = images.distinct, "distinct images" if images.stride > 1 else "images"
    size = min(suggested_queue_size(distinct), 65_536)
    reason = f"about an eighth of the {distinct:,} {name}"
    if size == 65_536:
        reason = f"as in the papers; {size / distinct:.0%} of the {name}"
    if size < values["batch_size"]:
        size, reason = values["batch_size"], "a whole batch"
    if values["mechanism"] == "memory_bank":
        size = min(size, max(images.number - 1, 1))
    return size, reason


def _epochs(images: Images, devices: Devices, values: Values) -> Choice:
    if devices.kind == "cpu":
        enough = CPU_IMAGES_SEEN / images.number
        epochs = next((number for number in CPU_EPOCHS if number >= enough), CPU_EPOCHS[-1])
        seen = epochs * (images.number - images.number % values["batch_size"])
        return epochs, f"{seen:,} images in all; the demo has {CPU_IMAGES_SEEN:,}"
    if values["init"]:
        return 50, "a start from weights, which needs fewer epochs"
    if images.number < FEW_IMAGES:
        return 800, f"{images.number:,} images are few, so an epoch has few steps"
    most = MAX_STEPS * values["batch_size"] // images.number
    if most < 200:
        return max(most, 1), f"{MAX_STEPS:,} steps, as in the paper's run on a billion images"
    return 200, "as in the papers"


def _momentum(images: Images, devices: Devices, values: Values) -> Choice:
    steps = values["steps"] or values["epochs"] * (images.number // values["batch_size"])
    if steps >= 100_000:
        return 0.999, f"as in the papers; a run of {steps:,} steps"
    return 0.99, f"a run of {steps:,} steps, in which 0.999 would follow slowly"


def _temperature(images: Images, devices: Devices, values: Values) -> Choice:
    if values["head"] == "mlp":
        return 0.2, "MoCo v2"
    return 0.1, "as in the demo and the recipe for CIFAR-10"


def _learning_rate(images: Images, devices: Devices, values: Values) -> Choice:
    small = values["encoder"].startswith(("resnet8", "resnet14", "resnet20"))
    rate, reason = (0.24, "as in the demo") if small else (0.03, "as in the papers")
    if values["init"] and not small:
        rate, reason = 0.01, "smaller, because the run starts from weights"
    if not values["scale_learning_rate"]:
        return rate * values["batch_size"] / 256, f"{reason}, scaled to the batch"
    return rate, f"{reason}, for 256 images; it is scaled to the batch"


def _augmentation(images: Images, devices: Devices, values: Values) -> Choice:
    if values["stem"] != "small":
        return "v2", "MoCo v2"
    if images.is_gray or images.channels != 3:
        return "v1", "as in the demo: without blur, which removes detail from small views"
    return "cifar10", "the recipe for color images of 32 pixels, without blur"


def _rgb_operations(images: Images, devices: Devices, values: Values) -> Choice:
    if images.channels != 3:
        return False, f"images with {images.channels} channels have no hue and saturation"
    changed = [name for name in ("hue", "saturation") if values[f"augment.{name}"]]
    if images.is_gray and not changed and not values["augment.gray_probability"]:
        return False, "all images in the sample are gray, so nothing would change"
    return True, "color images"


def _power_below(number: float) -> int:
    """Return the largest power of two up to a number, at least 1."""
    return 2 ** int(math.log2(max(number, 1)))


PAPERS = "paper, section 4, and Chen et al. 2020"
CIFAR = "reference implementation's notebook (configs/cifar10.py)"
DEMO = "the demo (configs/photos.py), measured"
FOLDER = "[Your own images](your_images.md)"
STUDY = "[study](reproducing.md#the-study)"

# In the order in which they are decided: a rule uses the settings of the rules before it.
RULES = (
    Rule(
        "image_size",
        _image_size,
        f"{LARGE_VIEW}, or the largest multiple of 32 that the median of the shorter sides allows; "
        f"{CPU_VIEW} on a CPU, unless the stem is imagenet",
        f"{PAPERS}; on a CPU {DEMO}; between them judgement",
    ),
    Rule(
        "stem",
        _stem,
        f"small for views of at most {SMALL_VIEW} pixels, imagenet otherwise and if the run starts "
        "from weights",
        f"{CIFAR} for 32 pixels; the limit is judgement",
    ),
    Rule(
        "encoder",
        _encoder,
        f"resnet50 for at least {FEW_IMAGES:,} distinct images; resnet18 for fewer or for the "
        "small stem; on a CPU resnet8 with the small stem and resnet18 with the other; resnet50 if "
        "the run starts from weights, and that of the other run for `init=run:DIR`",
        f"{PAPERS}; {CIFAR}; on a CPU {DEMO}; the limit is judgement",
    ),
    Rule(
        "head",
        _head,
        "linear with the small stem, mlp otherwise",
        f"Chen et al. 2020; {STUDY}: with small gray images, the linear probe had 64.4 ± 2.0 "
        "without and 60.6 ± 2.1 with an MLP head",
    ),
    Rule(
        "precision",
        _precision,
        "float32, unless the batch needs more memory than there is and the device has bfloat16 "
        "(GPUs of compute capability 8.0, TPUs)",
        "paper; the estimate of the memory is described below",
    ),
    Rule(
        "batch_size",
        _batch_size,
        "256, or 128 on a CPU; with more than 16 devices 16 for each; smaller powers of two so "
        f"that an epoch has at least {MIN_STEPS_PER_EPOCH} steps, but at least 32 unless that is "
        "more than a quarter of the images; halved until it fits into memory",
        f"{PAPERS}; on a CPU {DEMO}; the limits are judgement",
    ),
    Rule(
        "bn_groups",
        _bn_groups,
        "8, or as many as leave groups of 32 images, or of 16 with the small stem; a multiple of "
        "the number of devices, and at least 2",
        f"paper, section 3.3 (8 GPUs with 32 images each); {DEMO} (8 groups of 16)",
    ),
    Rule(
        "queue_size",
        _queue_size,
        "the power of two nearest to an eighth of the distinct images, from one batch to 65,536",
        f"paper (65,536, 5 % of ImageNet); {FOLDER}; {DEMO} (1,024 keys for 8,116 images); "
        f"{STUDY}: no clear difference between 0.8 and 50 % of the images",
    ),
    Rule(
        "epochs",
        _epochs,
        f"200; 800 for fewer than {FEW_IMAGES:,} images, and at most {MAX_STEPS:,} steps; 50 "
        "if the run starts from weights; on a CPU "
        f"{', '.join(map(str, CPU_EPOCHS[:-1]))} or {CPU_EPOCHS[-1]}, the first that sees "
        f"{CPU_IMAGES_SEEN:,} images",
        f"{PAPERS}; {FOLDER}; on a CPU {DEMO}; {STUDY}: longer is better",
    ),
    Rule(
        "momentum",
        _momentum,
        "0.999 for runs of at least 100,000 steps, 0.99 for shorter ones",
        f"paper, section 4.1; {CIFAR}; {STUDY}: no clear difference between 0.99 and 0.9999; the "
        "limit is judgement",
    ),
    Rule(
        "temperature",
        _temperature,
        "0.2 with the MLP head, 0.1 with the linear head",
        f"Chen et al. 2020; {CIFAR}; {DEMO}",
    ),
    Rule(
        "learning_rate",
        _learning_rate,
        "0.03, 0.24 for resnet8, resnet14 and resnet20, or 0.01 for larger networks that start from "
        "weights; for 256 images and scaled linearly",
        f"{PAPERS}; {DEMO}; {FOLDER} for starts from weights, judgement",
    ),
    Rule(
        "augmentation",
        _augmentation,
        "v2; with the small stem cifar10 for color images and v1 for others",
        f"Chen et al. 2020; {CIFAR}; {DEMO}; {STUDY}: no clear difference between v1 and v2 on "
        "small gray images",
    ),
    Rule(
        "rgb_operations",
        _rgb_operations,
        "False for images that are all gray or do not have three channels",
        "hue, saturation and grayscale have no effect on gray images",
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
