"""Mean and standard deviation of the channels, for the normalization of images."""

# ImageNet's channel means and standard deviations for values in [0, 1], as in the reference.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def mean_and_std(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation that images are normalized by.

    Args:
        channels: Number of image channels. 3 channels are RGB and have ImageNet's statistics. Any
            other number of channels is not RGB, and every channel has the average of these three.

    Returns:
        Two tuples of `channels` floats, for pixel values in [0, 1].

    Example:
        >>> mean_and_std(3)
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    if channels == 3:
        return MEAN, STD
    return (sum(MEAN) / 3,) * channels, (sum(STD) / 3,) * channels
