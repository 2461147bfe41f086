"""Conversion of a run's model to a checkpoint of facebookresearch/moco, and back.

The reference implementation updates the key encoder at the start of a step, before it encodes the
keys. Algorithm 1 of the paper, and `moco_tf.MoCo`, update it at the end, after the optimizer. Both
encode the same keys, but between two steps the key encoder of the reference is one momentum update
behind. So an import applies this update, and an export takes it back:

    import:  theta_k <- m * theta_k + (1 - m) * theta_q
    export:  theta_k <- (theta_k - (1 - m) * theta_q) / m

The second is the inverse of the first up to the rounding of its result. With m = 0 there is no
inverse, and none is needed: the reference replaces theta_k by theta_q before it is used, so theta_k
is written as it is. Moving statistics are not part of the momentum update and stay the same.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moco_tf.backbones.finite import require_finite
from moco_tf.backbones.pytorch_files import to_array, to_arrays
from moco_tf.encoders import state_dict
from moco_tf.errors import UserError

if TYPE_CHECKING:
    from moco_tf.encoders.state_dict import Entry
    from moco_tf.mechanisms.moco import MoCo
    from moco_tf.optimizers import SGD

# The prefix that DistributedDataParallel adds, and the names in the reference's model.
PREFIX = "module."
QUERY, KEY, QUEUE, POINTER = "encoder_q.", "encoder_k.", "queue", "queue_ptr"
COUNTER = f"{QUERY}bn1.num_batches_tracked"


class Contents(NamedTuple):
    """The arrays in a checkpoint, by their keys.

    Attributes:
        prefix: What precedes the names in the reference's model, usually "module.".
        arrays: All arrays of the state dict.
        momentum: The momentum buffers of the optimizer.
        has_optimizer: Whether there is the state of an optimizer, which holds no buffers before the
            first step.
    """

    prefix: str
    arrays: dict[str, np.ndarray]
    momentum: dict[str, np.ndarray]
    has_optimizer: bool

    def encoder(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of one encoder."""
        prefix = self.prefix + name
        return {key: array for key, array in self.arrays.items() if key.startswith(prefix)}

    def holds_query_encoder_alone(self) -> bool:
        """Return whether nothing else of the training is there, as in the published files."""
        others = (self.prefix + QUEUE, self.prefix + POINTER)
        return not (
            self.momentum or self.encoder(KEY) or any(other in self.arrays for other in others)
        )


def to_checkpoint(model: MoCo, architecture: str, steps_per_epoch: int) -> dict[str, Any]:
    """Convert a model to a checkpoint of facebookresearch/moco, including the optimizer.

    The parameters of the key encoder are those before its last momentum update, see above.

    Args:
        model: A compiled `moco_tf.MoCo`.
        architecture: Name of its encoder.
        steps_per_epoch: Number of steps in an epoch, which determines the reference's `epoch`.

    Returns:
        The dict that `main_moco.py --resume` reads, with torch tensors: `epoch`, `arch`,
        `state_dict` and `optimizer`. It has every key that `main_lincls.py --pretrained` needs.

    Raises:
        UserError: If the model or its optimizer holds NaN or infinity.
    """
    import torch

    require_finite([*model.variables, *_sgd(model).momentum_buffers], "the run")
    step = int(model.step.numpy())
    arrays = {
        PREFIX + QUEUE: np.ascontiguousarray(model.queue.keys.numpy().T),
        PREFIX + POINTER: np.array([model.queue.pointer.numpy()], np.int64),
        **state_dict.read(model.query_encoder, PREFIX + QUERY, step),
        **state_dict.read(model.key_encoder, PREFIX + KEY, step),
    }
    for entry_q, entry_k in _parameters(model):
        arrays[entry_k.key] = _before_update(entry_k.read(), entry_q.read(), model.momentum)
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}

    # The reference's optimizer lists the parameters of both encoders. Those of the key encoder have
    # no gradient, and therefore no buffer.
    sgd, buffers = _sgd(model), _momentum_entries(model)
    parameters = [torch.nn.Parameter(tensors[buffer.key]) for buffer in buffers]
    frozen = [
        torch.nn.Parameter(tensors[entry.key], requires_grad=False)
        for _, entry in _parameters(model)
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


def from_checkpoint(model: MoCo, checkpoint: dict[str, Any]) -> bool:
    """Load a checkpoint of facebookresearch/moco into a model.

    A complete checkpoint, as a training of the reference writes it, holds both encoders, the queue
    and the optimizer. The model's step becomes the number of batches that BatchNormalization in the
    query encoder has counted, and its key encoder is moved on by one momentum update, see above.

    A checkpoint that holds the query encoder alone, as the published files do, starts a new
    training: the key encoder becomes a copy of it, and the queue, the optimizer and the step stay
    as they are in the model, which should be new.

    Args:
        model: A compiled `moco_tf.MoCo`.
        checkpoint: The result of `moco_tf.backbones.pytorch_files.read`.

    Returns:
        Whether the checkpoint is complete.

    Raises:
        MismatchError: If a key is missing or unexpected, or its value has another shape. The model
            may then be partly changed.
        UserError: If some parts of a training are there and others are missing, or a value has
            another type, is out of range, or is NaN or infinite.
    """
    contents = read_contents(checkpoint)
    prefix, query = contents.prefix, contents.encoder(QUERY)
    if contents.holds_query_encoder_alone():
        state_dict.write(model.query_encoder, query, prefix + QUERY)
        model.key_encoder.set_weights(model.query_encoder.get_weights())
        return False

    _require_complete(contents, _sgd(model))
    arrays = contents.arrays
    size, dim = model.queue.keys.shape
    queue = state_dict.require(arrays, prefix + QUEUE, (dim, size), np.floating)
    [pointer] = state_dict.require(arrays, prefix + POINTER, (1,), np.integer)
    if not 0 <= pointer < size:
        raise UserError(f"the key '{prefix}{POINTER}' is {pointer}, outside a queue of {size} keys")
    step = _step(contents)

    state_dict.write(model.query_encoder, query, prefix + QUERY)
    state_dict.write(model.key_encoder, contents.encoder(KEY), prefix + KEY)
    for entry_q, entry_k in _parameters(model):
        entry_k.write(_after_update(entry_k.read(), entry_q.read(), model.momentum))
    model.queue.keys.assign(queue.T)
    model.queue.pointer.assign(pointer)
    model.step.assign(step)
    _sgd(model).iterations.assign(step)
    _write_momentum(model, contents.momentum)
    return True


def read_contents(checkpoint: dict[str, Any]) -> Contents:
    """Return the arrays in a checkpoint, and check that they belong to the reference's model.

    Args:
        checkpoint: The result of `moco_tf.backbones.pytorch_files.read`.

    Raises:
        UserError: If there is no query encoder, or a key belongs to something else.
    """
    arrays = to_arrays(checkpoint)
    prefixes = Counter(key[: key.index(QUERY)] for key in arrays if QUERY in key)
    if not prefixes:
        raise UserError(
            f"no key starts with '{PREFIX}{QUERY}', so it is not a checkpoint of "
            "facebookresearch/moco. Only such a checkpoint can become a run; a backbone can be "
            "evaluated and exported"
        )
    prefix = prefixes.most_common(1)[0][0]
    names = (prefix + QUEUE, prefix + POINTER)
    for key in arrays:
        if key not in names and not key.startswith((prefix + QUERY, prefix + KEY)):
            raise UserError(
                f"the key {key!r} does not belong to a MoCo checkpoint, whose keys start with "
                f"'{prefix}{QUERY}' or '{prefix}{KEY}' or are {' and '.join(map(repr, names))}"
            )
    return Contents(prefix, arrays, _momentum_arrays(checkpoint), bool(checkpoint.get("optimizer")))


def _require_complete(contents: Contents, sgd: SGD) -> None:
    """Raise a `UserError` if a part that a training needs is missing."""
    prefix, arrays = contents.prefix, contents.arrays
    missing = [repr(prefix + name) for name in (QUEUE, POINTER) if prefix + name not in arrays]
    if not contents.encoder(KEY):
        missing.append(f"'{prefix}{KEY}*'")
    # There are no buffers before the first step, and without momentum.
    needs_buffers = sgd.momentum > 0 and arrays.get(prefix + COUNTER, np.array(1)).any()
    if not contents.has_optimizer or (needs_buffers and not contents.momentum):
        missing.append("the momentum buffers in 'optimizer'")
    if missing:
        raise UserError(
            f"parts of the training are missing: {', '.join(missing)}. A run continues from both "
            "encoders, the queue and the optimizer, or starts from the query encoder alone"
        )


def _step(contents: Contents) -> int:
    """Return the number of steps that BatchNormalization has counted in all layers."""
    counter, arrays = contents.prefix + COUNTER, contents.arrays
    step = int(state_dict.require(arrays, counter, (), np.integer))
    if not 0 <= step < 2**63:
        raise UserError(f"the key '{counter}' is {step}, which is not a valid step")
    for key in arrays:
        if key.endswith("num_batches_tracked"):
            other = state_dict.require(arrays, key, (), np.integer)
            if other != step:
                raise UserError(f"the key {key!r} is {other}, but '{counter}' is {step}")
    return step


def _after_update(theta_k: np.ndarray, theta_q: np.ndarray, m: float) -> np.ndarray:
    """Return the parameters of the key encoder after a momentum update, in the same dtype."""
    k, q = np.float64(theta_k), np.float64(theta_q)
    return (k + (1 - m) * (q - k)).astype(theta_k.dtype)


def _before_update(theta_k: np.ndarray, theta_q: np.ndarray, m: float) -> np.ndarray:
    """Return the parameters from which a momentum update leads to `theta_k`, in the same dtype.

    If m is so small that rounding hides where the update started, the parameters stay the same.
    """
    if m < np.finfo(np.float32).eps:
        return theta_k
    k, q = np.float64(theta_k), np.float64(theta_q)
    return (q + (k - q) / m).astype(theta_k.dtype)


def _parameters(model: MoCo) -> list[tuple[Entry, Entry]]:
    """Return the parameters of the query encoder with those of the key encoder, in torch's order.

    Moving statistics are left out, as in the momentum update.
    """
    pairs = zip(
        state_dict.entries(model.query_encoder, PREFIX + QUERY),
        state_dict.entries(model.key_encoder, PREFIX + KEY),
        strict=True,
    )
    return [(query, key) for query, key in pairs if query.variable.trainable]


def _write_momentum(model: MoCo, arrays: dict[str, np.ndarray]) -> None:
    """Set the momentum buffers of a model, to 0 if there are no arrays."""
    buffers = _momentum_entries(model)
    names = [f"optimizer state {index}" for index in range(len(buffers))]
    for name in arrays:
        if name not in names:
            raise state_dict.MismatchError(f"the key {name!r} has no counterpart in this model")
    for name, buffer in zip(names, buffers, strict=True):
        if arrays:
            buffer.write(state_dict.require(arrays, name, buffer.shape, np.floating))
        else:
            buffer.variable.assign(np.zeros(buffer.variable.shape, np.float32))


def _momentum_arrays(checkpoint: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the momentum buffers in a checkpoint; an empty dict if it has none."""
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


def _momentum_entries(model: MoCo) -> list[Entry]:
    """Return the momentum buffers of the query encoder's parameters, in torch's order."""
    parameters = model.query_encoder.trainable_variables
    buffers = {
        id(parameter): buffer
        for parameter, buffer in zip(parameters, _sgd(model).momentum_buffers, strict=True)
    }
    return [entry._replace(variable=buffers[id(entry.variable)]) for entry, _ in _parameters(model)]


def _sgd(model: MoCo) -> SGD:
    """Return the model's SGD, without the loss scaling that float16 adds around it."""
    optimizer: Any = model.optimizer
    return getattr(optimizer, "inner_optimizer", optimizer)
