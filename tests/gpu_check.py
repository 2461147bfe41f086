"""Checks without a GPU whether the operations of the training step have kernels for one.

    make gpu-check, or python -m tests.gpu_check

TensorFlow moves the inputs of an operation without a GPU kernel to the host, and its outputs back,
without a word. The ordinary wheel of TensorFlow registers its GPU kernels on every machine, so the
graphs of the step can be compared with them anywhere. For each of `VARIANTS`, the kNN monitor and
the linear protocol, this lists the operations that work on more than `MAX_BYTES` of the host's
memory. It also trains for a few steps and lists where the host reads results, for which it would
wait for a GPU. It exits with status 1 if there is such an operation, or a read after a step without
a line of the log or a checkpoint.

Parts that XLA compiles are not looked at: they are one operation, and XLA has compilers for GPUs.
Nothing runs on a GPU, so the check says nothing about memory, speed or results.
"""

import contextlib
import functools
import importlib
import math
import os
import sys
import tempfile
import time
from typing import NamedTuple
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.python.framework import kernels

from moco_tf import encoders
from moco_tf.data import sources
from moco_tf.evaluation import linear
from moco_tf.evaluation.extraction import extract
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.settings import LinearSettings
from moco_tf.training.build import build_model
from moco_tf.training.run import train
from tests.host_reads import recorded_reads

# Indices and permutations of a batch are smaller, and images and features are larger.
MAX_BYTES = 16 * 1024
# The training whose reads are recorded.
STEPS, LOG_EVERY, CHECKPOINT_EVERY = 12, 5, 8
# Where the graph begins and ends, and what belongs to no device.
BOUNDARIES = {"Placeholder", "NoOp", "_Arg", "_Retval", "Const"}
VARIANTS = {
    "imagenet_v1": {},
    "imagenet_v2": {},
    "imagenet_v2, mixed_float16": {"precision": "mixed_float16"},
    "imagenet_v2, mixed_bfloat16": {"precision": "mixed_bfloat16"},
    "imagenet_v2, not shuffled": {"shuffle_bn": False},
    "cifar10, symmetric": {"symmetric_loss": True},
    "imagenet_v2, any orientation": {"augmentation": "any_orientation"},
    "imagenet_v1, memory bank": {"mechanism": "memory_bank"},
    "imagenet_v1, end to end": {"mechanism": "end_to_end", "queue_size": 0},
}


class HostOperation(NamedTuple):
    """An operation that works in the memory of the host.

    Attributes:
        name: Name of the operation in its graph.
        type: Its type, such as "GatherV2".
        num_bytes: Bytes of its largest input or output there.
        reason: Why it works there.
    """

    name: str
    type: str
    num_bytes: float
    reason: str


def host_operations(graph):
    """Return the operations of a graph that work on more than `MAX_BYTES` of the host's memory.

    Args:
        graph: A `tf.Graph`, whose functions are looked at as well.
    """
    found = []
    for operation in graph.get_operations():
        function = _called_function(graph, operation)
        if function is not None:
            if not _is_compiled(operation):
                found += host_operations(function)
        elif operation.type not in BOUNDARIES:
            found += _host_operation(operation)
    return found


def _called_function(graph, operation):
    """Return the graph of the function that an operation calls, or None."""
    with contextlib.suppress(ValueError):
        name = operation.get_attr("f").name
        return graph._get_function(name).graph
    return None


def _is_compiled(operation):
    with contextlib.suppress(ValueError):
        return operation.get_attr("_XlaMustCompile")
    return False


def _host_operation(operation):
    kernel = _gpu_kernel(operation)
    if kernel is None:
        tensors, reason = [*operation.inputs, *operation.outputs], "no GPU kernel"
    else:
        on_host = set(kernel.host_memory_arg)
        tensors = [tensor for name, tensor in _arguments(operation) if name in on_host]
        reason = "the GPU kernel keeps it in the memory of the host"
    num_bytes = max(map(_num_bytes, tensors), default=0)
    if num_bytes <= MAX_BYTES:
        return []
    return [HostOperation(operation.name, operation.type, num_bytes, reason)]


def _gpu_kernel(operation):
    """Return the definition of the kernel that a GPU would use, or None if there is none."""
    for kernel in _kernels(operation.type):
        if all(_allows(constraint, operation) for constraint in kernel.constraint):
            return kernel
    return None


@functools.cache
def _kernels(operation_type):
    registered = kernels.get_registered_kernels_for_op(operation_type).kernel
    # Kernels for DEFAULT work on every device that has none of its own.
    return sorted(
        (kernel for kernel in registered if kernel.device_type in ("GPU", "DEFAULT")),
        key=lambda kernel: kernel.device_type == "DEFAULT",
    )


def _allows(constraint, operation):
    value = operation.node_def.attr[constraint.name]
    types = list(value.list.type) or [value.type]
    return set(types) <= set(constraint.allowed_values.list.type)


def _arguments(operation):
    """Yield the names of the arguments of an operation and their tensors."""
    definition, attributes = operation.op_def, operation.node_def.attr
    for arguments, tensors in (
        (definition.input_arg, operation.inputs),
        (definition.output_arg, operation.outputs),
    ):
        position = 0
        for argument in arguments:
            count = 1
            if argument.number_attr:
                count = attributes[argument.number_attr].i
            elif argument.type_list_attr:
                count = len(attributes[argument.type_list_attr].list.type)
            for tensor in tensors[position : position + count]:
                yield argument.name, tensor
            position += count


def _num_bytes(tensor):
    if tensor.dtype.as_datatype_enum in (types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT):
        return 0  # A handle.
    shape = tensor.shape
    return math.inf if not shape.is_fully_defined() else shape.num_elements() * tensor.dtype.size


@contextlib.contextmanager
def recorded_functions():
    """Collect every `tf.function` that is created in the block, in a list."""
    functions, create = [], tf.function

    def record(function=None, **options):
        if function is None:
            return functools.partial(record, **options)
        functions.append(create(function, **options))
        return functions[-1]

    with mock.patch.object(tf, "function", record):
        yield functions


def graphs_of(functions):
    return [
        concrete.graph
        for function in functions
        for concrete in function._list_all_concrete_functions()
    ]


def training_graphs(name, changes):
    """Trace the training step of a config, with its batch size and image size."""
    config = importlib.import_module(f"configs.{name.partition(',')[0]}").get_config()
    config.update(changes)
    num_images = 100_000
    model = build_model(config, steps_per_epoch=5004, num_images=num_images)
    shape = (config.batch_size, config.image_size, config.image_size, 3)
    specs = [tf.TensorSpec(shape, tf.uint8)] * 2
    if config.mechanism == "memory_bank":
        specs.append(tf.TensorSpec([config.batch_size], tf.int64))
    with recorded_functions() as functions:
        model.make_train_function()
    [step] = functions
    return [step.get_concrete_function(tuple(specs)).graph]


def knn_graphs():
    backbone = encoders.random_backbone("resnet18", stem="imagenet")
    source = sources.load("photos")
    with recorded_functions() as functions:
        extract(backbone, source, np.arange(64), 224)
    return graphs_of(functions)


def linear_graphs():
    backbone = encoders.random_backbone("resnet8", stem="small")
    source = sources.load("photos")
    with recorded_functions() as functions:
        settings = LinearSettings(epochs=1, milestones=())
        test = Features(
            np.zeros((1, 64), np.float32), np.zeros(1, np.int64), np.zeros(1, np.int32), 19
        )
        linear.train(backbone, source, source.train, 32, test, settings)
    return graphs_of(functions)


def host_reads():
    """Train for a few steps, and return where the host reads results, by step."""
    config = importlib.import_module("configs.photos").get_config()
    config.update(steps=STEPS, log_every=LOG_EVERY, checkpoint_every=CHECKPOINT_EVERY, knn_every=0)
    config.update(batch_size=16, bn_groups=2)
    with tempfile.TemporaryDirectory() as workdir, recorded_reads() as reads:
        train(config, os.path.join(workdir, "run"))
    return reads


def print_host_reads():
    """Print where the host reads results, and return 1 if it is after another step, or else 0."""
    expected = {1, *range(LOG_EVERY, STEPS, LOG_EVERY), CHECKPOINT_EVERY, STEPS}
    reads = host_reads()
    print(
        f"results that the host waits for, in {STEPS} steps with a line of the log every "
        f"{LOG_EVERY} and a checkpoint after {CHECKPOINT_EVERY}:"
    )
    for step in sorted(reads):
        unexpected = "" if step in expected else "  (neither a line nor a checkpoint)"
        print(f"  step {step}: {', '.join(sorted(reads[step]))}{unexpected}")
    return int(not reads.keys() <= expected)


def main():
    checks = {
        name: functools.partial(training_graphs, name, changes)
        for name, changes in VARIANTS.items()
    }
    checks |= {"kNN": knn_graphs, "linear protocol": linear_graphs}
    status = 0
    for name, trace in checks.items():
        start = time.perf_counter()
        graphs = trace()
        assert graphs
        count = sum(len(graph.get_operations()) for graph in graphs)
        found = [operation for graph in graphs for operation in host_operations(graph)]
        print(f"{name}: {count} operations, {time.perf_counter() - start:.0f} s", flush=True)
        for operation in found:
            status = 1
            print(
                f"  {operation.type} {operation.name}: {operation.num_bytes:,} bytes, "
                f"{operation.reason}",
                flush=True,
            )
        keras.config.set_dtype_policy("float32")
        keras.backend.clear_session()
    return print_host_reads() or status


if __name__ == "__main__":
    sys.exit(main())
