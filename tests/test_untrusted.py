"""Untrusted files: what they name is not followed, run or expanded without a limit."""

import gzip
import hashlib
import io
import json
import os
import struct
import sys
import tarfile
import types
import zlib

import numpy as np
import pytest
import tensorflow as tf

import moco_tf
from moco_tf import config_files, default_config, new_paths, run_data, run_directory
from moco_tf.backbones import history
from moco_tf.data.readers import dicom, tiff
from moco_tf.data.readers.image import UnfitError
from moco_tf.data.sources import index_cache, tar_files, webdataset
from moco_tf.errors import UserError
from moco_tf.files import remove
from moco_tf.run_lock import describe
from moco_tf.training.best import BestCheckpoint


@pytest.fixture
def home(tmp_path):
    """A folder with files that nobody wants to lose."""
    (tmp_path / "home" / "photos").mkdir(parents=True)
    (tmp_path / "home" / "thesis.txt").write_text("text")
    (tmp_path / "home" / "photos" / "a.jpg").write_text("image")
    return tmp_path / "home"


def assert_whole(home):
    names = sorted(path.name for path in home.rglob("*"))
    assert names == ["a.jpg", "photos", "thesis.txt"]


def open_run(workdir, source="folder:/data"):
    config = default_config()
    config.data.source = source
    run_directory.open_for_training(str(workdir), config, run_data.RunData(100))


def test_links_are_removed_and_not_what_they_lead_to(home, tmp_path):
    (tmp_path / "link").symlink_to(home)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(home)
    (tmp_path / "file").write_text("text")
    for name in ("link", "folder", "file"):
        remove(str(tmp_path / name))
        assert not os.path.lexists(tmp_path / name)
    assert_whole(home)


def test_leftovers_of_a_run_are_not_followed(home, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "step-2_temp").mkdir(parents=True)
    (checkpoints / "step-1_temp").symlink_to(home)
    (checkpoints / "step-2_temp" / "link").symlink_to(home)
    open_run(tmp_path / "run")
    assert list(checkpoints.iterdir()) == []
    assert_whole(home)


def best_checkpoint(workdir):
    checkpoints = types.SimpleNamespace(
        finite=types.SimpleNamespace(require=lambda step: None),
        checkpoint=tf.train.Checkpoint(value=tf.Variable(1.0)),
    )
    return BestCheckpoint(checkpoints, workdir, workdir, "knn_top1", "folder:/data", 32, 32)


@pytest.mark.parametrize("is_link", [False, True])
def test_best_checkpoint_keeps_other_files(home, tmp_path, is_link):
    open_run(tmp_path / "run")
    folder = tmp_path / "run" / "best" / "checkpoints"
    folder.parent.mkdir()
    if is_link:
        folder.symlink_to(home)
    else:
        home.rename(folder)
    best = best_checkpoint(str(tmp_path / "run"))
    for step, accuracy in ((10, 0.5), (20, 0.6)):
        assert best.update(step, {"knn_top1": accuracy})
    names = {path.name for path in folder.rglob("*")}
    ours = {"step-20.index", "step-20.data-00000-of-00001"}
    assert names == ours | {"a.jpg", "photos", "thesis.txt"}


def test_best_checkpoint_replaces_a_link(tmp_path):
    open_run(tmp_path / "run")
    (tmp_path / "settings").write_text("mine")
    (tmp_path / "run" / "best").mkdir()
    (tmp_path / "run" / "best" / "config.json").symlink_to(tmp_path / "settings")
    best_checkpoint(str(tmp_path / "run")).update(10, {"knn_top1": 0.5})
    assert (tmp_path / "settings").read_text() == "mine"
    assert json.loads((tmp_path / "run" / "best" / "config.json").read_text())


def test_file_that_a_link_in_a_scratch_directory_names_is_kept(tmp_path):
    scratch = tmp_path / ".features.abcdefgh.unfinished"
    scratch.mkdir()
    (tmp_path / "labels.csv").write_text("mine")
    (scratch / "labels.csv").symlink_to("../labels.csv")
    (scratch / "missing").write_text("")
    with new_paths.new_directory(str(tmp_path / "features")) as path:
        os.makedirs(path)
    assert (tmp_path / "labels.csv").read_text() == "mine"
    assert not scratch.exists()


@pytest.mark.parametrize("module", ["downloads.birds.readme", "os"])
def test_code_that_a_prepared_data_set_names_is_not_run(tmp_path, monkeypatch, module):
    folder = tmp_path / "downloads" / "birds" / "1.0.0"
    folder.mkdir(parents=True)
    features = {"image": {"pythonClassName": f"{module}.Image"}}
    known = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    contents = {"pythonClassName": known, "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(contents))
    info = {"name": "birds", "version": "1.0.0", "fileFormat": "tfrecord"}
    info["splits"] = [{"name": "train", "shardLengths": ["1"], "numBytes": "1"}]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    code = f"import pathlib; pathlib.Path({str(tmp_path / 'code_ran')!r}).touch()"
    (folder.parent / "readme.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    # Naming `os`, which is imported already, runs nothing, and tfds refuses it.
    message = "which was not run: if you trust it, import" if "." in module else "Unrecognized"
    with pytest.raises(UserError, match=message):
        moco_tf.load_source("tfds:birds", tfds_dir="downloads")
    assert not (tmp_path / "code_ran").exists()


def test_unfinished_version_of_a_prepared_data_set_is_ignored(tmp_path):
    folder = tmp_path / "birds" / "0.9.0.incomplete1"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text('{"pythonClassName": "')
    with pytest.raises(UserError, match="has no birds"):
        moco_tf.load_source("tfds:birds", tfds_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.source", "folder:gs://bucket/${SECRET}"),
        ("data.source", "photos; folder:/data/$SECRET"),
        ("data.tfds_dir", "gs://bucket/$SECRET"),
        ("monitor_source", "folder:$SECRET"),
        ("encoder", "/data/$SECRET.keras"),
        ("init", "run:gs://bucket/${SECRET}"),
    ],
)
def test_variables_in_the_config_of_a_run_are_not_replaced(tmp_path, monkeypatch, key, value):
    monkeypatch.setenv("SECRET", "password")
    open_run(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    *groups, name = key.split(".")
    (config[groups[0]] if groups else config)[name] = value
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="has an environment variable") as error:
        run_directory.read_config(str(tmp_path / "run"))
    assert "password" not in str(error.value)


def test_run_whose_images_were_moved_can_be_read(tmp_path, monkeypatch):
    monkeypatch.delenv("images", raising=False)
    open_run(tmp_path / "run", "folder:us$images")
    assert run_directory.read_config(str(tmp_path / "run")).data.source == "folder:us$images"


def test_path_that_looks_like_a_variable_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "password")
    (tmp_path / "$SECRET").mkdir()
    source = f"folder:{tmp_path}/$SECRET"
    open_run(tmp_path / "run", source)
    assert run_directory.read_config(str(tmp_path / "run")).data.source == source


def test_file_in_the_working_directory_does_not_hide_an_installed_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").write_text("raise SystemExit('it ran')")
    assert config_files.load("photos").data.source == "photos"


def deflated_tiff(num_bytes):
    """A TIFF file of 16 x 16 pixels whose one strip inflates to this many bytes."""
    strip = zlib.compress(b"\7" * num_bytes, 9)
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (273, None), (277, 1), (278, 16)]
    tags.append((279, len(strip)))
    start = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, start if v is None else v) for tag, v in tags]
    header = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return header + b"".join(entries) + b"\0" * 4 + strip


def test_strip_of_tiff_that_inflates_too_far_is_refused_without_codecs(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    np.testing.assert_array_equal(tiff.read(deflated_tiff(256), 3).values, np.full((16, 16, 1), 7))
    with pytest.raises(ValueError, match="a strip or tile is larger than the header says"):
        tiff.read(deflated_tiff(10**6), 3)


def test_deflated_dicom_is_not_inflated():
    contents = b"\0" * 128 + b"DICM" + dicom.DEFLATED + zlib.compress(b"\0" * 10**6)
    with pytest.raises(UnfitError, match="compressed by deflate: convert it"):
        dicom.read(contents, "float32")


def test_one_long_label_does_not_lengthen_the_others(tmp_path):
    path = tmp_path / "images.tar"
    labels = ["long" * 10**5, *map(str, range(200))]
    with tarfile.open(path, "w") as archive:
        for number, label in enumerate(labels):
            for name, contents in (("jpg", b"image"), ("cls", label.encode())):
                member = tarfile.TarInfo(f"{number}.{name}")
                member.size = len(contents)
                archive.addfile(member, io.BytesIO(contents))
    index = tar_files.index(str(path), "", "")
    assert index["label_texts"].nbytes < 10**6
    texts, numbers = webdataset._joined_labels([index])
    assert [texts[number] for number in numbers] == labels


def test_compressed_index_is_not_read(tmp_path):
    path = tmp_path / "index"

    def write(save):
        buffer = io.BytesIO()
        save(buffer, identity=np.array("identity"), offsets=np.zeros(10))
        path.write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
        return index_cache._read(str(path), "identity")

    assert write(np.savez)["offsets"].shape == (10,)
    assert write(np.savez_compressed) is None


def test_list_of_files_is_inflated_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(run_data, "MAX_CONTENTS_BYTES", 1000)
    (tmp_path / run_data.CONTENTS).write_bytes(gzip.compress(b"\0" * 10**6))
    what, how = run_data._changes(str(tmp_path), hashlib.sha256(b"\0" * 10**6).hexdigest(), [])
    assert what == "images"
    assert "is lost" in how


def test_code_span_in_a_table_hides_no_tag():
    row = "| `x | <img src=x> | y` | `<b>` |"
    assert history._without_html(row) == "| `x | &lt;img src=x> | y` | `<b>` |"


def test_name_of_a_machine_cannot_control_the_terminal():
    assert "\x1b" not in describe({"pid": 1, "host": "name\x1b[31m"})
