"""Channel statistics that images are normalized by."""

# ImageNet's channel means and standard deviations for values in [0, 1], as in the reference.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def mean_and_std(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation that images are normalized by.

    Args:
        channels: Number of image channels. With 3 the images are RGB and get ImageNet's statistics.
            These say nothing about other channels, which all get the average of the three.

    Returns:
        Two tuples of `channels` floats, for pixel values in [0, 1].

    Example:
        >>> mean_and_std(3)
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    if channels == 3:
        return MEAN, STD
    return (sum(MEAN) / 3,) * channels, (sum(STD) / 3,) * channels


def scale_and_offset(channels: int) -> tuple[list[float], list[float]]:
    """Return the same normalization as `x * scale + offset` for pixel values in [0, 255].

    Args:
        channels: Number of image channels.

    Returns:
        Two lists of `channels` floats, the scales and the offsets.
    """
    mean, std = mean_and_std(channels)
    return [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
