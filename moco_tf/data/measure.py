"""The value range, the mean and the deviation of the pixels of a source, from a sample of them."""

import os

import numpy as np
import tensorflow as tf

from moco_tf.data.photometric import to_fraction
from moco_tf.data.pipeline import first_readable
from moco_tf.data.sources.source import Source, evenly_spaced
from moco_tf.data.tuning import without_autograph, without_tuning
from moco_tf.errors import UserError

MAX_IMAGES = 256
# About as many pixels of an image are used, in a regular grid.
GRID = 128
PERCENTILES = (0.1, 99.9)
DIGITS = 6  # Of a measured number. More of them would mean nothing.


def value_range(source: Source) -> tuple[float, float]:
    """Return the 0.1 and the 99.9 percentile of the pixel values of a sample.

    The sample is a grid of pixels of up to 256 images for pre-training, evenly spaced. The same
    source always has the same sample.

    Args:
        source: The source. Its own value range is not used.

    Raises:
        UserError: If no image can be read, or nearly all pixels have the same value.
    """
    values = np.concatenate([image.reshape(-1) for image in _sample(source)]).astype(np.float64)
    low, high = (_rounded(value) for value in np.percentile(values, PERCENTILES))
    if not low < high:
        raise UserError(
            f"data source '{source.name}': nearly all pixels of a sample have the value {low:g}, "
            "so their value range cannot be measured: set config.data.value_range to two numbers"
        )
    return low, high


def mean_and_std(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of each channel of a sample.

    Args:
        source: The source.

    Returns:
        Two tuples of floats, where 0 and 1 are the ends of the source's value range.

    Raises:
        UserError: If no image can be read, or all pixels of a channel have the same value.
    """
    pixels = np.concatenate([image.reshape(-1, source.channels) for image in _sample(source)])
    fractions = to_fraction(pixels, source.value_range).numpy().astype(np.float64)
    mean, std = fractions.mean(axis=0), fractions.std(axis=0)
    if not std.min() > 0:
        raise UserError(
            f"data source '{source.name}': all pixels of channel {int(std.argmin())} of a sample "
            "have the same value, so their standard deviation cannot be measured: set "
            "config.data.std to numbers"
        )
    return tuple(map(_rounded, mean)), tuple(map(_rounded, std))


def _sample(source: Source) -> list[np.ndarray]:
    """Return grids of pixels of a few images, `[h, w, C]` each."""

    def grid(index: tf.Tensor) -> tf.Tensor:
        image = source.read(index)
        step = tf.maximum(tf.reduce_max(tf.shape(image)[:2]) // GRID, 1)
        return image[::step, ::step]

    chosen = evenly_spaced(source.pretrain, MAX_IMAGES)
    images = (
        tf.data.Dataset.from_tensor_slices(chosen)
        .map(without_autograph(grid), num_parallel_calls=os.cpu_count(), deterministic=True)
        .ignore_errors(log_warning=False)
    )
    sample = list(without_tuning(images).as_numpy_iterator())
    if not sample:
        chosen = np.array([first_readable(source)])
        sample = [grid(tf.constant(chosen[0])).numpy()]
    return sample


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
