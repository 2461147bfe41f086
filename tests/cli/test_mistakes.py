"""A mistake of the user ends in one clear line and exit status 2, and harms nothing that is saved.

Each command makes at least one mistake in a process of its own, which shows that nothing but the
line reaches the terminal. The others are made in this process.
"""

import os
import shutil
import subprocess
import sys

import pytest

from moco_tf.config import default_config
from moco_tf.data import pipeline, sources
from moco_tf.errors import UserError
from moco_tf.training.run import train
from tests import in_process
from tests.command import ROOT, run_mistake
from tests.conftest import TRAINED_RUN, source_flag
from tests.images import write_folder


def training(folder, workdir, *overrides):
    """Return the command of `trained_run` with other settings."""
    return ("train.py", *TRAINED_RUN, source_flag(folder), f"--workdir={workdir}", *overrides)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"encoder": "resnet99"}, ["resnet99", "resnet50"]),
        ({"batch_size": 4, "bn_groups": 8}, ["batch_size=4", "bn_groups=8", "1, 2, 4"]),
        ({"batch_size": 20, "bn_groups": 8}, ["batch_size=20", "1, 2, 4, 5, 10, 20"]),
        ({"batch_size": 128}, ["batch_size=128", "100"]),
        ({"bn_groups": 1}, ["shuffle_bn=True", "bn_groups=1"]),
        (
            {"augmentation": "v3"},
            ["augmentation", "v3", "choose v1, v2, cifar10 or any_orientation"],
        ),
        ({"mechanism": "simclr"}, ["mechanism", "simclr", "moco"]),
        ({"temperature": 0.0}, ["temperature=0.0"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"data.source": "folder:/no/such/folder"}, ["/no/such/folder"]),
        ({"data.source": "phots"}, ["phots", "folder:PATH"]),
        ({"data.source": ""}, ["data.source", "folder:PATH"]),
    ],
)
def test_invalid_setting_names_value_and_remedy(image_folder, tmp_path, overrides, parts):
    config = default_config()
    config.update_from_flattened_dict(
        {"data.source": f"folder:{image_folder}", "batch_size": 16, "bn_groups": 2, **overrides}
    )
    with pytest.raises(UserError) as error:
        train(config, str(tmp_path / "run"))
    for part in parts:
        assert part in str(error.value)
    assert "--" not in str(error.value)  # The library knows no flags.
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("--config.encodr=resnet18", ["--config.encodr=resnet18", "did you mean encoder?"]),
        ("--config.batch_size=5", ["batch_size=5", "bn_groups=2", "1, 5"]),
        ("--config.epochs=many", ["--config.epochs=many", "integer"]),
        ("--config.temperature=hot", ["--config.temperature=hot", "number"]),
        ("--virtual_devices=two", ["--virtual_devices=two", "integer"]),
        ("--config=configs/none.py", ["configs/none.py", "no such file", "configs/photos.py"]),
        ("--strateg=mirrored", ["--strateg", "--strategy"]),
        ("--strategy=tpus", ["tpus", "default, mirrored, multiworker, tpu"]),
        ("--strategy=tpu", ["--tpu", "local"]),
        ("--tpu=mine", ["--tpu=mine", "--strategy=tpu"]),
        ("--virtual_devices=2", ["--virtual_devices=2", "--strategy=mirrored"]),
        ("--workdir=train.py", ["train.py", "is a file"]),
        ("--config=configs", ["--config=configs is a directory"]),
        ("--config=configs/folder.py", ["--config=configs/folder.py: give one config file"]),
        ("--config.shuffle_bn=maybe", ["--config.shuffle_bn=maybe: must be True or False"]),
        ("--debug=maybe", ["--debug=maybe: must be True or False"]),
        ("stray", ["stray"]),
    ],
)
def test_mistake_in_a_flag_is_one_line(image_folder, tmp_path, argument, parts):
    line = in_process.run_mistake(*training(image_folder, tmp_path / "run", *argument.split()))
    for part in parts:
        assert part in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("--strategy=tpus", ["tpus", "default, mirrored, multiworker, tpu"]),
        ("--tpu=mine", ["--tpu=mine", "--strategy=tpu"]),
        ("--virtual_devices=-3", ["--virtual_devices=-3", "--strategy=mirrored"]),
    ],
)
def test_preview_refuses_the_devices_that_a_training_refuses(
    image_folder, tmp_path, argument, parts
):
    preview = f"--preview={tmp_path}/views.png"
    line = in_process.run_mistake(*training(image_folder, tmp_path / "run", argument, preview))
    for part in parts:
        assert part in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        # In a process of its own: TensorFlow looks for the TPU, and prints that it does; a worker
        # ends its whole process; and logical devices can only be made at the start.
        pytest.param("--strategy=tpu --tpu=local", ["TPU", "local"], marks=pytest.mark.slow),
        pytest.param("--strategy=multiworker", ["TF_CONFIG"], marks=pytest.mark.slow),
        (
            "--strategy=mirrored --virtual_devices=4",
            ["bn_groups=2", "4 devices", "multiple of 4"],
        ),
    ],
)
def test_mistake_in_a_strategy_is_the_only_line(image_folder, tmp_path, argument, parts):
    line = run_mistake(*training(image_folder, tmp_path / "run", *argument.split()))
    for part in parts:
        assert part in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        (
            "evaluate.py",
            "--protocol=knn",
            "--saved_model=configs",
            "--data=photos",
            "--image_size=32",
        ),
        ("export/saved_model.py", "--workdir=configs", "--out=/no/such/path"),
    ],
)
def test_mistake_is_all_that_a_command_prints(command):
    assert "configs" in run_mistake(*command)


def test_folder_without_a_readable_image(tmp_path):
    for i in range(20):
        (tmp_path / f"{i}.jpg").write_text("no image")
    with pytest.raises(UserError, match="none of its 20 images can be read"):
        pipeline.first_readable(sources.load(f"folder:{tmp_path}"))


def test_run_with_another_config_stays_as_it_is(image_folder, trained_run):
    before = contents(trained_run)
    arguments = training(image_folder, trained_run, "--config.temperature=0.2")
    line = in_process.run_mistake(*arguments)
    assert "temperature" in line
    assert "0.1" in line
    assert "0.2" in line
    assert contents(trained_run) == before


def test_run_on_other_images_stays_as_it_is(trained_run, tmp_path):
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    folder = write_folder(tmp_path / "images", images_per_class=20)
    config = workdir / "config.json"
    text = config.read_text()
    source = text.split('"source": "folder:')[1].split('"')[0]
    config.write_text(text.replace(source, str(folder)))
    before = contents(workdir)
    line = in_process.run_mistake(*training(folder, workdir))
    assert "have changed since the run" in line
    assert "60 removed (left/020.jpg, " in line
    assert contents(workdir) == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="becomes another user, which needs Linux")
def test_run_directory_without_permission(tmp_path):
    # Root can write anywhere, so the test becomes the user nobody. For another user, a directory
    # without the write permission is enough.
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    script = (
        "from moco_tf import run_directory\n"
        "from moco_tf.config import default_config\n"
        "from moco_tf.errors import UserError\n"
        "from moco_tf.run_data import RunData\n"
        "import os, sys\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: run_directory.open_for_training(sys.argv[1], default_config(), RunData(10))\n"
        "except UserError as error: print(error); sys.exit(2)\n"
    )
    for path in (tmp_path.parent, tmp_path.parent.parent, tmp_path):
        os.chmod(path, 0o755)
    result = subprocess.run(
        [sys.executable, "-c", script, str(locked / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "Permission denied" in result.stdout


def test_checkpoint_of_another_shape_stays_as_it_is(image_folder, trained_run, tmp_path):
    """The user has edited config.json, and the weights no longer match it."""
    workdir = shutil.copytree(trained_run, tmp_path / "edited")
    config = workdir / "config.json"
    config.write_text(config.read_text().replace('"dim": 128', '"dim": 64'))
    before = contents(workdir / "checkpoints")
    line = in_process.run_mistake(*training(image_folder, workdir, "--config.dim=64"))
    assert "step-12" in line
    assert "no checkpoint of the run" in line
    assert contents(workdir / "checkpoints") == before
    flags = ("--protocol=knn", "--features=head")
    line = in_process.run_mistake("evaluate.py", *flags, workdir=workdir)
    assert "step-12" in line
