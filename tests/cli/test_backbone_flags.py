"""The flags that select a backbone."""

import PIL.Image
import pytest
from absl import flags

from moco_tf import encoders
from moco_tf.cli import backbone_flags
from moco_tf.data import sources
from moco_tf.data.pixels import Pixels
from moco_tf.errors import UserError
from tests import in_process
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
