"""The estimate of memory: its table against the networks, and what it scales with."""

import math

import keras
import pytest

from moco_tf.encoders.resnet import ARCHITECTURES, resnet
from moco_tf.plan.memory import NETWORKS, estimate


def test_every_network_is_in_the_table():
    assert NETWORKS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize(
    "name", ["resnet8", "resnet18", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_table_has_the_outputs_and_the_parameters_of_the_networks(name):
    network = resnet(name)
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    outputs = keras.Model(network.inputs, [layer.output for layer in convolutions])
    shapes = outputs.compute_output_shape((1, 224, 224, 3))
    expected = sum(map(math.prod, shapes)) / 1e6, network.count_params() / 1e6
    assert NETWORKS[name] == pytest.approx(expected, rel=0.02, abs=0.005)


def test_estimate_is_near_what_was_measured_on_a_cpu():
    """Peak memory of the process without that of the imports, in bytes."""
    for encoder, batch, precision, measured in (
        ("resnet50", 8, "float32", 1.81e9),
        ("resnet50", 32, "float32", 4.79e9),
        ("resnet50", 32, "mixed_bfloat16", 2.88e9),
        ("resnet18", 32, "float32", 1.61e9),
    ):
        estimated = estimate(encoder, "imagenet", 224, batch, 65_536, 128, precision)
        assert estimated == pytest.approx(measured, rel=0.2), encoder


def test_width_and_a_second_backward_pass_take_more_memory():
    def images(encoder, **kwargs):
        sizes = [estimate(encoder, "imagenet", 224, n, 0, 128, "float32", **kwargs) for n in (0, 1)]
        return sizes[1] - sizes[0]

    assert images("resnet50w2") == pytest.approx(2 * images("resnet50"), rel=1e-6)
    assert images("resnet50", backward_passes=2) == pytest.approx(2 * images("resnet50"), rel=1e-6)
    assert images("keras:Unknown") == images("resnet50")
