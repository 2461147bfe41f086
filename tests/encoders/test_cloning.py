"""Copies of networks for pre-training: what becomes of each kind of layer."""

import inspect
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from moco_tf.encoders.cloning import (
    for_pretraining,
    has_batch_normalization,
    random_layers,
    with_keras_layers,
)
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.encoders.synchronized import SynchronizedBatchNormalization, synchronized
from moco_tf.errors import UserError
from moco_tf.keras_internals import all_layers
from tests.encoders.foreign_networks import images, randomize, small_network


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A layer with layers of its own, as KerasHub's blocks are."""

    def __init__(self, rate=0.3, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.norm = layers.BatchNormalization(momentum=0.7)
        self.conv = layers.Conv2D(5, 1)
        self.others = [layers.BatchNormalization(center=False)]
        self.dropout = layers.Dropout(rate)

    def build(self, input_shape):
        self.norm.build(input_shape)
        self.conv.build(input_shape)
        self.others[0].build((*input_shape[:-1], 5))

    def call(self, x, training=False):
        x = self.others[0](self.conv(self.norm(x, training=training)), training=training)
        return self.dropout(x, training=training)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


def network_of(*parts, shape=(None, None, 3)):
    inputs = keras.Input(shape)
    x = inputs
    for part in parts:
        x = part(x)
    return randomize(keras.Model(inputs, x))


def of_class(network, kind):
    return [layer for layer in all_layers(network) if type(layer) is kind]


def test_copy_computes_the_same_and_has_variables_of_its_own():
    network = small_network()
    copy = for_pretraining(network, 2)
    np.testing.assert_allclose(copy(images()), network(images()), rtol=1e-5, atol=1e-5)
    assert not {id(w) for w in copy.weights} & {id(w) for w in network.weights}
    assert not of_class(copy, layers.BatchNormalization)
    assert not random_layers(copy)
    assert random_layers(network) == ["Dropout"]
    first, inner = of_class(copy, BatchNormalization)
    assert (first.groups, first.momentum, first.epsilon) == (2, 0.8, 0.01)
    assert (inner.groups, inner.momentum, inner.scale) == (2, 0.99, False)


def test_groups_have_statistics_of_their_own():
    """Two groups compute what two batches compute, each for itself."""
    network, x = small_network(), images(4)
    copies = [for_pretraining(network, groups) for groups in (2, 1)]
    together = copies[0](x, training=True)
    halves = [copies[1](half, training=True) for half in (x[:2], x[2:])]
    np.testing.assert_allclose(together, np.concatenate(halves), rtol=1e-4, atol=1e-4)
    assert np.abs(together - copies[1](x, training=True)).max() > 0.01


def test_one_group_trains_as_keras_trains():
    network = small_network(dropout=0.0)
    copy = for_pretraining(network, 1)
    x = images(8)
    np.testing.assert_allclose(
        copy(x, training=True), network(x, training=True), rtol=1e-4, atol=1e-4
    )
    [first, _] = of_class(copy, BatchNormalization)
    np.testing.assert_allclose(
        first.moving_mean, network.get_layer("first_bn").moving_mean, rtol=1e-4
    )


def test_layers_inside_of_layers_are_replaced_in_the_order_of_the_weights():
    network = network_of(Block())
    copy = for_pretraining(network, 2)
    assert {layer.momentum for layer in of_class(copy, BatchNormalization)} == {0.7, 0.99}
    assert not of_class(copy, layers.BatchNormalization)
    assert [w.shape for w in copy.weights] == [w.shape for w in network.weights]
    np.testing.assert_allclose(copy(images()), network(images()), rtol=1e-4, atol=1e-3)
    x = images()
    np.testing.assert_array_equal(copy(x, training=True), copy(x, training=True))
    for other, kind in (
        (with_keras_layers(copy), layers.BatchNormalization),
        (synchronized(copy), SynchronizedBatchNormalization),
    ):
        assert len(of_class(other, kind)) == 2
        np.testing.assert_allclose(other(x), copy(x), rtol=1e-4, atol=1e-3)


class Pair(NamedTuple):
    conv: layers.Layer
    norm: layers.Layer


def pair():
    return Pair(layers.Conv2D(3, 1), layers.BatchNormalization())


def inner_model():
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, layers.BatchNormalization()(layers.Conv2D(3, 1)(inputs)))


def inner_sequence():
    inputs = keras.Input((None, None, 3))
    parts = [layers.Conv2D(3, 1), layers.BatchNormalization(), layers.Dropout(0.5)]
    return keras.Sequential([inputs, *parts])


HOLDERS = {
    "dict": lambda: dict(pair()._asdict()),
    "tuple": lambda: tuple(pair()),
    "named tuple": pair,
    "nested lists": lambda: [list(pair()), [{"tuple": tuple(pair())}]],
    "model": inner_model,
    "built sequence": inner_sequence,
    "sequence": lambda: keras.Sequential([*pair(), layers.Dropout(0.5)]),
    "random": lambda: [*pair(), layers.Dropout(0.5), layers.GaussianNoise(0.5)],
}


def applied(part, x, training):
    """Call the layers in a structure one after another."""
    if isinstance(part, layers.Layer):
        return part(x, training=training)
    for item in part.values() if isinstance(part, dict) else part:
        x = applied(item, x, training)
    return x


@keras.saving.register_keras_serializable("tests")
class Holder(layers.Layer):
    """A layer that keeps its layers in a structure, and whose config does not mention them."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.parts = HOLDERS[kind]()

    def call(self, x, training=False):
        return applied(self.parts, x, training)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


@keras.saving.register_keras_serializable("tests")
class HolderModel(keras.Model):
    """A model without a graph of layers."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.holder = Holder(kind)

    def call(self, x, training=False):
        return self.holder(x, training=training)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


@pytest.mark.parametrize("outer", [Holder, HolderModel])
@pytest.mark.parametrize("kind", HOLDERS)
def test_layers_are_replaced_wherever_a_layer_keeps_them(outer, kind):
    network = network_of(outer(kind))
    count = len(of_class(network, layers.BatchNormalization))
    x = images()
    copy = for_pretraining(network, 2)
    assert len(of_class(copy, BatchNormalization)) == count > 0
    assert not of_class(copy, layers.BatchNormalization)
    np.testing.assert_allclose(copy(x), network(x), rtol=1e-4, atol=1e-3)
    one = for_pretraining(network, 1)
    halves = [one(half, training=True) for half in (x[:2], x[2:])]
    np.testing.assert_allclose(copy(x, training=True), np.concatenate(halves), rtol=1e-3, atol=1e-3)
    for again in (synchronized(copy), with_keras_layers(copy)):
        assert not random_layers(again)
        np.testing.assert_allclose(again(x), copy(x), rtol=1e-4, atol=1e-3)


def test_first_axis_of_features_is_the_last_one_inside_of_a_layer_too(monkeypatch):
    monkeypatch.setitem(HOLDERS, "axis", lambda: [layers.BatchNormalization(axis=1, name="norm")])
    network = network_of(layers.GlobalAveragePooling2D(), Holder("axis"))
    np.testing.assert_allclose(
        for_pretraining(network, 2)(images()), network(images()), rtol=1e-4, atol=1e-3
    )
    with pytest.raises(UserError, match="'maps/norm' normalizes axis 1"):
        for_pretraining(network_of(Holder("axis", name="maps"), shape=(3, 3, 3)), 2)


def test_features_and_shared_layers_are_normalized_too():
    dense, norm = layers.Dense(6), layers.BatchNormalization(name="shared")
    network = network_of(layers.GlobalAveragePooling2D(), dense, norm, layers.ReLU(), norm)
    copy = for_pretraining(network, 2)
    assert len(of_class(copy, BatchNormalization)) == 1
    np.testing.assert_allclose(copy(images()), network(images()), rtol=1e-4, atol=1e-3)
    x = images(6)
    halves = [for_pretraining(network, 1)(half, training=True) for half in (x[:3], x[3:])]
    np.testing.assert_allclose(copy(x, training=True), np.concatenate(halves), rtol=1e-3, atol=1e-3)


def test_frozen_layers_and_a_fixed_mode_are_trained():
    """As people leave them behind after fine-tuning: `base(x, training=False)`."""
    base = small_network(dropout=0.0)
    base.trainable = False
    inputs = keras.Input((None, None, 3))
    network = keras.Model(inputs, base(inputs, training=False))
    copy = for_pretraining(network, 1)
    assert len(copy.trainable_variables) == 6
    moving = of_class(copy, BatchNormalization)[0].moving_mean
    before = moving.numpy()
    x = images()
    assert np.abs(copy(x, training=True) - copy(x)).max() > 0.01
    assert (moving.numpy() != before).all()


def test_frozen_sequential_model_is_trained():
    block = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 1)])
    block.trainable = False
    assert len(for_pretraining(network_of(block), 1).trainable_variables) == 2


@pytest.mark.parametrize(
    "layer",
    [
        layers.Dropout(0.5),
        layers.SpatialDropout2D(0.5),
        layers.GaussianDropout(0.5),
        layers.GaussianNoise(0.5),
        layers.AlphaDropout(0.5),
    ],
)
def test_random_layers_are_switched_off(layer):
    network = network_of(layer)
    x = images()
    assert np.abs(network(x, training=True) - x).max() > 0.1
    np.testing.assert_array_equal(for_pretraining(network, 1)(x, training=True), x)


def test_layers_that_prepare_images_stay_in_float32():
    network = network_of(
        layers.Rescaling(1 / 255), layers.Normalization(mean=[0.5] * 3, variance=[0.04] * 3)
    )
    expected = (images() / 255 - 0.5) / 0.2
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        copy = for_pretraining(network, 1)
        conv = for_pretraining(network_of(layers.Conv2D(2, 1)), 1)
    finally:
        keras.config.set_dtype_policy("float32")
    y = copy(images())
    assert y.dtype == "float32"
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert conv(images()).dtype == tf.bfloat16


@keras.saving.register_keras_serializable("tests")
class OwnNormalization(layers.BatchNormalization):
    pass


@keras.saving.register_keras_serializable("tests")
class LateBlock(layers.Layer):
    def build(self, input_shape):
        self.norm = layers.BatchNormalization()
        self.norm.build(input_shape)

    def call(self, x, training=False):
        return self.norm(x, training=training)


@keras.saving.register_keras_serializable("tests")
class LateDropout(layers.Layer):
    def build(self, input_shape):
        self.dropout = layers.Dropout(0.5)

    def call(self, x, training=False):
        return self.dropout(x, training=training)


@keras.saving.register_keras_serializable("tests")
class Hiding(layers.Layer):
    """A layer that calls a layer that it does not find by an attribute."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm = layers.BatchNormalization(name="hidden")
        self.run = lambda x, training: norm(x, training=training)

    def call(self, x, training=False):
        return self.run(x, training)


@keras.saving.register_keras_serializable("tests")
class Forgetful(layers.Layer):
    """A layer whose config leaves out an argument that its weights depend on."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units, name="dense")

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return layers.Layer.get_config(self) if self.built else {}


@keras.saving.register_keras_serializable("tests")
class Unfinished(layers.Layer):
    def __init__(self, needed, **kwargs):
        super().__init__(**kwargs)

    def call(self, x):
        return x

    def get_config(self):
        return {"name": self.name}


def quantized_dense():
    dense = layers.Dense(4, name="small")
    dense.build((None, 3))
    dense.quantize("int8")
    return dense


@pytest.mark.parametrize(
    ("layer", "parts"),
    [
        (LateDropout(name="late"), ["'late/dropout", "(Dropout)", "create it in __init__"]),
        (Hiding(name="outer"), ["'outer/hidden' cannot be replaced", "list, dict or tuple"]),
        (Forgetful(5, name="outer"), ["'outer/dense'", "(3, 5)", "(3, 3) in the copy"]),
        (Unfinished(1, name="rest"), ["'rest' (Unfinished) cannot be copied", "get_config"]),
        (quantized_dense(), ["'small' is quantized (int8", "before you quantize it"]),
        (layers.BatchNormalization(axis=1, name="by_row"), ["'by_row'", "axis 1", "channels_last"]),
        (OwnNormalization(name="own"), ["'own'", "OwnNormalization"]),
        (LateBlock(name="late"), ["late/", "create it in __init__"]),
        (layers.RandomFlip(name="flip"), ["'flip'", "RandomFlip", "remove it"]),
    ],
)
def test_layers_that_do_not_work_are_refused(layer, parts):
    network = network_of(layer, shape=(8, 8, 3))
    with pytest.raises(UserError) as error:
        for_pretraining(network, 2)
    for part in parts:
        assert part in str(error.value)


class Subclassed(keras.Model):
    def call(self, images):
        return images


@pytest.mark.parametrize(
    "network", [Subclassed(), "a.keras", keras.Sequential([layers.BatchNormalization()])]
)
def test_what_is_no_functional_model_is_refused(network):
    with pytest.raises(UserError, match="network=.*: pass a functional keras.Model, or"):
        for_pretraining(network, 2)


def test_number_of_groups_is_checked():
    for groups in (0, "x"):
        with pytest.raises(UserError, match=f"bn_groups={groups!r}: must be "):
            for_pretraining(network_of(layers.ReLU()), groups)


def test_renormalization_is_refused():
    if "renorm" not in inspect.signature(layers.BatchNormalization).parameters:
        pytest.skip("this version of Keras has no batch renormalization")
    network = network_of(layers.BatchNormalization(renorm=True, name="again"))
    with pytest.raises(UserError, match="'again' uses batch renormalization"):
        for_pretraining(network, 2)


def test_synchronized_layers_get_groups():
    network = network_of(layers.BatchNormalization(synchronized=True))
    [norm] = of_class(for_pretraining(network, 4), BatchNormalization)
    assert norm.groups == 4


def test_network_without_batch_normalization_is_told():
    assert has_batch_normalization(small_network())
    assert has_batch_normalization(network_of(Block()))
    assert not has_batch_normalization(network_of(layers.LayerNormalization()))
