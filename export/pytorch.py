"""To and from PyTorch: checkpoints of the reference implementation, and plain ResNets.

    # a run to a checkpoint in facebookresearch/moco's format
    python export/pytorch.py --workdir=runs/mine --out=checkpoint_0199.pth.tar

    # such a checkpoint to a run, which train.py goes on with and evaluate.py evaluates
    python export/pytorch.py --checkpoint=moco_v2_200ep_pretrain.pth.tar --workdir=runs/imported \\
        --config=configs/imagenet_v2.py --config.data.source=folder:PATH

    # the backbone in such a checkpoint, or in a state dict of torchvision's or timm's ResNet, to a
    # SavedModel
    python export/pytorch.py --checkpoint=resnet50.pth --encoder=resnet50 --out=PATH

It needs PyTorch, of any build. No code that a checkpoint holds is ever executed.
"""

import os
import re
import warnings

import numpy as np
from absl import flags

from moco_tf import command_line
from moco_tf.encoders import state_dict

UserError = command_line.UserError
QUERY, KEY = "module.encoder_q.", "module.encoder_k."
QUEUE, POINTER = "module.queue", "module.queue_ptr"


def to_checkpoint(model, architecture, steps_per_epoch):
    """A model as a checkpoint of facebookresearch/moco, optimizer included.

    Args:
        model: a compiled `moco_tf.MoCo`.
        architecture: str, the name of its encoder.
        steps_per_epoch: int, from which the reference's `epoch` follows.

    Returns:
        The dict that `main_moco.py --resume` reads, with torch tensors: `epoch`, `arch`,
        `state_dict` and `optimizer`. `main_lincls.py --pretrained` finds every key that it
        expects.
    """
    import torch

    step = int(model.step.numpy())
    arrays = {
        QUEUE: np.ascontiguousarray(model.queue.keys.numpy().T),
        POINTER: np.array([model.queue.pointer.numpy()], np.int64),
        **state_dict.read(model.query_encoder, QUERY, step),
        **state_dict.read(model.key_encoder, KEY, step),
    }
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}

    # The reference's optimizer lists the parameters of both encoders, the key encoder's without
    # gradient, and so without a buffer.
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


def from_checkpoint(model, checkpoint):
    """Takes over a checkpoint of facebookresearch/moco.

    The model's step is the number of batches that BatchNormalization in the query encoder has
    counted. Momentum buffers start at 0 where the checkpoint holds none.

    Args:
        model: a compiled `moco_tf.MoCo`.
        checkpoint: what `read` returns.

    Raises:
        UserError: a key is missing, surplus, of another shape or type. The model may have taken
            over a part by then.
    """
    arrays = _arrays(checkpoint)
    parts = {QUERY: {}, KEY: {}, None: {}}
    for key, array in arrays.items():
        prefix = next((prefix for prefix in (QUERY, KEY) if key.startswith(prefix)), None)
        parts[prefix][key] = array
    for key in parts[None]:
        if key not in (QUEUE, POINTER):
            raise UserError(
                f"the key {key!r} is none of a MoCo checkpoint's, which begin with 'module.'"
            )

    size, dim = model.queue.keys.shape
    queue = state_dict.require(arrays, QUEUE, (dim, size), np.floating)
    [pointer] = state_dict.require(arrays, POINTER, (1,), np.integer)
    if not 0 <= pointer < size:
        raise UserError(f"the key '{POINTER}' holds {pointer}, outside a queue of {size} keys")
    counter = f"{QUERY}bn1.num_batches_tracked"
    step = int(state_dict.require(arrays, counter, (), np.integer))
    if not 0 <= step < 2**63:
        raise UserError(f"the key '{counter}' holds {step}, which is no step")
    for key in arrays:
        if key.endswith("num_batches_tracked"):
            other = state_dict.require(arrays, key, (), np.integer)
            if other != step:
                raise UserError(f"the key {key!r} holds {other}, and '{counter}' holds {step}")

    state_dict.write(model.query_encoder, parts[QUERY], QUERY)
    state_dict.write(model.key_encoder, parts[KEY], KEY)
    model.queue.keys.assign(queue.T)
    model.queue.pointer.assign(pointer)
    model.step.assign(step)
    _sgd(model).iterations.assign(step)
    buffers, arrays = _momentum_entries(model), _momentum_arrays(checkpoint)
    names = [f"optimizer state {index}" for index in range(len(buffers))]
    for name in arrays:
        if name not in names:
            raise UserError(f"the key {name!r} has no place in this model")
    for name, buffer in zip(names, buffers, strict=True):
        if arrays:
            buffer.write(state_dict.require(arrays, name, buffer.shape, np.floating))
        else:
            buffer.variable.assign(np.zeros(buffer.variable.shape, np.float32))


def backbone_from_checkpoint(backbone, checkpoint):
    """Takes over the backbone in a checkpoint: a MoCo query encoder's, or a plain ResNet.

    Args:
        backbone: a `keras.Model` of `moco_tf.encoders.build`, without a head.
        checkpoint: what `read` returns. The head or classifier in it, `fc`, is left out.

    Raises:
        UserError: a key is missing, surplus, of another shape or type.
    """
    arrays = _arrays(checkpoint)
    prefix = QUERY if any(key.startswith(QUERY) for key in arrays) else ""
    arrays = {
        key: array
        for key, array in arrays.items()
        if key.startswith(prefix) and not key.startswith(f"{prefix}fc.")
    }
    state_dict.write(backbone, arrays, prefix)


def read(path):
    """Reads a file of torch.save without executing anything in it.

    Args:
        path: str.

    Returns:
        A dict.

    Raises:
        UserError: PyTorch is not installed, there is no such file, or it is truncated or holds
            anything but tensors, numbers, words and collections of them.
    """
    torch = _import_torch()
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about formats
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever a parser makes of arbitrary bytes
        more = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{path} holds more than tensors, {more[1]}, and nothing in it was executed: save the "
            "state dict alone, or fetch the file again if it was truncated"
            if more
            else f"{path} is truncated, or no file of torch.save as it writes them by default"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def _import_torch():
    try:
        import torch
    except ImportError as error:
        raise UserError("PyTorch is not installed: pip install torch") from error
    return torch


def _arrays(checkpoint):
    """The state dict in a checkpoint, or that a file is by itself, as `{key: array}`."""
    tensors = checkpoint.get("state_dict", checkpoint)
    if not isinstance(tensors, dict):
        raise UserError("the key 'state_dict' holds no state dict")
    return {str(key): _array(key, tensor) for key, tensor in tensors.items()}


def _array(key, tensor):
    try:
        tensor = tensor.detach()
        # Larger than its file, a tensor is one number many times over, and so no weight.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise TypeError("expanded")
        # NumPy has no bfloat16; float32 holds its numbers exactly.
        small_float = tensor.is_floating_point() and tensor.element_size() < 4
        return (tensor.float() if small_float else tensor).numpy()
    except (AttributeError, RuntimeError, TypeError) as error:  # sparse, quantized, no tensor
        raise UserError(f"the key {key!r} holds no plain tensor") from error


def _momentum_arrays(checkpoint):
    """The momentum buffers in a checkpoint; an empty dict where it holds none."""
    optimizer = checkpoint.get("optimizer", {})
    state = optimizer.get("state", {}) if isinstance(optimizer, dict) else None
    if not isinstance(state, dict):
        raise UserError("the key 'optimizer' holds no optimizer's state")
    arrays = {}
    for index, values in state.items():
        name = f"optimizer state {index}"
        if not isinstance(values, dict) or "momentum_buffer" not in values:
            raise UserError(f"the key {name!r} holds no momentum_buffer, so it is not SGD's")
        arrays[name] = _array(name, values["momentum_buffer"])
    return arrays


def _sgd(model):
    """The model's `moco_tf.optimizers.SGD`, which float16's loss scaling is wrapped around."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def _momentum_entries(model):
    """The query encoder's parameters in torch's order, with their momentum buffers instead."""
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


def _export_run(workdir, out):
    from moco_tf import loading, run_directory

    torch = _import_torch()
    if os.path.exists(out):
        raise UserError(f"--out={out} exists: give a path that does not")
    config = run_directory.read_config(workdir)
    model, steps_per_epoch = loading.load_model(workdir)
    checkpoint = to_checkpoint(model, config.encoder, steps_per_epoch)
    # Whole or not at all: a kill while it is written leaves no half checkpoint at `out`.
    unfinished = f"{out}.unfinished"
    try:
        with open(unfinished, "wb") as file:
            torch.save(checkpoint, file)
        os.replace(unfinished, out)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
    print(f"wrote {out}, which stands at step {int(model.step.numpy())}")


def _import_run(path, config, workdir):
    from moco_tf import training

    checkpoint = read(path)

    def fill(model):
        try:
            from_checkpoint(model, checkpoint)
        except UserError as error:
            raise UserError(
                f"{path} does not fit config.encoder={config.encoder}, stem={config.stem}, "
                f"head={config.head}, dim={config.dim}, queue_size={config.queue_size}, and images "
                f"of {model.query_encoder.input_shape[-1]} channels: {error}"
            ) from error

    model, steps_per_epoch = training.start_from(fill, config, workdir)
    step, epoch = int(model.step.numpy()), checkpoint.get("epoch")
    if not _momentum_arrays(checkpoint):
        print(f"note: {path} holds no momentum buffers; they start at 0")
    if isinstance(epoch, int) and epoch != step // steps_per_epoch:
        print(
            f"note: {path} stands at step {step}, after {epoch} epochs by its own account; with "
            f"these images, {steps_per_epoch} steps an epoch, after {step / steps_per_epoch:.2f}"
        )
    print(f"wrote {workdir}, which stands at step {step}")


def _import_backbone(path, encoder, stem, channels, out):
    from saved_model import export_saved_model  # beside this script

    from moco_tf import encoders

    backbone, checkpoint = encoders.build(encoder, stem=stem, channels=channels), read(path)
    try:
        backbone_from_checkpoint(backbone, checkpoint)
    except UserError as error:
        raise UserError(
            f"{path} as --encoder={encoder} --stem={stem} --channels={channels}: {error}"
        ) from error
    export_saved_model(encoders.with_normalization(backbone), out)
    print(f"wrote {out}")


def main(_):
    values = flags.FLAGS
    if values.checkpoint is None:
        command_line.require("workdir", "out")
        _export_run(values.workdir, values.out)
    elif values.workdir is not None and values.out is not None:
        raise UserError(
            "--checkpoint goes to a run, --workdir, or to a SavedModel, --out: give one"
        )
    elif values.workdir is not None:
        command_line.require("config")
        _import_run(values.checkpoint, values.config, values.workdir)
    else:
        command_line.require("encoder", "out")
        _import_backbone(
            values.checkpoint, values.encoder, values.stem, values.channels, values.out
        )


if __name__ == "__main__":
    # Here, so that who imports the conversion does not get its flags.
    flags.DEFINE_string("checkpoint", None, "A file of PyTorch to take over.")
    flags.DEFINE_string("workdir", None, "The run to export, or to make of --checkpoint.")
    flags.DEFINE_string("out", None, "The file or SavedModel to write, which must not exist.")
    flags.DEFINE_string("encoder", None, "What --checkpoint holds, for a SavedModel of it.")
    flags.DEFINE_string("stem", "imagenet", "The stem of --encoder: imagenet, or small.")
    flags.DEFINE_integer("channels", 3, "Of the images that --encoder takes.", lower_bound=1)
    command_line.define_config_flag("The config of the run to make.")
    command_line.run(main)
