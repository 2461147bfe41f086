"""Helpers of the tests of detection and segmentation."""

import keras
import keras_hub


def small_encoder():
    """Return a ResNet with one block per stage, always with the same weights."""
    keras.utils.set_random_seed(1)
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64] * 4,
        stackwise_num_blocks=[1] * 4,
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
    )
