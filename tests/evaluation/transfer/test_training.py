"""What detection and segmentation share: the schedule, the replicas, the mistakes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")
import keras_hub

from moco_tf.errors import UserError
from moco_tf.evaluation.transfer import training
from moco_tf.evaluation.transfer.detection import DETECTION
from moco_tf.evaluation.transfer.segmentation import SEGMENTATION
from tests.data.boxes.test_coco import annotation, run_lengths, write_example

SIZE = 64


def test_the_schedules_are_the_papers():
    settings = training.settings_of(DETECTION)
    assert settings == {
        "learning_rate": 0.01,
        "steps": 24000,
        "milestones": (18000, 22000),
        "warmup_steps": 100,
        "batch_size": 16,
        "sgd_momentum": 0.9,
        "weight_decay": 1e-4,
        "seed": 0,
    }
    other = training.settings_of(SEGMENTATION)
    assert (other["learning_rate"], other["steps"]) == (0.003, 30000)
    assert other["milestones"] == (21000, 27000)
    assert training.settings_of(DETECTION, steps=9000)["milestones"] == (6750, 8250)
    assert training.settings_of(DETECTION, steps=1)["milestones"] == ()


def test_the_rate_rises_and_falls():
    schedule = dict(learning_rate=0.5, milestones=(30, 40), warmup_steps=10)
    rates = [training.rate_at(step, **schedule) for step in range(45)]
    assert rates[0] == pytest.approx(0.0005)
    np.testing.assert_allclose(np.diff(rates[:11]), 0.5 * 0.999 / 10)
    np.testing.assert_allclose(rates[10:30], 0.5)
    np.testing.assert_allclose(rates[30:40], 0.05)
    np.testing.assert_allclose(rates[40:], 0.005)
    assert training.rate_at(0, 0.5, (), 0) == 0.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(steps=100, milestones=(50, 100)), "--milestones: step 100 does not come .*--steps=1"),
        (dict(steps=100, milestones=(0,)), "--milestones: step 0 does not come after the first"),
    ],
)
def test_settings_that_cannot_work(settings, words):
    with pytest.raises(UserError, match=words):
        training.settings_of(DETECTION, **settings)


def test_a_batch_that_cannot_be_shared(two_replicas):
    with two_replicas.scope(), pytest.raises(UserError, match="--batch_size=3 cannot be shared"):
        training.settings_of(DETECTION, batch_size=3)


def test_a_side_that_does_not_fit():
    with pytest.raises(UserError, match="--image_size=100: .* a multiple of 32, such as 128"):
        training.build(DETECTION, None, 3, 100, 0)


def small_encoder():
    """A ResNet of one block a stage, always the same."""
    keras.utils.set_random_seed(1)
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64] * 4,
        stackwise_num_blocks=[1] * 4,
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six images to train on: noise, with a box or two on each but one."""
    import PIL.Image

    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("coco")
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    sizes = {"width": 64, "height": 48}
    places = [{"id": n, "file_name": f"{n}.png", **sizes} for n in range(6)]
    boxes = []
    for number in range(9):
        box = [*generator.integers(0, 14, 2).tolist(), *generator.integers(30, 34, 2).tolist()]
        masks = run_lengths(*box, height=48, width=64)
        boxes.append(annotation(number + 1, number % 5, 1 + number % 2, box, masks))
    content = {"images": places, "annotations": boxes, "categories": categories}
    write_example(folder, {"train": content, "val": content}, "{}")
    for part in ("train", "val"):
        for number in range(6):
            pixels = generator.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            PIL.Image.fromarray(pixels).save(folder / part / f"{number}.png")
    return boxes.load(f"coco:{folder}", masks=True)


def trained(task, images, batch_size=4):
    """The losses of two steps, what the model then holds, and what it predicts of test images."""
    model = training.build(task, small_encoder(), 2, SIZE, 5)
    settings = dict(steps=2, milestones=(), warmup_steps=0, batch_size=batch_size)
    curve = training.fit(
        task, model, images, SIZE, **training.settings_of(task, learning_rate=0.01, **settings)
    )
    weights = [weight.numpy() for weight in model.weights if "seed" not in weight.path]
    _, kept = training.evaluate(task, model, images, SIZE, keep=images.test.tolist())
    moving = [
        layer.moving_variance.numpy()
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    return [point["loss"] for point in curve], weights, moving, kept


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def test_two_replicas_end_where_one_does(float64, images, two_replicas):
    losses, weights, moving, kept = trained(SEGMENTATION, images)
    with two_replicas.scope():
        losses_of_two, weights_of_two, moving_of_two, kept_of_two = trained(SEGMENTATION, images)
    assert losses_of_two == pytest.approx(losses, rel=1e-9)
    assert len(weights) == len(weights_of_two) and len(moving) >= 15
    for found, expected in zip(weights_of_two + moving_of_two, weights + moving, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)
    assert sorted(kept) == sorted(kept_of_two) == images.test.tolist()
    for index, (height, width, labels) in kept.items():
        assert (height, width) == kept_of_two[index][:2] == (48, 64)
        np.testing.assert_array_equal(labels, kept_of_two[index][2])


def test_two_replicas_of_a_detector_have_the_loss_of_one(images, two_replicas):
    # In float32, which is what KerasHub's anchors are in.
    losses, _, moving, _ = trained(DETECTION, images)
    with two_replicas.scope():
        losses_of_two, _, moving_of_two, _ = trained(DETECTION, images)
    assert losses_of_two == pytest.approx(losses, rel=1e-4)
    for found, expected in zip(moving_of_two, moving, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)


def test_every_layer_is_trained_and_a_seed_says_all(images):
    start = training.build(SEGMENTATION, small_encoder(), 2, SIZE, 5)
    before = [weight.numpy() for weight in start.weights if "seed" not in weight.path]
    losses, weights, *_ = trained(SEGMENTATION, images)
    again, weights_again, *_ = trained(SEGMENTATION, images)
    assert losses == again
    for one, other, first in zip(weights, weights_again, before, strict=True):
        np.testing.assert_array_equal(one, other)
        assert not np.array_equal(one, first)


def test_a_file_that_is_damaged_is_named(images, tmp_path):
    broken = images.describe(2)
    with open(broken, "rb") as file:
        whole = file.read()
    with open(broken, "wb") as file:
        file.write(whole[:60])
    try:
        with pytest.raises(UserError, match=f"{broken} cannot be read"):
            trained(SEGMENTATION, images)
    finally:
        with open(broken, "wb") as file:
            file.write(whole)


def test_divergence_is_named(images):
    model = training.build(SEGMENTATION, small_encoder(), 2, SIZE, 5)
    first = next(w for w in model.trainable_variables if len(w.shape) == 4)
    first.assign(np.full(first.shape, np.nan))
    settings = training.settings_of(SEGMENTATION, steps=2, batch_size=2)
    with pytest.raises(UserError, match="segmentation diverged at step 1 at --learning_rate=0.003"):
        training.fit(SEGMENTATION, model, images, SIZE, **settings)


def test_images_are_normalised_as_the_encoder_knows_them():
    squares = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    found = training.normalized(tf.constant(squares))
    np.testing.assert_allclose(found, (squares / 255 - mean) / std, atol=1e-5)
