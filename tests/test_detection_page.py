"""docs/detection.md as it stands there, run from its text in small numbers."""

import json
import os
import re

import pytest

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")

from tests import in_process
from tests.command import ROOT
from tests.scenes import needs_fashion_mnist

PAGE = (ROOT / "docs" / "detection.md").read_text()
SMALL = {"TRAIN": "32", "VAL": "3", "EPOCHS": "1", "STEPS": "2", "TRIALS": "1"}


@needs_fashion_mnist
def test_the_page_runs_from_its_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.symlink(ROOT / "configs", "configs")
    commands = "\n".join(re.findall(r"^```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
    [line] = re.findall(r"^([A-Z]+=\d+(?: [A-Z]+=\d+)*)$", commands, re.MULTILINE)
    assert {variable.partition("=")[0] for variable in line.split()} == set(SMALL)
    outputs = []
    for command in re.findall(r"^python (.*)$", commands, re.MULTILINE):
        script, *arguments = re.sub(r"\$([A-Z]+)", lambda name: SMALL[name[1]], command).split()
        outputs.append(in_process.run(script, *arguments))
    assert len(outputs) == 3 and "| pre-trained, scenes |" in outputs[-1]
    [code] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    capsys.readouterr()
    exec(compile(code, "detection.md", "exec"), {})
    with open("runs/scenes/eval/detection_comparison.json") as file:
        rows = json.load(file)["rows"]
    expected = [
        f"{row['initialisation']}: AP {100 * row['ap']:.1f} %, {SMALL['VAL']} images"
        for row in rows
    ]
    assert capsys.readouterr().out.splitlines() == expected
    assert len(expected) == 2
