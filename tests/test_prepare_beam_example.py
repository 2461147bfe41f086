"""examples/prepare_beam.py on Beam's direct runner, against moco_tf.prepare."""

import runpy

import numpy as np
import pytest
import tensorflow as tf

import moco_tf
from tests.command import ROOT
from tests.images import write_folder

pytest.importorskip("apache_beam", reason="apache-beam is not installed")


def records(pattern):
    """Return the features of the records by the name of the image."""
    found = {}
    for path in tf.io.gfile.glob(pattern):
        for payload in tf.data.TFRecordDataset(path).as_numpy_iterator():
            features = tf.train.Example.FromString(payload).features.feature
            found[features["image/filename"].bytes_list.value[0]] = payload
    return found


@pytest.mark.nightly
def test_pipeline_writes_the_records_of_the_library(tmp_path):
    folder = write_folder(tmp_path / "images", images_per_class=6)
    (folder / "left" / "003.jpg").write_text("no image")
    program = runpy.run_path(str(ROOT / "examples" / "prepare_beam.py"))
    program["main"](
        [
            f"--images={folder}/*/*",
            f"--out={tmp_path}/beam/train",
            "--labels",
            "--max_side=30",
        ]
    )
    source = moco_tf.load_source(f"folder:{folder}")
    moco_tf.prepare(source, tmp_path / "library", max_side=30)
    expected = records(f"{tmp_path}/library/*.tfrecord")
    assert len(expected) == 11
    assert records(f"{tmp_path}/beam/*.tfrecord") == expected
    lines = (tmp_path / "library" / "dropped.tsv").read_text()
    [listed] = (tmp_path / "beam").glob("train-dropped*.tsv")
    assert listed.read_text() == lines
    prepared = moco_tf.load_source(f"tfrecord:{tmp_path}/beam/*.tfrecord")
    assert prepared.class_names == ["left", "right"]
    assert np.bincount(prepared.labels).tolist() == [5, 6]
