"""The training of detection and segmentation: schedule, replicas and errors."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")
import PIL.Image

from moco_tf.data.boxes import load as load_boxes
from moco_tf.data.boxes.letterbox import TrainingBatches
from moco_tf.errors import UserError
from moco_tf.evaluation import training_state
from moco_tf.evaluation.settings import DetectionSettings, SegmentationSettings
from moco_tf.evaluation.training_state import TrainingState
from moco_tf.evaluation.transfer import training, trials
from moco_tf.evaluation.transfer.detection import DETECTION
from moco_tf.evaluation.transfer.segmentation import SEGMENTATION
from moco_tf.keras_internals import all_layers
from tests.data.boxes.coco_files import annotation, run_lengths, write_example
from tests.evaluation.transfer.helpers import small_encoder

SIZE = 64
TWO_STEPS = dict(learning_rate=0.01, steps=2, milestones=(), warmup_steps=0, batch_size=4)


def test_learning_rate_rises_and_falls():
    settings = DetectionSettings(learning_rate=0.5, steps=50, milestones=(30, 40), warmup_steps=10)
    rates = [training.learning_rate_at(step, settings) for step in range(45)]
    assert rates[0] == pytest.approx(0.0005)
    np.testing.assert_allclose(np.diff(rates[:11]), 0.5 * 0.999 / 10)
    np.testing.assert_allclose(rates[10:30], 0.5)
    np.testing.assert_allclose(rates[30:40], 0.05)
    np.testing.assert_allclose(rates[40:], 0.005)
    without_warmup = dataclasses.replace(settings, warmup_steps=0)
    assert training.learning_rate_at(0, without_warmup) == 0.5


def test_image_size_that_is_no_multiple_of_the_stride_is_refused():
    message = "^image_size=100: detection needs a multiple of 32, such as 128"
    with pytest.raises(UserError, match=message):
        training.build(DETECTION, None, 3, 100, 0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return six training images of noise, five of which have one or two boxes."""
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("coco")
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    size = {"width": 64, "height": 48}
    entries = [{"id": number, "file_name": f"{number}.png", **size} for number in range(6)]
    annotations = []
    for number in range(9):
        box = [*generator.integers(0, 14, 2).tolist(), *generator.integers(30, 34, 2).tolist()]
        masks = run_lengths(*box, height=48, width=64)
        annotations.append(annotation(number + 1, number % 5, 1 + number % 2, box, masks))
    content = {"images": entries, "annotations": annotations, "categories": categories}
    write_example(folder, {"train": content, "val": content}, "{}")
    for part in ("train", "val"):
        for number in range(6):
            pixels = generator.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            PIL.Image.fromarray(pixels).save(folder / part / f"{number}.png")
    return load_boxes(f"coco:{folder}", masks=True)


def weights_of(model):
    return [weight.numpy() for weight in model.weights if "seed" not in weight.path]


def moving_variances_of(model):
    return [
        layer.moving_variance.numpy()
        for layer in all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def train(task, images):
    """Return a model after two steps, and their losses."""
    model = training.build(task, small_encoder(), 2, SIZE, 5)
    curve = training.fit(task, model, images, SIZE, task.settings(**TWO_STEPS))
    return model, [point["loss"] for point in curve]


@pytest.mark.nightly
@pytest.mark.distributed
def test_two_replicas_give_numbers_of_one(float64, images, two_replicas):
    def train_and_predict():
        model, losses = train(SEGMENTATION, images)
        keep = images.test.tolist()
        _, predictions = training.evaluate(SEGMENTATION, model, images, SIZE, keep)
        assert sorted(predictions) == keep
        return losses, weights_of(model), moving_variances_of(model), predictions

    losses, weights, moving_variances, predictions = train_and_predict()
    assert len(moving_variances) >= 15
    with two_replicas.scope():
        other_losses, other_weights, other_variances, other_predictions = train_and_predict()
    assert other_losses == pytest.approx(losses, rel=1e-9)
    for value, expected in zip(
        other_weights + other_variances, weights + moving_variances, strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-7, atol=1e-8)
    for index, (height, width, labels) in predictions.items():
        assert (height, width) == other_predictions[index][:2] == (48, 64)
        np.testing.assert_array_equal(other_predictions[index][2], labels)


@pytest.mark.nightly
@pytest.mark.distributed
def test_two_replicas_give_loss_of_one_in_detection(images, two_replicas):
    # In float32, because KerasHub computes anchors in float32.
    model, losses = train(DETECTION, images)
    with two_replicas.scope():
        other_model, other_losses = train(DETECTION, images)
        other_variances = moving_variances_of(other_model)
    assert other_losses == pytest.approx(losses, rel=1e-4)
    for value, expected in zip(other_variances, moving_variances_of(model), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_every_layer_is_trained_and_seed_determines_result(images):
    initial = weights_of(training.build(SEGMENTATION, small_encoder(), 2, SIZE, 5))
    (model, losses), (other_model, other_losses) = (train(SEGMENTATION, images) for _ in range(2))
    # On some machines, threads add up gradients in an order that varies, and so does the rounding.
    assert losses == pytest.approx(other_losses, rel=1e-5)
    for value, same, before in zip(
        weights_of(model), weights_of(other_model), initial, strict=True
    ):
        np.testing.assert_allclose(value, same, rtol=1e-4, atol=1e-5)
        assert not np.allclose(value, before, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def segmenter():
    return training.build(SEGMENTATION, small_encoder(), 2, SIZE, 5)


@pytest.mark.distributed
def test_batch_that_replicas_cannot_share_is_refused(segmenter, images, two_replicas):
    settings = SegmentationSettings(batch_size=3)
    message = "^batch_size=3 cannot be split equally among 2 replicas"
    with two_replicas.scope(), pytest.raises(UserError, match=message):
        training.fit(SEGMENTATION, segmenter, images, SIZE, settings)


@pytest.mark.slow
def test_damaged_file_is_named(segmenter, images):
    path = images.describe(2)
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[:60])
    try:
        with pytest.raises(UserError, match=f"{path} cannot be read"):
            training.fit(SEGMENTATION, segmenter, images, SIZE, SegmentationSettings(**TWO_STEPS))
    finally:
        with open(path, "wb") as file:
            file.write(content)


@pytest.mark.slow
def test_divergence_is_refused(segmenter, images):
    kernel = next(weight for weight in segmenter.trainable_variables if len(weight.shape) == 4)
    kernel.assign(np.full(kernel.shape, np.nan))
    message = "^learning_rate=0.003: segmentation diverged in step 1; use a smaller learning rate"
    settings = SegmentationSettings(steps=2, batch_size=2)
    with pytest.raises(UserError, match=message):
        training.fit(SEGMENTATION, segmenter, images, SIZE, settings)


def test_images_are_normalized_like_those_of_the_encoder():
    squares = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalized = training.normalize(tf.constant(squares))
    np.testing.assert_allclose(normalized, (squares / 255 - mean) / std, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("task", [DETECTION, SEGMENTATION], ids=lambda task: task.name)
def test_interrupted_trial_ends_like_an_uninterrupted_one(task, images, tmp_path, monkeypatch):
    monkeypatch.setattr(training_state, "SAVE_SECONDS", 0)
    settings = task.settings(**{**TWO_STEPS, "steps": 4, "trials": 2})
    until, save, first_steps = TrainingBatches.until, TrainingState.save_if_due, []

    def run(state=None):
        result, _ = trials.run(task, lambda _: small_encoder(), images, SIZE, settings, state=state)
        return [{**trial, "seconds": None} for trial in result["trials"]]

    def save_and_stop(self, variables, facts):
        save(self, variables, facts)
        current = facts["current"]
        if current and current["seed"] == 1 and len(current["curve"]) == 2:
            raise KeyboardInterrupt

    def note(self, steps, context, start):
        first_steps.append(start)
        return until(self, steps, context, start)

    expected = run()
    path = str(tmp_path / "state")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save_if_due", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(TrainingState(path))
    monkeypatch.setattr(TrainingBatches, "until", note)
    assert run(TrainingState(path)) == expected
    assert first_steps == [2]  # In the second trial.
