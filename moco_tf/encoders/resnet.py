"""Residual networks as the reference implementation defines them (torchvision's, "v1.5").

The stride sits on the 3x3 convolution, padding is symmetric, convolutions have no biases, and
BatchNormalization has momentum 0.9 and epsilon 1e-5. `keras.applications` does none of that.
"""

import re
import typing

import keras
from keras import layers

from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError


class Architecture(typing.NamedTuple):
    """A residual network, but for its stem and its width.

    Attributes:
        block: "basic" or "bottleneck".
        depths: blocks in each stage.
        channels: of the first stage; each later stage has twice as many, at half the resolution.
        groups: of the 3x3 convolutions (ResNeXt's cardinality).
        inner_width: what the channels are multiplied by inside a bottleneck: in the first stage of
            ResNeXt-50 32x8d, 32 groups of 8 channels are 4 times 64.
    """

    block: str
    depths: tuple
    channels: int = 64
    groups: int = 1
    inner_width: int = 1


# The three-stage networks are those that He et al. (2016, section 4.2) built for CIFAR-10, with
# 6n+2 layers.
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


class Network(typing.NamedTuple):
    """What it takes to build a backbone again: arguments of `moco_tf.encoders.build`.

    Attributes:
        encoder: str, its name.
        stem: "imagenet" or "small".
        channels: int, of the images.
    """

    encoder: str
    stem: str
    channels: int


def resnet(name, stem="imagenet", bn_groups=1, channels=3):
    """Builds a residual network without its classifier.

    Args:
        name: a key of `ARCHITECTURES`, with `w2`, `w4`, ... behind it for a network with that many
            times the channels in every convolution (the paper's R50w2x and R50w4x).
        stem: "imagenet", a 7x7 convolution of stride 2 and a 3x3 maximum of stride 2; or "small",
            one 3x3 convolution of stride 1, for images of about 32 pixels.
        bn_groups: int, BatchNormalization groups of the batch that one replica sees.
        channels: int, of the images; 3 is RGB.

    Returns:
        A `keras.Model` from normalised images `[N, H, W, channels]` to features `[N, D]`, the
        global average of the last stage.

    Raises:
        UserError: the name or the stem is not one of these.
    """
    architecture, width = parse_name(name)
    if stem not in STEMS:
        raise UserError(f"unknown stem '{stem}': choose {' or '.join(STEMS)}")
    first = architecture.channels * width

    images = keras.Input((None, None, channels), name="images")
    if stem == "imagenet":
        x = _conv_bn(images, first, 7, 2, bn_groups, "stem")
        x = layers.ReLU(name="stem_relu")(x)
        # After a ReLU, padding with zeros and padding with minus infinity are the same.
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


def network_of(backbone):
    """What network a backbone is.

    Args:
        backbone: a `keras.Model` of `moco_tf.encoders.build`, without a head, or of
            `moco_tf.encoders.with_normalization`.

    Returns:
        A `Network`.
    """
    inner = [layer for layer in backbone.layers if isinstance(layer, keras.Model)]
    [network] = inner or [backbone]
    stem = "imagenet" if network.get_layer("stem_conv").kernel_size == (7, 7) else "small"
    return Network(network.name, stem, network.input_shape[-1])


def parse_name(name):
    """The entry of `ARCHITECTURES` behind an encoder's name, and the factor of its width.

    Raises:
        UserError: there is none.
    """
    base, width = re.fullmatch(r"(.*?)(?:w([1-9]\d?))?", name, re.DOTALL).groups()
    if base not in ARCHITECTURES:
        raise UserError(
            f"unknown encoder '{name}': choose one of {', '.join(ARCHITECTURES)}, with w2 or w4 "
            "behind it for a wider one"
        )
    return ARCHITECTURES[base], int(width or 1)


def _conv_bn(x, channels, kernel_size, stride, bn_groups, name, groups=1):
    if stride > 1 and kernel_size > 1:
        # Keras' "same" pads a strided convolution more on the right than on the left.
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
        # kaiming_normal_(mode="fan_out", nonlinearity="relu"); of a grouped convolution, Keras
        # and torch count the same fan out, the channels of all groups.
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=f"{name}_conv",
    )(x)
    return BatchNormalization(bn_groups, name=f"{name}_bn")(x)


def _block(x, architecture, channels, stride, bn_groups, name):
    """A residual block, with a 1x1 projection of the shortcut where the shapes differ."""

    def conv_bn(x, channels, kernel_size, stride, label, groups=1):
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
