"""Names of encoders: all that exist pass, and others are refused with a remedy."""

import inspect

import keras
import pytest

from moco_tf.encoders.names import (
    APPLICATIONS,
    check_name,
    encoder_name,
    initial_weights,
    is_foreign,
    model_name,
)
from moco_tf.errors import UserError


def test_every_network_of_keras_has_a_name():
    functions = inspect.getmembers(keras.applications, inspect.isfunction)
    assert {name for name, _ in functions} == set(APPLICATIONS)
    for name in APPLICATIONS:
        check_name(f"keras:{name}")
        assert is_foreign(f"keras:{name}")
        assert encoder_name(model_name(f"keras:{name}")) == f"keras:{name}"


def test_networks_with_preprocessing_of_their_own_are_those_of_keras():
    """Keras' `preprocess_input` of such a network returns the images as they are."""
    for name, mode in APPLICATIONS.items():
        module = inspect.getmodule(getattr(keras.applications, name))
        pixel = keras.ops.convert_to_tensor([[[[0.0, 128.0, 255.0]]]])
        changed = module.preprocess_input(pixel).numpy().ravel().tolist()
        if name.startswith("ConvNeXt"):
            assert (mode, changed) == ("torch", [0.0, 128.0, 255.0])
            continue
        assert (changed == [0.0, 128.0, 255.0]) == (mode == "raw"), name
        assert (max(changed) <= 1) == (mode == "tf"), name
        assert (changed[0] > changed[2]) == (mode == "caffe"), name  # BGR


@pytest.mark.parametrize(
    "name", ["resnet50w2", "keras_hub:resnet_50", "keras_hub:a/b", "a b.keras", "gs://b/x.keras"]
)
def test_other_forms_pass(name):
    check_name(name)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("keras:MobilNetV2", ["did you mean", "keras:MobileNetV2"]),
        ("keras:resnet50", ["did you mean keras:ResNet50"]),
        ("keras:Something", ["EfficientNetB0", "Xception"]),
        ("keras:", ["keras.applications has"]),
        ("keras:ResNet50w2", ["suffix for the width", "use keras:ResNet50"]),
        ("keras_hub:", ["keras_hub:PRESET"]),
        ("timm:resnet50", ["keras:NAME", "FILE.keras"]),
        ("keras:a/b.keras", ["without keras:", "as a/b.keras"]),
        ("a/b.h5", ["end in .keras", "keras.saving.load_model"]),
    ],
)
def test_unknown_names_are_refused_with_a_remedy(name, parts):
    with pytest.raises(UserError) as error:
        check_name(name)
    assert f"'{name}'" in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_stem_is_ours_alone():
    check_name("resnet50", "small")
    with pytest.raises(UserError, match="stem=small has no effect on the encoder 'keras:VGG16'"):
        check_name("keras:VGG16", "small")


def test_files_and_presets_bring_weights():
    assert initial_weights("a/b.keras") == "keras:a/b.keras"
    assert initial_weights("keras_hub:a/b") == "keras_hub:a/b"
    assert initial_weights("keras:VGG16") == initial_weights("resnet50") == ""
