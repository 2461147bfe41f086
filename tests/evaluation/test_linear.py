"""The paper's linear protocol against its arithmetic in NumPy, in float64."""

import dataclasses

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from PIL import Image

from moco_tf import encoders
from moco_tf.data.evaluation_views import labeled_views
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError
from moco_tf.evaluation import linear, protocols, supervised, unreadable
from moco_tf.evaluation.extraction import extract
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.few_shot import choose
from moco_tf.evaluation.settings import LinearSettings
from moco_tf.evaluation.supervised import new_classifier
from tests.memory import lost_after, source_of

CLASSES, SIDE, SIZE, COUNT = 4, 24, 8, 29
TRAIN, TEST = range(21), range(21, COUNT)  # Two batches of eight and one of five.
UNREADABLE = (3, 25)
DIM = 2 * 2 * 3
SETTINGS = LinearSettings(
    learning_rate=0.7,
    batch_size=8,
    epochs=4,
    milestones=(2, 3),
    sgd_momentum=0.8,
    weight_decay=0.05,
    crop_scale=(0.2, 0.9),
    seed=1,
)


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def example(unreadable=UNREADABLE):
    """Return noise around one color per class, so that accuracies are well between 0 and 1."""
    generator = np.random.default_rng(0)
    labels = np.arange(COUNT) % CLASSES
    colors = generator.integers(80, 170, (CLASSES, 1, 1, 3))
    images = colors[labels] + generator.normal(0, 60, (COUNT, 3, 3, 3)).repeat(8, 1).repeat(8, 2)
    images = np.clip(images, 0, 255).astype(np.uint8)
    return source_of(images, labels, TRAIN, TEST, unreadable)


def backbone(images):
    """Return the mean colors of the four quarters of an image."""
    quarters = tf.reshape(tf.cast(images, tf.float64), [-1, 2, SIZE // 2, 2, SIZE // 2, 3])
    return tf.reshape(tf.reduce_mean(quarters, [2, 4]), [-1, DIM]) / 255.0


def backbone_in_numpy(images):
    halves = np.stack(np.split(np.float64(images), 2, axis=1), axis=1)
    parts = np.stack(np.split(halves, 2, axis=3), axis=2)
    return parts.mean(axis=(3, 4)).reshape(len(images), DIM) / 255


def fit(source, **changes):
    return fit_to(backbone, source, dataclasses.replace(SETTINGS, **changes))


def fit_to(network, source, settings, dim=DIM):
    """Return the weights and the bias of the layer, and the training images without an image."""
    fit = linear.train(network, source, source.train, SIZE, some_features(dim), settings)
    [(weights, bias)] = fit.layers
    return weights, bias, fit.unreadable


def some_features(dim=DIM):
    """Return the features of one test image, which do not affect the training."""
    label = np.zeros(1, np.int32)
    return Features(np.zeros((1, dim), np.float32), np.arange(1), label, CLASSES)


def initial_weights(settings):
    layer = new_classifier(DIM, CLASSES, settings.seed)
    return np.float64(layer.kernel.numpy()), np.float64(layer.bias.numpy())


def reference(source, weights, bias, settings, features=backbone_in_numpy):
    """Run SGD with momentum from given weights, on the views of `labeled_views`."""
    views = labeled_views(
        source,
        source.train,
        SIZE,
        settings.crop_scale,
        settings.batch_size,
        settings.seed,
        settings.epochs,
    )
    parameters = np.vstack([weights, bias])
    velocity = np.zeros_like(parameters)
    steps_per_epoch = np.ceil(len(TRAIN) / settings.batch_size)
    for step, (_, labels, images) in enumerate(views.as_numpy_iterator()):
        images, labels = images[labels >= 0], labels[labels >= 0]
        x = np.hstack([features(images), np.ones((len(images), 1))])
        error = scipy.special.softmax(x @ parameters, axis=1) - np.eye(CLASSES)[labels]
        gradient = x.T @ error / len(images) + settings.weight_decay * parameters
        velocity = settings.sgd_momentum * velocity + gradient
        epoch = step // steps_per_epoch
        num_milestones = sum(epoch >= milestone for milestone in settings.milestones)
        parameters = parameters - settings.learning_rate * 0.1**num_milestones * velocity
    return parameters[:-1], parameters[-1]


# Together these change every setting, so that none can be ignored or fixed.
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(milestones=(1,), sgd_momentum=0.0, learning_rate=5.0, weight_decay=0.0),
        dict(batch_size=21, epochs=5, crop_scale=(0.5, 0.6), seed=2),
    ],
)
def test_weights_equal_sgd_in_numpy(float64, changes):
    source, settings = example(), dataclasses.replace(SETTINGS, **changes)
    initial = initial_weights(settings)
    weights, bias, unreadable_train = fit(source, **changes)
    expected, expected_bias = reference(source, *initial, settings)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(bias, expected_bias, rtol=0, atol=1e-9)
    assert unreadable_train == {i: str(i) for i in TRAIN if i in UNREADABLE}
    assert np.abs(weights - initial[0]).max() > 0.05


def test_float32_weights_differ_by_rounding_only():
    source = example()
    weights, bias, _ = fit(source)
    assert weights.dtype == bias.dtype == np.float32
    expected = reference(source, *initial_weights(SETTINGS), SETTINGS)
    np.testing.assert_allclose(weights, expected[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(bias, expected[1], rtol=0, atol=1e-6)


def test_result_has_settings_and_seconds():
    settings = LinearSettings(epochs=1, milestones=())
    _, result = protocols.evaluate_linear(backbone, example(), SIZE, settings)
    assert dataclasses.asdict(settings).items() <= result.items()
    results = {"protocol", "top1", "top5", "num_train", "num_test", "seconds"}
    results |= {"top1_interval", "mean_per_class", "per_class", "curve"}
    assert result.keys() == dataclasses.asdict(settings).keys() | results | {*unreadable.KEYS}
    assert result["protocol"] == "linear"
    assert result["seconds"] > 0


def test_initial_weights_follow_the_reference_implementation():
    layer = new_classifier(1000, CLASSES, seed=0)
    weights = layer.kernel.numpy()
    assert weights.mean() == pytest.approx(0, abs=0.0005)
    assert weights.std() == pytest.approx(0.01, rel=0.05)
    assert (np.abs(weights) < 0.01).mean() == pytest.approx(0.683, abs=0.03)  # Normal.
    assert (layer.bias.numpy() == 0).all()


@pytest.mark.distributed
def test_two_replicas_give_weights_of_one(float64, two_replicas):
    expected = fit(example())
    with two_replicas.scope():
        weights, bias, unreadable_train = fit(example())
    np.testing.assert_allclose(weights, expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(bias, expected[1], rtol=0, atol=1e-12)
    assert unreadable_train == expected[2] != {}


def test_accuracy_is_that_of_central_views():
    # The shorter side, 24, is resized to 256/224 of 8, which is 9, and the middle 8 are cropped.
    source = example()
    weights, bias, _ = fit(source)
    (kept_weights, kept_bias), result = linear.classify(backbone, source, SIZE, SETTINGS)
    np.testing.assert_array_equal(kept_weights, weights)
    np.testing.assert_array_equal(kept_bias, bias)
    test = [i for i in TEST if i not in UNREADABLE]
    images = [Image.fromarray(source.read(tf.constant(i, tf.int64)).numpy()) for i in test]
    views = [
        np.asarray(image.resize((9, 9), Image.Resampling.BILINEAR))[:8, :8] for image in images
    ]
    scores = backbone_in_numpy(np.stack(views)) @ weights + bias
    top1 = (scores.argmax(axis=1) == np.array(test) % CLASSES).mean()
    low, high = result.pop("top1_interval")
    assert low < top1 < high
    classes = result.pop("per_class")
    assert sum(row["num_test"] for row in classes) == 7
    mean = np.mean([row["top1"] for row in classes])
    assert result.pop("mean_per_class") == pytest.approx(mean)
    assert [point["epoch"] for point in result["curve"]] == [1, 2, 3, 4]
    assert result.pop("curve")[-1]["top1"] == pytest.approx(top1)
    assert result == {
        "top1": pytest.approx(top1),
        "top5": 1.0,
        "learning_rate": SETTINGS.learning_rate,
        "num_train": 20,
        "num_test": 7,
        "num_unreadable_train": 1,
        "num_unreadable_test": 1,
        "unreadable": [str(i) for part in (TRAIN, TEST) for i in part if i in UNREADABLE],
        "unreadable_classes": [],
    }
    assert 0.2 < top1 < 1


def test_curve_is_that_of_sgd_in_numpy():
    source, settings = example(), dataclasses.replace(SETTINGS, learning_rate=3.0, milestones=())
    test = extract(backbone, source, source.test, SIZE)
    expected = []
    for epoch in range(1, settings.epochs + 1):
        shorter = dataclasses.replace(settings, epochs=epoch)
        weights, bias = reference(source, *initial_weights(settings), shorter)
        top1 = ((test.features @ weights + bias).argmax(axis=1) == test.labels).mean()
        expected.append({"epoch": epoch, "top1": pytest.approx(top1), "top5": 1.0})
    _, result = linear.classify(backbone, source, SIZE, settings)
    assert result["curve"] == expected
    assert len({point["top1"] for point in result["curve"]}) > 1


class Network(keras.Model):
    """A network that runs in inference mode, or by mistake in training mode."""

    def __init__(self, training):
        super().__init__()
        images = keras.Input((None, None, 3))
        x = BatchNormalization(name="bn")(keras.layers.Conv2D(4, 3)(images))
        self.network = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
        self.training = training

    def call(self, images):
        return self.network(images / 255.0, training=self.training)


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.distributed)])
def strategy(request):
    if request.param == 1:
        return tf.distribute.get_strategy()
    return request.getfixturevalue("two_replicas")


@pytest.mark.slow
def test_backbone_stays_bit_identical(strategy):
    with strategy.scope():
        network = Network(training=False)
        before = network.get_weights()
        settings = dataclasses.replace(SETTINGS, epochs=1, milestones=())
        linear.classify(network, example(), SIZE, settings)
    assert len(before) == 6
    for weight, expected in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.slow
def test_backbone_that_changes_is_refused(strategy):
    settings = dataclasses.replace(SETTINGS, epochs=1, milestones=())
    with strategy.scope():
        network = Network(training=True)
        with pytest.raises(UserError, match="not frozen: its variable '.*moving_mean' changed"):
            linear.classify(network, example(), SIZE, settings)


def test_divergence_is_refused():
    message = "^learning_rate=1e.38: the linear layer diverged in epoch 1; use a smaller"
    with pytest.raises(UserError, match=message):
        fit(example(), learning_rate=1e38)


RATES = (0.01, 0.7, 5.0, 1e38)


def test_each_learning_rate_is_trained_as_if_alone(float64):
    settings = dataclasses.replace(SETTINGS, learning_rate=30.0, learning_rates=RATES)
    source = example()
    trained = linear.train(backbone, source, source.train, SIZE, some_features(), settings)
    for rate, (weights, bias) in zip(RATES[:3], trained.layers, strict=False):
        alone = fit(source, learning_rate=rate)
        np.testing.assert_allclose(weights, alone[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(bias, alone[1], rtol=0, atol=1e-12)
        assert trained.unreadable == alone[2]


def test_held_out_images_choose_the_learning_rate():
    settings = dataclasses.replace(SETTINGS, learning_rate=30.0, learning_rates=RATES)
    source = example()
    _, result = protocols.evaluate_linear(backbone, source, SIZE, settings)
    kept = choose(source.labels[source.train], 0.8, SETTINGS.seed)
    trained = dataclasses.replace(source, train=source.train[kept])
    held_out = dataclasses.replace(trained, test=np.delete(source.train, kept))
    expected = []
    for rate in RATES[:3]:
        alone = dataclasses.replace(SETTINGS, learning_rate=rate)
        _, alone_result = linear.classify(backbone, held_out, SIZE, alone)
        top1 = alone_result["top1"]
        expected.append({"learning_rate": rate, "top1": top1})
    assert result["curve"][-1]["top1"] == result["top1"]
    assert result["held_out"] == [*expected, {"learning_rate": 1e38, "top1": None}]
    best = max(expected, key=lambda entry: entry["top1"])["learning_rate"]
    assert result["learning_rate"] == best
    assert result["learning_rates"] == RATES
    alone = dataclasses.replace(SETTINGS, learning_rate=best)
    _, expected_result = linear.classify(backbone, trained, SIZE, alone)
    assert result["top1"] == expected_result["top1"]
    assert result["num_train"] + result["num_held_out"] == 20  # One image cannot be read.
    assert result["num_unreadable_train"] == 1


def test_learning_rates_that_all_diverge_are_refused():
    settings = dataclasses.replace(SETTINGS, learning_rate=30.0, learning_rates=(1e37, 1e38))
    message = "^learning_rates=1e.37,1e.38: the linear layer diverged with each by epoch 1; use"
    with pytest.raises(UserError, match=message):
        linear.classify(backbone, example(), SIZE, settings)


def test_learning_rate_beside_learning_rates_is_refused():
    with pytest.raises(UserError, match="^learning_rate=0.7 has no effect with learning_rates"):
        dataclasses.replace(SETTINGS, learning_rates=(1.0, 2.0))


def test_too_few_images_to_hold_out_a_fifth_are_refused():
    source = dataclasses.replace(example(), train=np.arange(8))
    settings = dataclasses.replace(SETTINGS, learning_rate=30.0, learning_rates=RATES)
    with pytest.raises(UserError, match="has too few training images to hold out a fifth"):
        linear.classify(backbone, source, SIZE, settings)


@pytest.mark.distributed
def test_batch_that_replicas_cannot_share_is_refused(two_replicas):
    message = "^batch_size=7 cannot be split equally among 2 replicas: use a multiple of 2"
    with two_replicas.scope(), pytest.raises(UserError, match=message):
        fit(example(), batch_size=7)


def test_source_without_readable_training_image_is_refused():
    with pytest.raises(UserError, match="'memory': none of the training images can be read"):
        fit(example(unreadable=TRAIN))


@pytest.mark.parametrize("rates", [{}, {"learning_rate": 30.0, "learning_rates": RATES}])
def test_training_whose_images_are_lost_later_is_refused(monkeypatch, rates):
    monkeypatch.setattr(supervised, "labeled_views", lost_after(3, labeled_views))
    message = "'memory': none of the training images can be read any more in epoch 2: check"
    with pytest.raises(UserError, match=message):
        linear.classify(backbone, example(), SIZE, dataclasses.replace(SETTINGS, **rates))


def standardized(images):
    """Return the features of standardized images, which are NaN for a blank one."""
    images = tf.cast(images, tf.float64)
    mean = tf.reduce_mean(images, [1, 2, 3], keepdims=True)
    return backbone((images - mean) / tf.math.reduce_std(images, [1, 2, 3], keepdims=True)) * 255


def standardized_in_numpy(images):
    mean, std = (f(np.float64(images), (1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return backbone_in_numpy((images - mean) / std) * 255


def test_rows_without_an_image_have_no_effect_where_their_features_are_nan(float64):
    source = example()
    assert np.isnan(standardized(tf.zeros([1, SIZE, SIZE, 3]))).all()
    weights, bias, _ = fit_to(standardized, source, SETTINGS)
    initial = initial_weights(SETTINGS)
    expected = reference(source, *initial, SETTINGS, standardized_in_numpy)
    np.testing.assert_allclose(weights, expected[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(bias, expected[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("part", ["test", "held-out"])
def test_features_that_are_nan_are_refused(part):
    source = example(unreadable=())
    settings = dataclasses.replace(SETTINGS, learning_rate=30.0, learning_rates=RATES)
    held_out = np.delete(source.train, choose(source.labels[source.train], 0.8, SETTINGS.seed))
    index = {"test": TEST[0], "held-out": held_out[0]}[part]

    def read(number):
        return tf.where(number == index, tf.zeros([], tf.uint8), source.read(number))

    def network(images):
        is_black = tf.reduce_all(images == 0, [1, 2, 3])
        return tf.where(is_black[:, tf.newaxis], tf.constant(np.nan, tf.float64), backbone(images))

    with pytest.raises(UserError, match="the features of 1 of . images hold NaN or infinity"):
        linear.classify(network, dataclasses.replace(source, read=read), SIZE, settings)


def test_training_images_of_one_class_are_refused():
    images = np.zeros((5, SIDE, SIDE, 3), np.uint8)
    source = source_of(images, [1, 1, 1, 1, 0], range(4), [4])
    with pytest.raises(UserError, match="training images of two or more classes"):
        fit(source)


def test_network_of_build_gets_its_normalization():
    network = encoders.random_network("resnet8", stem="small")
    source, settings = example(), SETTINGS
    normalized = encoders.with_normalization(network)
    results = [linear.classify(m, source, SIZE, settings)[1] for m in (network, normalized)]
    assert results[0] == results[1]
    weights, expected = (
        fit_to(model, source, settings, network.output_shape[-1])[0]
        for model in (network, normalized)
    )
    np.testing.assert_array_equal(weights, expected)
