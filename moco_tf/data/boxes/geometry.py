"""Conversion of positions between an image and its square.

The square holds the resized image in its top left corner. The longer side of the image becomes the
side of the square, the proportions are kept, and the padding is at the bottom or on the right.
"""

import numpy as np

IGNORED = -1  # The label of a pixel that is ignored in the loss and in the metric.


def fitted(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the height and width of an image after resizing it into its square.

    Args:
        height: Height of the image.
        width: Width of the image.
        size: Side of the square.

    Returns:
        Height and width, each from 1 to `size`.

    Example:
        >>> fitted(300, 400, 64)
        (48, 64)
    """
    scale = size / max(height, width)
    new_height, new_width = (min(max(round(side * scale), 1), size) for side in (height, width))
    return new_height, new_width


def boxes_in_square(boxes: np.ndarray, height: int, width: int, size: int) -> np.ndarray:
    """Convert boxes in an image to boxes in its square.

    Args:
        boxes: `[n, 4]`, left, top, right and bottom in pixels.
        height: Height of the image.
        width: Width of the image.
        size: Side of the square.

    Returns:
        `[n, 4]`, in pixels of the square.
    """
    new_height, new_width = fitted(height, width, size)
    x_scale, y_scale = new_width / width, new_height / height
    return boxes * np.array([x_scale, y_scale, x_scale, y_scale])


def boxes_in_image(boxes: np.ndarray, height: int, width: int, size: int) -> np.ndarray:
    """Convert boxes in a square to boxes in its image, clipped to the image.

    Args:
        boxes: `[n, 4]`, left, top, right and bottom in pixels of the square.
        height: Height of the image.
        width: Width of the image.
        size: Side of the square.

    Returns:
        `[n, 4]`, in pixels of the image.
    """
    new_height, new_width = fitted(height, width, size)
    x_scale, y_scale = width / new_width, height / new_height
    boxes = boxes * np.array([x_scale, y_scale, x_scale, y_scale])
    return np.clip(boxes, 0, [width, height, width, height])


def map_in_square(labels: np.ndarray, size: int) -> np.ndarray:
    """Convert the labels of the pixels of an image to those of its square.

    Args:
        labels: int `[H, W]`.
        size: Side of the square.

    Returns:
        `[size, size]` of the same dtype: the labels of the nearest pixels, and `IGNORED` in the
        padding.
    """
    height, width = fitted(labels.shape[0], labels.shape[1], size)
    square = np.full([size, size], IGNORED, labels.dtype)
    square[:height, :width] = _resize_nearest(labels, height, width)
    return square


def map_in_image(square: np.ndarray, height: int, width: int) -> np.ndarray:
    """Convert the labels of the pixels of a square to those of its image.

    Args:
        square: int `[size, size]`.
        height: Height of the image.
        width: Width of the image.

    Returns:
        `[height, width]` of the same dtype, the labels of the nearest pixels.
    """
    new_height, new_width = fitted(height, width, len(square))
    return _resize_nearest(square[:new_height, :new_width], height, width)


def _resize_nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = (
        ((np.arange(new_side) + 0.5) * side / new_side).astype(int)
        for side, new_side in zip(labels.shape, (height, width), strict=True)
    )
    return labels[rows][:, columns]
