r"""Export to PyTorch, or import a checkpoint of facebookresearch/moco.

    # A run to a checkpoint in the format of facebookresearch/moco.
    python export/pytorch.py --workdir=runs/mine --out=checkpoint_0199.pth.tar

    # Such a checkpoint to a run, which can be resumed and evaluated.
    python export/pytorch.py --checkpoint=checkpoint_0199.pth.tar \
        --workdir=runs/imported --config=configs/imagenet_v2.py \
        --config.data.source=folder:PATH

    # A published checkpoint to a new run at step 0 that starts from it.
    python export/pytorch.py --checkpoint=moco_v2_200ep_pretrain.pth.tar \
        --workdir=runs/continued --config=configs/imagenet_v2.py \
        --config.data.source=folder:PATH

    # The backbone in a SavedModel or such a checkpoint to a state dict with
    # torchvision's names.
    python export/pytorch.py --saved_model=PATH --out=resnet50.pth
    python export/pytorch.py --checkpoint=moco_v2_200ep_pretrain.pth.tar \
        --encoder=resnet50 --out=resnet50.pth

The files checkpoint_*.pth.tar, which a training of facebookresearch/moco writes,
hold its whole state: an imported run goes on where they were. The published files
moco_*_pretrain.pth.tar hold the query encoder alone: a run that starts from one
has a copy of it as its key encoder, a random queue and new momentum buffers.

It needs PyTorch. No code in a checkpoint is ever executed. The other formats
take PyTorch and safetensors files as well:

    python export/saved_model.py --checkpoint=resnet50.pth \
        --encoder=resnet50 --out=PATH
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from moco_tf.cli import app
from moco_tf.cli import export as export_command
from moco_tf.cli.flag_groups import define_export_flags
from moco_tf.errors import UserError

if TYPE_CHECKING:
    import keras
    import ml_collections

    from moco_tf.backbones.history import Origin
    from moco_tf.backbones.model_card import Format
    from moco_tf.mechanisms.moco import MoCo


def _export_run(workdir: str, out: str) -> None:
    from moco_tf import run_directory
    from moco_tf.backbones.history import Origin
    from moco_tf.backbones.reference_checkpoint import to_checkpoint
    from moco_tf.training.run_model import load_model

    config = run_directory.read_config(workdir)
    model, steps_per_epoch = load_model(workdir)
    newest, step = run_directory.require_checkpoint(workdir), int(model.step.numpy())
    if os.path.basename(newest) != f"step-{step}":
        raise UserError(
            f"the newest checkpoint {newest} cannot be used: move its files elsewhere to export "
            f"step-{step}"
        )
    try:
        checkpoint = to_checkpoint(model, config.encoder, steps_per_epoch)
    except UserError as error:
        raise UserError(f"{workdir} cannot be exported: {error}") from error
    form = _format(
        "checkpoint of facebookresearch/moco, with both encoders, the queue and the optimizer",
        "`main_moco.py --resume` and `main_lincls.py --pretrained` of facebookresearch/moco, and "
        "`export/pytorch.py --checkpoint` of moco-tf.",
    )
    backbone = model.query_encoder.backbone
    _write(checkpoint, out, backbone, form, Origin("workdir", workdir))
    print(f"wrote {out}, the run at step {step}")


def _export_backbone(backbone: keras.Model, origin: Origin, out: str) -> None:
    import torch

    from moco_tf.backbones.finite import require_finite
    from moco_tf.encoders import state_dict

    require_finite(backbone.weights)
    arrays = state_dict.read(backbone)
    content = {key: torch.from_numpy(array) for key, array in arrays.items()}
    form = _format(
        "PyTorch state dict with torchvision's names, without the classifier `fc`",
        "`network.load_state_dict(torch.load(PATH), strict=False)` with a network of the same "
        "shape from torchvision or timm, which reports only `fc` as missing.",
    )
    _write(content, out, backbone, form, origin)
    print(f"wrote {out}, the backbone with torchvision's names")


def _format(name: str, loading: str) -> Format:
    from moco_tf.backbones.model_card import Format

    return Format(
        name=name,
        inputs="float32 `[N, {channels}, H, W]`, any size, normalized as below",
        outputs="features, float32 `[N, {features}]`, before the layer `fc`",
        loading=f"For {loading}",
    )


def _write(
    content: dict[str, Any], out: str, backbone: keras.Model, form: Format, origin: Origin
) -> None:
    import torch

    from moco_tf.backbones import saving
    from moco_tf.backbones.model_card import model_card

    def fill(unfinished: str) -> None:
        # On a full disk, torch.save itself raises a RuntimeError without the reason.
        contents = io.BytesIO()
        torch.save(content, contents)
        with open(unfinished, "wb") as file:
            file.write(contents.getbuffer())

    note = _pixels_note(backbone)
    if note:
        form = form._replace(loading=f"{form.loading}\n\n{note}")
    saving.write_file(out, fill, model_card(backbone, form, origin))
    if note:
        print(f"note: {note}")


def _pixels_note(backbone: keras.Model) -> str:
    """Return what the file loses of the pixel values; "" if they are those of most images."""
    from moco_tf import encoders
    from moco_tf.data.pixels import default, number_text, range_text, rounded

    pixels = encoders.pixels_of(backbone)
    if pixels == default(backbone.input_shape[-1]):
        return ""
    mean, std = (
        ", ".join(number_text(rounded(number)) for number in numbers)
        for numbers in (pixels.mean, pixels.std)
    )
    return (
        "The file does not say how images are normalized: by the value range "
        f"{range_text(pixels)}, the mean {mean} and the standard deviation {std}. The "
        "`--checkpoint` of moco-tf's commands takes the default mean and deviation, so use the "
        "run or its SavedModel there."
    )


def _import_run(path: str, config: ml_collections.ConfigDict, workdir: str) -> None:
    from moco_tf.backbones.pytorch_files import read
    from moco_tf.backbones.reference_checkpoint import from_checkpoint
    from moco_tf.encoders.state_dict import MismatchError
    from moco_tf.training.run_model import start_from

    checkpoint, is_complete = read(path), False

    def initialize(model: MoCo) -> None:
        nonlocal is_complete
        try:
            is_complete = from_checkpoint(model, checkpoint)
        except MismatchError as error:
            raise UserError(
                f"{path} does not match config.encoder={config.encoder}, stem={config.stem}, "
                f"head={config.head}, dim={config.dim}, queue_size={config.queue_size} and images "
                f"with {model.query_encoder.input_shape[-1]} channels: {error}"
            ) from error
        except UserError as error:
            raise UserError(f"{path} cannot become a run: {error}") from error

    model, steps_per_epoch = start_from(initialize, config, workdir)
    step, epoch = int(model.step.numpy()), checkpoint.get("epoch")
    if not is_complete:
        print(
            f"note: {path} holds the query encoder alone, so a new run starts from it: the key "
            "encoder is a copy, the queue is random, and the momentum buffers are 0"
        )
    elif isinstance(epoch, int) and epoch != step // steps_per_epoch:
        print(
            f"note: {path} is at step {step}, after {epoch} epochs according to its 'epoch'; with "
            f"the images of this run, an epoch has {steps_per_epoch} steps, so the run is at epoch "
            f"{step / steps_per_epoch:.2f}"
        )
    print(f"wrote {workdir}, a run at step {step}")


def _define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    define_export_flags(
        values,
        "File to write, which must not exist; required, except to import a run.",
        heading="Backbone (give exactly one; to import a run, --checkpoint and --workdir)",
    )
    app.define_config_flag(
        values, arguments, "Config of the run to import, such as configs/imagenet_v2.py."
    )


def _convert(values: flags.FlagValues) -> None:
    from moco_tf.backbones import saving
    from moco_tf.backbones.pytorch_files import import_torch
    from moco_tf.cli import backbone_flags

    if values.checkpoint and values.workdir:
        if values.out is not None:
            raise UserError(
                "--checkpoint is converted to a run, --workdir, or to a state dict, --out: set "
                "only one of the two"
            )
        if values.encoder is not None:
            raise UserError(
                f"--encoder={values.encoder} has no effect with --workdir: the encoder of a run is "
                "--config.encoder"
            )
        app.require(values, "config")
        _import_run(values.checkpoint, values.config, values.workdir)
        return
    import_torch()  # Before anything else is loaded, which may take long.
    app.require(values, "out")
    if backbone_flags.require_one(values) == "workdir":
        saving.require_free(values.out)
        _export_run(values.workdir, values.out)
    else:
        _export_backbone(*backbone_flags.load_for_export(values), values.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return app.run(export_command.command("pytorch", __doc__ or "", _define_flags, _convert), argv)


if __name__ == "__main__":
    sys.exit(main())
