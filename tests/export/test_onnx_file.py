"""The ONNX file, run by ONNX Runtime in a process that has neither TensorFlow nor this project."""

import sys

import numpy as np
import pytest

from moco_tf import load_backbone
from tests import in_process
from tests.command import run
from tests.export.backbones import assert_close, consume, make_run, photographs

SCRIPT = "export/onnx.py"
SHAPES = ((1, 32, 32), (3, 57, 91))

CONSUMER = """
sys.modules["tensorflow"] = sys.modules["keras"] = None
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("backbone.onnx", providers=["CPUExecutionProvider"])
[images], [features] = session.get_inputs(), session.get_outputs()
assert (images.name, images.shape) == ("images", ["batch", "height", "width", 3]), images
assert (features.name, features.shape) == ("features", ["batch", 64]), features
for name in ("1", "3"):
    [found] = session.run(["features"], {"images": np.load(f"{name}.npy")})
    np.save(f"{name}_features.npy", found)
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", "resnet8", "small")


def test_features_are_the_same_at_any_size_and_batch(workdir, tmp_path):
    for package in ("onnx", "tf2onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    out = tmp_path / "backbone.onnx"
    assert run(SCRIPT, f"--workdir={workdir}", f"--out={out}") == f"wrote {out}\n"
    assert "# resnet8" in (tmp_path / "backbone.onnx.md").read_text()
    for shape in SHAPES:
        np.save(tmp_path / f"{shape[0]}.npy", photographs(*shape))
    consume(tmp_path, CONSUMER)
    backbone = load_backbone(str(workdir))
    for shape in SHAPES:
        expected = backbone(photographs(*shape), training=False)
        assert_close(np.load(tmp_path / f"{shape[0]}_features.npy"), expected)


@pytest.mark.parametrize("package", ["onnx", "tf2onnx"])
def test_without_its_packages_it_is_one_line(workdir, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # as Python itself marks what is not there
    line = in_process.run_mistake(SCRIPT, f"--workdir={workdir}", f"--out={tmp_path / 'out'}")
    assert "tf2onnx and onnx are not installed: pip install '.[onnx]'" in line
    assert not list(tmp_path.iterdir())
