"""The SavedModel as its users meet it: in a process that has never heard of this project."""

import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from export.saved_model import export_saved_model
from moco_tf import encoders
from moco_tf.errors import UserError
from tests.command import ROOT
from tests.images import crops

# What a process finds that runs the README's lines on the export in its folder.
CONSUMER = """
import json, sys
import keras, numpy as np

images, labels = np.load("images.npy"), np.load("labels.npy")

def values(layer):
    return [variable.numpy() for variable in layer._reloaded_obj.variables]

def moved(layer):
    names = [variable.name for variable in layer._reloaded_obj.variables]
    changed = [bool((a != b).any()) for a, b in zip(before, values(layer), strict=True)]
    return dict(zip(names, changed, strict=True))

frozen = keras.layers.TFSMLayer("backbone", call_endpoint="serve", trainable=False)
before = values(frozen)
results = {"features": np.array(frozen(images[:8])).tolist()}
model = keras.Sequential([keras.Input((None, None, 3)), frozen, keras.layers.Dense(2)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(images, labels, verbose=0)
results["frozen"] = moved(frozen)

exec(open("readme.py").read())
results["tuned"] = moved(backbone)
results["losses"] = model.history.history["loss"]
results["imported"] = [name for name in sys.modules if name.split(".")[0] == "moco_tf"]
json.dump(results, open("out.json", "w"))
"""


def readme_lines():
    [lines] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return lines


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
    export_saved_model(backbone, str(folder / "backbone"))
    (folder / "readme.py").write_text(readme_lines())
    images = np.stack(crops(40, 40)).astype(np.float32)
    images[20:] = images[20:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)  # the second class
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.repeat([0, 1], 20))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", CONSUMER],
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


def test_the_readmes_lines_move_weights_and_statistics(consumed):
    results = consumed[1]
    moved = results["tuned"]
    statistics = [name for name in moved if "moving" in name]
    kernels = [name for name in moved if "kernel" in name]
    assert len(statistics) == 18 and len(kernels) == 9
    assert all(moved[name] for name in statistics + kernels)
    assert results["losses"][-1] < results["losses"][0]


def test_frozen_nothing_moves(consumed):
    assert not any(consumed[1]["frozen"].values())


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
