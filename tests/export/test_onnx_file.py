"""The ONNX file, run by ONNX Runtime in a process without TensorFlow and this project."""

import sys

import numpy as np
import pytest

from moco_tf import encoders, load_backbone
from moco_tf.errors import UserError
from moco_tf.export.onnx_file import export_onnx
from tests import in_process
from tests.export.backbones import (
    assert_close,
    both_kinds,
    consume,
    features_of,
    photographs,
)

SHAPES = ((1, 32, 32), (3, 57, 91))

CONSUMER = """
sys.modules["tensorflow"] = sys.modules["keras"] = None
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("backbone.onnx", providers=["CPUExecutionProvider"])
[images], [features] = session.get_inputs(), session.get_outputs()
assert (images.name, images.shape) == ("images", ["batch", "height", "width", 3]), images
assert (features.name, features.shape) == ("features", ["batch", 64]), features
for name in ("1", "3"):
    [values] = session.run(["features"], {"images": np.load(f"{name}.npy")})
    np.save(f"{name}_features.npy", values)
"""


def test_onnx_runtime_computes_the_features_at_any_size(trained_run, tmp_path):
    for package in ("onnx", "tf2onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    out = tmp_path / "backbone.onnx"
    printed = in_process.run("export/onnx_file.py", f"--out={out}", workdir=trained_run)
    assert printed == f"wrote {out}\n"
    assert "# resnet8" in (tmp_path / "backbone.onnx.md").read_text()
    for shape in SHAPES:
        np.save(tmp_path / f"{shape[0]}.npy", photographs(*shape))
    consume(tmp_path, CONSUMER)
    backbone = load_backbone(str(trained_run))
    for shape in SHAPES:
        features = np.load(tmp_path / f"{shape[0]}_features.npy")
        assert_close(features, backbone(photographs(*shape), training=False))


@pytest.mark.parametrize("package", ["onnx", "tf2onnx"])
def test_missing_package_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # Python's own mark of a missing module.
    backbone = encoders.random_network("resnet8", stem="small")
    with pytest.raises(
        UserError, match=r"tf2onnx and onnx are not installed: .* pip install '\.\[onnx\]'"
    ):
        export_onnx(backbone, str(tmp_path / "backbone.onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["with normalization", "without"])
def test_both_kinds_of_backbone_become_the_same_file(tmp_path, kind):
    for package in ("onnx", "tf2onnx"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    onnxruntime = pytest.importorskip("onnxruntime")
    network, normalized = both_kinds()
    out = tmp_path / "backbone.onnx"
    export_onnx(normalized if kind == "with normalization" else network, out)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    images = photographs(3, 40, 32)
    [features] = session.run(["features"], {"images": images})
    assert_close(features, features_of(network, images))
