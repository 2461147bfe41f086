"""The flags that say which backbone, as a script meets them."""

import pytest

from tests import in_process


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of --workdir, --saved_model and --checkpoint"),
        (["--workdir=a", "--saved_model=b"], "give one of --workdir, --saved_model and"),
        (["--saved_model=a", "--checkpoint=b", "--encoder=resnet50"], "give one of --workdir"),
        (["--checkpoint=a"], "--checkpoint needs --encoder, the network that it holds"),
        (["--workdir=a", "--encoder=resnet50"], "--encoder says what network --checkpoint holds"),
        (["--workdir=a", "--stem=small"], "--stem says what network --checkpoint holds"),
        (["--saved_model=a", "--stem=small"], "--stem=small is that of --encoder"),
        (["--workdir=/no/run"], "--workdir=/no/run holds no run"),
        (["--saved_model=/no/run"], "--saved_model=/no/run is not a SavedModel"),
        (["--checkpoint=/no/run", "--encoder=resnet50"], "/no/run cannot be read"),
    ],
)
@pytest.mark.parametrize("script", ["saved_model", "detectron2"])
def test_mistakes_are_one_line(tmp_path, script, arguments, words):
    if "--checkpoint=/no/run" in arguments:
        pytest.importorskip("torch", reason="PyTorch is not installed: make pytorch installs it")
    arguments = [f"export/{script}.py", *arguments, f"--out={tmp_path / 'out'}"]
    assert words in in_process.run_mistake(*arguments)
    assert not list(tmp_path.iterdir())


def test_help_has_them():
    printed = in_process.run("export/saved_model.py", "--help")
    for name in ("workdir", "saved_model", "checkpoint", "encoder", "stem", "out"):
        assert f"--{name}:" in printed
    printed = in_process.run("evaluate.py", "--help")
    assert "--checkpoint:" in printed and "--strategy:" in printed
