"""What all commands share: configs, help and mistakes in flags."""

import shlex
import subprocess
import sys

import pytest

from moco_tf.cli.formats import FORMATS, in_commands
from tests import in_process
from tests.command import ROOT

CONFIG = """
from moco_tf import default_config

def get_config():
    config = default_config()
    config.encoder = "mine"
    return config
"""


@pytest.fixture
def empty_directory(tmp_path, monkeypatch):
    """Change into an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_installed_configs_are_found_from_everywhere_and_import_each_other(empty_directory):
    line = in_process.run_mistake("train.py", "--config=configs/folder.py", "--workdir=run")
    assert "data.source" in line  # The one setting that configs/folder.py leaves open.
    line = in_process.run_mistake("train.py", "--config", "configs/folder.py")
    assert "--workdir is required" in line
    line = in_process.run_mistake("demo", "--workdir=run", "--config.bn_groups=3")
    assert "bn_groups=3" in line
    assert "batch_size=128" in line
    assert not (empty_directory / "run").exists()


@pytest.mark.torch
def test_installed_configs_are_found_by_the_scripts_of_export(empty_directory):
    pytest.importorskip("torch", reason="PyTorch is not installed: make pytorch installs it")
    flags = ("--config=configs/folder.py", "--checkpoint=none", "--workdir=run")
    line = in_process.run_mistake("export/pytorch.py", *flags)
    assert "none cannot be read" in line


def test_config_file_can_extend_an_installed_one(empty_directory):
    (empty_directory / "mine.py").write_text("from moco_tf.configs.imagenet_v2 import get_config")
    line = in_process.run_mistake("train.py", "--config=mine.py", "--workdir=run")
    assert "data.source" in line


def test_current_directory_precedes_installed_configs(empty_directory):
    (empty_directory / "configs").mkdir()
    (empty_directory / "configs" / "photos.py").write_text(CONFIG)
    line = in_process.run_mistake("train.py", "--config=configs/photos.py", "--workdir=run")
    assert "mine" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import no_such_module", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = (", "was never closed"),
        ("raise ValueError('not today')", "line 1: ValueError: not today"),
        (CONFIG.replace("config.encoder", "config.encodr"), "line 6: AttributeError"),
        (CONFIG.replace("return config", "return None.encoder"), "line 7: AttributeError"),
        (CONFIG.replace("return config", "pass"), "get_config() returns NoneType"),
        ("x = 1", "no function get_config()"),
    ],
)
def test_mistake_in_a_config_file_names_the_place(empty_directory, content, message):
    (empty_directory / "mine.py").write_text(content)
    line = in_process.run_mistake("train.py", "--config=mine.py", "--workdir=run")
    assert "--config=mine.py" in line
    assert message in line


def test_debug_shows_the_traceback(empty_directory):
    (empty_directory / "mine.py").write_text("raise ValueError('not today')")
    output = in_process.run("train.py", "--config=mine.py", "--workdir=run", "--debug", status=2)
    assert "Traceback" in output
    assert output.splitlines()[-1].startswith("error: --config=mine.py")


@pytest.mark.parametrize("script", ["train.py", "demo"])  # Without and with a default config.
def test_unknown_setting_suggests_the_right_one(script):
    arguments = ["--config=configs/photos.py"] * (script == "train.py")
    line = in_process.run_mistake(script, *arguments, "--config.epocs=3", "--workdir=run")
    assert "--config.epocs=3" in line
    assert "did you mean epochs?" in line
    assert "moco-train --help lists all settings" in line


def test_setting_without_a_config_says_what_is_missing():
    line = in_process.run_mistake("train.py", "--config.epochs=3", "--workdir=run")
    assert "--config.epochs requires --config" in line


@pytest.mark.parametrize(
    "streams", [">&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full"]
)
def test_closed_or_full_output_does_not_change_the_exit_status(streams):
    command = f"{shlex.quote(sys.executable)} {ROOT / 'train.py'} --strateg=mirrored {streams}"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.returncode == 2
    expected = "" if "2>" in streams else "error: unknown flag --strateg: did you mean --strategy?"
    assert result.stderr.strip() == expected


def test_flags_do_not_carry_over_to_the_next_call():
    in_process.run_mistake("train.py", "--config=configs/photos.py", "--config.epochs=-3")
    line = in_process.run_mistake("train.py")
    assert "--config is required: for example --config=configs/photos.py" in line


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("train.py", ["config", "workdir", "preview", "[no]plan", "strategy", "tpu"]),
        ("evaluate.py", ["protocol", "checkpoint", "strategy", "k", "shots", "[no]compare"]),
        ("embed.py", ["workdir", "out", "format", "shard", "[no]normalize"]),
        ("demo", ["config", "workdir", "seeds", "[no]debug"]),
        *[(f"export/{module}.py", ["workdir", "encoder", "out"]) for module in FORMATS.values()],
    ],
)
def test_help_lists_the_flags(script, flags):
    text = in_process.run(script, "--help")
    for flag in flags:
        assert f"\n  --{flag}\n" in text
    assert "python " not in text  # It names the console commands.


def test_help_shows_the_path_of_the_default_config():
    assert "(default: configs/photos.py)" in " ".join(in_process.run("demo", "--help").split())


def test_help_has_a_line_for_each_meaning_of_a_setting():
    lines = in_process.run("evaluate.py", "--help").splitlines()
    meanings = lines[lines.index("  --seed") + 1 : lines.index("  --learning_rate")]
    assert sum(line.startswith("      Random seed of ") for line in meanings) == 5


def test_settings_of_images_are_named_as_flags_of_the_command(tmp_path):
    line = in_process.run_mistake(
        "embed.py",
        "--checkpoint=x.keras",
        "--data=photos",
        "--frame_seconds=2",
        "--image_size=32",
        f"--out={tmp_path / 'out'}",
    )
    assert "--frame_seconds=2.0 applies to video sources only" in line
    assert "config.data" not in line
    flags = ("--config=configs/photos.py", "--config.data.frame_seconds=2", f"--workdir={tmp_path}")
    line = in_process.run_mistake("train.py", *flags)
    assert "config.data.frame_seconds=2.0 applies to video sources only" in line


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "embed.py", "export/saved_model.py"])
def test_help_of_a_script_loads_nothing_slow(script):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"python {script} " in result.stdout
    # Not the seconds, because the machine may be busy: these are what makes a start slow.
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"tensorflow", "keras", "sklearn", "matplotlib", "cv2"}


@pytest.mark.slow
def test_start_leaves_out_what_no_training_needs():
    program = (
        "import sys\n"
        "from moco_tf.cli import start\n"
        "start.start_tensorflow()\n"
        "import moco_tf.training.run\n"
        "from moco_tf.data import sources\n"
        "sources.load('photos')\n"
        "print(sorted({'keras', 'matplotlib.pyplot', 'sklearn'} & sys.modules.keys()))\n"
        # They are there for whoever imports them later.
        "import matplotlib.pyplot, sklearn.linear_model\n"
    )
    output = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
    assert output == "['keras']\n"


def test_scripts_are_called_by_their_commands():
    text = "python train.py; python export/onnx_file.py; python -m studies; python evaluate.py"
    commands = "moco-train; moco-export onnx; python -m studies; moco-evaluate"
    assert in_commands(text) == commands


def test_import_has_no_side_effects():
    program = (
        "import os, sys; before = dict(os.environ), list(sys.path), list(sys.argv)\n"
        "import moco_tf, moco_tf.cli.train, moco_tf.export.saved_model, moco_tf.configs.photos\n"
        "assert (dict(os.environ), sys.path, sys.argv) == before\n"
        "print('tensorflow' in sys.modules)\n"
    )
    output = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
    assert output == "False\n"
