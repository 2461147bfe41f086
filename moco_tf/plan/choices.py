"""How a plan chooses each setting: one function for each rule of `moco_tf/plan/rules.py`.

They are pure functions of the images, of the devices, and of the settings that are decided already:
those that were given, and those of the rules before. Each returns a value and its reason.
"""

import math
from collections.abc import Mapping
from typing import Any

from moco_tf.config import suggested_queue_size
from moco_tf.encoders import names
from moco_tf.plan import memory
from moco_tf.plan.facts import Devices, Images

Values = Mapping[str, Any]  # Settings by their keys in the flat config; None is not decided.
Choice = tuple[Any, str]

# Below this number of images, a network is smaller and a run has more epochs.
FEW_IMAGES = 20_000
LARGE_VIEW = 224  # The papers' views.
SMALL_VIEW = 64  # Largest views, in pixels, that get the stem and the recipe for small images.
SMALLEST_VIEW = 32
# On a CPU, the sides of the views in training and in evaluations.
CPU_VIEW, CPU_EVALUATION_VIEW = 16, 32
MIN_STEPS_PER_EPOCH = 15
MAX_STEPS = 1_250_000  # The paper's run on a billion images.
# On a CPU a run sees at least as many images as the demo.
CPU_IMAGES_SEEN = 64 * (8_116 - 8_116 % 128)  # The demo's 64 epochs of whole batches.
CPU_EPOCHS = (32, 64, 100, 160, 320, 800)


def image_size(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the side of the views."""
    is_small = values["stem"] == "small"
    may_be_small = values["stem"] is None and not _is_given_elsewhere(values)
    if devices.kind == "cpu" and (is_small or may_be_small):
        return CPU_VIEW, "a CPU: the size of the demo, whose runs take minutes and not days"
    if is_small and images.side > SMALL_VIEW:
        return SMALL_VIEW, "the largest views for the small stem"
    size = max(min(images.side, LARGE_VIEW) // 32 * 32, SMALLEST_VIEW)
    if size == LARGE_VIEW:
        return size, f"as in the papers; the images have {images.side} pixels or more"
    return size, f"the largest multiple of 32 within the images of {images.side} pixels"


def evaluation_size(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the side of the views of evaluations."""
    if devices.kind == "cpu" and values["image_size"] == CPU_VIEW:
        size = max(CPU_VIEW, min(images.side, CPU_EVALUATION_VIEW))
        return size, "larger than the views of the training, as in the demo"
    return 0, "the views of the training, as in the papers"


def stem(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the first layers of the backbone."""
    size = values["image_size"]
    if _is_given_elsewhere(values):
        return "imagenet", "weights or networks from elsewhere have large stems"
    if size <= SMALL_VIEW:
        return "small", f"views of {size} pixels, which the other stem would shrink to {size // 4}"
    return "imagenet", "as in the papers, for large views"


def encoder(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the network of the backbone."""
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


def head(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the projection head."""
    if values["stem"] == "small":
        return "linear", "small views: the MLP head was worse in the study"
    return "mlp", "MoCo v2"


def precision(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the precision of the computation."""
    if devices.kind == "cpu" and devices.has_bfloat16:
        return "mixed_bfloat16", "this processor computes in bfloat16, in less time"
    size = values["batch_size"] or _wanted_batch(images, devices)
    if _fits(size, devices, {**values, "precision": "float32"}) or not devices.has_bfloat16:
        return "float32", "as in the papers"
    reason = f"in float32, a batch of {size} needs more memory than the device has (estimated)"
    return "mixed_bfloat16", reason


def batch_size(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the number of images in a batch."""
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


def bn_groups(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the number of BatchNormalization groups."""
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


def queue_size(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose K, the number of negatives."""
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


def epochs(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the length of the run."""
    if has_weights(values):
        return 50, "a start from weights, which needs fewer epochs"
    if devices.kind == "cpu":
        enough = CPU_IMAGES_SEEN / images.number
        epochs = next((number for number in CPU_EPOCHS if number >= enough), CPU_EPOCHS[-1])
        seen = epochs * (images.number - images.number % values["batch_size"])
        return epochs, f"{seen:,} images in all; the demo has {CPU_IMAGES_SEEN:,}"
    if images.number < FEW_IMAGES:
        return 800, f"{images.number:,} images are few, so an epoch has few steps"
    most = MAX_STEPS * values["batch_size"] // images.number
    if most < 200:
        if most < 1:
            steps = images.number // values["batch_size"]
            reason = f"one epoch has {steps:,} steps already; set config.steps={MAX_STEPS} to train"
            return 1, f"{reason} as long as the paper's run on a billion images"
        return most, f"{MAX_STEPS:,} steps, as in the paper's run on a billion images"
    return 200, "as in the papers"


def momentum(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose m, the momentum of the key encoder."""
    steps = values["steps"] or values["epochs"] * (images.number // values["batch_size"])
    if steps >= 100_000:
        return 0.999, f"as in the papers; a run of {steps:,} steps"
    return 0.99, f"a run of {steps:,} steps, for which 0.999 is too slow"


def temperature(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the temperature of InfoNCE."""
    if values["head"] == "mlp":
        return 0.2, "MoCo v2"
    return 0.1, "as in the demo and the recipe for CIFAR-10"


def learning_rate(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the initial learning rate."""
    is_small = names.is_small(values["encoder"])
    rate, reason = (0.24, "as in the demo") if is_small else (0.03, "as in the papers")
    if has_weights(values) and not is_small:
        rate, reason = 0.01, "smaller, because the run starts from weights"
    if not values["scale_learning_rate"]:
        return rate * values["batch_size"] / 256, f"{reason}, scaled to the batch"
    return rate, f"{reason}, for 256 images; it is scaled to the batch"


def augmentation(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose the preset of the augmentation."""
    if values["stem"] != "small":
        return "v2", "MoCo v2"
    if images.is_gray or images.channels != 3:
        return "v1", "as in the demo: without blur, which removes detail from small views"
    return "cifar10", "the recipe for color images of 32 pixels, without blur"


def rgb_operations(images: Images, devices: Devices, values: Values) -> Choice:
    """Choose whether saturation and hue change."""
    if images.channels != 3:
        return False, f"images with {images.channels} channels have no hue and saturation"
    if images.pixels != "uint8":
        return False, f"images with {images.pixels} pixels are not taken for RGB"
    changed = [name for name in ("hue", "saturation") if values[f"augment.{name}"]]
    if images.is_gray and not changed and not values["augment.gray_probability"]:
        return False, "all images in the sample are gray, so nothing would change"
    return True, "color images"


def _is_given_elsewhere(values: Values) -> bool:
    """Return whether the weights or the network come from elsewhere, with a stem of their own."""
    # Imported here because it imports Keras, and config files have to load without.
    from moco_tf.encoders.names import is_foreign

    return bool(values["init"]) or is_foreign(values["encoder"] or "")


def has_weights(values: Values) -> bool:
    """Return whether the run starts from weights, which the encoder may bring along."""
    from moco_tf.encoders.names import initial_weights

    return bool(values["init"] or initial_weights(values["encoder"] or ""))


def _power_below(number: float) -> int:
    """Return the largest power of two up to a number, at least 1."""
    return 2 ** int(math.log2(max(number, 1)))
