"""Encoders from elsewhere against the networks that they come from, on images in [0, 255]."""

import dataclasses
import importlib
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import moco_tf
from moco_tf import encoders
from moco_tf.backbones import foreign_weights, loading
from moco_tf.data.pixels import default
from moco_tf.encoders import applications, foreign, keras_files
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.encoders.state_dict import MismatchError
from moco_tf.errors import UserError
from moco_tf.export.keras_hub_preset import export_keras_hub
from moco_tf.export.keras_v3 import export_keras
from moco_tf.keras_internals import all_layers
from tests.encoders.foreign_networks import images, means, randomize, small_network

# The smallest network of each family, and the number of its features.
FAMILIES = {
    "MobileNet": 1024,
    "MobileNetV2": 1280,
    "MobileNetV3Small": 576,
    "EfficientNetV2B0": 1280,
    "ConvNeXtTiny": 768,
    "VGG16": 512,
    "ResNet50": 2048,
}
QUICK_FAMILIES = ("MobileNetV3Small", "ConvNeXtTiny")
SLOW_FAMILIES = [name for name in FAMILIES if name not in QUICK_FAMILIES]
# Moving variances for which the features are neither constant nor chaotic.
VARIANCES = {
    **{"MobileNet": 0.02, "MobileNetV2": 0.1, "MobileNetV3Small": 0.1, "EfficientNetB0": 0.03},
    **{"Xception": 0.05, "InceptionV3": 0.4},
}
NIGHTLY_FAMILIES = {
    "EfficientNetB0": 1280,
    "ResNet50V2": 2048,
    "DenseNet121": 1024,
    "Xception": 2048,
    "InceptionV3": 2048,
    "InceptionResNetV2": 1536,
    "NASNetMobile": 1056,
}


def normalized(values):
    scale, offset = default(values.shape[-1]).scale_and_offset()
    return (values * scale + offset).astype(np.float32)


def relative_difference(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    "name",
    [
        *QUICK_FAMILIES,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in sorted(FAMILIES.keys() - QUICK_FAMILIES)
        ),
        *(pytest.param(name, marks=pytest.mark.nightly) for name in NIGHTLY_FAMILIES),
    ],
)
def test_encoder_computes_what_keras_computes_after_its_own_preprocessing(name):
    size = 96 if name.startswith("Inception") else 32
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, name)
    fixed = size if name.startswith("NASNet") else None
    original = build(include_top=False, weights=None, input_shape=(fixed, fixed, 3), pooling="avg")
    randomize(original, VARIANCES.get(name, 1.0))
    encoder = foreign.build(foreign.describe(f"keras:{name}", image_size=size), bn_groups=2)
    foreign_weights.assign(keras_files.weights_of(original), encoder)
    assert encoder.output_shape == (None, {**FAMILIES, **NIGHTLY_FAMILIES}[name])
    x = images(2, size)
    module = importlib.import_module(build.__module__)
    expected = original(module.preprocess_input(x.copy())).numpy()
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()
    assert relative_difference(encoder(normalized(x)).numpy(), expected) < 1e-5
    momenta = {layer.momentum for layer in all_layers(original) if hasattr(layer, "momentum")}
    ours = [layer for layer in all_layers(encoder) if isinstance(layer, BatchNormalization)]
    assert {layer.momentum for layer in ours} == momenta
    assert {layer.groups for layer in ours} <= {2}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "MobileNetV3Small",
        *(
            pytest.param(name, marks=pytest.mark.nightly)
            for name in sorted(FAMILIES.keys() - {"MobileNetV3Small", "ConvNeXtTiny"})
        ),
    ],
)
def test_moco_takes_two_steps(name):
    def build_encoder():
        return encoders.build(f"keras:{name}", head="linear", dim=8, bn_groups=2)

    keras.utils.set_random_seed(0)
    model = moco_tf.MoCo(build_encoder, queue_size=8, momentum=0.5)
    model.compile(moco_tf.optimizers.SGD(0.01), run_eagerly=True)
    before = [weight.numpy() for weight in model.key_encoder.trainable_variables]
    x = normalized(images(8))
    data = tf.data.Dataset.from_tensor_slices((x, x[:, ::-1])).batch(4, drop_remainder=True)
    history = model.fit(data, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert int(model.step.numpy()) == 2
    after = [weight.numpy() for weight in model.key_encoder.trainable_variables]
    changed = [(a != b).any() for a, b in zip(before, after, strict=True)]
    # A bias before a BatchNormalization has no gradient.
    assert np.mean(changed) > 0.5


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A small network and its file."""
    path = tmp_path_factory.mktemp("network") / "my net.keras"
    network = small_network()
    network.save(path)
    return network, str(path)


def test_file_computes_what_its_model_computes(file):
    network, path = file
    backbone = encoders.build(path, bn_groups=2)
    expected = means(network(images()))
    actual = encoders.with_normalization(backbone)(images()).numpy()
    assert relative_difference(actual, expected) < 1e-5
    assert encoders.network_of(backbone) == ("my_net.keras", "imagenet", 3)
    assert encoders.network_of(encoders.with_normalization(backbone)).encoder == "my_net.keras"


def test_baseline_has_random_weights(file):
    backbone = encoders.build(file[1])
    random = encoders.random_network(file[1], seed=3)
    kernels = [next(w for w in m.weights if w.ndim == 4).numpy() for m in (backbone, random)]
    assert (kernels[0] != kernels[1]).all()


@pytest.mark.nightly
def test_random_weights_depend_on_the_seed_alone():
    """Not on whether the description is new, and not on networks that were built before."""
    name = "keras:MobileNet"
    description = foreign.describe(name, channels=1)
    first, second, other = (
        encoders.random_network(name, channels=1, seed=seed, description=text).get_weights()
        for seed, text in ((1, None), (1, description), (2, description))
    )
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_description_is_json_and_builds_the_same_with_other_groups(file):
    backbone = encoders.build(file[1], bn_groups=2)
    description = foreign.description_of(backbone)
    assert json.loads(description)["class_name"] == "Functional"
    assert "moco_tf" not in description  # Keras alone can read it.
    copy = foreign.build(description, bn_groups=4)
    assert {layer.groups for layer in all_layers(copy) if hasattr(layer, "groups")} >= {4}
    copy.set_weights(backbone.get_weights())
    x = normalized(images())
    np.testing.assert_allclose(copy(x), backbone(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "channels"), [("VGG16", 1), ("MobileNet", 5), ("MobileNetV3Small", 1)]
)
def test_networks_of_keras_take_any_number_of_channels(name, channels):
    encoder = encoders.build(f"keras:{name}", channels=channels)
    assert encoder.input_shape == (None, None, None, channels)
    assert np.isfinite(encoder(normalized(images(1, 32, channels)))).all()


def test_description_with_an_unknown_layer_is_refused(file):
    description = foreign.describe(file[1]).replace('"BatchNormalization"', '"Unknown"')
    with pytest.raises(UserError) as error:
        foreign.build(description)
    assert "register_keras_serializable" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_pixels_are_not_rounded_in_mixed_precision(file, policy):
    """In bfloat16, 8 bits of precision would turn 255 values into fewer."""
    keras.config.set_dtype_policy(policy)
    try:
        backbone = encoders.build(file[1])
    finally:
        keras.config.set_dtype_policy("float32")
    network = backbone.get_layer("network")
    [rescaling] = [layer for layer in network.layers if isinstance(layer, layers.Rescaling)]
    first = keras.Model(network.inputs, rescaling.output)
    pixels = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1).repeat(3, -1)
    prepared = backbone.get_layer("preprocessing")(normalized(pixels))
    np.testing.assert_allclose(first(prepared), pixels / 255, rtol=0, atol=1e-6)
    norm = network.get_layer("first_bn")
    assert norm.compute_dtype == policy.removeprefix("mixed_")
    assert norm.gamma.dtype == "float32"


@pytest.mark.parametrize(
    ("name", "size", "fitting"),
    [("VGG16", 16, 32), ("MobileNetV3Small", 16, 32)],
)
def test_images_that_are_too_small_are_refused(name, size, fitting):
    with pytest.raises(UserError) as error:
        foreign.describe(f"keras:{name}", image_size=size)
    for part in (f"config.image_size={size}", f"keras:{name}", f"set it to {fitting}"):
        assert part in str(error.value)
    foreign.describe(f"keras:{name}", image_size=fitting)


def save(network, folder, name="net.keras"):
    network.save(folder / name)
    return str(folder / name)


def test_fixed_size_has_to_be_that_of_the_views(tmp_path):
    path = save(small_network(size=40), tmp_path)
    with pytest.raises(UserError) as error:
        foreign.describe(path, image_size=32)
    for part in ("config.image_size=32", path, "40x40 pixels only", "set it to 40"):
        assert part in str(error.value)
    backbone = encoders.build(path, description=foreign.describe(path, image_size=40))
    assert encoders.with_normalization(backbone)(images(1, 40)).shape == (1, 12)


def test_channels_have_to_be_those_of_the_images(file):
    with pytest.raises(UserError, match="takes images with 3 channels, but these have 1"):
        foreign.describe(file[1], channels=1)


class Unregistered(layers.Layer):
    def call(self, x):
        return 2 * x


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(4, 3)

    def call(self, x):
        return self.conv(x)


def functional(function, shape=(None, None, 3)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, function(inputs))


def two_inputs():
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    return keras.Model(inputs, layers.Add()(inputs))


def subclassed():
    model = Subclassed()
    model(images(1))
    return model


def classifier(end):
    return functional(lambda x: end(layers.Dense(4)(layers.GlobalAveragePooling2D()(x))))


def nested(model, *after):
    return keras.Sequential([keras.Input(model.input_shape[1:]), model, *after])


def lonely_normalization():
    """A Normalization in a layer whose config does not have it."""
    owner = Owner()
    network = functional(lambda x: layers.Conv2D(4, 3)(owner(x)))
    owner.normalization.adapt(images())
    return network


@keras.saving.register_keras_serializable("tests")
class Owner(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalization = layers.Normalization()

    def call(self, x):
        return self.normalization(x)


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (two_inputs, ["2 inputs and 1 outputs"]),
        (subclassed, ["Subclassed", "save a functional"]),
        (lambda: functional(layers.Dense(3), (10,)), ["(None, 10)", "height, width"]),
        (lambda: functional(layers.Reshape((-1, 3))), ["(None, None, 3)", "feature maps"]),
        (
            lambda: functional(
                lambda x: layers.Dense(4, activation="softmax", name="top")(
                    layers.GlobalAveragePooling2D()(x)
                )
            ),
            ["'top'", "softmax", "before the classifier"],
        ),
        (lambda: classifier(layers.Softmax(name="top")), ["'top'", "softmax", "before the class"]),
        (lambda: classifier(keras.ops.softmax), ["softmax", "before the classifier"]),
        (lambda: classifier(layers.Activation("softmax", name="top")), ["'top'", "softmax"]),
        (lambda: classifier(layers.Dense(1, "sigmoid", name="top")), ["'top'", "sigmoid"]),
        (
            lambda: nested(nested(classifier(layers.Softmax(name="top"))), layers.Identity()),
            ["'top'", "softmax"],
        ),
        (lambda: functional(layers.ReLU()), ["no weights"]),
        (lambda: functional(lambda x: x), ["no weights"]),
        (lonely_normalization, ["'owner/normalization", "inside of another layer"]),
        (lambda: functional(layers.Lambda(lambda x: 2 * x)), ["Lambda", "registered"]),
        (lambda: functional(Unregistered()), ["Unregistered", "register_keras_serializable"]),
    ],
)
def test_models_that_are_no_backbone_are_refused(build, parts, tmp_path):
    path = save(build(), tmp_path)
    with pytest.raises(UserError) as error:
        foreign.describe(path)
    for part in (f"'{path}'", *parts):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_gates_inside_a_network_are_no_classifier(tmp_path):
    def gated(x):
        x = layers.Conv2D(4, 3)(x)
        gate = layers.Dense(4, "sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
        return layers.Multiply()([keras.ops.softmax(x), gate])

    foreign.describe(save(functional(gated), tmp_path))


def test_missing_and_damaged_files_are_refused(file, tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        foreign.describe(str(tmp_path / "none.keras"))
    with open(file[1], "rb") as opened:
        content = opened.read()
    for number, data in enumerate((b"", b"hello", b"PK\x03\x04 damaged", content[:-1000])):
        path = tmp_path / f"{number}.keras"
        path.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read: it is not a complete Keras file"):
            foreign.describe(str(path))
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(UserError, match="it is a directory"):
        foreign.describe(str(tmp_path / "folder.keras"))


def test_keras_models_of_others_are_no_weights_of_a_resnet(file):
    with pytest.raises(MismatchError, match="is not a file of the Keras export: evaluate") as error:
        loading.load_keras(file[1])
    assert f"config.encoder={file[1]}" in str(error.value)


def test_reason_of_keras_is_not_cut_off_at_a_colon():
    error = ValueError("Layers have mismatches:\n\n  - dense has no kernel\nTraceback")
    reason = keras_files.why_not_read(error)
    assert reason.startswith(" (Layers have mismatches: - dense has no kernel): give a model")


def normalizing(normalization):
    """A network with a Normalization inside of a model in it."""
    part = keras.Sequential([keras.Input((None, None, 3)), normalization, layers.Conv2D(4, 3)])
    return functional(lambda x: layers.Conv2D(5, 3)(part(x)))


@pytest.mark.parametrize("axis", [-1, None])
@pytest.mark.parametrize("invert", [False, True])
def test_adapted_normalization_is_constant(axis, invert, tmp_path):
    """Keras computes its mean and variance when a file is read, not when weights are assigned."""
    normalization = layers.Normalization(axis=axis, invert=invert)
    normalization.adapt(0.3 * images() * np.array([1, 2, 3], np.float32) + 40)
    network = normalizing(normalization)
    path = save(network, tmp_path)
    expected = means(network(images()))
    description = foreign.describe(path)
    assert '"count"' not in description
    built = encoders.build(path, description=description, head="linear", dim=4)
    assert not foreign_weights.start(built, f"keras:{path}")
    again = foreign.build(foreign.description_of(built.backbone))
    again.set_weights(built.backbone.get_weights())
    for backbone in (built.backbone, again, encoders.build(path)):
        assert not keras_files.adapted(backbone)
        actual = encoders.with_normalization(backbone)(images()).numpy()
        assert relative_difference(actual, expected) < 1e-5


def test_weights_behind_another_normalization_do_not_fit(tmp_path):
    paths = []
    for number in (1, 2):
        normalization = layers.Normalization()
        normalization.adapt(images() * number)
        paths.append(save(normalizing(normalization), tmp_path, f"{number}.keras"))
    encoder = encoders.build(paths[0], head="linear", dim=4)
    with pytest.raises(MismatchError, match="another mean or variance") as error:
        foreign_weights.start(encoder, f"keras:{paths[1]}")
    assert f"use config.encoder={paths[1]}" in str(error.value)


@pytest.mark.parametrize(
    ("own", "other", "fits"),
    [
        (layers.Rescaling(1 / 127.5, -1), layers.Rescaling(1 / 127.5, -1), True),
        (
            layers.Rescaling(1 / 127.5, -1),
            layers.Normalization(mean=127.5, variance=127.5**2),
            True,
        ),
        (layers.Rescaling(1 / 127.5, -1), layers.Identity(), True),
        (layers.Rescaling(1 / 127.5, -1), layers.Rescaling(1 / 255), False),
        (layers.Rescaling(1 / 127.5, -1), layers.Normalization(mean=10, variance=4), False),
        (layers.Normalization(mean=10, variance=4), layers.Rescaling(1 / 255), False),
    ],
)
@pytest.mark.parametrize("is_nested", [False, True])
def test_weights_behind_other_preprocessing_do_not_fit(own, other, fits, is_nested, tmp_path):
    networks = []
    for number, layer in enumerate((own, other)):
        network = functional(layers.Conv2D(4, 3))
        if is_nested or number == 0:
            network = keras.Sequential([keras.Input((None, None, 3)), layer, network])
        else:
            network = keras.Model(
                image := keras.Input((None, None, 3)), network.layers[-1](layer(image))
            )
        networks.append(randomize(network))
    paths = [save(network, tmp_path, f"{n}.keras") for n, network in enumerate(networks)]
    encoder = encoders.build(paths[0], head="linear", dim=4)
    if fits:
        assert not foreign_weights.start(encoder, f"keras:{paths[1]}")
        expected = networks[1].layers[-1].get_weights()
        np.testing.assert_array_equal(encoder.backbone.get_weights()[0], expected[0])
        return
    before = encoder.backbone.get_weights()
    with pytest.raises(MismatchError, match="gets other values from the same image"):
        foreign_weights.start(encoder, f"keras:{paths[1]}")
    np.testing.assert_equal(encoder.backbone.get_weights(), before)


def test_weights_of_a_keras_network_fit_with_its_own_preprocessing_only(tmp_path):
    network = applications.build("MobileNetV2", channels=3).network
    encoder = encoders.build("keras:MobileNetV2", head="linear", dim=4)
    for scale, offset, fits in ((1 / 127.5, -1.0, True), (1 / 255, 0.0, False)):
        model = keras.Sequential(
            [keras.Input((None, None, 3)), layers.Rescaling(scale, offset), network]
        )
        path = save(model, tmp_path, f"{offset}.keras")
        if fits:
            foreign_weights.start(encoder, f"keras:{path}")
        else:
            with pytest.raises(MismatchError, match="gets other values from the same image"):
                foreign_weights.start(encoder, f"keras:{path}")


def test_export_for_other_pixel_values_is_no_encoder(tmp_path):
    pixels = dataclasses.replace(default(3), dtype="uint16", value_range=(0.0, 65535.0))
    backbone = encoders.build("resnet18", pixels=pixels)
    path = str(tmp_path / "backbone.keras")
    export_keras(backbone, path)
    with pytest.raises(UserError) as error:
        foreign.describe(path)
    for part in ("takes pixel values in [0, 65535]", f"use config.init=keras:{path}"):
        assert part in str(error.value)
    pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    export_keras_hub(backbone, str(tmp_path / "preset"))
    with pytest.raises(UserError, match=r"takes pixel values in \[0, 65535\]"):
        foreign.describe(f"keras_hub:{tmp_path}/preset")


def test_integer_inputs_become_float32(tmp_path):
    images_in = keras.Input((None, None, 3), dtype="uint8")
    network = keras.Model(images_in, layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(images_in)))
    backbone = encoders.build(save(network, tmp_path))
    pixels = np.floor(images())
    actual = encoders.with_normalization(backbone)(pixels).numpy()
    assert relative_difference(actual, means(network(pixels.astype(np.uint8)))) < 1e-5
    between = encoders.with_normalization(backbone)(pixels + 0.4).numpy()
    assert np.abs(between - actual).max() > 1e-4 * np.abs(actual).max()


def test_kernel_of_lora_is_trained(tmp_path):
    dense = layers.Dense(5)
    network = functional(lambda x: dense(layers.Conv2D(4, 3)(x)))
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.ones((2, 5)))
    path = save(network, tmp_path)
    backbone = encoders.build(path)
    assert [tuple(weight.shape) for weight in backbone.trainable_weights[2:]] == [(4, 5), (5,)]
    actual = encoders.with_normalization(backbone)(images()).numpy()
    assert relative_difference(actual, means(network(images()))) < 1e-5
    encoder = encoders.build(path, description=foreign.describe(path), head="linear", dim=4)
    foreign_weights.start(encoder, f"keras:{path}")
    np.testing.assert_allclose(encoder.backbone(images()), backbone(images()), rtol=1e-6)


AS_WEIGHTS = "use config.encoder=keras:MobileNet with config.init=keras:"
RESCALING = "put a Rescaling layer, keras.layers.Rescaling(1 / 127.5, -1), in front of it"


@pytest.mark.parametrize(
    ("name", "options", "is_nested", "remedy"),
    [
        pytest.param("MobileNet", {}, True, AS_WEIGHTS, marks=pytest.mark.nightly),
        pytest.param("MobileNet", {"alpha": 0.5}, False, RESCALING, marks=pytest.mark.nightly),
        pytest.param("MobileNetV2", {"alpha": 0.35}, True, RESCALING, marks=pytest.mark.nightly),
        ("MobileNetV3Small", {"include_preprocessing": False}, False, RESCALING),
        ("MobileNetV3Small", {}, False, None),
    ],
)
def test_network_of_keras_without_its_preprocessing_is_refused(
    name, options, is_nested, remedy, tmp_path
):
    """A file takes [0, 255], and this network does not, which no error would show."""
    network = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(32, 32, 3), **options
    )
    network.name = "renamed"
    head = [] if remedy and "init" in remedy else [layers.Dense(8)]
    path = save(nested(network, *head) if is_nested else network, tmp_path)
    if remedy is None:
        foreign.describe(path)
        return
    with pytest.raises(UserError) as error:
        foreign.describe(path)
    for part in (f"'{path}': it is {name} of keras.applications", remedy):
        assert part in str(error.value)
    with_rescaling = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.Rescaling(1 / 127.5, -1), network]
    )
    foreign.describe(save(with_rescaling, tmp_path, "other.keras"))


@pytest.mark.parametrize(
    "layer", [layers.UpSampling2D(2), layers.Resizing(64, 64), layers.CenterCrop(32, 32)]
)
def test_layers_that_change_only_the_size_are_no_preprocessing(layer, tmp_path):
    network = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(None, None, 3), include_preprocessing=False
    )
    model = keras.Sequential([keras.Input((40, 40, 3)), layer, network])
    with pytest.raises(UserError, match="put a Rescaling layer"):
        foreign.describe(save(model, tmp_path))


@pytest.mark.nightly
@pytest.mark.parametrize("name", applications.NUMBERS_OF_WEIGHTS)
def test_networks_of_keras_have_their_numbers_of_weights(name):
    network = applications.build(name, channels=3).network
    assert len(network.weights) == applications.NUMBERS_OF_WEIGHTS[name]


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A network of KerasHub with blocks that are layers, its image converter and its preset."""
    keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    network = randomize(
        keras_hub.models.EfficientNetBackbone(
            stackwise_width_coefficients=[1.0],
            stackwise_depth_coefficients=[1.0],
            stackwise_block_types=["v1"],
            stackwise_kernel_sizes=[3],
            stackwise_num_repeats=[2],
            stackwise_input_filters=[32],
            stackwise_output_filters=[16],
            stackwise_expansion_ratios=[2],
            stackwise_strides=[1],
            stackwise_squeeze_and_excite_ratios=[0.25],
            image_shape=(None, None, 3),
        )
    )
    converter = keras_hub.layers.EfficientNetImageConverter(
        scale=[1 / 250, 1 / 251, 1 / 252], offset=[-0.4, -0.5, -0.6]
    )
    path = tmp_path_factory.mktemp("presets") / "small"
    network.save_to_preset(str(path))
    converter.save_to_preset(str(path))
    return network, converter, path


def test_preset_computes_what_keras_hub_computes(preset):
    network, converter, path = preset
    backbone = encoders.build(f"keras_hub:{path}", bn_groups=2)
    expected = means(network(converter(images())))
    actual = encoders.with_normalization(backbone)(images()).numpy()
    assert relative_difference(actual, expected) < 1e-5
    kinds = {type(layer) for layer in all_layers(backbone)}
    assert BatchNormalization in kinds
    assert layers.BatchNormalization not in kinds
    assert encoders.network_of(backbone).encoder == "keras_hub:small"


def test_preset_that_does_not_work_is_refused(preset, tmp_path, monkeypatch):
    network, _, _ = preset
    network.save_to_preset(str(tmp_path / "without"))
    for name, part in (
        (f"keras_hub:{tmp_path}/without", "no image converter"),
        (f"keras_hub:{tmp_path}/none", "cannot be loaded"),
        ("keras_hub:ResNetBackbone", "is a class"),
    ):
        with pytest.raises(UserError) as error:
            foreign.describe(name)
        assert f"'{name}'" in str(error.value)
        assert part in str(error.value)
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "keras_hub", None)  # Python's own mark of a missing module.
    with pytest.raises(UserError, match="KerasHub is not installed"):
        foreign.describe("keras_hub:resnet_50")


def test_notes_say_what_has_no_effect(file):
    [line] = foreign.notes("net.keras", foreign.describe(file[1]))
    assert line.startswith("note: Dropout in net.keras is switched off")
    [line] = foreign.notes("keras:VGG16", foreign.describe("keras:VGG16"))
    assert "keras:VGG16 has no BatchNormalization" in line
    assert "config.bn_groups" in line
