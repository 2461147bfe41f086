"""The notebook of examples/: it is committed without outputs, and runs from its first cell."""

import builtins
import re

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

import moco_tf
from tests.command import ROOT

PATH = ROOT / "examples" / "quickstart.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_notebook_is_committed_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_every_cell_is_explained(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds == ["markdown", "code"] * (len(kinds) // 2)
    assert len(kinds) // 2 < 15


def test_first_cell_installs_from_the_checkout_around_it(notebook, monkeypatch):
    commands = []
    shell = InteractiveShell()
    shell.register_magic_function(lambda line: commands.append(line), magic_name="pip")
    import_ = builtins.__import__

    def fail(name, *arguments):
        if name.startswith("moco_tf"):
            raise ImportError(name)
        return import_(name, *arguments)

    source = code_cells(notebook)[0].source
    monkeypatch.chdir(PATH.parent)
    shell.run_cell(source).raise_error()
    assert commands == []
    monkeypatch.setattr(builtins, "__import__", fail)
    shell.run_cell(source).raise_error()
    assert commands == [f'install --quiet "{ROOT}[notebook]"']


def texts(cell):
    """Return the plain text of a cell's outputs."""
    return [output.get("text") or output.data.get("text/plain", "") for output in cell.outputs]


@pytest.mark.slow  # It trains, and is what a reader runs.
def test_notebook_runs(notebook, tmp_path):
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.source: texts(cell) for cell in code_cells(notebook)}
    assert not [
        o for cell in code_cells(notebook) for o in cell.outputs if o.get("name") == "stderr"
    ]

    # One line that was updated in place, and the run with its curves.
    [training] = [cell for cell in code_cells(notebook) if "moco_tf.train(" in cell.source]
    progress = [text for text in texts(training) if text.startswith("epoch")]
    assert len(progress) == 1
    run = moco_tf.load_run(tmp_path / "runs" / "mine")
    assert run.finished
    assert re.match(rf"epoch \d+/\d+, step {run.step}/{run.step}: loss .*; 00:00 left", progress[0])
    assert "<img" in training.outputs[-1].data["text/html"]
    assert (tmp_path / "runs" / "mine" / "report.html").exists()

    pictures = [
        o for cell in code_cells(notebook) for o in cell.outputs if "image/png" in o.get("data", {})
    ]
    assert len(pictures) == 3  # Views, neighbors and the map.
    [table] = [text for text in outputs if "fine_tune(run.backbone)" in text]
    rows = [line.rsplit(maxsplit=2) for line in outputs[table][-1].splitlines()[1:]]
    accuracies = {name.strip(): (float(trained), float(not_)) for name, trained, not_ in rows}
    assert set(accuracies) == {"kNN", "linear probe", "fine-tuned with few labels"}
    for trained, untrained in accuracies.values():
        assert trained > untrained + 0.03
