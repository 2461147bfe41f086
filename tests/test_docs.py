"""The reference pages are built without warnings and contain everything public."""

import ast

import pytest
from sphinx.util.inventory import InventoryFile

from tests.command import ROOT, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Build the pages as `make docs` does."""
    directory = tmp_path_factory.mktemp("docs")
    options = ("--quiet", "--fail-on-warning", "--keep-going", "--nitpicky")
    run("-m", "sphinx", *options, "docs", directory)
    return directory


def public_names():
    """Yield every public module, and every public function and class with a docstring."""
    for path in sorted(
        [
            *ROOT.glob("moco_tf/**/*.py"),
            *ROOT.glob("export/[!_]*.py"),
            *ROOT.glob("configs/[!_]*.py"),
        ]
    ):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[0] != "moco_tf":
            module = f"moco_tf.{module}"  # Its name in the installed package.
        yield module
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if is_definition and not node.name.startswith("_") and ast.get_docstring(node):
                yield f"{module}.{node.name}"


def read_page(pages, name):
    return (pages / name).read_text(encoding="utf-8")


def test_everything_public_is_documented(pages):
    with open(pages / "objects.inv", "rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    documented = {name for role in inventory if role.startswith("py:") for name in inventory[role]}
    names = set(public_names())
    assert "moco_tf.mechanisms.moco.MoCo" in names
    assert names <= documented, names - documented


def test_commands_are_literal_blocks(pages):
    page = read_page(pages, "export.html")
    assert "<pre>" in page
    assert "python export/saved_model.py --workdir=runs/photos --out=" in page


def test_returned_values_are_listed_by_name(pages):
    page = read_page(pages, "api/moco_tf.mechanisms.losses.html")
    assert "<strong>loss</strong> – " in page
    assert "<strong>logits</strong> – " in page


def test_keras_classes_have_their_signature(pages):
    page = read_page(pages, "api/moco_tf.mechanisms.moco.html")
    assert "queue_size" in page
    assert "*args" not in page


def test_experiments_in_detectron2_can_be_downloaded(pages):
    assert "detectron2.md" in read_page(pages, "index.html")
    [page] = (pages / "_downloads").rglob("detectron2.md")
    assert page.read_bytes() == (ROOT / "docs" / "detectron2.md").read_bytes()
