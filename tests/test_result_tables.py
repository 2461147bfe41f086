"""The pages show the committed results, and a changed number is noticed."""

import importlib
import re

import pytest

from tests.command import ROOT


@pytest.fixture(scope="module")
def result_tables():
    """Import docs/result_tables.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield importlib.import_module("result_tables")


def test_pages_show_the_committed_results(result_tables):
    assert result_tables.main(["--check"]) == 0


def test_readme_has_the_headline_tables():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"<!-- begin: (\w+) -->", text) == [
        "fashion_mnist",
        "fashion_mnist_finetuning",
        "demo",
        "few_labels",
        "speed",
    ]


def test_config_states_the_result_of_the_demo(result_tables):
    # | **MoCo, pre-trained for 4,032 steps** | **71.0 ± 1.2** | **80.7 ± 0.7** |
    *_, pretrained = result_tables.demo().splitlines()
    knn, linear = re.findall(r"\*\*(\d+\.\d) ± ", pretrained)
    docstring = (ROOT / "configs" / "photos.py").read_text(encoding="utf-8")
    assert f"{knn} % kNN and {linear} % linear-probe" in docstring


def test_config_of_fashion_mnist_states_its_results(result_tables):
    tables = result_tables.fashion_mnist_tables
    [row] = [line for line in tables.frozen().splitlines() if "resnet8, MoCo" in line]
    knn, linear, *_ = re.findall(r"\*\*(\d+\.\d)", row)
    [row] = [line for line in tables.finetuning().splitlines() if "resnet8, MoCo" in line]
    tuned = re.findall(r"\*\*(\d+\.\d)", row)
    docstring = (ROOT / "configs" / "fashion_mnist.py").read_text(encoding="utf-8")
    assert f"{knn} % kNN and {linear} % linear-probe" in docstring
    assert "{} %, {} % and {} % after fine-tuning".format(*tuned) in " ".join(docstring.split())


def test_changed_number_is_reported_and_mended(result_tables, tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    number = re.search(r"\*\*(\d+\.\d) ± ", text)[1]
    page = tmp_path / "README.md"
    page.write_text(text.replace(f"**{number} ±", "**99.9 ±"), encoding="utf-8")
    monkeypatch.setattr(result_tables, "PAGES", (page,))
    monkeypatch.setattr(result_tables, "ROOT", tmp_path)
    for folder in ("studies", "benchmarks"):
        (tmp_path / folder).symlink_to(ROOT / folder)

    assert result_tables.main(["--check"]) == 1
    assert "README.md is out of date: run make results" in capsys.readouterr().out
    assert "99.9 ±" in page.read_text(encoding="utf-8")
    assert result_tables.main([]) == 0
    assert page.read_text(encoding="utf-8") == text
    assert result_tables.main(["--check"]) == 0


def test_unknown_argument_is_an_error(result_tables):
    assert result_tables.main(["--chek"]) == 2
