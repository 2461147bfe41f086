"""The commands and the code of docs/detection.md, with small numbers."""

import json
import re

import pytest

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")

from tests import pages
from tests.scenes import needs_fashion_mnist

PAGE = "detection.md"
SMALL = {"TRAIN": "32", "VAL": "3", "EPOCHS": "1", "STEPS": "2", "TRIALS": "1"}


@needs_fashion_mnist
@pytest.mark.nightly
def test_page_runs_from_its_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "\n".join(pages.code_blocks(PAGE, "bash"))
    [variables] = re.findall(r"^([A-Z]+=\d+(?: [A-Z]+=\d+)*)$", text, re.MULTILINE)
    assert {variable.partition("=")[0] for variable in variables.split()} == set(SMALL)
    outputs = [
        pages.run_command(re.sub(r"\$([A-Z]+)", lambda name: SMALL[name[1]], command))
        for command in pages.commands(PAGE)
    ]
    assert len(outputs) == 3
    assert "| pre-trained, scenes |" in outputs[-1]

    _, output = pages.run_code(PAGE)
    with open("runs/scenes/eval/detection_comparison.json") as file:
        rows = json.load(file)["rows"]
    assert len(rows) == 2
    assert output.splitlines() == [
        f"{row['initialisation']}: AP {100 * row['ap']:.1f} %, {SMALL['VAL']} images"
        for row in rows
    ]
