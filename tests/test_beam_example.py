"""examples/embed_beam.py on Beam's direct runner, against the features of the backbone."""

import runpy

import numpy as np
import pandas as pd
import pytest

import moco_tf
from moco_tf.backbones.loading import load_backbone
from moco_tf.export.saved_model import export_saved_model
from tests.command import ROOT
from tests.images import write_folder

pytest.importorskip("apache_beam", reason="apache-beam is not installed")


@pytest.mark.nightly
def test_pipeline_computes_the_features_of_the_backbone(trained_run, tmp_path):
    backbone = load_backbone(str(trained_run))
    export_saved_model(backbone, str(tmp_path / "backbone"), image_size=32)
    write_folder(tmp_path / "images", ["a"], images_per_class=70)
    (tmp_path / "images" / "a" / "003.jpg").write_bytes(b"no image")
    program = runpy.run_path(str(ROOT / "examples" / "embed_beam.py"))
    program["main"](
        [
            f"--saved_model={tmp_path}/backbone",
            f"--images={tmp_path}/images/a/*",
            f"--out={tmp_path}/out/part",
        ]
    )
    table = pd.read_parquet(tmp_path / "out").sort_values("image")
    source = moco_tf.load_source(f"folder:{tmp_path}/images/a")
    assert table["image"].tolist() == [source.describe(index) for index in range(70)]
    damaged = table[table["error"].notna()]
    assert damaged["image"].tolist() == [source.describe(3)]
    assert "execution error" not in damaged["error"].item()
    expected = moco_tf.extract_features(backbone, source, "all", 32)
    features = np.stack(table[table["error"].isna()]["features"])
    np.testing.assert_allclose(features, expected.features, rtol=1e-3, atol=1e-4)
