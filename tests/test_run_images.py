"""Images that are kept in a run directory: what is written there, and what is left alone."""

import numpy as np
import pytest

import moco_tf
from moco_tf import UserError, run_directory, run_images
from moco_tf.data import sources
from tests.written import written

IMAGES = np.random.default_rng(0).integers(0, 256, [48, 8, 8, 3], np.uint8)
LABELS = ["left", "right"] * 24


def keep(data, workdir):
    """Keep images as a call does whose run begins, and return the name of their source."""
    with run_images.kept(data, str(workdir)) as source:
        if not (workdir / "config.json").exists():
            config = moco_tf.default_config()
            config.data.source = source
            (workdir / "config.json").write_text(config.to_json_best_effort())
    return source


def test_equal_files_are_not_written_again(tmp_path, monkeypatch):
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "images.labels.npy", np.array(LABELS, "U40"))

    before = written(tmp_path)
    monkeypatch.chdir(tmp_path)
    with run_images.kept((IMAGES, LABELS), ".") as source:
        assert source == f"npy:{tmp_path}/images.npy"
    assert written(tmp_path) == before


def test_interrupted_call_before_the_run_leaves_nothing(tmp_path):
    def interrupted_call():
        with run_images.kept((IMAGES, LABELS), str(tmp_path / "new" / "run")) as source:
            assert sources.load(source).size == len(IMAGES)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_call()
    assert not (tmp_path / "new" / "run").exists()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (LABELS, np.array(LABELS, "U40")),
        (LABELS, np.array(LABELS, object)),
        (np.arange(48), np.arange(48, dtype=np.uint8)),
        (np.arange(48, dtype=np.uint8), list(range(48))),
    ],
)
def test_labels_may_have_another_type(tmp_path, first, second):
    source = keep((IMAGES, first), tmp_path)
    assert keep((IMAGES, second), tmp_path) == keep((IMAGES, first), tmp_path) == source
    with pytest.raises(UserError, match="holds a run on other labels"):
        keep((IMAGES, second[::-1]), tmp_path)


def test_other_labels_of_a_list_are_called_labels(tmp_path):
    files = ["/a.jpg", "/b.jpg"]
    keep((files, ["cat", "dog"]), tmp_path)
    with pytest.raises(UserError, match="holds a run on other labels"):
        keep((files, ["cat", "cat"]), tmp_path)
    with pytest.raises(UserError, match="holds a run on other images"):
        keep((files[::-1], ["cat", "dog"]), tmp_path)


def test_file_of_the_user_with_the_name_of_a_file_of_runs_is_left_alone(tmp_path):
    (tmp_path / "data.json").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"data\.json exists and is not a file of moco-tf"):
        keep(IMAGES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]
    assert (tmp_path / "data.json").read_text() == "[1, 2]"


@pytest.mark.parametrize("data", [IMAGES, ["/a.jpg"]], ids=["array", "list"])
def test_moved_directory_has_its_images(tmp_path, data):
    (tmp_path / "run").mkdir()
    source = keep(data, tmp_path / "run")
    assert run_directory.read_config(str(tmp_path / "run")).data.source == source
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    expected = source.replace("/run/", "/moved/")
    assert run_directory.read_config(str(moved)).data.source == expected
    assert keep(data, moved) == expected
