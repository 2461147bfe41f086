"""To and from PyTorch: checkpoints of the reference implementation, and plain ResNets.

    # a run to a checkpoint in facebookresearch/moco's format
    python export/pytorch.py --workdir=runs/mine --out=checkpoint_0199.pth.tar

    # such a checkpoint to a run, which train.py goes on with and evaluate.py evaluates
    python export/pytorch.py --checkpoint=moco_v2_200ep_pretrain.pth.tar --workdir=runs/imported \\
        --config=configs/imagenet_v2.py --config.data.source=folder:PATH

    # the backbone in a SavedModel, or in such a checkpoint, to a state dict of torchvision's names
    python export/pytorch.py --saved_model=PATH --out=resnet50.pth
    python export/pytorch.py --checkpoint=moco_v2_200ep_pretrain.pth.tar --encoder=resnet50 \\
        --out=resnet50.pth

It needs PyTorch, of any build. No code that a checkpoint holds is ever executed. The other formats
take PyTorch's files as well: export/saved_model.py --checkpoint=resnet50.pth --encoder=resnet50.
"""

import numpy as np
from absl import flags

from moco_tf.backbones.pytorch_files import QUERY, import_torch, read, to_array, to_arrays
from moco_tf.cli import app, backbone_flags
from moco_tf.encoders import state_dict

UserError = app.UserError
KEY = "module.encoder_k."
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
    arrays = to_arrays(checkpoint)
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
        arrays[name] = to_array(name, values["momentum_buffer"])
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
    from moco_tf import run_directory
    from moco_tf.training.run import load_model
    from moco_tf.backbones.model_card import Origin

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
    print(f"wrote {out}, which stands at step {int(model.step.numpy())}")


def _export_backbone(backbone, origin, out):
    import torch

    arrays = state_dict.read(backbone)
    content = {key: torch.from_numpy(array) for key, array in arrays.items()}
    form = _format(
        "state dict of PyTorch, under torchvision's names, without the classifier `fc`",
        "`network.load_state_dict(torch.load(PATH), strict=False)` for a network of the same shape "
        "in torchvision or timm; it reports `fc` alone as missing.",
    )
    _write(content, out, backbone, form, origin)
    print(f"wrote {out}, the backbone alone, under torchvision's names")


def _format(name, loading):
    from moco_tf.backbones.model_card import Format

    return Format(
        name=name,
        takes="float32 `[N, {channels}, H, W]`, normalised as below; any size",
        gives="features, float32 `[N, {features}]`, before the layer `fc`",
        loading=f"For {loading}",
    )


def _write(content, out, backbone, form, origin):
    import torch

    from moco_tf.backbones import saving
    from moco_tf.backbones.model_card import model_card

    def fill(unfinished):
        with open(unfinished, "wb") as file:
            torch.save(content, file)

    saving.write_file(out, fill, model_card(backbone, form, origin))


def _import_run(path, config, workdir):
    from moco_tf.training.run import start_from

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

    model, steps_per_epoch = start_from(fill, config, workdir)
    step, epoch = int(model.step.numpy()), checkpoint.get("epoch")
    if not _momentum_arrays(checkpoint):
        print(f"note: {path} holds no momentum buffers; they start at 0")
    if isinstance(epoch, int) and epoch != step // steps_per_epoch:
        print(
            f"note: {path} stands at step {step}, after {epoch} epochs by its own account; with "
            f"these images, {steps_per_epoch} steps an epoch, after {step / steps_per_epoch:.2f}"
        )
    print(f"wrote {workdir}, which stands at step {step}")


def main(_):
    from moco_tf.backbones import saving

    values = flags.FLAGS
    if values.checkpoint and values.workdir:
        if values.out is not None:
            raise UserError(
                "--checkpoint goes to a run, --workdir, or to a state dict, --out: give one"
            )
        if values.encoder is not None:
            raise UserError(
                f"--encoder={values.encoder}: a run's is --config.encoder; leave it out"
            )
        app.require("config")
        _import_run(values.checkpoint, values.config, values.workdir)
        return
    import_torch()  # before anything is loaded for nothing
    app.require("out")
    if backbone_flags.require_one() == "workdir":
        saving.require_free(values.out)
        _export_run(values.workdir, values.out)
    else:
        _export_backbone(*backbone_flags.chosen(), values.out)


if __name__ == "__main__":
    # Here, so that who imports the conversion does not get its flags.
    backbone_flags.define()
    flags.DEFINE_string("out", None, "The file to write, which must not exist.")
    app.define_config_flag("The config of the run, --workdir, to make of --checkpoint.")
    app.run(main)
