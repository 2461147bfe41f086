"""The `npy` source: images in a file of NumPy, which is read from the disk as needed."""

import os
import zlib

import numpy as np
import tensorflow as tf

from moco_tf.data.pixels import Form
from moco_tf.data.readers import fitted
from moco_tf.data.readers.image import MAX_CHANNELS_LAST, Image
from moco_tf.data.sources import labeled
from moco_tf.data.sources.source import Source, evenly_spaced
from moco_tf.errors import UserError
from moco_tf.files import error_reason

# Where the labels of FILE.npy are.
LABELS_SUFFIX = ".labels.npy"
# The images that a checksum covers. More of them would take minutes whenever a run is started.
CHECKSUM_BYTES = 2**30
BLOCK_BYTES = 2**24
# The key of the random numbers that choose the images for testing.
HELD_OUT_KEY = zlib.crc32(b"npy")


def load(name: str, path: str, dtype: str = "uint8") -> Source:
    """Open the images in a file that `numpy.save` wrote.

    The array is `[N, H, W]` or `[N, H, W, C]`, and uint8 by default. The labels are in an array
    `[N]` of integers or texts beside it: those of `images.npy` are in `images.labels.npy`. A
    negative integer or an empty text stands for an image without a label. Pre-training uses all
    images, and an evaluation those with a label, a fifth of which is held out for testing. Which
    are depends on their number in the array only, so more images at its end do not move others.

    Args:
        name: The string that names the source.
        path: Path of the local file. The array stays on the disk, and images are read as needed.
        dtype: Type of the pixel values. With `"float32"` the array may be of any type of integers
            or floats.

    Returns:
        The source. Images without an axis of channels are repeated to three channels.

    Raises:
        UserError: If a file does not exist, is damaged, or holds no images or no labels for them.
    """
    images = _open(name, path)
    require_images(images, f"data source '{name}': {path}", dtype)
    labels, label_of_image, no_labels = np.array([], str), np.full(len(images), -1), ""
    labels_path = path.removesuffix(".npy") + LABELS_SUFFIX
    if os.path.exists(labels_path):
        values = _open(name, labels_path)
        require_labels(values, len(images), f"data source '{name}': {labels_path}")
        labels, label_of_image = np.unique(values, return_inverse=True)
    else:
        no_labels = f"there is no {os.path.basename(labels_path)}"
    shape = (*images.shape[1:3], 3) if images.ndim == 3 else images.shape[1:]
    form = Form(dtype, shape[-1])

    def image_at(index: np.ndarray) -> np.ndarray:
        return fitted(Image(np.array(images[index])), form)

    # A function, so that the errors of floats, which may be NaN, are TensorFlow's.
    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)], autograph=False)
    def read(index: tf.Tensor) -> tf.Tensor:
        image = tf.numpy_function(image_at, [index], dtype, stateful=False)
        return tf.ensure_shape(image, shape)

    held_out = np.random.Philox(key=[HELD_OUT_KEY, 0]).random_raw(len(images)) % 5 == 0
    return labeled.make_source(
        name=name,
        read=read,
        describe=lambda index: f"image {index} of {path}",
        list_contents=lambda: [contents(images)],
        list_files=lambda: [os.fsencode(path)],
        labels=[str(label) for label in labels],
        label_of_image=label_of_image,
        split=labeled.by_holding_out(held_out),
        no_labels=no_labels or "no image has one",
        labels_file=os.path.basename(labels_path),
        channels=shape[-1],
        dtype=dtype,
    )


def require_images(images: np.ndarray, label: str, dtype: str = "uint8") -> None:
    """Raise a `UserError` unless an array holds images.

    Args:
        images: The array.
        label: What it is, for messages, such as `"data"`.
        dtype: Type of the pixel values, as for `load`.
    """
    shape = list(images.shape)
    if images.ndim not in (3, 4) or not images.size:
        remedy = "use an array [N, H, W] or [N, H, W, C]"
        if images.ndim == 2 and images.size:
            remedy = f"{remedy}, such as images.reshape({len(images)}, HEIGHT, WIDTH, CHANNELS)"
        raise UserError(f"{label} has the shape {shape}, which is not that of images: {remedy}")
    if images.ndim == 3 and shape[2] <= MAX_CHANNELS_LAST < shape[1]:
        raise UserError(
            f"{label} has the shape {shape}, which is that of one image: use an array of several, "
            "[N, H, W, C]"
        )
    if images.ndim == 4 and shape[1] <= MAX_CHANNELS_LAST < shape[3]:
        raise UserError(
            f"{label} has the shape {shape}, with the channels first: use "
            "np.moveaxis(images, 1, -1)"
        )
    if dtype == "float32" and images.dtype.kind in "iuf":
        return
    if images.dtype.newbyteorder("=") != dtype:
        kept = "" if dtype == "float32" else _remedy_that_keeps(images)
        how = f"{_conversion(images)}{kept}" if dtype == "uint8" else kept.removeprefix(", or ")
        raise UserError(
            f"{label} is {images.dtype.name}, but images are {dtype}: {how or 'use numbers'}"
        )


def require_labels(labels: np.ndarray, count: int, label: str) -> None:
    """Raise a `UserError` unless an array holds the labels of images.

    Args:
        labels: The array.
        count: Number of images.
        label: What the array is, for messages.
    """
    if labels.shape != (count,):
        raise UserError(
            f"{label} has the shape {list(labels.shape)}: use one label for each of the {count} "
            "images"
        )
    if labels.dtype.kind not in "iubU":
        raise UserError(f"{label} is {labels.dtype}: use integers or texts as labels")
    if labels.dtype.kind == "U" and (labels == "nan").any():
        raise UserError(
            f"{label} has the text 'nan', which NumPy makes of a missing label among texts: use "
            "np.where(np.asarray(labels) == 'nan', '', labels); an empty text stands for none"
        )


def contents(images: np.ndarray) -> bytes:
    """Return a line with the checksum of images.

    It covers all images of up to a gigabyte, and a gigabyte of evenly spaced ones of more.
    """
    size = images[0].nbytes
    indices = evenly_spaced(np.arange(len(images)), max(CHECKSUM_BYTES // size, 1))
    block, checksum = max(BLOCK_BYTES // size, 1), 0
    for start in range(0, len(indices), block):
        chosen = np.ascontiguousarray(images[indices[start : start + block]])
        checksum = zlib.crc32(chosen.data, checksum)
    return f"{len(images)} images with the checksum {checksum:08x}".encode()


def _remedy_that_keeps(images: np.ndarray) -> str:
    """Return the settings that read an array as it is; "" if there are none."""
    if images.dtype.name in ("uint8", "uint16"):
        return f", or set config.data.pixels={images.dtype.name} to keep them"
    if images.dtype.kind in "iuf":
        return ", or set config.data.pixels=float32 and a config.data.value_range to keep them"
    return ""


def _conversion(images: np.ndarray) -> str:
    """Return how to convert an array to uint8, as its values suggest."""
    if images.dtype == bool:
        return "use images.astype(np.uint8) * 255"
    if images.dtype.kind not in "iuf":
        return "use an array of numbers from 0 to 255"
    low, high = images.min(), images.max()
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        return "use np.round(255 * images).astype(np.uint8)"
    if low >= 0 and high <= 255:
        change = "np.round(images)" if images.dtype.kind == "f" else "images"
        return f"use {change}.astype(np.uint8)"
    return f"scale the values, {low:g} to {high:g}, to 0 to 255, and use astype(np.uint8)"


def _open(name: str, path: str) -> np.ndarray:
    """Return the array in a file, which stays on the disk."""
    if "://" in path:
        raise UserError(f"data source '{name}': copy the file to a local disk, to read from it")
    if not os.path.isfile(path):
        raise UserError(f"data source '{name}': there is no file '{path}'")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"data source '{name}': {path} is not a file of numpy.save with an array of numbers, "
            f"or it is incomplete ({error_reason(error)}): save the array again"
        ) from error
    if not isinstance(array, np.ndarray):
        raise UserError(
            f"data source '{name}': {path} holds several arrays: save one with numpy.save"
        )
    return array
