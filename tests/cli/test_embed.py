"""The command embed.py: features of the images of a run and of others, from every backbone."""

import json
import shutil

import numpy as np
import pandas as pd
import PIL.Image
import pytest

import moco_tf
from moco_tf.backbones.loading import load_query_encoder
from moco_tf.export.keras_v3 import export_keras
from tests import command, in_process


def features(directory):
    return np.stack(pd.read_parquet(directory)["features"])


def test_images_of_a_run(image_folder, trained_run, tmp_path):
    output = in_process.run("embed.py", f"--out={tmp_path}/out", workdir=trained_run)
    source = moco_tf.load_source(f"folder:{image_folder}")
    assert source.summary.splitlines()[0] in output
    assert f"wrote {source.size} rows to 1 file in {tmp_path}/out" in output
    config = json.loads((trained_run / "config.json").read_text())
    expected = moco_tf.extract_features(
        moco_tf.load_backbone(str(trained_run)), source, "all", config["image_size"]
    )
    np.testing.assert_array_equal(features(tmp_path / "out"), expected.features)
    facts = json.loads((tmp_path / "out" / "_facts.json").read_text())["backbone"]
    assert facts["workdir"] == str(trained_run)
    assert facts["checkpoint"] == "step-12"
    assert facts["Mechanism"] == "MoCo"

    output = in_process.run("embed.py", f"--out={tmp_path}/out", workdir=trained_run)
    assert "nothing was written" in output


def test_notes_on_the_images_are_printed(image_folder, trained_run, tmp_path):
    images = shutil.copytree(image_folder, tmp_path / "images")
    (images / "left" / "clip.mp4").write_bytes(b"no image")
    pixels = np.zeros((40, 40), np.uint16)
    PIL.Image.fromarray(pixels).save(images / "left" / "0.png")  # The first file.
    data = f"--data=folder:{images};files:{tmp_path}/list.txt"
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.jpg\n{tmp_path}/a.jpg\n")
    shutil.copy2(image_folder / "left" / "000.jpg", tmp_path / "a.jpg")
    output = in_process.run("embed.py", f"--out={tmp_path}/out", data, workdir=trained_run)
    for line in (
        "102 images from 2 sources",
        f"  folder:{images}: 101 images in 2 classes: left, right",
        "  ignored 1 file: 1 .mp4 (left/clip.mp4)",
        "  note: the 16 bits per channel of PNG files such as ",
        f"  files:{tmp_path}/list.txt: 1 image; no labels, because ",
        "  ignored: 1 line repeats a file that the list names before",
    ):
        assert line in output
    assert "pre-training" not in output
    assert "an evaluation" not in output


def test_keras_file_and_shards(image_folder, trained_run, tmp_path):
    path = tmp_path / "backbone.keras"
    export_keras(load_query_encoder(str(trained_run)).backbone, str(path))
    arguments = (f"--out={tmp_path}/out", f"--data=folder:{image_folder}", "--rows_per_file=30")
    for shard in ("1/2", "0/2"):
        flags = (f"--checkpoint={path}", "--image_size=32", f"--shard={shard}")
        output = in_process.run("embed.py", *arguments, *flags)
        assert ("the files of other shards are not all there yet" in output) == (shard == "1/2")
    backbone = moco_tf.load_backbone(str(trained_run))
    source = moco_tf.load_source(f"folder:{image_folder}")
    expected = moco_tf.extract_features(backbone, source, "all", 32)
    np.testing.assert_allclose(features(tmp_path / "out"), expected.features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["--out is required"]),
        (["--out=x"], ["give exactly one of --workdir, --saved_model and --checkpoint"]),
        (["--out=x", "--saved_model=y"], ["--saved_model requires --data and --image_size"]),
        (["--out=x", "--shard=2"], ["--shard=2", "such as 0/4"]),
        (["--out=x", "--checkpoint=b.keras", "--encoder=resnet8"], ["--encoder=resnet8", "remove"]),
        (["--out=x", "--saved_model=y", "--encoder=resnet8"], ["--encoder=resnet8", "remove"]),
        (["--out=x", "--format=xlsx"], ["--format=xlsx", "parquet"]),
    ],
)
def test_mistakes(flags, parts):
    line = in_process.run_mistake("embed.py", *flags)
    for part in parts:
        assert part in line


def test_several_workers_are_told_to_use_shards():
    # In a process of its own, because a worker ends its process.
    line = command.run_mistake("embed.py", "--out=x", "--strategy=multiworker")
    assert "--strategy=multiworker" in line
    assert "with a --shard of its own" in line


def test_shard_out_of_range(trained_run, tmp_path):
    flags = (f"--out={tmp_path}/out", "--shard=4/4")
    line = in_process.run_mistake("embed.py", *flags, workdir=trained_run)
    assert "shard=4/4: must be i/n with i from 0 to n - 1" in line
    assert not (tmp_path / "out").exists()
