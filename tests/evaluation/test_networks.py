"""The checksum of a network: what changes it, and what does not."""

import keras
import pytest
import tensorflow as tf

from moco_tf import encoders
from moco_tf.evaluation.networks import network_checksum


def build(scale=1 / 255, pooling="Average", shortcut="first"):
    """Return a network whose layers have the names that Keras gives them."""
    images = keras.Input((None, None, 3))
    scaled = keras.layers.Rescaling(scale)(images)
    first = keras.layers.Conv2D(4, 3, padding="same")(scaled)
    second = keras.layers.Conv2D(4, 3, padding="same")(first)
    third = keras.layers.Conv2D(4, 3, padding="same")(second)
    added = keras.layers.Add()([third, {"first": first, "second": second}[shortcut]])
    features = getattr(keras.layers, f"Global{pooling}Pooling2D")()(added)
    return keras.Model(images, features)


def test_names_that_keras_numbers_have_no_effect():
    first, second = build(), build()
    assert first.layers[2].name != second.layers[2].name
    assert network_checksum(first) == network_checksum(second)
    nested = [keras.Sequential([keras.Input((None, None, 3)), part]) for part in (first, second)]
    assert network_checksum(nested[0]) == network_checksum(nested[1])
    assert network_checksum(nested[0]) != network_checksum(first)


@pytest.mark.parametrize(
    "changes", [{"scale": 1 / 127}, {"pooling": "Max"}, {"shortcut": "second"}]
)
def test_changes_of_layers_without_weights_count(changes):
    assert network_checksum(build(**changes)) != network_checksum(build())


def test_precision_counts():
    expected = network_checksum(build())
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert network_checksum(build()) != expected
    finally:
        keras.config.set_dtype_policy("float32")


def test_file_has_the_checksum_of_its_network(tmp_path):
    network = build()
    expected = network_checksum(network)
    network.compile("sgd", "mse")
    network(tf.zeros([2, 8, 8, 3]))
    network.save(tmp_path / "network.keras")
    assert network_checksum(network) == expected
    assert network_checksum(keras.saving.load_model(tmp_path / "network.keras")) == expected


def test_weights_do_not_count():
    networks = [encoders.random_backbone("resnet8", stem="small", seed=seed) for seed in range(2)]
    assert network_checksum(networks[0]) == network_checksum(networks[1])


def test_saved_model_is_recognized_wherever_it_is(tmp_path):
    build().export(tmp_path / "one", verbose=False)
    build(scale=1 / 127).export(tmp_path / "two", verbose=False)
    (tmp_path / "moved").mkdir()

    def checksum(name):
        return network_checksum(keras.layers.TFSMLayer(str(tmp_path / name), "serve"))

    expected = checksum("one")
    assert expected is not None
    assert checksum("two") not in (expected, None)
    (tmp_path / "one").rename(tmp_path / "moved" / "one")
    assert checksum("moved/one") == expected


def test_lambda_counts_as_a_layer_but_its_code_does_not():
    networks = [
        keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(function)])
        for function in (lambda images: images, lambda images: 2 * images)
    ]
    assert network_checksum(networks[0]) == network_checksum(networks[1]) is not None


class WithoutConfig(keras.layers.Layer):
    def get_config(self):
        raise NotImplementedError


def test_other_callables_have_no_checksum():
    assert network_checksum(lambda images: images) is None
    assert network_checksum(WithoutConfig()) is None
