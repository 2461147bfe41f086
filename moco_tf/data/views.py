"""The geometric half of the augmentation, on the host: crops, flips and resizes; uint8 out."""

import math

import tensorflow as tf

ATTEMPTS = 10
ASPECT_RATIOS = (3 / 4, 4 / 3)
FLIP_PROBABILITY = 0.5
# Numbers that one view needs: area, ratio, top and left of each attempt, and the flip.
DRAWS = 4 * ATTEMPTS + 1


def two_views(image, size, crop_scale, seed):
    """Two random resized crops of one image, each flipped with probability one half.

    Args:
        image: uint8 `[H, W, 3]`.
        size: int, side of the views in pixels.
        crop_scale: smallest and largest share of the image's area.
        seed: int64 `[2]`.

    Returns:
        Two uint8 `[size, size, 3]`.
    """
    return tuple(
        random_view(image, size, crop_scale, draws) for draws in tf.unstack(view_draws(seed))
    )


def view_draws(seed):
    """The random numbers of an image's two views, uniform in [0, 1), float32 `[2, DRAWS]`."""
    return tf.random.stateless_uniform([2, DRAWS], seed, alg="philox")


def random_view(image, size, crop_scale, draws):
    """One random resized crop, flipped with probability one half.

    Args:
        image: uint8 `[H, W, 3]`.
        size: int, side of the view in pixels.
        crop_scale: smallest and largest share of the image's area.
        draws: float32 `[DRAWS]`, uniform in [0, 1).

    Returns:
        uint8 `[size, size, 3]`.
    """
    top, left, height, width = crop_window(tf.shape(image)[:2], crop_scale, draws[:-1])
    view = resize(image[top : top + height, left : left + width], size, size)
    return tf.cond(draws[-1] < FLIP_PROBABILITY, lambda: view[:, ::-1], lambda: view)


def crop_window(shape, crop_scale, draws):
    """The window of a random resized crop, by the algorithm of torchvision.

    An area uniform within `crop_scale` and an aspect ratio log-uniform in 3/4 to 4/3 are drawn up
    to ten times, until the window fits; failing that, the largest central window of a permitted
    aspect ratio is taken.

    Args:
        shape: int32 `[2]`, height and width of the image.
        crop_scale: smallest and largest share of the image's area.
        draws: float32 `[4 * ATTEMPTS]`, uniform in [0, 1).

    Returns:
        Four int32 scalars: top, left, height, width.
    """
    low, high = crop_scale
    size = tf.cast(shape, tf.float32)
    area_draw, ratio_draw, top_draw, left_draw = tf.unstack(tf.reshape(draws, [4, ATTEMPTS]))
    area = size[0] * size[1] * (low + (high - low) * area_draw)
    log_ratio = math.log(ASPECT_RATIOS[0]) + ratio_draw * math.log(
        ASPECT_RATIOS[1] / ASPECT_RATIOS[0]
    )
    width = tf.cast(tf.round(tf.sqrt(area * tf.exp(log_ratio))), tf.int32)
    height = tf.cast(tf.round(tf.sqrt(area / tf.exp(log_ratio))), tf.int32)
    fits = (width > 0) & (width <= shape[1]) & (height > 0) & (height <= shape[0])

    def drawn():
        first = tf.argmax(fits)
        h, w = height[first], width[first]
        top = tf.cast(top_draw[first] * tf.cast(shape[0] - h + 1, tf.float32), tf.int32)
        left = tf.cast(left_draw[first] * tf.cast(shape[1] - w + 1, tf.float32), tf.int32)
        return top, left, h, w

    def central():
        ratio = tf.clip_by_value(size[1] / size[0], *ASPECT_RATIOS)
        h = tf.minimum(shape[0], tf.cast(tf.round(size[1] / ratio), tf.int32))
        w = tf.minimum(shape[1], tf.cast(tf.round(size[0] * ratio), tf.int32))
        return (shape[0] - h) // 2, (shape[1] - w) // 2, h, w

    return tf.cond(tf.reduce_any(fits), drawn, central)


def central_view(image, size):
    """The view that features are evaluated on: the shorter side to 256/224 of `size`, then the
    centre (section 4.1). An image that is `size` by `size` already is taken as it is.

    Args:
        image: uint8 `[H, W, 3]`.
        size: int, side of the view in pixels.

    Returns:
        uint8 `[size, size, 3]`.
    """

    def resize_and_crop():
        shape = tf.shape(image)[:2]
        # As torchvision: the longer side truncated, the offsets rounded, halves to even.
        height, width = tf.unstack(round(size * 256 / 224) * shape // tf.reduce_min(shape))
        resized = resize(image, height, width)
        top, left = (tf.cast(tf.round((side - size) / 2), tf.int32) for side in (height, width))
        return resized[top : top + size, left : left + size]

    view = tf.cond(tf.reduce_all(tf.shape(image)[:2] == size), lambda: image, resize_and_crop)
    return tf.ensure_shape(view, [size, size, 3])


def resize(image, height, width):
    """Bilinear, with the support widened when the image shrinks, as in Pillow.

    Args:
        image: uint8 `[H, W, 3]`.
        height, width: int, of the result in pixels.

    Returns:
        uint8 `[height, width, 3]`.
    """
    resized = tf.image.resize(image, [height, width], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
