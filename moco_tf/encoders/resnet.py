"""Residual networks as the reference implementation defines them (torchvision's "v1.5").

The stride is on the 3x3 convolution, padding is symmetric, convolutions have no biases, and
BatchNormalization has momentum 0.9 and epsilon 1e-5. `keras.applications` differs in all of these.
"""

import re
from typing import NamedTuple

import keras
from keras import layers

from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError


class Architecture(NamedTuple):
    """A residual network without its stem and its width factor.

    Attributes:
        block: Kind of residual block, `"basic"` or `"bottleneck"`.
        depths: Number of blocks in each stage.
        channels: Number of channels of the first stage. Each later stage has twice as many, at
            half the resolution.
        groups: Number of groups of the 3x3 convolutions (ResNeXt's cardinality).
        inner_width: Factor of the channels inside a bottleneck. The first stage of ResNeXt-50
            32x8d has 32 groups of 8 channels there, which is 4 times 64.
    """

    block: str
    depths: tuple[int, ...]
    channels: int = 64
    groups: int = 1
    inner_width: int = 1


# He et al. (2016, section 4.2) built the three-stage networks, with 6n+2 layers, for CIFAR-10.
ARCHITECTURES = {
    "resnet8": Architecture("basic", (1, 1, 1), channels=16),
    "resnet14": Architecture("basic", (2, 2, 2), channels=16),
    "resnet20": Architecture("basic", (3, 3, 3), channels=16),
    "resnet18": Architecture("basic", (2, 2, 2, 2)),
    "resnet34": Architecture("basic", (3, 4, 6, 3)),
    "resnet50": Architecture("bottleneck", (3, 4, 6, 3)),
    "resnet101": Architecture("bottleneck", (3, 4, 23, 3)),
    "resnext50_32x8d": Architecture("bottleneck", (3, 4, 6, 3), groups=32, inner_width=4),
}
STEMS = ("imagenet", "small")


def resnet(name: str, stem: str = "imagenet", bn_groups: int = 1, channels: int = 3) -> keras.Model:
    """Build a residual network without its classifier.

    Args:
        name: A key of `ARCHITECTURES`. A suffix `w2`, `w4`, ... multiplies the channels of every
            convolution by that factor (the paper's R50w2x and R50w4x).
        stem: `"imagenet"` for a 7x7 convolution of stride 2 and a 3x3 max-pooling of stride 2, or
            `"small"` for a 3x3 convolution of stride 1, for images of about 32 pixels.
        bn_groups: Number of groups that BatchNormalization splits the batch of one replica into.
        channels: Number of channels of the images; 3 is RGB.

    Returns:
        A model from normalized images `[N, H, W, channels]` to features `[N, D]`, the global
        average of the last stage.

    Raises:
        UserError: If the name or the stem is unknown.

    Example:
        >>> resnet("resnet8w2", stem="small").output_shape
        (None, 128)
    """
    architecture, width = parse_name(name)
    if stem not in STEMS:
        raise UserError(f"unknown stem '{stem}': choose {' or '.join(STEMS)}")
    first = architecture.channels * width

    images = keras.Input((None, None, channels), name="images")
    if stem == "imagenet":
        x = _conv_bn(images, first, 7, 2, bn_groups, "stem")
        x = layers.ReLU(name="stem_relu")(x)
        # After a ReLU, padding with zeros is the same as padding with minus infinity.
        x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    else:
        x = _conv_bn(images, first, 3, 1, bn_groups, "stem")
        x = layers.ReLU(name="stem_relu")(x)
    for stage, depth in enumerate(architecture.depths):
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            label = f"stage{stage + 1}_block{index + 1}"
            x = _block(x, architecture, first * 2**stage, stride, bn_groups, label)
    features = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(images, features, name=name)


def parse_name(name: str) -> tuple[Architecture, int]:
    """Return the architecture and the width factor of a backbone.

    Args:
        name: Name of the backbone, as for `resnet`.

    Raises:
        UserError: If the name is unknown.

    Example:
        >>> architecture, width = parse_name("resnet50w2")
        >>> architecture.depths, width
        ((3, 4, 6, 3), 2)
    """
    match = re.fullmatch(r"(.*?)(?:w([1-9]\d?))?", name, re.DOTALL)
    base, width = match.groups() if match else (name, None)
    if base not in ARCHITECTURES:
        raise UserError(
            f"unknown encoder '{name}': choose one of {', '.join(ARCHITECTURES)}; add w2 or w4 for "
            "a network that is 2 or 4 times as wide"
        )
    return ARCHITECTURES[base], int(width or 1)


def _conv_bn(
    x: keras.KerasTensor,
    channels: int,
    kernel_size: int,
    stride: int,
    bn_groups: int,
    name: str,
    groups: int = 1,
) -> keras.KerasTensor:
    """Apply a convolution and BatchNormalization."""
    if stride > 1 and kernel_size > 1:
        # For a strided convolution, Keras' "same" pads more on the right than on the left.
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    else:
        padding = "same"
    x = layers.Conv2D(
        channels,
        kernel_size,
        stride,
        padding,
        use_bias=False,
        groups=groups,
        # torch's kaiming_normal_(mode="fan_out", nonlinearity="relu"). For a grouped convolution,
        # both Keras and torch count the channels of all groups as the fan-out.
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=f"{name}_conv",
    )(x)
    return BatchNormalization(bn_groups, name=f"{name}_bn")(x)


def _block(
    x: keras.KerasTensor,
    architecture: Architecture,
    channels: int,
    stride: int,
    bn_groups: int,
    name: str,
) -> keras.KerasTensor:
    """Apply a residual block, with a 1x1 projection shortcut where the shapes differ."""

    def conv_bn(
        x: keras.KerasTensor,
        channels: int,
        kernel_size: int,
        stride: int,
        label: str,
        groups: int = 1,
    ) -> keras.KerasTensor:
        return _conv_bn(x, channels, kernel_size, stride, bn_groups, f"{name}_{label}", groups)

    if architecture.block == "basic":
        y = conv_bn(x, channels, 3, stride, "1")
        y = layers.ReLU(name=f"{name}_1_relu")(y)
        y = conv_bn(y, channels, 3, 1, "2")
    else:
        inner = channels * architecture.inner_width
        y = conv_bn(x, inner, 1, 1, "1")
        y = layers.ReLU(name=f"{name}_1_relu")(y)
        y = conv_bn(y, inner, 3, stride, "2", architecture.groups)
        y = layers.ReLU(name=f"{name}_2_relu")(y)
        y = conv_bn(y, channels * 4, 1, 1, "3")
    if stride > 1 or x.shape[-1] != y.shape[-1]:
        x = conv_bn(x, y.shape[-1], 1, stride, "shortcut")
    y = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(y)
