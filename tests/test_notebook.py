"""The notebook of examples/: it is committed without outputs, and runs from its first cell."""

import ast
import builtins
import re

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

import moco_tf
from tests.command import ROOT

STARTUP = re.compile("WARNING: All log messages before absl|[IWE]0000 |To enable the following")
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


# Stops a run as the button of a notebook does, and calls it again.
INTERRUPT = """
import signal, threading, time

log = pathlib.Path("runs/other/metrics.jsonl")

def interrupt():
    while not log.exists() or not log.stat().st_size:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3)).astype(np.uint8)
small = dict(batch_size=16, bn_groups=2, queue_size=32, steps=100, knn_every=0, log_every=1)
states = []
for _ in range(2):
    other = moco_tf.train(images, "runs/other", "photos", **small)
    states.append((other.step, other.finished))
print(states)
"""


@pytest.mark.nightly
def test_notebook_runs(notebook, tmp_path):
    mistake = nbformat.v4.new_code_cell("raise moco_tf.UserError('a line')")
    mistake.metadata.tags = ["raises-exception"]
    interruption = nbformat.v4.new_code_cell(INTERRUPT)
    notebook.cells += [interruption, mistake]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = code_cells(notebook)[:-2]
    outputs = {cell.source: texts(cell) for cell in cells}
    printed = [o.text for cell in cells for o in cell.outputs if o.get("name") == "stderr"]
    # TensorFlow prints such lines whatever the level of its log.
    assert not [line for line in "".join(printed).splitlines() if not STARTUP.match(line)]

    # One line that was updated in place, and the run with its curves.
    [training] = [cell for cell in cells if "moco_tf.train(" in cell.source]
    progress = [text for text in texts(training) if text.startswith("epoch")]
    assert len(progress) == 1
    run = moco_tf.load_run(tmp_path / "runs" / "mine")
    assert run.finished
    assert re.match(rf"epoch \d+/\d+, step {run.step}/{run.step}: loss .*; 00:00 left", progress[0])
    assert "<img" in training.outputs[-1].data["text/html"]

    pictures = [o for cell in cells for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3  # Views, neighbors and the map.
    [table] = [text for text in outputs if "fine_tune(run.backbone" in text]
    last_progress = [text for text in outputs[table] if text.startswith("fine-tuning: ")][-1]
    assert re.match(r"fine-tuning: (\d+) of \1 steps, .*; 00:00 left", last_progress)
    rows = [line.rsplit(maxsplit=2) for line in outputs[table][-1].splitlines()[1:]]
    accuracies = {name.strip(): (float(trained), float(not_)) for name, trained, not_ in rows}
    assert len(accuracies) == 4
    for trained, untrained in accuracies.values():
        assert trained > untrained + 0.03

    [[(stopped_at, was_finished), state]] = [
        ast.literal_eval(text.splitlines()[-1])
        for text in texts(interruption)
        if text.splitlines()[-1].startswith("[")
    ]
    assert 0 < stopped_at < 100
    assert not was_finished
    assert state == (100, True)
    assert mistake.outputs[0].traceback == ["UserError: a line"]
