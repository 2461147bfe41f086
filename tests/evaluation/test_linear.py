"""The paper's linear protocol against its arithmetic in NumPy, in float64."""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from PIL import Image

from moco_tf import encoders
from moco_tf.data.pipeline import labelled_views
from moco_tf.errors import UserError
from moco_tf.evaluation import linear, protocols
from tests.memory import source_of

CLASSES, SIDE, SIZE, COUNT = 4, 24, 8, 29
TRAIN, TEST = range(21), range(21, COUNT)  # two batches of eight and one of five
BROKEN = (3, 25)
DIM = 2 * 2 * 3
SETTINGS = dict(
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


def example(unreadable=BROKEN):
    """Noise around one colour a class, so that accuracies lie well between 0 and 1."""
    generator = np.random.default_rng(0)
    labels = np.arange(COUNT) % CLASSES
    colours = generator.integers(80, 170, (CLASSES, 1, 1, 3))
    images = colours[labels] + generator.normal(0, 60, (COUNT, 3, 3, 3)).repeat(8, 1).repeat(8, 2)
    images = np.clip(images, 0, 255).astype(np.uint8)
    return source_of(images, labels, TRAIN, TEST, unreadable)


def backbone(images):
    """The mean colours of the four quarters of an image."""
    quarters = tf.reshape(tf.cast(images, tf.float64), [-1, 2, SIZE // 2, 2, SIZE // 2, 3])
    return tf.reshape(tf.reduce_mean(quarters, [2, 4]), [-1, DIM]) / 255.0


def quarters(images):
    """The same in NumPy."""
    halves = np.stack(np.split(np.float64(images), 2, axis=1), axis=1)
    parts = np.stack(np.split(halves, 2, axis=3), axis=2)
    return parts.mean(axis=(3, 4)).reshape(len(images), DIM) / 255


def fit(source, **changed):
    return linear.fit(backbone, source, SIZE, (DIM, CLASSES), **{**SETTINGS, **changed})


def reference(source, weights, bias, settings):
    """SGD with momentum from given weights, on the views of `labelled_views`."""
    views = labelled_views(
        source,
        source.train,
        SIZE,
        settings["crop_scale"],
        settings["batch_size"],
        settings["seed"],
        settings["epochs"],
    )
    parameters = np.vstack([weights, bias])
    velocity = np.zeros_like(parameters)
    steps_per_epoch = np.ceil(len(TRAIN) / settings["batch_size"])
    for step, (labels, images) in enumerate(views.as_numpy_iterator()):
        images, labels = images[labels >= 0], labels[labels >= 0]
        x = np.hstack([quarters(images), np.ones((len(images), 1))])
        error = scipy.special.softmax(x @ parameters, axis=1) - np.eye(CLASSES)[labels]
        gradient = x.T @ error / len(images) + settings["weight_decay"] * parameters
        velocity = settings["sgd_momentum"] * velocity + gradient
        epoch = step // steps_per_epoch
        falls = sum(epoch >= milestone for milestone in settings["milestones"])
        parameters = parameters - settings["learning_rate"] * 0.1**falls * velocity
    return parameters[:-1], parameters[-1]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        dict(milestones=(), weight_decay=0.0),
        dict(milestones=(1,), sgd_momentum=0.0, learning_rate=5.0),
        dict(batch_size=21, crop_scale=(0.5, 0.6)),
    ],
)
def test_weights_are_those_of_sgd_in_numpy(float64, changed):
    source = example()
    first = fit(source, learning_rate=1e-15, weight_decay=0.0)
    weights, bias, num_train = fit(source, **changed)
    expected, expected_bias = reference(source, *first[:2], {**SETTINGS, **changed})
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(bias, expected_bias, rtol=0, atol=1e-9)
    assert num_train == len(TRAIN) - 1  # one cannot be read
    assert np.abs(weights - first[0]).max() > 0.05


def test_in_float32_they_are_so_to_a_millionth():
    source = example()
    first = fit(source, learning_rate=1e-15, weight_decay=0.0)
    weights, bias, _ = fit(source)
    assert weights.dtype == bias.dtype == np.float32
    expected = reference(source, np.float64(first[0]), np.float64(first[1]), SETTINGS)
    np.testing.assert_allclose(weights, expected[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(bias, expected[1], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def usual():
    return fit(example())[0]


@pytest.mark.parametrize(
    "changed",
    [
        dict(learning_rate=0.8),
        dict(batch_size=7),
        dict(epochs=5),
        dict(milestones=(1, 3)),
        dict(sgd_momentum=0.9),
        dict(weight_decay=0.0),
        dict(crop_scale=(0.2, 1.0)),
        dict(seed=2),
    ],
)
def test_every_setting_matters(usual, changed):
    # Else the comparison above would not tell whether it is used.
    assert np.abs(fit(example(), **changed)[0] - usual).max() > 1e-4


def test_the_defaults_are_the_papers():
    defaults = {
        "learning_rate": 30.0,
        "batch_size": 256,
        "epochs": 100,
        "milestones": (60, 80),
        "sgd_momentum": 0.9,
        "weight_decay": 0.0,
        "crop_scale": (0.08, 1.0),
        "seed": 0,
    }
    short = dict(epochs=1, milestones=())
    result = protocols.evaluate_linear(backbone, example(), SIZE, **short)
    assert {name: result[name] for name in defaults} == {**defaults, **short}
    # And `fit` takes those where nobody says anything.
    explicit = linear.fit(backbone, example(), SIZE, (DIM, CLASSES), **{**defaults, **short})
    found = linear.fit(backbone, example(), SIZE, (DIM, CLASSES), **short)
    np.testing.assert_array_equal(found[0], explicit[0])


def test_the_layer_begins_as_the_references():
    def wide(images):
        return tf.tile(backbone(images), [1, 100])

    settings = dict(SETTINGS, learning_rate=1e-12, weight_decay=0.0, epochs=1, milestones=())
    weights, bias, _ = linear.fit(wide, example(), SIZE, (100 * DIM, CLASSES), **settings)
    assert weights.mean() == pytest.approx(0, abs=0.0005)
    assert weights.std() == pytest.approx(0.01, rel=0.05)
    assert (np.abs(weights) < 0.01).mean() == pytest.approx(0.683, abs=0.03)  # of a normal one
    assert np.abs(bias).max() < 1e-10


def test_two_replicas_end_where_one_does(float64, two_replicas):
    expected = fit(example())
    with two_replicas.scope():
        weights, bias, num_train = fit(example())
    np.testing.assert_allclose(weights, expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(bias, expected[1], rtol=0, atol=1e-12)
    assert num_train == expected[2]


def test_the_accuracy_is_that_of_the_layer_on_central_views():
    # The shorter side, 24, becomes 256/224 of 8: 9, of which the middle 8 stay.
    source = example()
    weights, bias, _ = fit(source)
    found = linear.classify(backbone, source, SIZE, CLASSES, **SETTINGS)
    test = [i for i in TEST if i not in BROKEN]
    images = [Image.fromarray(source.read(tf.constant(i, tf.int64)).numpy()) for i in test]
    views = [
        np.asarray(image.resize((9, 9), Image.Resampling.BILINEAR))[:8, :8] for image in images
    ]
    scores = quarters(np.stack(views)) @ weights + bias
    top1 = (scores.argmax(axis=1) == np.array(test) % CLASSES).mean()
    assert found["top1"] == pytest.approx(top1) and found["top5"] == 1.0
    assert (found["num_train"], found["num_test"]) == (20, 7)
    assert 0.2 < top1 < 1


class Network(keras.Model):
    """An encoder that runs in inference mode, or in training mode, where it ought not to."""

    def __init__(self, training):
        super().__init__()
        self.network = encoders.build("resnet8", stem="small")
        self.mode = training

    def call(self, images):
        return self.network(images / 255.0, training=self.mode)


@pytest.mark.parametrize("replicas", [1, 2])
def test_no_bit_of_the_backbone_changes(two_replicas, replicas):
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        network = Network(training=False)
        network(np.zeros([1, SIZE, SIZE, 3], np.float32))
        before = network.get_weights()
        linear.classify(network, example(), SIZE, CLASSES, **SETTINGS)
    assert len(before) > 20
    for weight, expected in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_backbone_that_changes_is_refused(two_replicas, replicas):
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        network = Network(training=True)
        network.network(np.zeros([1, SIZE, SIZE, 3], np.float32))
        with pytest.raises(UserError, match="not frozen: its '.*moving_mean' has changed"):
            linear.classify(network, example(), SIZE, CLASSES, **SETTINGS)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (dict(milestones=(2, 4)), "--milestones: epoch 4 .* --epochs=4"),
        (dict(milestones=(0, 2)), "--milestones: epoch 0"),
        (dict(crop_scale=(0.0, 1.0)), "--crop_scale=0,1: .* above 0"),
        (dict(crop_scale=(0.5, 0.2)), "--crop_scale=0.5,0.2"),
        (dict(crop_scale=(0.5, 1.2)), "--crop_scale=0.5,1.2: .* up to 1"),
        (dict(learning_rate=1e38), "diverged at --learning_rate=1e.38: give a smaller"),
    ],
)
def test_settings_that_cannot_work(changed, words):
    with pytest.raises(UserError, match=words):
        fit(example(), **changed)


def test_a_batch_that_replicas_cannot_share(two_replicas):
    words = "--batch_size=7 cannot be shared equally by 2 replicas: give a multiple of 2"
    with two_replicas.scope(), pytest.raises(UserError, match=words):
        fit(example(), batch_size=7)


def test_images_of_one_class_or_none_that_can_be_read():
    with pytest.raises(UserError, match="'memory': no training image can be read"):
        fit(example(unreadable=TRAIN))
    images = np.zeros((5, SIDE, SIDE, 3), np.uint8)
    one = source_of(images, [1, 1, 1, 1, 0], range(4), [4])
    with pytest.raises(UserError, match="training images of two or more classes"):
        fit(one)
