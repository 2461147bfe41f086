"""The warnings of a plan: where contrastive pre-training often goes wrong.

Each is a pure function of the facts and of the settings. The limits are judgment, except where a
comment names a measurement.
"""

from collections.abc import Callable

from moco_tf.config import suggested_queue_size
from moco_tf.config_checks import late_decay
from moco_tf.plan import choices
from moco_tf.plan import memory as memory_module
from moco_tf.plan.choices import Values
from moco_tf.plan.facts import MANY_RANDOM, Devices, Images

FEWEST_IMAGES = 5_000  # As in a report.
LARGEST_QUEUE = 0.5  # Of the distinct images; the study went up to this share.
SMALLEST_GROUP = 8  # Images. A judgment: the statistics of fewer images are noisy.
FEWEST_STEPS = 5
SMALLEST_RATIO = 0.8  # Of an image's shorter side to that of a view.
LARGEST_RATIO = 4.0  # Of the median of the shorter sides to the side of a view.
LARGE_PHOTO = 1_000  # Pixels of the shorter side.


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> counted(1, "image"), counted(1200, "image")
        ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _unreadable(images: Images, devices: Devices, values: Values) -> str | None:
    if not images.unreadable:
        return None
    stops = values["data.on_error"] == "fail"
    does = "stops at such an image" if stops else "replaces such images by others"
    return (
        f"{images.unreadable} of {images.sampled:,} images in the sample cannot be read, such as "
        f"{', '.join(images.unreadable_names)}: a run {does}; remove or restore them"
    )


def _too_few_images(images: Images, devices: Devices, values: Values) -> str | None:
    if images.distinct >= FEWEST_IMAGES:
        return None
    name = "distinct images" if images.stride > 1 else "images"
    if choices.has_weights(values):
        return (
            f"{images.distinct:,} {name} are few: compare with the weights that the run starts from"
        )
    return (
        f"{images.distinct:,} {name} are few for pre-training from scratch: compare with "
        "pre-trained weights, or start from them with config.init"
    )


def _video(images: Images, devices: Devices, values: Values) -> str | None:
    if not images.is_video:
        return None
    return (
        f"{images.consecutive:.0%} of consecutive images are near-duplicates, as in a video, so "
        f"that the negatives of a query include nearly its own image: keep about one of "
        f"{images.stride} images, which leaves {images.distinct:,}"
    )


def _repetitive(images: Images, devices: Devices, values: Values) -> str | None:
    if images.random < MANY_RANDOM:
        return None
    return (
        f"{images.random:.0%} of random pairs of images look alike, so about as many of the "
        "negatives of a query look like it: remove duplicates, or crop the part that differs"
    )


def _copies(images: Images, devices: Devices, values: Values) -> str | None:
    size = values["queue_size"]
    if values["mechanism"] == "end_to_end" or images.copies * size < 1:
        return None
    return (
        f"{images.copies:.2%} of random pairs of images are identical, so about "
        f"{images.copies * size:.0f} of the {size} negatives of a query are its own image: remove "
        "copies and blank images"
    )


def _large_queue(images: Images, devices: Devices, values: Values) -> str | None:
    size, distinct = values["queue_size"], images.distinct
    if values["mechanism"] != "moco" or size < LARGEST_QUEUE * distinct:
        return None
    smaller = suggested_queue_size(distinct)
    name = "distinct images" if images.stride > 1 else "images"
    if size >= distinct:
        return (
            f"config.queue_size={size} holds keys of all {distinct:,} {name}, so that of its own "
            f"image is among the negatives of every query: set it to {smaller}, for example"
        )
    return (
        f"config.queue_size={size} holds keys of {size / distinct:.0%} of the {distinct:,} {name}, "
        f"many of them similar to a query: set it to {smaller}, for example"
    )


def _small_groups(images: Images, devices: Devices, values: Values) -> str | None:
    batch, groups = values["batch_size"], values["bn_groups"]
    if batch // groups >= SMALLEST_GROUP:
        return None
    return (
        f"config.bn_groups={groups} leaves groups of {counted(batch // groups, 'image')}, whose "
        f"statistics vary much: use fewer groups, or batches of {SMALLEST_GROUP * groups} images"
    )


def _short_epoch(images: Images, devices: Devices, values: Values) -> str | None:
    batch = values["batch_size"]
    steps, left_out = divmod(images.number, batch)
    if steps >= FEWEST_STEPS:
        return None
    rest = f" and leaves out {counted(left_out, 'image')}" if left_out else ""
    smaller = f"set config.batch_size below {batch}, or " if batch > 2 else ""
    return (
        f"an epoch of {images.number:,} images has {counted(steps, 'step')}{rest}: {smaller}add "
        "images"
    )


def _late_decay(images: Images, devices: Devices, values: Values) -> str | None:
    return late_decay(values, max(images.number // values["batch_size"], 1))


def _large_views(images: Images, devices: Devices, values: Values) -> str | None:
    size = values["image_size"]
    smaller = sum(side < SMALLEST_RATIO * size for side in images.sides)
    if smaller <= len(images.sides) / 2:
        return None
    return (
        f"views of config.image_size={size} pixels enlarge {smaller / len(images.sides):.0%} of "
        f"the images, whose shorter side is {images.side} pixels in the median: that costs time "
        "and adds no detail"
    )


def _large_photos(images: Images, devices: Devices, values: Values) -> str | None:
    size = max(values["image_size"], values["evaluation_size"])
    can_prepare = images.pixels == "uint8" and images.channels == 3
    if images.side < max(LARGEST_RATIO * size, LARGE_PHOTO) or not can_prepare:
        return None
    return (
        f"the shorter side of the images has {images.side} pixels in the median, and views have "
        f"{size}, so decoding takes most of the time of the CPU: shrink them once with moco-prepare"
    )


def _turned(images: Images, devices: Devices, values: Values) -> str | None:
    if not images.turned or values["data.orientation"]:
        return None
    return (
        f"{images.turned:.0%} of the image files in the sample have an EXIF orientation, which is "
        "not applied: set config.data.orientation=True to turn them upright"
    )


def memory(images: Images, devices: Devices, values: Values) -> str | None:
    """Return why a step may not fit into the memory of a device, or None if it does."""
    if devices.memory is None:
        return None
    needed = choices.needed(values["batch_size"], devices, values)
    if needed <= memory_module.USABLE * devices.memory:
        return None
    return (
        f"a step needs an estimated {needed / 1e9:.1f} GB, and the device has "
        f"{devices.memory / 1e9:.1f} GB: set config.batch_size below {values['batch_size']} or "
        f"config.image_size below {values['image_size']}"
    )


def _unused_gpus(images: Images, devices: Devices, values: Values) -> str | None:
    if devices.has_hidden_gpu:
        return (
            "this machine has an NVIDIA GPU that TensorFlow does not see, so the run would use the "
            "CPU: install TensorFlow's CUDA libraries with pip install 'tensorflow[and-cuda]'"
        )
    if devices.unused_gpus:
        return f"{devices.unused_gpus} GPUs are not used: the strategy 'mirrored' uses all of them"
    return None


CHECKS: tuple[Callable[[Images, Devices, Values], str | None], ...] = (
    _unreadable,
    _too_few_images,
    _video,
    _repetitive,
    _copies,
    _large_queue,
    _small_groups,
    _short_epoch,
    _late_decay,
    _large_views,
    _large_photos,
    _turned,
    memory,
    _unused_gpus,
)


def warnings(images: Images, devices: Devices, values: Values) -> list[str]:
    """Return what may go wrong with a run, one line each.

    Args:
        images: What the images are.
        devices: What the devices are.
        values: All settings by their keys in the flat config.
    """
    found = (check(images, devices, values) for check in CHECKS)
    return [warning for warning in found if warning is not None]
