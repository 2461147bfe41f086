"""Trainings of evaluations that were interrupted end like those that were not."""

import contextlib
import dataclasses
import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import moco_tf
from moco_tf.data.pixels import default
from moco_tf.errors import UserError
from moco_tf.evaluation import comparison, finetune, linear, protocols, training_state
from moco_tf.evaluation.identity import identify_training
from moco_tf.evaluation.settings import FinetuneSettings, LinearSettings
from moco_tf.evaluation.training_state import TrainingState, state_in
from tests.evaluation.test_finetune import SIZE, build, example

LINEAR = LinearSettings(learning_rate=0.7, batch_size=8, epochs=4, milestones=(2, 3), seed=1)
FINETUNE = FinetuneSettings(
    learning_rate=0.05, head_learning_rate=0.3, batch_size=8, epochs=4, weight_decay=0.02, seed=1
)


@pytest.fixture(autouse=True)
def save_every_time(monkeypatch):
    monkeypatch.setattr(training_state, "SAVE_SECONDS", 0)


@contextlib.contextmanager
def interrupted_after(saves):
    """Expect that the block is interrupted after some saves, as it is then."""
    save, count = TrainingState.save_if_due, [0]

    def save_and_stop(self, *arguments):
        save(self, *arguments)
        count[0] += 1
        if count[0] == saves:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "save_if_due", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def with_dropout():
    """Return a backbone whose training draws random numbers."""
    images = keras.Input((None, None, 3))
    return keras.Model(images, build()(keras.layers.Dropout(0.2, seed=3)(images)))


def train(settings, state=None, backbone=None):
    """Return the values after a training, and its result."""
    backbone = backbone or build()
    if isinstance(settings, LinearSettings):
        layer, result = linear.classify(backbone, example(), SIZE, settings, state)
        return list(layer), result
    tuned, layer, result = finetune.fit(backbone, example(), SIZE, settings, state=state)
    return [*tuned.get_weights(), *layer.get_weights()], result


CASES = {
    "linear": dataclasses.replace(LINEAR, learning_rate=30.0, learning_rates=(0.1, 0.7)),
    "tuned": FINETUNE,
    "frozen": dataclasses.replace(FINETUNE, batch_norm="frozen"),
    "head": dataclasses.replace(FINETUNE, layers="head", evaluate_every=3),
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_interrupted_training_ends_like_an_uninterrupted_one(settings, tmp_path):
    expected, expected_result = train(settings)
    path = str(tmp_path / "state")
    for saves in (1, 2):  # After the first and after the third epoch.
        with interrupted_after(saves):
            train(settings, TrainingState(path))
    state = TrainingState(path)
    assert state.facts["epoch"] == 3
    values, result = train(settings, state)
    for value, array in zip(values, expected, strict=True):
        np.testing.assert_array_equal(value, array)
    assert result == expected_result
    assert result["num_unreadable_train"] == 1


def test_random_numbers_of_a_backbone_go_on(tmp_path):
    expected, _ = train(FINETUNE, backbone=with_dropout())
    path = str(tmp_path / "state")
    with interrupted_after(2):
        train(FINETUNE, TrainingState(path), with_dropout())
    values, _ = train(FINETUNE, TrainingState(path), with_dropout())
    for value, array in zip(values, expected, strict=True):
        np.testing.assert_array_equal(value, array)


@pytest.mark.distributed
@pytest.mark.nightly
@pytest.mark.parametrize("case", ["linear", "tuned"])
def test_training_goes_on_with_other_devices(case, tmp_path, two_replicas):
    expected, _ = train(CASES[case])
    path = str(tmp_path / "state")
    with two_replicas.scope(), interrupted_after(2):
        train(CASES[case], TrainingState(path))
    values, _ = train(CASES[case], TrainingState(path))
    for value, array in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, array, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "uint32"])
def test_values_of_each_type_are_saved_exactly(dtype, tmp_path):
    path = str(tmp_path / "state")
    numbers = tf.cast([0, 1 / 3, 40000, 2**31], dtype)
    saved, restored = (
        keras.Variable(tf.zeros_like(numbers), dtype=dtype, trainable=False) for _ in range(2)
    )
    saved.assign(numbers)
    TrainingState(path).save_if_due([saved], {"epoch": 1})
    state = TrainingState(path)
    state.restore([restored], "epoch 1 of 2")
    assert state.facts == {"epoch": 1}
    np.testing.assert_array_equal(restored.numpy(), numbers.numpy())


def test_seconds_before_the_interruption_count(tmp_path, monkeypatch):
    seconds = [50.0]
    monkeypatch.setattr(training_state.time, "monotonic", lambda: seconds[0])
    path = str(tmp_path / "state")
    state = TrainingState(path)
    seconds[0] += 100
    state.save_if_due([], {"epoch": 1})
    seconds[0] += 1000  # Lost.
    state = TrainingState(path)
    seconds[0] += 10
    assert state.elapsed() == 110
    state.begin_another()
    seconds[0] += 5
    assert state.elapsed() == 5


def test_state_is_saved_only_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(training_state, "SAVE_SECONDS", 300)
    seconds = [50.0]
    monkeypatch.setattr(training_state.time, "monotonic", lambda: seconds[0])
    path = tmp_path / "state"
    state = TrainingState(str(path))
    saved = []
    for epoch in range(1, 9):
        seconds[0] += 120
        state.save_if_due([], {"epoch": epoch})
        saved.append(TrainingState(str(path)).facts.get("epoch"))
    assert saved == [None, None, 3, 3, 3, 6, 6, 6]


def test_state_of_another_training_is_refused(tmp_path):
    path = str(tmp_path / "state")
    TrainingState(path, {"seed": 1, "crop_scale": (0.5, 1)}).save_if_due([], {"epoch": 1})
    assert TrainingState(path, {"seed": 1, "crop_scale": (0.5, 1)}).facts == {"epoch": 1}
    message = "state is the state of a training with seed=1, not 2: start the same training again"
    with pytest.raises(UserError, match=message):
        TrainingState(path, {"seed": 2, "crop_scale": (0.5, 1)})


def archive(*arrays):
    """Return the bytes of an archive of NumPy."""
    file = io.BytesIO()
    np.savez_compressed(file, *arrays)
    return file.getvalue()


def array_file():
    file = io.BytesIO()
    np.save(file, np.arange(100))
    return file.getvalue()


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"PK\x03\x04 and so on",
        b"a photo",
        b"\x93NUMPY",
        array_file(),
        archive(),
        archive(np.arange(100)),
        archive(np.arange(100)).replace(b"\x00\x01", b"\x00\x02"),
        archive('{"identity": 1, "facts": {}, "seconds": 1}'),
        archive('{"identity": {}, "facts": 1, "seconds": 1}'),
        archive('{"identity": {}, "facts": {}}'),
        archive(np.array({"facts": {}}, object)),  # A pickled object, which may run code.
    ],
    ids=range(12),
)
def test_file_that_is_not_a_state_is_refused(tmp_path, contents):
    path = tmp_path / "state"
    path.write_bytes(contents)
    with pytest.raises(UserError, match="state is not the state of a training .*use another file"):
        TrainingState(str(path))
    assert path.read_bytes() == contents


@pytest.mark.parametrize("path", ["unknown://bucket/state", "folder"])
def test_path_that_cannot_be_read_is_one_line(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="where the state of the training belongs, cannot be read"):
        TrainingState(path)


def test_everything_that_the_training_depends_on_is_compared(tmp_path):
    source, backbone = example(), build()

    def identity(source=source, backbone=backbone, settings=FINETUNE):
        return identify_training(backbone, source, SIZE, settings)

    path = str(tmp_path / "state")
    TrainingState(path, identity()).save_if_due([], {"epoch": 1})
    assert TrainingState(path, identity()).facts
    other = build()
    other.get_layer("c0").kernel.assign_add(tf.ones_like(other.get_layer("c0").kernel))
    half = dataclasses.replace(source, train=source.train[::2])
    for message, changes in {
        "other training or test images": {"source": half},
        "other weights of the backbone": {"backbone": other},
        "evaluate_every=1, not 2": {"settings": dataclasses.replace(FINETUNE, evaluate_every=2)},
        "epochs=4, not 5": {"settings": dataclasses.replace(FINETUNE, epochs=5)},
    }.items():
        with pytest.raises(UserError, match=f"is the state of a training with {message}"):
            TrainingState(path, identity(**changes))
    encoder = moco_tf.encoders.build("resnet8", stem="small")
    darker = moco_tf.encoders.build(
        "resnet8", stem="small", pixels=dataclasses.replace(default(3), mean=(0, 0, 0))
    )
    darker.set_weights(encoder.get_weights())
    TrainingState(f"{path} 2", identity(backbone=encoder)).save_if_due([], {"epoch": 1})
    with pytest.raises(UserError, match="with other layers of the backbone"):
        TrainingState(f"{path} 2", identity(backbone=darker))
    keras.config.set_floatx("float64")
    try:
        with pytest.raises(UserError, match='floatx="float32", not "float64"'):
            TrainingState(path, identity())
    finally:
        keras.config.set_floatx("float32")


def test_state_that_cannot_be_saved_does_not_end_the_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    state = TrainingState(str(tmp_path / "file" / "state"))
    _, result = train(LINEAR, state)
    assert len(result["curve"]) == LINEAR.epochs
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: the state of the training cannot be saved to")
    (tmp_path / "file").unlink()
    state.save_if_due([], {"epoch": 9})  # When the disk is there again.
    assert TrainingState(state.path).facts["epoch"] == 9


def test_state_that_cannot_be_removed_does_not_cost_the_result(tmp_path, monkeypatch, capsys):
    def fail(path):
        raise PermissionError(13, "Permission denied", path)

    state = TrainingState(str(tmp_path / "state"))
    state.save_if_due([], {"epoch": 1})
    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "remove", fail)
        state.remove()
    assert "state cannot be removed (Permission denied): delete it" in capsys.readouterr().out


def test_what_a_kill_leaves_is_removed_at_the_end(tmp_path):
    others = ["other.0a1b2c3d.tmp", "state.json", "state.mine.tmp"]
    for name in ("state", "state.0a1b2c3d.tmp", *others):
        (tmp_path / name).write_text("")
    state = TrainingState()
    state.path = str(tmp_path / "state")
    state.remove()
    state.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == others


def test_folder_in_the_place_of_a_state_is_kept(tmp_path, capsys):
    state = TrainingState(str(tmp_path / "photos"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "photo.jpg").write_text("")
    state.remove()
    assert (tmp_path / "photos" / "photo.jpg").exists()
    assert "photos cannot be removed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [
        dataclasses.replace(LINEAR, learning_rate=3e38, weight_decay=1.0),
        dataclasses.replace(FINETUNE, head_learning_rate=1e38),
    ],
    ids=["linear", "finetune"],
)
def test_training_that_diverges_leaves_no_state(tmp_path, settings):
    path = tmp_path / "state"
    state = TrainingState(str(path))
    state.save_if_due([], {})
    with pytest.raises(UserError, match="diverged in epoch"):
        train(settings, state)
    assert not path.exists()


def test_each_training_has_its_own_file(tmp_path):
    paths = {
        state_in(str(tmp_path), protocol, {"seed": seed}).path
        for protocol in ("linear", "finetune")
        for seed in (0, 1)
    }
    assert len(paths) == 4


def test_state_of_another_training_in_the_directory_is_named(tmp_path, capsys):
    state = state_in(str(tmp_path), "linear", {"seed": 0})
    state.save_if_due([], {"epoch": 1})
    state_in(str(tmp_path), "linear", {"seed": 0})
    state_in(str(tmp_path), "finetune", {"seed": 1})
    assert capsys.readouterr().out == ""
    state_in(str(tmp_path), "linear", {"seed": 1})
    assert f"note: {state.path} is of an unfinished training" in capsys.readouterr().out


def test_curve_of_a_comparison_goes_on(tmp_path, monkeypatch):
    def compare(directory):
        settings = dataclasses.replace(FINETUNE, epochs=3)
        result = comparison.compare({"ours": build()}, example(), SIZE, directory, {}, settings)
        curves = json.loads(json.dumps(result["curves"]))
        return [{**curve, "seconds": None} for curve in curves]

    expected = compare(str(tmp_path / "at once"))
    with interrupted_after(3):  # In the second of two curves.
        compare(str(tmp_path / "twice"))
    directory = tmp_path / "twice" / "eval"
    assert [path.suffix for path in sorted(directory.iterdir())] == [".state", ".json"]
    starts = []
    fit = finetune.fit

    def note(backbone, source, size, settings, progress, state):
        starts.append((settings.layers, state.facts["epoch"]))
        return fit(backbone, source, size, settings, progress, state)

    monkeypatch.setattr(finetune, "fit", note)
    assert compare(str(tmp_path / "twice")) == expected
    assert starts == [("all", 1)]
    assert [path.name for path in directory.iterdir()] == ["finetune_comparison.json"]


def test_finetune_goes_on_from_its_state_file(tmp_path, monkeypatch):
    path = tmp_path / "state"
    source = moco_tf.load_source("photos")
    settings = dict(label_fraction=0.02, epochs=3, batch_size=64, evaluate_every=3)

    def call(**changes):
        backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        return moco_tf.finetune(backbone, source, 16, **{**settings, **changes})

    expected, expected_result = call()
    with interrupted_after(2):
        call(state_file=path)
    with pytest.raises(UserError, match="is the state of a training with seed=0, not 1"):
        call(state_file=path, seed=1)
    steps = []
    evaluate = protocols.evaluate_finetune

    def note(*arguments, state):
        steps.append(state.facts["epoch"])
        return evaluate(*arguments, state=state)

    monkeypatch.setattr(protocols, "evaluate_finetune", note)
    classifier, result = call(state_file=path)
    assert steps == [2]
    assert not path.exists()
    for value, array in zip(classifier.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(value, array)
    assert result.pop("seconds") > 0
    expected_result.pop("seconds")
    assert result == expected_result
