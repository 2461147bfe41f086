r"""Export to PyTorch, or import a checkpoint of facebookresearch/moco.

    # A run to a checkpoint in the format of facebookresearch/moco.
    python export/pytorch.py --workdir=runs/mine --out=checkpoint_0199.pth.tar

    # Such a checkpoint to a run, which can be resumed and evaluated.
    python export/pytorch.py --checkpoint=checkpoint_0199.pth.tar \
        --workdir=runs/imported --config=configs/imagenet_v2.py \
        --config.data.source=folder:PATH

    # The backbone in a SavedModel or such a checkpoint to a state dict with
    # torchvision's names.
    python export/pytorch.py --saved_model=PATH --out=resnet50.pth
    python export/pytorch.py --checkpoint=moco_v2_200ep_pretrain.pth.tar \
        --encoder=resnet50 --out=resnet50.pth

It needs PyTorch. No code in a checkpoint is ever executed. The other formats
take PyTorch checkpoints as well:

    python export/saved_model.py --checkpoint=resnet50.pth \
        --encoder=resnet50 --out=PATH
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from moco_tf.cli import app
from moco_tf.cli import export as export_command
from moco_tf.cli.flag_groups import define_export_flags
from moco_tf.errors import UserError

if TYPE_CHECKING:
    import keras
    import ml_collections

    from moco_tf.backbones.model_card import Format, Origin
    from moco_tf.encoders.state_dict import Entry
    from moco_tf.mechanisms.moco import MoCo
    from moco_tf.optimizers import SGD

QUERY, KEY = "module.encoder_q.", "module.encoder_k."
QUEUE, POINTER = "module.queue", "module.queue_ptr"


def to_checkpoint(model: MoCo, architecture: str, steps_per_epoch: int) -> dict[str, Any]:
    """Convert a model to a checkpoint of facebookresearch/moco, including the optimizer.

    Args:
        model: A compiled `moco_tf.MoCo`.
        architecture: Name of its encoder.
        steps_per_epoch: Number of steps in an epoch, which determines the reference's `epoch`.

    Returns:
        The dict that `main_moco.py --resume` reads, with torch tensors: `epoch`, `arch`,
        `state_dict` and `optimizer`. It has every key that `main_lincls.py --pretrained` needs.
    """
    import torch

    from moco_tf.encoders import state_dict

    step = int(model.step.numpy())
    arrays = {
        QUEUE: np.ascontiguousarray(model.queue.keys.numpy().T),
        POINTER: np.array([model.queue.pointer.numpy()], np.int64),
        **state_dict.read(model.query_encoder, QUERY, step),
        **state_dict.read(model.key_encoder, KEY, step),
    }
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}

    # The reference's optimizer lists the parameters of both encoders. Those of the key encoder have
    # no gradient, and therefore no buffer.
    sgd, buffers = _sgd(model), _momentum_entries(model)
    parameters = [torch.nn.Parameter(tensors[buffer.key]) for buffer in buffers]
    frozen = [
        torch.nn.Parameter(tensors[buffer.key.replace(QUERY, KEY)], requires_grad=False)
        for buffer in buffers
    ]
    optimizer = torch.optim.SGD(
        parameters + frozen,
        lr=float(sgd.learning_rate),
        momentum=sgd.momentum,
        weight_decay=sgd.coupled_weight_decay,
    )
    if step:
        for parameter, buffer in zip(parameters, buffers, strict=True):
            optimizer.state[parameter]["momentum_buffer"] = torch.from_numpy(buffer.read())
    return {
        "epoch": step // steps_per_epoch,
        "arch": architecture,
        "state_dict": tensors,
        "optimizer": optimizer.state_dict(),
    }


def from_checkpoint(model: MoCo, checkpoint: dict[str, Any]) -> None:
    """Load a checkpoint of facebookresearch/moco into a model.

    The model's step becomes the number of batches that BatchNormalization in the query encoder has
    counted. Momentum buffers start at 0 if the checkpoint has none.

    Args:
        model: A compiled `moco_tf.MoCo`.
        checkpoint: The result of `moco_tf.backbones.pytorch_files.read`.

    Raises:
        UserError: If a key is missing or unexpected, or its value has another shape or type. The
            model may then be partly changed.
    """
    from moco_tf.backbones.pytorch_files import to_arrays
    from moco_tf.encoders import state_dict

    arrays = to_arrays(checkpoint)
    query = {key: array for key, array in arrays.items() if key.startswith(QUERY)}
    key_encoder = {key: array for key, array in arrays.items() if key.startswith(KEY)}
    for key in arrays:
        if key not in (QUEUE, POINTER) and not key.startswith((QUERY, KEY)):
            raise UserError(
                f"the key {key!r} does not belong to a MoCo checkpoint, whose keys start with "
                "'module.'"
            )

    size, dim = model.queue.keys.shape
    queue = state_dict.require(arrays, QUEUE, (dim, size), np.floating)
    [pointer] = state_dict.require(arrays, POINTER, (1,), np.integer)
    if not 0 <= pointer < size:
        raise UserError(f"the key '{POINTER}' is {pointer}, outside a queue of {size} keys")
    counter = f"{QUERY}bn1.num_batches_tracked"
    step = int(state_dict.require(arrays, counter, (), np.integer))
    if not 0 <= step < 2**63:
        raise UserError(f"the key '{counter}' is {step}, which is not a valid step")
    for key in arrays:
        if key.endswith("num_batches_tracked"):
            other = state_dict.require(arrays, key, (), np.integer)
            if other != step:
                raise UserError(f"the key {key!r} is {other}, but '{counter}' is {step}")

    state_dict.write(model.query_encoder, query, QUERY)
    state_dict.write(model.key_encoder, key_encoder, KEY)
    model.queue.keys.assign(queue.T)
    model.queue.pointer.assign(pointer)
    model.step.assign(step)
    _sgd(model).iterations.assign(step)
    _write_momentum(model, _momentum_arrays(checkpoint))


def _write_momentum(model: MoCo, arrays: dict[str, np.ndarray]) -> None:
    """Set the momentum buffers of a model, to 0 if there are no arrays."""
    from moco_tf.encoders import state_dict

    buffers = _momentum_entries(model)
    names = [f"optimizer state {index}" for index in range(len(buffers))]
    for name in arrays:
        if name not in names:
            raise UserError(f"the key {name!r} has no counterpart in this model")
    for name, buffer in zip(names, buffers, strict=True):
        if arrays:
            buffer.write(state_dict.require(arrays, name, buffer.shape, np.floating))
        else:
            buffer.variable.assign(np.zeros(buffer.variable.shape, np.float32))


def _momentum_arrays(checkpoint: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the momentum buffers in a checkpoint; an empty dict if it has none."""
    from moco_tf.backbones.pytorch_files import to_array

    optimizer = checkpoint.get("optimizer", {})
    state = optimizer.get("state", {}) if isinstance(optimizer, dict) else None
    if not isinstance(state, dict):
        raise UserError("the key 'optimizer' does not hold the state of an optimizer")
    arrays = {}
    for index, values in state.items():
        name = f"optimizer state {index}"
        if not isinstance(values, dict) or "momentum_buffer" not in values:
            raise UserError(f"the key {name!r} has no momentum_buffer, so it is not that of SGD")
        arrays[name] = to_array(name, values["momentum_buffer"])
    return arrays


def _sgd(model: MoCo) -> SGD:
    """Return the model's SGD, without the loss scaling that float16 adds around it."""
    optimizer: Any = model.optimizer
    return getattr(optimizer, "inner_optimizer", optimizer)


def _momentum_entries(model: MoCo) -> list[Entry]:
    """Return the momentum buffers of the query encoder's parameters, in torch's order."""
    from moco_tf.encoders import state_dict

    parameters = model.query_encoder.trainable_variables
    buffers = {
        id(parameter): buffer
        for parameter, buffer in zip(parameters, _sgd(model).momentum_buffers, strict=True)
    }
    return [
        entry._replace(variable=buffers[id(entry.variable)])
        for entry in state_dict.entries(model.query_encoder, QUERY)
        if id(entry.variable) in buffers
    ]


def _export_run(workdir: str, out: str) -> None:
    from moco_tf import run_directory
    from moco_tf.backbones.model_card import Origin
    from moco_tf.training.run import load_model

    config = run_directory.read_config(workdir)
    model, steps_per_epoch = load_model(workdir)
    checkpoint = to_checkpoint(model, config.encoder, steps_per_epoch)
    form = _format(
        "checkpoint of facebookresearch/moco, with both encoders, the queue and the optimizer",
        "`main_moco.py --resume` and `main_lincls.py --pretrained` of facebookresearch/moco, and "
        "`export/pytorch.py --checkpoint` of moco-tf.",
    )
    backbone = model.query_encoder.backbone
    _write(checkpoint, out, backbone, form, Origin("workdir", workdir))
    print(f"wrote {out}, the run at step {int(model.step.numpy())}")


def _export_backbone(backbone: keras.Model, origin: Origin, out: str) -> None:
    import torch

    from moco_tf.encoders import state_dict

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
        with open(unfinished, "wb") as file:
            torch.save(content, file)

    saving.write_file(out, fill, model_card(backbone, form, origin))


def _import_run(path: str, config: ml_collections.ConfigDict, workdir: str) -> None:
    from moco_tf.backbones.pytorch_files import read
    from moco_tf.training.run import start_from

    checkpoint = read(path)

    def initialize(model: MoCo) -> None:
        try:
            from_checkpoint(model, checkpoint)
        except UserError as error:
            raise UserError(
                f"{path} does not match config.encoder={config.encoder}, stem={config.stem}, "
                f"head={config.head}, dim={config.dim}, queue_size={config.queue_size} and images "
                f"with {model.query_encoder.input_shape[-1]} channels: {error}"
            ) from error

    model, steps_per_epoch = start_from(initialize, config, workdir)
    step, epoch = int(model.step.numpy()), checkpoint.get("epoch")
    if not _momentum_arrays(checkpoint):
        print(f"note: {path} has no momentum buffers, so they start at 0")
    if isinstance(epoch, int) and epoch != step // steps_per_epoch:
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
