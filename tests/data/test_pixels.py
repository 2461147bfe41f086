"""Pixel values: settings, views, the augmentation and the normalization of other types."""

import dataclasses

import cv2
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import moco_tf
from moco_tf import encoders
from moco_tf.config_checks import check
from moco_tf.data import measure, pixels, sources
from moco_tf.data.augment import Augment
from moco_tf.data.evaluation_views import central_views, labeled_views
from moco_tf.data.normalization import MEAN, STD
from moco_tf.data.photometric import to_levels
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.pixels import Pixels
from moco_tf.data.recipes import RECIPES, Recipe
from moco_tf.data.views import central_view, random_view, view_draws
from moco_tf.errors import UserError
from moco_tf.mechanisms.shuffling import shuffle
from tests.images import patch

GENERATOR = np.random.default_rng(0)
CONTRAST = Recipe(saturation=0, hue=0, gray_probability=0)


def photograph(dtype, channels=3):
    """A photograph in a type, with finer steps than those of 8 bits."""
    gray = cv2.resize(patch().astype(np.float32), (90, 60), interpolation=cv2.INTER_CUBIC)
    image = np.concatenate([gray, gray[..., ::-1]], axis=-1)[..., :channels]
    if dtype == "uint16":
        return np.clip(image * 200, 0, 65535).astype(np.uint16)
    return image * 1000 - 70_000 if dtype == "float32" else np.clip(image, 0, 255).astype(np.uint8)


def resized(image, size):
    """Resize every channel with Pillow in float32."""
    channels = [PIL.Image.fromarray(c.astype(np.float32)) for c in np.moveaxis(image, -1, 0)]
    return np.stack([c.resize((size, size), PIL.Image.Resampling.BILINEAR) for c in channels], -1)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("size", [14, 40, 100])
def test_random_view_is_close_to_pillow_in_every_type(dtype, channels, size):
    image = photograph(dtype, channels)
    whole = Recipe(crop_scale=(1, 1), aspect_ratio=(1.5, 1.5), horizontal_flip=0)
    view = random_view(image, size, whole, view_draws(0, 0, 0)[0])
    assert view.dtype == image.dtype
    assert view.shape == (size, size, channels)
    difference = np.abs(view - resized(image, size))
    # As for 8 bits, shrunk images differ a little from Pillow's.
    assert difference.mean() < 0.015 * np.ptp(image.astype(np.float64))
    if size == 100:  # Enlarged images differ by rounding only.
        assert difference.max() < (1.5 if dtype == "uint16" else 1e-3 * np.ptp(image))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("size", [20, 100])
def test_central_view_is_that_of_pillow_in_every_type(dtype, size):
    image = photograph(dtype)[:, 15:75]
    side = round(size * 256 / 224)
    corner = round((side - size) / 2)
    expected = resized(image, side)[corner : corner + size, corner : corner + size]
    view = central_view(tf.constant(image), size)
    assert view.dtype == dtype
    tolerance = 1 if dtype == "uint16" else 1e-4 * np.ptp(image)
    assert np.abs(view.numpy() - expected).max() <= tolerance


def test_views_of_16_bits_have_more_than_256_values():
    view = random_view(photograph("uint16"), 64, Recipe(), view_draws(0, 0, 0)[0])
    assert len(np.unique(view)) > 1000


@pytest.mark.parametrize("recipe", [RECIPES["v2"], Recipe(noise_probability=1.0)])
def test_augmentation_of_16_bits_is_that_of_8_bits(recipe):
    images = GENERATOR.integers(0, 256, [4, 16, 16, 3], np.uint8)
    wide = tf.constant(images.astype(np.uint16) * 257)
    arguments = {"rows": tf.range(4), "count": 4, "seed": [1, 2]}
    expected = Augment(recipe)(images, **arguments)
    actual = Augment(recipe, 3, Pixels(MEAN, STD, "uint16", (0.0, 65535.0)))(wide, **arguments)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_augmentation_without_operations_normalizes_and_clips():
    images = GENERATOR.normal(0, 1000, [2, 8, 8, 2]).astype(np.float32)
    given = Pixels((0.2, 0.3), (0.5, 0.25), "float32", (-500.0, 1500.0))
    nothing = dataclasses.replace(CONTRAST, jitter_probability=0)
    actual = Augment(nothing, 2, given)(images, tf.range(2), 2, [0, 0])
    fractions = np.clip((images.astype(np.float64) + 500) / 2000, 0, 1)
    expected = (fractions - [0.2, 0.3]) / [0.5, 0.25]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("value_range", [(0.0, 65535.0), (-500.0, 1500.0), (0.0, 255.0)])
def test_model_with_normalization_agrees_with_the_augmentation(value_range):
    given = Pixels((0.2,), (0.5,), "float32", value_range)
    backbone = encoders.build("resnet8", stem="small", channels=1, pixels=given)
    model = encoders.with_normalization(backbone)
    images = GENERATOR.uniform(*value_range, [2, 16, 16, 1]).astype(np.float32)
    nothing = dataclasses.replace(CONTRAST, jitter_probability=0)
    normalized = Augment(nothing, 1, given)(images, tf.range(2), 2, [0, 0])
    np.testing.assert_allclose(model(images), backbone(normalized), atol=1e-4)
    assert encoders.pixels_of(model) == given
    del model.pixels
    found = encoders.pixels_of(model)  # From the layers alone, as in a file of Keras.
    np.testing.assert_allclose(found.value_range, value_range)
    np.testing.assert_allclose([*found.mean, *found.std], [0.2, 0.5], rtol=1e-6)


def test_pixels_of_bytes_have_the_layers_of_earlier_versions():
    model = encoders.random_backbone("resnet8", stem="small")
    names = [layer.name for layer in model.layers]
    assert names == ["images", "normalization", "resnet8", "float32"]


def test_levels_of_pictures():
    assert to_levels(patch(), (0.0, 255.0)) is not None
    levels = to_levels(np.array([-2000, -1000, -300, 400, 9000], np.float32), (-1000.0, 400.0))
    np.testing.assert_allclose(levels, [0, 0, 127.5, 255, 255], atol=1e-4)


def test_shuffled_16_bits_are_the_same_images():
    images = tf.constant(GENERATOR.integers(0, 65536, [6, 3, 2, 3], np.uint16))
    order = tf.constant([3, 1, 5, 0, 2, 4])
    shuffled, rows = shuffle(images, order)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(shuffled, images.numpy()[order.numpy()])


def save(folder, images, labels=None):
    np.save(folder / "images.npy", images)
    if labels is not None:
        np.save(folder / "images.labels.npy", labels)
    return f"npy:{folder}/images.npy"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_views_have_the_type_of_the_source(tmp_path, dtype):
    images = np.stack([photograph(dtype)] * 12)
    source = sources.load(
        save(tmp_path, images, np.arange(12) % 2), pixels=dtype, value_range="0,60000"
    )
    assert (source.dtype, source.value_range) == (dtype, (0.0, 60_000.0))
    query, key = next(iter(TwoViews(source, 16, CONTRAST, 4, 0).between(0, 1)))
    assert query.dtype == key.dtype == dtype
    [(_, views), *_] = central_views(source, source.train, 16, 4)
    assert views.dtype == dtype
    np.testing.assert_array_equal(views[0], central_view(tf.constant(images[0]), 16))
    [(_, _, views), *_] = labeled_views(source, source.train, 16, (0.5, 1), 4, 0, 1)
    assert views.dtype == dtype


def test_npy_of_another_type_is_refused_with_the_setting(tmp_path):
    name = save(tmp_path, np.zeros([4, 8, 8], np.uint16))
    with pytest.raises(UserError, match=r"uint16, but images are uint8: .*data.pixels=uint16"):
        sources.load(name)
    name = save(tmp_path, np.zeros([4, 8, 8], np.float64))
    with pytest.raises(UserError, match=r"float64, but images are uint16: set config.data.pixels="):
        sources.load(name, pixels="uint16")
    with pytest.raises(UserError, match=r"data.pixels=float32 has no value range of its own"):
        sources.load(name, pixels="float32")


def test_npy_of_integers_as_floats(tmp_path):
    images = GENERATOR.integers(-3000, 3000, [4, 6, 6, 2], np.int16)
    source = sources.load(save(tmp_path, images), pixels="float32", value_range="-3000,3000")
    np.testing.assert_array_equal(source.read(tf.constant(2, tf.int64)), images[2])


def test_image_with_nan_cannot_be_read(tmp_path):
    images = np.zeros([4, 6, 6, 1], np.float32)
    images[2, 3, 3] = np.nan
    source = sources.load(save(tmp_path, images), pixels="float32", value_range="0,1")
    with pytest.raises(tf.errors.OpError, match="NaN"):
        source.read(tf.constant(2, tf.int64))
    indices = np.concatenate([i for i, _ in central_views(source, np.arange(4), 6, 4)])
    assert indices.tolist() == [0, 1, -1, 3]


def test_measured_numbers_are_those_of_numpy(tmp_path):
    images = GENERATOR.gamma(2, 100, [20, 30, 40, 2]).astype(np.float32) * [1, 3]
    name = save(tmp_path, images)
    source = sources.load(name, pixels="float32", value_range="measure")
    low, high = np.percentile(images.astype(np.float32), [0.1, 99.9])
    np.testing.assert_allclose(source.value_range, [low, high], rtol=1e-5)
    mean, std = measure.mean_and_std(source)
    fractions = np.clip((images - low) / (high - low), 0, 1)
    np.testing.assert_allclose(mean, fractions.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(std, fractions.std((0, 1, 2)), rtol=1e-4)
    again = sources.load(name, pixels="float32", value_range="measure")
    assert again.value_range == source.value_range
    assert measure.mean_and_std(again) == (mean, std)


def test_constant_images_cannot_be_measured(tmp_path):
    name = save(tmp_path, np.full([4, 6, 6], 7, np.uint16))
    with pytest.raises(UserError, match="have the value 7"):
        sources.load(name, pixels="uint16", value_range="measure")
    source = sources.load(name, pixels="uint16")
    with pytest.raises(UserError, match=r"channel 0 .* set config.data.std"):
        measure.mean_and_std(source)


def config(**changes):
    result = moco_tf.default_config()
    result.data.source = "photos"
    for name, value in changes.items():
        result.data[name] = value
    return result


def test_settings_become_pixels():
    default = pixels.from_config(config(), 3)
    assert default == pixels.default(3) == Pixels(MEAN, STD)
    given = config(pixels="uint16", value_range="0,4095", mean="0.5", std="0.1, 0.2")
    assert pixels.from_config(given, 2) == Pixels((0.5, 0.5), (0.1, 0.2), "uint16", (0.0, 4095.0))
    assert pixels.from_json(pixels.to_json(default)) == default
    with pytest.raises(UserError, match=r"data.std='0.1, 0.2' has 2 numbers, but .* 3 channels"):
        pixels.from_config(given, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": "float32"}, "config.data.pixels=float32 has no value range of its own"),
        ({"pixels": "int8"}, "choose uint8, uint16 or float32"),
        ({"value_range": "5"}, "config.data.value_range='5': use auto, measure, or"),
        ({"value_range": "5,5"}, "the smaller one first"),
        ({"value_range": "0,inf"}, "the smaller one first"),
        ({"mean": "half"}, "config.data.mean='half': use imagenet, measure, or numbers"),
        ({"std": "0.1,0"}, "config.data.std='0.1,0': use imagenet, measure, or numbers greater"),
        ({"channels": 1000}, "between 0 and 512"),
    ],
)
def test_mistakes_in_settings_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        check(config(**changes))


def test_mean_of_a_network_from_elsewhere_is_refused():
    given = config(mean="0.5")
    given.encoder = "keras:MobileNetV3Small"
    with pytest.raises(UserError, match=r"config.data.mean=0.5 has no effect with config.encoder"):
        check(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixels": "uint16"}, "data.pixels=uint16 applies to folder, files and npy sources only"),
        ({"channels": 5}, "data.channels=5 does not fit 'photos', whose images have 3 channels"),
        ({"orientation": True}, "data.orientation=True applies to folder and files sources only"),
        ({"frame_seconds": 0.5}, "data.frame_seconds=0.5 applies to video sources only: leave it"),
    ],
)
def test_settings_without_effect_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        sources.load("photos", **options)


def test_unknown_type_is_refused_in_python():
    with pytest.raises(UserError, match="pixels='int8': use uint8, uint16 or float32"):
        sources.load("photos", pixels="int8")


@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1000.0, 400.0), (1000.0, 5000.0)])
def test_scale_and_offset_normalize_values_of_any_range(value_range):
    low, high = value_range
    mean, std = (0.2, 0.5), (0.3, 0.1)
    scale, offset = Pixels(mean, std, "float32", value_range).scale_and_offset()
    values = np.linspace(low, high, 11)[:, np.newaxis]
    expected = ((values - low) / (high - low) - mean) / std
    np.testing.assert_allclose(values * scale + offset, expected, rtol=1e-12, atol=1e-12)
