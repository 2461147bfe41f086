"""Where configs are looked for, and what is said of one that cannot be loaded."""

import pytest

from moco_tf.cli import commands
from tests import in_process
from tests.command import ROOT

CONFIG = """
from moco_tf.config import default_config

def get_config():
    config = default_config()
    config.encoder = "mine"
    return config
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The current directory, an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_configs_are_found_from_everywhere_and_import_each_other(elsewhere):
    line = in_process.run_mistake("train.py", "--config=configs/folder.py", "--workdir=run")
    assert "data.source" in line  # what configs/folder.py leaves open, and it alone
    line = in_process.run_mistake("train.py", "--config", "configs/folder.py")
    assert "--workdir is missing" in line
    # Of a script of another folder, and as the default of a flag.
    line = in_process.run_mistake(
        "export/pytorch.py", "--config=configs/folder.py", "--checkpoint=none", "--workdir=run"
    )
    assert "none cannot be read" in line
    line = in_process.run_mistake("demo.py", "--workdir=run", "--config.bn_groups=3")
    assert "bn_groups=3" in line and "batch_size=128" in line
    assert not (elsewhere / "run").exists()


def test_a_config_of_ones_own_builds_on_ours(elsewhere):
    (elsewhere / "mine.py").write_text("from configs.imagenet_v2 import get_config")
    line = in_process.run_mistake("train.py", "--config=mine.py", "--workdir=run")
    assert "data.source" in line  # loaded, and so checked


def test_the_current_directory_comes_first(elsewhere):
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "photos.py").write_text(CONFIG)
    line = in_process.run_mistake("train.py", "--config=configs/photos.py", "--workdir=run")
    assert "mine" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("x = (", "was never closed"),
        ("raise ValueError('not today')", "not today"),
    ],
)
def test_a_config_file_that_fails(elsewhere, content, words):
    (elsewhere / "mine.py").write_text(content)
    line = in_process.run_mistake("train.py", "--config=mine.py", "--workdir=run")
    assert line.startswith("error: --config=mine.py cannot be loaded: ") and words in line


@pytest.mark.parametrize("script", ["train.py", "demo.py"])  # with a config that is given, and not
def test_a_setting_that_does_not_exist(script):
    arguments = ["--config=configs/photos.py"] * (script == "train.py")
    line = in_process.run_mistake(script, *arguments, "--config.epocs=3", "--workdir=run")
    assert line.startswith(
        'error: --config.epocs=3: there is no such setting; Did you mean "epochs"'
    )


def test_help_lists_the_flags_that_are_defined_for_the_script():
    text = in_process.run("train.py", "--help")
    for flag in ("config", "workdir", "preview", "strategy", "tpu", "virtual_devices"):
        assert f"\n  --{flag}: " in text
    assert "python train.py --config=configs/photos.py" in text


def test_in_a_checkout_the_scripts_lie_beside_the_package():
    import moco_tf.export.saved_model as ours

    assert str(ROOT) == commands.FOLDER
    assert ours.__file__ == str(ROOT / "export" / "saved_model.py")


def test_help_of_a_command_names_commands():
    text = "python train.py; python export/saved_model.py; python study.py; python demo.py"
    commands = "moco-train; moco-export saved_model; python study.py; moco-demo"
    assert commands.in_commands(text) == commands
