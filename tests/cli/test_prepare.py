"""The command prepare.py: shrinks images, and says what that saves."""

import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

import moco_tf
from tests import in_process
from tests.images import write_folder


def test_images_are_prepared_in_shards_and_trained_on(tmp_path):
    write_folder(tmp_path / "images", images_per_class=12)
    (tmp_path / "images" / "left" / "002.jpg").write_text("no image")
    flags = (
        f"--data=folder:{tmp_path}/images",
        f"--out={tmp_path}/out",
        "--max_side=32",
        "--images_per_file=8",
    )
    output = in_process.run("prepare.py", *flags, "--shard=1/2")
    assert "folder:" in output
    assert "the files of other shards are not all there yet" in output
    output = in_process.run("prepare.py", *flags, "--shard=0/2")
    assert f"wrote 2 files to {tmp_path}/out" in output
    assert "23 images with " in output
    assert "0 were small enough to be copied" in output
    assert f"left out 1 image, see {tmp_path}/out/dropped.tsv" in output
    data = f"tfrecord:{tmp_path}/out/*.tfrecord"
    assert f"--config.data.source='{data}'" in output
    assert moco_tf.load_source(data).class_names == ["left", "right"]
    assert "nothing was written" in in_process.run("prepare.py", *flags)


def test_orientation_is_applied(tmp_path):
    (tmp_path / "images").mkdir()
    image = Image.fromarray(skimage.data.astronaut()[:40, :80])
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by 90 degrees clockwise.
    for number in range(2):
        image.save(tmp_path / "images" / f"{number}.jpg", exif=exif)
    flags = (f"--data=folder:{tmp_path}/images", "--max_side=40")
    for name, shape in (("--noorientation", (20, 40, 3)), ("--orientation", (40, 20, 3))):
        out = tmp_path / name
        in_process.run("prepare.py", *flags, name, f"--out={out}")
        source = moco_tf.load_source(f"tfrecord:{out}/*.tfrecord")
        assert source.read(tf.constant(0, tf.int64)).shape == shape


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["--out is required"]),
        (["--out=x"], ["--data is required: for example --data=folder:PATH"]),
        (["--out=x", "--data=folder:y", "--shard=2"], ["--shard=2", "such as 0/4"]),
        (["--out=x", "--data=folder:y", "--format=zip"], ["--format=zip", "webdataset"]),
        (["--out=x", "--data=folder:y", "--quality=99"], ["--quality=99"]),
        (["--out=x", "--data=folder:no/such"], ["there is no folder 'no/such'"]),
    ],
)
def test_mistakes(flags, parts):
    line = in_process.run_mistake("prepare.py", *flags)
    for part in parts:
        assert part in line
