"""The modules' pages are built without a warning, and hold everything public."""

import ast

import pytest
from sphinx.util.inventory import InventoryFile

from tests.command import ROOT, run


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Built as `make docs` does."""
    out = tmp_path_factory.mktemp("docs")
    options = ("--quiet", "--fail-on-warning", "--keep-going", "--nitpicky")
    assert run("-m", "sphinx", *options, "docs", out) == ""
    return out


def public():
    """Every public module, function and class with a docstring, as the files have them."""
    for path in sorted([*ROOT.glob("moco_tf/**/*.py"), *ROOT.glob("export/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield module
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_") and ast.get_docstring(node):
                yield f"{module}.{node.name}"


def test_everything_public_has_its_place(pages):
    with open(pages / "objects.inv", "rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    found = {name for kind in inventory for name in inventory[kind] if kind.startswith("py:")}
    wanted = set(public())
    assert "moco_tf.model.MoCo" in wanted and wanted <= found, wanted - found


def test_docstrings_are_laid_out(pages):
    """Commands as they are typed, and what is returned value by value."""
    page = (pages / "api" / "export" / "export.saved_model.html").read_text(encoding="utf-8")
    assert "python export/saved_model.py --workdir=runs/photos --out=" in page
    page = (pages / "api" / "moco_tf.contrast.html").read_text(encoding="utf-8")
    assert "<strong>loss</strong> – " in page and "<strong>logits</strong> – " in page
    page = (pages / "api" / "moco_tf.model.html").read_text(encoding="utf-8")
    assert "queue_size" in page and "*args" not in page


def test_the_experiments_in_detectron2_can_be_reached(pages):
    assert "detectron2.md" in (pages / "index.html").read_text(encoding="utf-8")
    [page] = (pages / "_downloads").rglob("detectron2.md")
    assert page.read_bytes() == (ROOT / "docs" / "detectron2.md").read_bytes()
