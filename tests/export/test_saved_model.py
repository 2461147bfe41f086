"""The SavedModel as its users meet it: in a process that has never heard of this project."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from export.saved_model import export_saved_model
from moco_tf import encoders
from moco_tf.errors import UserError
from tests.images import crops

# The README's ten lines, and what to look at before and after them.
CONSUMER = """
import json, sys
import keras, numpy as np
path, images, labels, out = sys.argv[1:]
images, labels = np.load(images), np.load(labels)
results = {}
for trainable, endpoints in [
    (True, {"call_endpoint": "serve", "call_training_endpoint": "train"}),
    (False, {"call_endpoint": "serve"}),
]:
    backbone = keras.layers.TFSMLayer(path, trainable=trainable, **endpoints)
    results["features"] = np.array(backbone(images[:8])).tolist()
    before = [w.numpy() for w in backbone._reloaded_obj.variables]
    model = keras.Sequential([keras.Input((None, None, 3)), backbone, keras.layers.Dense(2)])
    model.compile(
        keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = model.fit(images, labels, batch_size=10, epochs=4, verbose=0).history["loss"]
    after = [w.numpy() for w in backbone._reloaded_obj.variables]
    names = [w.path if hasattr(w, "path") else w.name for w in backbone._reloaded_obj.variables]
    moved = [bool((a != b).any()) for a, b in zip(before, after)]
    results[str(trainable)] = {"losses": losses, "moved": dict(zip(names, moved))}
results["imported"] = [m for m in sys.modules if m.split(".")[0] == "moco_tf"]
json.dump(results, open(out, "w"))
"""


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    backbone = encoders.with_normalization(encoders.build("resnet8", stem="small"))
    # Statistics as after training, so that inference and training mode differ.
    for variable in backbone.variables:
        if "moving" in variable.name:
            variable.assign(
                variable.numpy() + np.random.default_rng(0).uniform(0, 1, variable.shape)
            )
    return backbone


@pytest.fixture(scope="module")
def consumed(backbone, tmp_path_factory):
    """What a process finds that loads the export in an empty folder, and its images."""
    folder = tmp_path_factory.mktemp("consumer")
    export_saved_model(backbone, str(folder / "saved_model"))
    images = np.stack(crops(40, 40)).astype(np.float32)
    images[20:] = images[20:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)  # the second class
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.repeat([0, 1], 20))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", CONSUMER, "saved_model", "images.npy", "labels.npy", "out.json"],
        cwd=folder,
        env=environment,
        check=True,
    )
    return images, json.loads((folder / "out.json").read_text())


def test_features_are_the_same_without_this_project(backbone, consumed):
    images, results = consumed
    assert results["imported"] == []
    expected = backbone(images[:8], training=False).numpy()
    np.testing.assert_allclose(results["features"], expected, rtol=1e-5, atol=1e-5)


def test_fine_tuning_moves_weights_and_statistics(consumed):
    result = consumed[1]["True"]
    moved = result["moved"]
    statistics = [name for name in moved if "moving" in name]
    kernels = [name for name in moved if "kernel" in name]
    assert len(statistics) == 18 and len(kernels) == 9
    assert all(moved[name] for name in statistics + kernels)
    assert result["losses"][-1] < result["losses"][0]


def test_frozen_nothing_moves(consumed):
    assert not any(consumed[1]["False"]["moved"].values())


def test_any_size_goes_in(backbone, tmp_path):
    export_saved_model(backbone, str(tmp_path / "saved_model"))
    layer = keras.layers.TFSMLayer(str(tmp_path / "saved_model"), call_endpoint="serve")
    for shape in [(1, 32, 32, 3), (2, 57, 91, 3)]:
        images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
        np.testing.assert_allclose(layer(images), backbone(images), rtol=1e-5, atol=1e-5)


def test_an_existing_path_is_left_alone(backbone, tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        export_saved_model(backbone, str(tmp_path))
    assert (tmp_path / "kept").read_text() == "mine"
