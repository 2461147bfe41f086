"""The flags that select a backbone."""

import numpy as np
import PIL.Image
import pytest
from absl import flags

import moco_tf
from moco_tf import encoders
from moco_tf.cli import backbone_flags, flag_groups
from moco_tf.data import sources
from moco_tf.data.pixels import Pixels
from moco_tf.errors import UserError
from moco_tf.training.knn_monitor import monitored_source
from tests import in_process, videos
from tests.images import patch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of --workdir, --saved_model and --checkpoint"),
        (["--workdir=a", "--saved_model=b"], "exactly one of --workdir"),
        (["--saved_model=a", "--checkpoint=b", "--encoder=resnet50"], "exactly one of --workdir"),
        (["--checkpoint=a"], "--checkpoint requires --encoder"),
        (["--workdir=a", "--encoder=resnet50"], "--encoder=resnet50 has no effect"),
        (["--workdir=a", "--stem=small"], "--stem=small has no effect"),
        (["--saved_model=a", "--stem=small"], "--stem=small requires --encoder"),
        (["--workdir=/no/run"], "there is no directory /no/run"),
        (["--saved_model=/no/run"], "/no/run"),
        pytest.param(
            ["--checkpoint=/no/run", "--encoder=resnet50"], "/no/run", marks=pytest.mark.torch
        ),
    ],
)
@pytest.mark.parametrize("module", ["saved_model", "detectron2_pickle"])
def test_mistakes_are_one_line(tmp_path, module, arguments, message):
    if "--checkpoint=/no/run" in arguments:
        pytest.importorskip("torch", reason="PyTorch is not installed: make pytorch installs it")
    script = f"export/{module}.py"
    line = in_process.run_mistake(script, *arguments, f"--out={tmp_path / 'out'}")
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.fixture
def clip(tmp_path):
    """Return the name of a source of one second of video at 25 frames per second."""
    videos.encode(tmp_path / "clip.mp4", videos.pan("chelsea", 26))
    return f"video:{tmp_path}/clip.mp4"


def opened(name, config, *arguments):
    values = flags.FlagValues()
    flag_groups.define_backbone_flags(values)
    flag_groups.define_source_flags(values, "")
    flag_groups.define_pixel_flags(values)
    flags.DEFINE_string("gallery_data", None, "", flag_values=values)
    values(["program", *arguments])
    return backbone_flags.load_source(values, config, name)


def test_frame_seconds_of_a_run_are_for_videos_only(clip, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros([3, 8, 8, 3], np.uint8))
    array = f"npy:{tmp_path}/images.npy"
    config = moco_tf.default_config()
    config.data.source = config.monitor_source = clip
    config.data.frame_seconds = 0.2
    run_source = opened(clip, config)
    assert run_source.size == 6
    # What the run says does not matter for other images.
    assert opened(array, config, f"--data={array}").size == 3
    config.monitor_source = array
    config.knn_every = 0
    assert monitored_source(config, run_source).size == 3


def test_frame_seconds_as_a_flag_need_a_video(clip, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros([3, 8, 8, 3], np.uint8))
    array = f"npy:{tmp_path}/images.npy"
    config = moco_tf.default_config()
    config.data.source = array
    flag = "--frame_seconds=0.5"
    with pytest.raises(UserError, match=r"frame_seconds=0.5 applies to video sources only.*npy"):
        opened(array, config, flag)
    assert opened(clip, config, f"--data={clip}", flag).size == 3
    # The gallery or the queries may be the videos.
    assert opened(array, config, f"--gallery_data={clip}", flag).size == 3
    assert opened(clip, config, f"--gallery_data={clip}", flag).size == 3


def test_images_of_other_channels_are_refused_with_the_flags_that_read_them(tmp_path):
    PIL.Image.fromarray(patch()).save(tmp_path / "a.png")
    values_12_bits = Pixels((0.5,), (0.25,), "float32", (0.0, 4095.0))
    for pixels, remedy in (
        (None, "read these with --channels=1"),
        (values_12_bits, "read these with --channels=1, --pixels and --value_range=0,4095"),
    ):
        network = encoders.build("resnet8", stem="small", channels=1, pixels=pixels)
        backbone = encoders.with_normalization(network)
        for name, expected in (
            (f"folder:{tmp_path}", f"choose images with 1 channels by --data, or {remedy}"),
            ("photos", "choose images with 1 channels by --data"),
        ):
            with pytest.raises(UserError) as error:
                backbone_flags.require_images(
                    flags.FlagValues(), backbone, "it", sources.load(name), 1, 32
                )
            assert str(error.value).endswith(expected)
