"""The code of docs/keras.md, which is run in its order."""

import re

import numpy as np

from tests.command import ROOT


def test_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "keras.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    images = np.random.default_rng(0).integers(0, 256, (192, 40, 48, 3)).astype(np.uint8)
    names = {"images": images, "labels": np.arange(192) % 3}
    for block in blocks:
        exec(compile(block, "docs/keras.md", "exec"), names)
    assert names["history"].history.keys() >= {"loss", "contrastive_top1", "learning_rate"}
    assert names["features"].shape == (192, 64)
    assert names["my_backbone"].output_shape == (None, 32)
    assert int(names["my_model"].step.numpy()) == 6
    assert (tmp_path / "backbone.keras").exists()
    assert (tmp_path / "last.weights.h5").exists()
