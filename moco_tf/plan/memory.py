"""An estimate of the memory that a training step takes, from measurements on a CPU."""

import re

# Outputs of all convolutions for one view of 224 pixels with the stem "imagenet", in millions, and
# millions of parameters. `tests/plan/test_memory.py` compares them with the networks.
NETWORKS = {
    "resnet8": (0.41, 0.08),
    "resnet14": (0.59, 0.18),
    "resnet20": (0.77, 0.28),
    "resnet18": (2.48, 11.2),
    "resnet34": (3.74, 21.3),
    "resnet50": (11.1, 23.6),
    "resnet101": (16.2, 42.6),
    "resnext50_32x8d": (21.0, 46.1),
}
# Peak memory of the process per output of a convolution, measured on a CPU as the difference
# between batches of 8 and 32 images of 224 pixels: 10.7 bytes for ResNet-50 and 12.2 for ResNet-18;
# 4.8 bytes for ResNet-50 in bfloat16.
BYTES_PER_OUTPUT = {"float32": 12.0, "mixed_bfloat16": 6.0, "mixed_float16": 6.0}
WORKSPACE = 500_000_000  # Whatever a step takes besides, in bytes.
USABLE = 0.85  # Share of a device's memory that a plan uses at most.


def estimate(
    encoder: str,
    stem: str,
    image_size: int,
    batch_size: int,
    queue_size: int,
    dim: int,
    precision: str,
    backward_passes: int = 1,
) -> int:
    """Estimate the memory of a training step on one device, in bytes.

    Args:
        encoder: Name of the backbone. One that is not in `NETWORKS` counts as a ResNet-50.
        stem: `"imagenet"` or `"small"`.
        image_size: Side of a view in pixels.
        batch_size: Number of images of the device.
        queue_size: Number of keys in the queue.
        dim: Number of dimensions of a key.
        precision: Precision of the computation.
        backward_passes: Number of views of an image that gradients flow through: 2 for a symmetric
            loss and for the mechanism end_to_end.

    Example:
        >>> round(estimate("resnet50", "imagenet", 224, 32, 65536, 128, "float32") / 1e9, 1)
        5.2
    """
    match = re.fullmatch(r"(.*?)(?:w(\d+))?", encoder)
    name, width = (match[1], int(match[2] or 1)) if match else (encoder, 1)
    outputs, parameters = NETWORKS.get(name, NETWORKS["resnet50"])
    # The small stem does not shrink the view, and the other one shrinks it to a quarter.
    pixels = (image_size / 224) ** 2 * (16 if stem == "small" else 1)
    per_image = outputs * 1e6 * width * pixels * BYTES_PER_OUTPUT[precision] * backward_passes
    # Both encoders, the gradients and the momentum buffers of SGD.
    state = 4 * 4 * parameters * 1e6 * width**2
    return round(batch_size * per_image + state + 4 * queue_size * dim + WORKSPACE)
