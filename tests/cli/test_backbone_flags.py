"""The flags that select a backbone."""

import pytest

from tests import in_process


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of --workdir, --saved_model and --checkpoint"),
        (["--workdir=a", "--saved_model=b"], "exactly one of --workdir"),
        (["--saved_model=a", "--checkpoint=b", "--encoder=resnet50"], "exactly one of --workdir"),
        (["--checkpoint=a"], "--checkpoint requires --encoder"),
        (["--workdir=a", "--encoder=resnet50"], "--encoder=resnet50 has no effect"),
        (["--workdir=a", "--stem=small"], "--stem=small has no effect"),
        (["--saved_model=a", "--stem=small"], "--stem=small requires --encoder"),
        (["--workdir=/no/run"], "there is no directory /no/run"),
        (["--saved_model=/no/run"], "/no/run"),
        pytest.param(
            ["--checkpoint=/no/run", "--encoder=resnet50"], "/no/run", marks=pytest.mark.torch
        ),
    ],
)
@pytest.mark.parametrize("module", ["saved_model", "detectron2_pickle"])
def test_mistakes_are_one_line(tmp_path, module, arguments, message):
    if "--checkpoint=/no/run" in arguments:
        pytest.importorskip("torch", reason="PyTorch is not installed: make pytorch installs it")
    script = f"export/{module}.py"
    line = in_process.run_mistake(script, *arguments, f"--out={tmp_path / 'out'}")
    assert message in line
    assert not list(tmp_path.iterdir())
