"""A run that is resumed notices that its images have changed, and names the files."""

import gzip
import pathlib
import shutil

import pytest

from moco_tf import run_data
from moco_tf.data import sources
from moco_tf.errors import UserError
from moco_tf.run_data import RunData
from tests import in_process
from tests.conftest import TRAINED_RUN, source_flag
from tests.data.sources.test_idx import random_images, write_idx
from tests.data.sources.test_tfrecord import labeled_example, write_records
from tests.images import write_folder

PATHS = (b"left/1.jpg", b"left/2.jpg", b"right/3.jpg")


def message(workdir, *contents):
    with pytest.raises(UserError) as error:
        run_data.require_same(str(workdir), RunData(10, 3, contents), "folder:images")
    assert "use another directory, or restore the images" in str(error.value)
    return str(error.value)


@pytest.fixture
def workdir(tmp_path):
    run_data.write(str(tmp_path), RunData(10, 3, PATHS))
    return tmp_path


@pytest.mark.parametrize(
    ("contents", "changes"),
    [
        ((*PATHS, b"right/4.jpg"), "1 added (right/4.jpg)"),
        (PATHS[:1], "2 removed (left/2.jpg, right/3.jpg)"),
        ((PATHS[0], b"right/2.jpg", PATHS[2]), "1 moved (left/2.jpg to right/2.jpg)"),
        ((PATHS[0], b"left/5.jpg", PATHS[2]), "1 added (left/5.jpg), 1 removed (left/2.jpg)"),
        ((*PATHS, *(b"%d" % i for i in range(5))), "5 added (0, 1, 2, ...)"),
        ((*PATHS, b"caf\xe9\n.jpg"), r"1 added (caf\xe9\n.jpg)"),
    ],
)
def test_files_that_have_changed_are_named(workdir, contents, changes):
    expected = f"the images of 'folder:images' have changed since the run {workdir} was started"
    assert message(workdir, *contents).startswith(f"{expected}: {changes}: ")


def test_another_order_is_a_change(workdir):
    assert "and so has their order" in message(workdir, *PATHS[::-1])


def test_same_images_pass_and_are_not_written_again(workdir):
    before = {path: path.stat().st_mtime_ns for path in workdir.iterdir()}
    run_data.require_same(str(workdir), RunData(10, 3, PATHS), "folder:images")
    names = gzip.decompress((workdir / "data_files.gz").read_bytes()).split(b"\0")
    assert names == list(PATHS)
    run_data.write(str(workdir), RunData(10, 3, PATHS))
    list_path = workdir / "data_files.gz"
    assert list_path.stat().st_mtime_ns == before[list_path]


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, lambda path: path.write_bytes(b"")])
def test_list_of_files_may_be_lost(workdir, damage):
    damage(workdir / "data_files.gz")
    run_data.require_same(str(workdir), RunData(10, 3, PATHS), "folder:images")
    assert "their list data_files.gz, which says how, is lost" in message(workdir, *PATHS[:2])


def test_run_of_an_earlier_version_is_resumed(tmp_path):
    (tmp_path / "data.json").write_text('{"num_images": 10, "channels": 3}\n')
    run_data.require_same(str(tmp_path), RunData(10, 3, PATHS), "folder:images")


def test_moved_image_is_noticed_by_training(trained_run, image_folder, tmp_path):
    folder = shutil.copytree(image_folder, tmp_path / "images")
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    arguments = (*TRAINED_RUN, source_flag(folder))
    config = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(config.replace(str(image_folder), str(folder)))
    assert "already finished" in in_process.run("train.py", *arguments, workdir=workdir)
    (folder / "left" / "000.jpg").rename(folder / "right" / "999.jpg")
    line = in_process.run_mistake("train.py", *arguments, workdir=workdir)
    assert "1 added (right/999.jpg), 1 removed (left/000.jpg)" in line
    (folder / "right" / "999.jpg").rename(folder / "right" / "000.jpg.png")
    (folder / "right" / "000.jpg.png").rename(folder / "left" / "000.jpg")
    assert "already finished" in in_process.run("train.py", *arguments, workdir=workdir)


def contents(name):
    return run_data.of_source(sources.load(name)).contents


def test_contents_of_a_folder_are_its_paths(image_folder):
    paths = sorted(path for path in image_folder.rglob("*") if path.is_file())
    expected = tuple(str(path.relative_to(image_folder)).encode() for path in paths)
    assert contents(f"folder:{image_folder}") == expected


def test_contents_of_records_are_their_files_with_their_sizes(tmp_path):
    records = [labeled_example(number, 0) for number in range(3)]
    for name, count in (("data-0", 2), ("data-1", 3)):
        write_records(tmp_path / name, records[:count])
    assert contents(f"tfrecord:{tmp_path}/data-*") == tuple(
        f"{name}: {count} records in {(tmp_path / name).stat().st_size} bytes".encode()
        for name, count in (("data-0", 2), ("data-1", 3))
    )


def test_contents_of_arrays_change_with_a_pixel(tmp_path):
    images = random_images(6)
    write_idx(tmp_path, "train-images-idx3-ubyte", images)
    before = contents(f"idx:{tmp_path}")
    assert before[0].startswith(b"6 images with the checksum ")
    images[5, 1, 1] ^= 1
    write_idx(tmp_path, "train-images-idx3-ubyte", images)
    assert contents(f"idx:{tmp_path}") != before
    assert contents("photos") == contents("photos") != ()


def test_files_of_the_same_names_are_told_apart_by_a_few_of_them(tmp_path):
    folder = write_folder(tmp_path / "images", images_per_class=50)
    checksum = run_data.files_checksum(sources.load(f"folder:{folder}"))
    copy = sources.load(f"folder:{shutil.copytree(folder, tmp_path / 'copy')}")
    assert run_data.files_checksum(copy) == checksum
    for path in (tmp_path / "copy").glob("*/*.jpg"):
        path.write_bytes(path.read_bytes() + b"0")
    changed = run_data.files_checksum(copy)
    assert changed != checksum
    for path in (tmp_path / "copy").glob("*/*.jpg"):
        path.unlink()
    assert run_data.files_checksum(copy) not in (checksum, changed)
    assert run_data.files_checksum(sources.load("photos")) == ""
