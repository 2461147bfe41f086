"""What a person gets wrong ends in one clear line and exit status 2, and harms nothing saved.

Of each script one mistake at least is made in a process of its own, where nothing but the line may
reach the terminal; the others in this one, through the same parsing of flags.
"""

import os
import subprocess
import sys

import pytest

from moco_tf.config import default_config
from moco_tf.data import pipeline, sources
from moco_tf.errors import UserError
from moco_tf.training.run import train
from tests import in_process
from tests.command import ROOT, TINY, run_mistake
from tests.images import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=16)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run of two steps."""
    workdir = tmp_path_factory.mktemp("finished")
    in_process.run(*training(folder, workdir, "--config.epochs=1", "--config.knn_every=0"))
    return workdir


def training(folder, workdir, *overrides):
    source = f"--config.data.source=folder:{folder}"
    return ("train.py", *TINY, source, f"--workdir={workdir}", *overrides)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"encoder": "resnet99"}, ["resnet99", "resnet50"]),
        ({"batch_size": 4, "bn_groups": 8}, ["batch_size=4", "bn_groups=8", "1, 2, 4"]),
        ({"batch_size": 20, "bn_groups": 8}, ["batch_size=20", "1, 2, 4, 5, 10, 20"]),
        ({"batch_size": 64}, ["batch_size=64", "32 images"]),
        ({"bn_groups": 1}, ["shuffle_bn=True", "bn_groups=1"]),
        ({"augmentation": "v3"}, ["augmentation", "v3", "v1 or v2"]),
        ({"mechanism": "simclr"}, ["mechanism", "simclr", "moco"]),
        ({"temperature": 0.0}, ["temperature=0.0"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"data.source": "folder:/no/such/folder"}, ["/no/such/folder"]),
        ({"data.source": "phots"}, ["phots", "folder:PATH"]),
        ({"data.source": ""}, ["data.source", "folder:PATH"]),
    ],
)
def test_settings_that_cannot_work(folder, tmp_path, overrides, words):
    config = default_config()
    config.update_from_flattened_dict(
        {"data.source": f"folder:{folder}", "batch_size": 16, "bn_groups": 2, **overrides}
    )
    with pytest.raises(UserError) as error:
        train(config, str(tmp_path / "run"))
    assert all(word in str(error.value) for word in words), error.value
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.encodr=resnet18", ["--config.encodr=resnet18", 'Did you mean "encoder"']),
        ("--config.batch_size=5", ["batch_size=5", "bn_groups=2", "1, 5"]),
        ("--config.epochs=many", ["epochs=many"]),
        ("--config=configs/none.py", ["configs/none.py", "No such file"]),
        ("--strategy=tpus", ["tpus", "default, mirrored, multiworker or tpu"]),
        ("--strategy=tpu", ["--tpu", "its name, or local"]),
        ("--strategy=tpu --tpu=local", ["--tpu=local"]),
        ("--tpu=mine", ["--tpu=mine", "--strategy=tpu"]),
        ("--strategy=multiworker", ["TF_CONFIG", "README"]),
        ("--virtual_devices=2", ["--virtual_devices=2", "--strategy=mirrored"]),
        ("--workdir=train.py", ["train.py", "is a file"]),
        ("stray", ["stray"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(folder, tmp_path, argument, words):
    # TensorFlow looks for the TPU, and must not be heard doing so; a worker ends its whole process.
    own = "--tpu=local" in argument or "multiworker" in argument
    make = run_mistake if own else in_process.run_mistake
    line = make(*training(folder, tmp_path / "run", *argument.split()))
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


def test_more_replicas_than_groups(folder, tmp_path):
    overrides = ["--strategy=mirrored", "--virtual_devices=4"]
    line = run_mistake(*training(folder, tmp_path / "run", *overrides))
    assert "bn_groups=2" in line and "4 devices" in line and "multiple of 4" in line


def test_a_folder_without_a_readable_image(tmp_path):
    for i in range(20):
        (tmp_path / f"{i}.jpg").write_text("no image")
    with pytest.raises(UserError, match="none of its 20 images can be read"):
        pipeline.first_readable(sources.load(f"folder:{tmp_path}"))


def test_a_directory_of_another_config(folder, finished):
    before = contents(finished)
    line = in_process.run_mistake(*training(folder, finished, "--config.temperature=0.2"))
    assert "temperature is 0.1 there and 0.2 here" in line
    assert contents(finished) == before


@pytest.mark.skipif(sys.platform != "linux", reason="runs as another user, as root on Linux can")
def test_no_permission_to_write(folder, tmp_path):
    # Root may write anywhere, so the run is made as nobody; where the tests are not root's, a
    # directory without the write bit is enough.
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    script = (
        "from moco_tf import run_directory\n"
        "from moco_tf.config import default_config\n"
        "from moco_tf.errors import UserError\n"
        "import os, sys\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: run_directory.open_for_training(sys.argv[1], default_config(), 10)\n"
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
    assert "cannot be written" in result.stdout and "Permission denied" in result.stdout


def test_a_checkpoint_of_another_shape(folder, finished, tmp_path):
    """The config file was edited by hand: the weights no longer fit it."""
    import shutil

    workdir = tmp_path / "edited"
    shutil.copytree(finished, workdir)
    config = workdir / "config.json"
    config.write_text(config.read_text().replace('"dim": 128', '"dim": 64'))
    overrides = ["--config.epochs=1", "--config.knn_every=0", "--config.dim=64"]
    before = contents(workdir)
    line = run_mistake(*training(folder, workdir, *overrides))
    assert "step-2" in line and "cannot be read" in line
    after = contents(workdir)
    assert {p: after[p] for p in before if "checkpoints" in str(p)} == {
        p: before[p] for p in before if "checkpoints" in str(p)
    }
    line = in_process.run_mistake("evaluate.py", "--protocol=knn", f"--workdir={workdir}")
    assert "step-2" in line and "cannot be read" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--protocol"]),
        (["--protocol=knn"], ["--workdir", "--saved_model", "--random_init"]),
        (["--protocol=knn", "--workdir=/no/run"], ["/no/run", "config.json"]),
        (["--protocol=svm", "--workdir=x"], ["svm"]),
        (["--protocol=knn", "--saved_model=configs"], ["--data", "--image_size"]),
        (
            ["--protocol=knn", "--saved_model=configs", "--data=photos", "--image_size=32"],
            ["configs", "SavedModel"],
        ),
        (["--protocol=knn", "--random_init"], ["--config"]),
    ],
)
def test_evaluations_that_cannot_work(arguments, words):
    # One that goes as far as TensorFlow's own loader, whose words nobody shall see.
    make = run_mistake if "--image_size=32" in arguments else in_process.run_mistake
    line = make("evaluate.py", *arguments)
    assert all(word in line for word in words), line


def test_evaluation_on_images_without_labels(folder, finished):
    line = in_process.run_mistake(
        "evaluate.py", "--protocol=knn", f"--workdir={finished}", f"--data=folder:{folder / 'left'}"
    )
    assert "no labels" in line and "subfolder" in line


def test_export_of_nothing(tmp_path):
    line = run_mistake("export/saved_model.py", f"--workdir={tmp_path}", f"--out={tmp_path / 'o'}")
    assert str(tmp_path) in line and "no run" in line
