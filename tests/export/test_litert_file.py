"""LiteRT files, run by the LiteRT interpreter in a process without TensorFlow and this project."""

import dataclasses
import functools
import re
import sys

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from moco_tf import encoders, load_backbone
from moco_tf.data import sources
from moco_tf.data.sources.source import sample
from moco_tf.errors import UserError
from moco_tf.evaluation.agreement import Agreement
from moco_tf.evaluation.extraction import extract
from moco_tf.export import litert_file
from moco_tf.export.litert_file import export_litert
from tests import in_process
from tests.export.backbones import assert_close, both_kinds, consume, features_of, photographs

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

CONSUMER = """
sys.modules["tensorflow"] = sys.modules["keras"] = None
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("backbone.tflite")
interpreter.allocate_tensors()
[images], [features] = interpreter.get_input_details(), interpreter.get_output_details()
assert (images["dtype"], images["shape"].tolist()) == (np.float32, [1, 32, 32, 3]), images
assert (features["dtype"], features["shape"].tolist()) == (np.float32, [1, 64]), features
rows = []
for image in np.load("images.npy"):
    interpreter.set_tensor(images["index"], image[np.newaxis])
    interpreter.invoke()
    rows.append(interpreter.get_tensor(features["index"])[0])
np.save("features.npy", rows)
"""


@pytest.fixture(scope="module")
def export(trained_run, tmp_path_factory):
    """Return a function that exports the run in a precision, once.

    It returns what the command printed, and the path of the file.
    """

    @functools.cache
    def exported(precision):
        out = tmp_path_factory.mktemp(precision) / "backbone.tflite"
        flags = [f"--out={out}", f"--precision={precision}", "--data=photos"]
        if precision == "int8":
            flags.append("--calibration_images=100")
        printed = in_process.run("export/litert_file.py", *flags, workdir=trained_run)
        assert " of 200 images, and of the same class for " in printed
        assert printed.endswith(f" % with the file; wrote {out}\n")
        return printed, out

    return exported


@pytest.mark.slow
def test_interpreter_computes_the_features(export, trained_run):
    printed, out = export("float32")
    assert "features 1.00000 on average and 1.00000 at least" in printed
    images = photographs(3, 32, 32)
    np.save(out.parent / "images.npy", images)
    consume(out.parent, CONSUMER)
    backbone = load_backbone(str(trained_run))
    assert_close(np.load(out.parent / "features.npy"), backbone(images, training=False))


@pytest.mark.slow
def test_nearest_neighbors_have_the_class_as_often_as_with_scikit_learn(export, trained_run):
    printed, _ = export("float32")
    source, backbone = sources.load("photos"), load_backbone(str(trained_run))
    part = extract(backbone, source, sample(source.test, 200), 32)
    nearest = NearestNeighbors(n_neighbors=1, metric="cosine").fit(part.features)
    rows = nearest.kneighbors()[1][:, 0]  # Without the image itself.
    expected = 100 * (part.labels[rows] == part.labels).mean()
    shares = re.search(r"class for ([\d.]+) % with the backbone and ([\d.]+) % with", printed)
    assert [float(share) for share in shares.groups()] == pytest.approx([expected] * 2, abs=0.51)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("precision", "smallest", "largest", "cosine"),
    [("float16", 0.45, 0.6, 0.9999), ("int8", 0.2, 0.4, 0.98)],
)
def test_smaller_precisions_are_smaller_files_with_similar_features(
    export, precision, smallest, largest, cosine
):
    printed, out = export(precision)
    size_in_float32 = export("float32")[1].stat().st_size
    assert smallest < out.stat().st_size / size_in_float32 < largest
    mean = float(re.search(r"features ([\d.]+) on average", printed)[1])
    assert mean > cosine
    assert printed.split(";")[0] in out.with_name("backbone.tflite.md").read_text()


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    backbone = encoders.random_network("resnet8", stem="small")
    message = r"ai-edge-litert is not installed: .* pip install '\.\[litert\]'"
    with pytest.raises(UserError, match=message):
        export_litert(backbone, str(tmp_path / "b.tflite"), sources.load("photos"), 32)
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_fit_are_refused(tmp_path):
    backbone = encoders.random_network("resnet8", stem="small", channels=5)
    with pytest.raises(UserError, match="'photos' have 3 channels, but the backbone takes 5"):
        export_litert(backbone, str(tmp_path / "b.tflite"), sources.load("photos"), 32)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--calibration_images=9"], "--calibration_images has no effect with --precision=float32"),
        (["--data=folder:missing"], "missing"),
    ],
)
def test_mistakes_are_one_line(trained_run, tmp_path, flags, message):
    out = tmp_path / "backbone.tflite"
    line = in_process.run_mistake(
        "export/litert_file.py", f"--out={out}", *flags, workdir=trained_run
    )
    assert message in line
    assert not out.exists()


def test_braces_in_the_name_of_a_source_are_text():
    source = dataclasses.replace(sources.load("photos"), name="folder:/images/{features}{0}")
    agreement = Agreement(1.0, 1.0, 1.0, 10, None)
    outputs = litert_file._format("float32", 32, source, agreement).outputs
    text = outputs.format(features=512)
    assert text.startswith("features, float32 `[1, 512]`. On `folder:/images/{features}{0}`: ")


def test_saved_model_needs_images(tmp_path):
    flags = [f"--saved_model={tmp_path}", f"--out={tmp_path / 'b.tflite'}", "--encoder=resnet8"]
    line = in_process.run_mistake("export/litert_file.py", *flags)
    assert line == "error: --saved_model requires --data and --image_size as well"


@pytest.mark.slow
def test_backbone_with_normalization_is_converted_without_a_second_one(tmp_path):
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    network, normalized = both_kinds()
    out, [image] = tmp_path / "backbone.tflite", photographs(1, 32, 32)
    agreement = export_litert(normalized, out, sources.load("photos"), 32)
    assert agreement.least_cosine > 0.9999
    interpreter = interpreters.Interpreter(str(out))
    interpreter.allocate_tensors()
    [taken], [returned] = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(taken["index"], image[np.newaxis])
    interpreter.invoke()
    expected = features_of(network, image[np.newaxis])
    assert_close(interpreter.get_tensor(returned["index"]), expected)
