"""Residual networks as the reference implementation defines them (torchvision's, "v1.5").

The stride sits on the 3x3 convolution, padding is symmetric, convolutions have no biases, and
BatchNormalization has momentum 0.9 and epsilon 1e-5. `keras.applications` does none of that.
"""

import re

import keras
from keras import layers

from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError

# name: (kind of block, blocks in each stage, channels of the first stage). Every later stage has
# twice the channels and half the resolution. The three-stage networks are those that He et al.
# (2016, section 4.2) built for CIFAR-10, with 6n+2 layers.
ARCHITECTURES = {
    "resnet8": ("basic", (1, 1, 1), 16),
    "resnet14": ("basic", (2, 2, 2), 16),
    "resnet20": ("basic", (3, 3, 3), 16),
    "resnet18": ("basic", (2, 2, 2, 2), 64),
    "resnet34": ("basic", (3, 4, 6, 3), 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 64),
}
STEMS = ("imagenet", "small")


def resnet(name, stem="imagenet", bn_groups=1):
    """Builds a residual network without its classifier.

    Args:
        name: a key of `ARCHITECTURES`, with `w2`, `w4`, ... behind it for a network with that many
            times the channels in every convolution (the paper's R50w2x and R50w4x).
        stem: "imagenet", a 7x7 convolution of stride 2 and a 3x3 maximum of stride 2; or "small",
            one 3x3 convolution of stride 1, for images of about 32 pixels.
        bn_groups: int, BatchNormalization groups of the batch that one replica sees.

    Returns:
        A `keras.Model` from normalised images `[N, H, W, 3]` to features `[N, D]`, the global
        average of the last stage.

    Raises:
        UserError: the name or the stem is not one of these.
    """
    (kind, depths, channels), width = parse_name(name)
    if stem not in STEMS:
        raise UserError(f"unknown stem '{stem}': choose {' or '.join(STEMS)}")
    channels *= width
    block = {"basic": _basic_block, "bottleneck": _bottleneck_block}[kind]

    images = keras.Input((None, None, 3), name="images")
    if stem == "imagenet":
        x = _conv_bn(images, channels, 7, 2, bn_groups, "stem")
        x = layers.ReLU(name="stem_relu")(x)
        # After a ReLU, padding with zeros and padding with minus infinity are the same.
        x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    else:
        x = _conv_bn(images, channels, 3, 1, bn_groups, "stem")
        x = layers.ReLU(name="stem_relu")(x)
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            label = f"stage{stage + 1}_block{index + 1}"
            x = block(x, channels * 2**stage, stride, bn_groups, label)
    features = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(images, features, name=name)


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


def _conv_bn(x, channels, kernel_size, stride, bn_groups, name):
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
        # kaiming_normal_(mode="fan_out", nonlinearity="relu")
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=f"{name}_conv",
    )(x)
    return BatchNormalization(bn_groups, name=f"{name}_bn")(x)


def _basic_block(x, channels, stride, bn_groups, name):
    y = _conv_bn(x, channels, 3, stride, bn_groups, f"{name}_1")
    y = layers.ReLU(name=f"{name}_1_relu")(y)
    y = _conv_bn(y, channels, 3, 1, bn_groups, f"{name}_2")
    return _add(x, y, stride, bn_groups, name)


def _bottleneck_block(x, channels, stride, bn_groups, name):
    y = _conv_bn(x, channels, 1, 1, bn_groups, f"{name}_1")
    y = layers.ReLU(name=f"{name}_1_relu")(y)
    y = _conv_bn(y, channels, 3, stride, bn_groups, f"{name}_2")
    y = layers.ReLU(name=f"{name}_2_relu")(y)
    y = _conv_bn(y, channels * 4, 1, 1, bn_groups, f"{name}_3")
    return _add(x, y, stride, bn_groups, name)


def _add(x, y, stride, bn_groups, name):
    """The block's sum, with a 1x1 projection of the shortcut where the shapes differ."""
    if stride > 1 or x.shape[-1] != y.shape[-1]:
        x = _conv_bn(x, y.shape[-1], 1, stride, bn_groups, f"{name}_shortcut")
    y = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(y)
