"""The functions for notebooks against the modules that they call."""

import dataclasses
import pathlib

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import moco_tf
from moco_tf import UserError, encoders
from moco_tf.evaluation import few_shot, knn, logistic, protocols
from moco_tf.evaluation.extraction import extract
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.settings import (
    FewShotSettings,
    FinetuneSettings,
    KNNSettings,
    ProbeSettings,
)
from tests import command
from tests.command import ROOT
from tests.evaluation.helpers import as_features
from tests.images import write_folder

SIZE = 16


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_folder(
        tmp_path_factory.mktemp("images") / "photos", images_per_class=20, side=20
    )
    return moco_tf.load_source(f"folder:{folder}")


@pytest.fixture(scope="module")
def backbone():
    return encoders.random_backbone("resnet8", stem="small")


@pytest.fixture(scope="module")
def features(source, backbone):
    return [moco_tf.extract_features(backbone, source, part, SIZE) for part in ("train", "test")]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["test", "pretrain", "all"])
def test_features_are_those_of_the_part(source, backbone, part):
    indices = np.arange(source.size) if part == "all" else getattr(source, part)
    expected = extract(backbone, source, indices, SIZE)
    features = moco_tf.extract_features(backbone, source, part, SIZE)
    np.testing.assert_array_equal(features.indices, indices)
    np.testing.assert_array_equal(features.labels, source.labels[indices])
    np.testing.assert_array_equal(features.features, expected.features)
    assert features.num_classes == 2


def test_images_without_a_label_do_not_count(tmp_path):
    labels = np.tile([0, 1, -1], 20)
    levels = np.array([50, 150, 100])[labels, np.newaxis, np.newaxis, np.newaxis]
    np.save(tmp_path / "gray.npy", np.broadcast_to(levels, [60, 8, 8, 3]).astype(np.uint8))
    np.save(tmp_path / "gray.labels.npy", labels)
    source = moco_tf.load_source(f"npy:{tmp_path / 'gray.npy'}")

    def backbone(images):  # The angle of the feature depends on the gray level.
        return tf.concat([images[:, 0, 0], 100 + 0 * images[:, 0, 0]], axis=1)

    features = moco_tf.extract_features(backbone, source, "all", 8)
    np.testing.assert_array_equal(features.labels, labels)
    assert moco_tf.knn(features, features, k=20)["top1"] == 1.0
    assert moco_tf.linear_probe(features, features)["top1"] == 1.0


@pytest.mark.parametrize(
    ("function", "arguments"), [(moco_tf.extract_features, ["train"]), (moco_tf.embed, ["out"])]
)
def test_size_of_the_views_has_to_be_given(source, backbone, function, arguments):
    with pytest.raises(TypeError, match="'image_size'"):
        function(backbone, source, *arguments)


def test_knn_equals_the_protocol(features):
    assert moco_tf.knn(*features) == knn.classify(*features)
    expected = knn.classify(*features, KNNSettings(3, 0.5))
    assert moco_tf.knn(*features, k=3, temperature=0.5) == expected


def test_linear_probe_equals_the_protocol(features):
    assert moco_tf.linear_probe(*features) == logistic.probe(*features)
    expected = logistic.probe(*features, ProbeSettings(10.0, 5))
    assert moco_tf.linear_probe(*features, l2=10.0, iterations=5) == expected


def test_images_that_cannot_be_read_are_warned_of(backbone, tmp_path):
    folder = write_folder(tmp_path / "photos", images_per_class=10, side=SIZE)
    for part in ("train", "test"):
        source = moco_tf.load_source(f"folder:{folder}")
        name = source.describe(int(getattr(source, part)[0]))
        damaged = folder / name if (folder / name).exists() else pathlib.Path(name)
        damaged.write_text("no image")
    source = moco_tf.load_source(f"folder:{folder}")
    with pytest.warns(UserWarning, match=rf"skipped 2 of {source.size} images that cannot be read"):
        features = moco_tf.extract_features(backbone, source, "all", SIZE)
    assert len(features.indices) == source.size - 2
    with pytest.warns(UserWarning, match=rf"skipped 2 of {source.size} images that cannot be read"):
        moco_tf.finetune(backbone, source, SIZE, layers="head", epochs=1, batch_size=8)


def test_few_shot_equals_the_protocol(features):
    rows = few_shot.classify(*features, FewShotSettings(10.0, 5, (1, 3), draws=4, seed=2))
    accuracy = moco_tf.few_shot(*features, [1, 3], draws=4, seed=2, l2=10.0, iterations=5)
    for row in rows["few_shot"]:
        values = accuracy.pop(row["shots"])
        assert values["top1"] == np.mean(row["top1_of_draws"])
        assert values["top1_std"] == np.std(row["top1_of_draws"], ddof=1)
        assert values["top5"] == row["top5"]
    assert not accuracy
    assert sorted(moco_tf.few_shot(*features, draws=2)) == [1, 5, 10]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 5}, "^shots=5: give a tuple of numbers"),
        ({"shots": (0,)}, "^shots=0: .*1 or greater"),
        ({"shots": (10**6,)}, "^shots=1000000: class '.*' has only .* training images"),
        ({"draws": 1}, "^draws=1: must be .*2 or greater"),
    ],
)
def test_few_shot_settings_that_do_not_fit_are_refused(features, settings, message):
    with pytest.raises(UserError, match=message):
        moco_tf.few_shot(*features, **settings)


def test_unknown_part_is_refused(source, backbone):
    message = "part='val': choose one of train, test, pretrain, all"
    with pytest.raises(UserError, match=message):
        moco_tf.extract_features(backbone, source, "val", SIZE)


def test_settings_out_of_range_are_refused(features):
    with pytest.raises(UserError, match="^k=0: must be 1 or greater"):
        moco_tf.knn(*features, k=0)
    with pytest.raises(UserError, match="^l2=0: must be greater than 0"):
        moco_tf.linear_probe(*features, l2=0)


def test_checkout_is_complete_beside_an_installed_package():
    # Without the finder of an editable installation, as after `pip install .`.
    program = """
import sys
sys.meta_path = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__edit")]
import moco_tf.configs.photos, moco_tf.export
print(moco_tf.configs.photos.__file__, moco_tf.export.__file__)
"""
    files = command.run("-c", program).split()
    assert files == [str(ROOT / "configs" / "photos.py"), str(ROOT / "export" / "__init__.py")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("npy:a.npy", r"the text 'npy:a.npy': .* result of moco_tf.load_source\('npy:a.npy'\)$"),
        (np.zeros([2, 8, 8, 3]), r"of the type ndarray: .* result of moco_tf.load_source"),
        (None, r"of the type NoneType: .* result of moco_tf.load_source"),
    ],
    ids=["text", "array", "None"],
)
@pytest.mark.parametrize("function", ["extract_features", "embed", "prepare"])
def test_source_that_is_not_open_is_refused(backbone, tmp_path, function, source, message):
    calls = {
        "extract_features": lambda: moco_tf.extract_features(backbone, source, "all", SIZE),
        "embed": lambda: moco_tf.embed(backbone, source, tmp_path / "out", SIZE),
        "prepare": lambda: moco_tf.prepare(source, tmp_path / "out"),
    }
    with pytest.raises(UserError, match=message):
        calls[function]()
    assert list(tmp_path.iterdir()) == []


def test_backbone_that_cannot_be_called_is_refused(source):
    with pytest.raises(UserError, match="backbone is of the type str, .* moco_tf.load_backbone"):
        moco_tf.extract_features("resnet8", source, "all", SIZE)


VALUES, INDICES, LABELS = np.zeros([2, 4], np.float32), np.arange(2), np.int32([0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.0], [1.0]], INDICES, LABELS, 2), "features=.*: pass an array of NumPy, float32"),
        ((VALUES[0], INDICES, LABELS, 2), r"features=float32 \[4\]: pass an array of NumPy"),
        ((VALUES, INDICES[:1], LABELS, 2), r"indices=int64 \[1\]: pass an array of integers \[2\]"),
        ((VALUES, INDICES, LABELS[:1], 2), r"labels=int32 \[1\]: pass an array of integers \[2\]"),
        ((VALUES, INDICES, np.eye(2), 2), r"labels=float64 \[2, 2\]: pass an array of integers"),
        ((VALUES, INDICES, np.array(["a", "b"]), 2), "labels=<U1 .*: pass an array of integers"),
        ((VALUES, INDICES, LABELS), "the labels are 0 to 1, but num_classes=0: use labels in"),
        ((VALUES, INDICES, LABELS - 2, 2), "the labels are -2 to -1, but num_classes=2"),
    ],
)
def test_features_that_do_not_fit_together_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Features(*arguments)


@pytest.mark.parametrize("function", [moco_tf.knn, moco_tf.linear_probe])
def test_arrays_in_place_of_features_are_refused(features, function):
    train, test = features
    with pytest.raises(UserError, match="^train is of the type ndarray: .*extract_features"):
        function(train.features, test.features)
    with pytest.raises(UserError, match="^test is of the type tuple: .*a pair of arrays"):
        function(train, (test.features, test.labels, "more"))
    assert function(train, (test.features, test.labels)) == function(train, test)
    shorter = dataclasses.replace(test, features=test.features[:, :5])
    message = rf"train have the shape \[{len(train.labels)}, 64\], .* \[{len(test.labels)}, 5\]"
    with pytest.raises(UserError, match=message):
        function(train, shorter)


@pytest.mark.parametrize("size", [0, -1, 16.0, (16, 16), "16", None])
def test_size_that_is_not_a_positive_integer_is_refused(source, backbone, tmp_path, size):
    with pytest.raises(UserError, match="^image_size=.*: must be .*1 or greater$"):
        moco_tf.extract_features(backbone, source, "all", size)
    with pytest.raises(UserError, match="^image_size=.*: must be .*1 or greater$"):
        moco_tf.embed(backbone, source, tmp_path / "out", size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        *((moco_tf.knn, {"k": 2.5}), (moco_tf.knn, {"k": "3"}), (moco_tf.knn, {"k": None})),
        *((moco_tf.knn, {"k": (5, 20)}), (moco_tf.linear_probe, {"iterations": 2.5})),
    ],
)
def test_number_that_is_not_an_integer_is_refused(features, function, settings):
    [name] = settings
    with pytest.raises(UserError, match=f"^{name}=.*: must be an integer, 1 or greater$"):
        function(*features, **settings)


def test_integers_of_numpy_are_accepted(source, backbone, features):
    again = moco_tf.extract_features(backbone, source, "test", np.int64(SIZE))
    np.testing.assert_array_equal(again.features, features[1].features)
    assert moco_tf.knn(*features, k=np.int64(3)) == moco_tf.knn(*features, k=3)


def test_feature_maps_are_refused(source):
    message = r"an array of the shape \[\d+, 16, 16, 3\] for a batch of \d+: .* \[N, D\]"
    with pytest.raises(UserError, match=message):
        moco_tf.extract_features(lambda images: images, source, "all", SIZE)
    with pytest.raises(UserError, match=r"shape \[1, 3\] for a batch"):
        moco_tf.extract_features(lambda images: images[:1, 0, 0], source, "all", SIZE)


def test_temperature_of_knn_has_an_effect():
    """exp(1 / t) is greater than 2 exp(0.6 / t) for t below 0.577."""
    bank = as_features(np.float32([[1, 0], [0.6, 0.8], [0.6, -0.8]]), [0, 1, 1], 2)
    query = as_features(np.float32([[1, 0]]), [0], 2)
    assert moco_tf.knn(bank, query, k=3)["top1"] == 1.0
    assert moco_tf.knn(bank, query, k=3, temperature=2.0)["top1"] == 0.0


@pytest.mark.parametrize("function", [moco_tf.knn, moco_tf.linear_probe])
def test_pairs_of_arrays_are_features(features, function):
    expected = function(*features)
    pairs = [(part.features, part.labels) for part in features]
    assert function(*pairs) == expected
    assert function(*[(part.tolist(), labels.tolist()) for part, labels in pairs]) == expected
    # Images without a label are left out, and classes of one part only do no harm.
    (train, labels), test = pairs
    more = (np.concatenate([train, train[:1]]), np.append(labels, -1))
    assert function(more, test) == expected
    assert function((train, labels + 5), (test[0], test[1] + 5)) == expected


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (([[1.0, 2.0]], [0, 1]), r"labels in train has the shape \[2\]: .* each of the 1 images"),
        (([1.0, 2.0], [0, 1]), r"train have the shape \[2\] and the type float64: pass a pair"),
        (([[1.0], [2.0]], [0.5, 1.0]), "labels in train are of the type float and int"),
        (([[1.0], [2.0]], [[1, 0], [0, 1]]), "labels in train are of the type list"),
        (([[1.0], [2.0]], np.eye(2)), r"labels in train"),
        (([[1.0], [2.0]], ["a", "b"]), "labels of train and test are texts and numbers"),
        (([[1.0], [2.0, 3.0]], [0, 1]), "the features of train are not an array of numbers"),
        (([["a"], ["b"]], [0, 1]), "type <U1: pass a pair .*, with numbers as features"),
        (([[1.0], [2.0]], [0, -2]), "labels of train have the number -2: use numbers of 0 or"),
        (([[1.0], [2.0]], [1, -1]), "labels of train are -1 and 1, but -1 stands for an image"),
        (
            ([[1.0], [2.0]], np.uint64([0, 2**63])),
            "has the number 9223372036854775808: use numbers",
        ),
        (([[1.0 + 2j]], [0]), "type complex128: pass a pair .*, with numbers as features"),
        (([[1.0], [np.nan], [np.inf]], [0, 1, 1]), "train have NaN.* 2 of 3 rows, first in row 1"),
        (([[1.0], [1e300]], [0, 1]), "beyond the range of float32 in 1 of 2 rows, first in row 1"),
        (([], []), "pass a pair"),
        (([[1.0], [2.0]], [-1, -1]), "none of the images has a label"),
    ],
)
def test_pairs_that_do_not_belong_together_are_refused(part, message):
    with pytest.raises(UserError, match=message):
        moco_tf.knn(part, ([[1.0]], [0]))


@pytest.mark.parametrize("function", [moco_tf.knn, moco_tf.linear_probe])
def test_labels_of_pairs_may_be_texts_and_far_apart(features, function):
    expected = function(*features)
    for name in (
        lambda label: f"class {label:03}",
        lambda label: 10**12 + 1000 * int(label),
        np.float64,
    ):
        pairs = [(part.features, [name(label) for label in part.labels]) for part in features]
        assert function(*pairs) == expected
    train, test = features
    column = pd.Series(train.labels).astype("category")
    assert function((train.features, column), (test.features, test.labels)) == expected
    # Data types without an equivalent in NumPy, and one that holds anything.
    for dtype in (tf.bfloat16, tf.float16):
        halves = [(tf.cast(part.features, dtype), part.labels) for part in features]
        same = [(np.float32(half), labels) for half, labels in halves]
        assert function(*halves) == function(*same)
    objects = [(part.features.astype(object), part.labels) for part in features]
    assert function(*objects) == expected
    with pytest.raises(UserError, match="labels of test are not the numbers of classes below"):
        function(train, (test.features, [f"class {label}" for label in test.labels]))
    with pytest.raises(UserError, match="labels of test are not the numbers of classes below"):
        function(train, (test.features, test.labels + 10**6))


@pytest.mark.parametrize(
    "missing",
    [
        pd.Series(["a", "b", None], dtype="string"),
        tf.constant(["a", "b", ""]),
        np.array([b"a", b"b", b""]),
        ["a", "b", np.nan],
    ],
)
def test_missing_labels_of_pairs_are_left_out(missing):
    part = np.eye(3, dtype=np.float32), missing
    assert moco_tf.knn(part, part, k=1) == {"top1": 1.0, "top5": 1.0}
    with pytest.raises(UserError, match="none of the images has a label"):
        moco_tf.knn(part, (part[0], [None] * 3))


def test_large_numbers_of_different_types_are_told_apart():
    labels = np.array([2**60, 2**60 + 1], np.uint64)
    part = np.eye(2, dtype=np.float32)
    assert moco_tf.knn((part, labels), (part, labels.astype(np.int64)), k=1)["top1"] == 1.0
    assert moco_tf.knn((part, labels), (part, labels[::-1].astype(np.int64)), k=1)["top1"] == 0.0


def test_linear_probe_names_the_only_class():
    part = [[0.0, 1.0], [1.0, 0.0]], ["cat", "cat"]
    with pytest.raises(UserError, match="all of them have the label cat: add"):
        moco_tf.linear_probe(part, part)


@pytest.mark.parametrize("function", [moco_tf.knn, moco_tf.linear_probe])
def test_classes_without_training_images_are_reported(features, function):
    train, test = features
    number = len(test.labels)
    message = f"{number} of {number} test images have a class that no training image has, and count"
    with pytest.warns(UserWarning, match=message):
        accuracy = function(
            (train.features, train.labels), (test.features, test.labels + train.num_classes)
        )
    assert accuracy["top1"] == 0.0
    labels = np.where(test.labels == 0, 9, test.labels)
    unknown = dataclasses.replace(test, labels=labels, num_classes=10)
    with pytest.warns(UserWarning, match="test images have a class that no training image has"):
        function(dataclasses.replace(train, num_classes=10), unknown)
    # The classes of two sources are compared by their names.
    names = [*train.class_names, "other"]
    labels = np.where(train.labels >= 0, 2, -1)
    labels[:2] = 1
    others = dataclasses.replace(train, labels=labels, class_names=names, num_classes=3)
    with pytest.warns(UserWarning, match="count as wrong"):
        function(others, test)


def test_features_of_chosen_images(source, backbone):
    everything = moco_tf.extract_features(backbone, source, "all", SIZE)
    some = moco_tf.extract_features(backbone, source, source.train[3:5], SIZE)
    assert some.indices.tolist() == list(source.train[3:5])
    np.testing.assert_allclose(some.features, everything.features[some.indices], atol=1e-5)
    message = f"part has the index {source.size}: data source .* has the images 0 to"
    with pytest.raises(UserError, match=message):
        moco_tf.extract_features(backbone, source, [0, source.size], SIZE)
    for wrong in ([], [0.5], [[1]], None, [-1]):
        with pytest.raises(UserError, match="^part"):
            moco_tf.extract_features(backbone, source, wrong, SIZE)


def test_source_and_features_are_short_in_a_notebook(source, features):
    assert repr(source) == f"<moco_tf source {source.name!r}: {source.size:,} images>"
    count = len(features[0].labels)
    expected = f"<moco_tf features {count} x 64, labels of {features[0].num_classes} classes>"
    assert repr(features[0]) == expected


# All of them differ from the defaults.
FINETUNE = {
    "layers": "head",
    "label_fraction": 0.5,
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.1,
    "head_learning_rate": 1,
    "sgd_momentum": 0.8,
    "weight_decay": 0.01,
    "batch_norm": "frozen",
    "crop_scale": (0.5, 1),
    "evaluate_every": 2,
    "seed": 3,
}


@pytest.mark.slow
def test_finetune_passes_on_its_settings_and_returns_the_classifier(source, backbone):
    assert FINETUNE.keys() == {field.name for field in dataclasses.fields(FinetuneSettings)}
    defaults = vars(FinetuneSettings())
    assert all(value != defaults[name] for name, value in FINETUNE.items())
    classifier, result = moco_tf.finetune(backbone, source, SIZE, **FINETUNE)
    settings = FinetuneSettings(**FINETUNE)
    _, expected = protocols.evaluate_finetune(backbone, source, SIZE, settings)
    assert {**result, "seconds": 0} == {**expected, "seconds": 0}
    assert classifier.class_names == source.class_names
    test = moco_tf.extract_features(classifier, source, "test", SIZE)
    assert result["top1"] == (test.features.argmax(axis=1) == test.labels).mean()


def test_finetune_checks_its_arguments(source, backbone):
    with pytest.raises(UserError, match="backbone is of the type function, which cannot become"):
        moco_tf.finetune(lambda images: images, source, SIZE)
    with pytest.raises(UserError, match="^epochs=0: must be 1 or greater$"):
        moco_tf.finetune(backbone, source, SIZE, epochs=0)
    with pytest.raises(UserError, match="^image_size=0: "):
        moco_tf.finetune(backbone, source, 0)
    with pytest.raises(UserError, match="^source is "):
        moco_tf.finetune(backbone, "photos", SIZE)


def test_size_that_a_backbone_does_not_take_is_refused(source, tmp_path):
    backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    message = f"^image_size={SIZE} does not fit the backbone, which takes images of 8x8 pixels only"
    for call in (
        lambda: moco_tf.extract_features(backbone, source, "test", SIZE),
        lambda: moco_tf.embed(backbone, source, tmp_path / "features", SIZE, facts={"name": "a"}),
        lambda: moco_tf.finetune(backbone, source, SIZE),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_backbone_may_be_any_object_that_can_be_called(source):
    class Backbone:
        layers = 3  # As a parameter of its own.

        def __call__(self, images):
            return tf.reduce_mean(images, [1, 2])

    assert moco_tf.extract_features(Backbone(), source, "test", SIZE).features.shape[1] == 3
