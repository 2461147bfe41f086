"""Checks without a TPU whether TensorFlow can lower the training step to XLA's HLO for a TPU.

    make tpu-check, or python -m tests.tpu_check [--platform=TPU]

For each of `VARIANTS` it builds the model as training does and lowers the `train_step` of one
replica, from two batches of uint8 images to everything that the step changes. It prints the number
of the main operations in the HLO, or the operation that TPUs lack and then exits with status 1.

It requires TensorFlow's TPU build and the matching libtpu. `--platform=CPU` requires neither, and
shows what XLA lacks on every platform. The HLO is neither compiled further nor executed, so the
check says nothing about the memory, the speed or the results on a TPU.
"""

import argparse
import importlib
import os
import re
import sys
import time
from unittest import mock

if __name__ == "__main__":
    # Four chips, for libtpu, which would otherwise ask a metadata server. Set before TensorFlow is
    # imported.
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE="v5litepod-4",
        TPU_TOPOLOGY="2x2",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_WORKER_ID="0",
        TPU_HOST_BOUNDS="1,1,1",
        TPU_CHIPS_PER_HOST_BOUNDS="2,2,1",
    )

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.distribute import tpu_strategy

from moco_tf.keras_internals import variable_index
from moco_tf.mechanisms import moco
from moco_tf.training.build import build_model

REPLICAS, BATCH = 4, 32  # BATCH is the number of images of one replica.
VARIANTS = [
    ("imagenet_v2", "float32"),
    ("imagenet_v2", "mixed_bfloat16"),
    ("imagenet_v1", "float32"),
    ("imagenet_v1", "mixed_bfloat16"),
]


def _sum_over_replicas(platform, value):
    group = [[*range(REPLICAS)]]
    if platform == "TPU":
        return tf.raw_ops.CrossReplicaSum(input=value, group_assignment=group)
    return gen_xla_ops.xla_all_reduce(value, group, "Add", "CrossReplica")


class _Extended(tf.compat.v1.distribute.StrategyExtended):
    """The part of a strategy that the replica context of a `TPUStrategy` uses."""

    _num_replicas_in_sync = REPLICAS

    def __init__(self, strategy, platform):
        super().__init__(strategy)
        self.platform = platform

    def _get_local_replica_id(self, replica_id):
        return replica_id

    def _reduce_to(self, reduce_op, value, destinations, options):
        # As in TPUStrategy, which takes the group of replicas from the TPUs of the system.
        if reduce_op == tf.distribute.ReduceOp.MEAN:
            value = tf.math.scalar_mul(1.0 / REPLICAS, value)
        return _sum_over_replicas(self.platform, value)


class StandIn(tf.distribute.TPUStrategy):
    """A `TPUStrategy` of `REPLICAS` replicas without TPUs, to trace one of them."""

    def __init__(self, platform):
        # Skips the constructor of TPUStrategy, which initializes TPUs.
        tf.distribute.Strategy.__init__(self, _Extended(self, platform))

    def replica(self, replica_id):
        """Return the context of one replica, with TensorFlow's own `all_gather` for TPUs.

        Args:
            replica_id: int32 scalar tensor.
        """
        return tpu_strategy._TPUReplicaContext(self, replica_id)


def lower(config, platform):
    """Lower one replica's step of the model that a config describes.

    Args:
        config: Config with the keys of `moco_tf.config.default_config`, for `REPLICAS` devices.
        platform: "TPU" or "CPU".

    Returns:
        The HLO as text.

    Raises:
        ValueError: If an operation has no kernel on the platform.
    """
    # The model is built under the default strategy, since the stand-in cannot create variables.
    config.bn_groups //= REPLICAS
    model = build_model(config, steps_per_epoch=5004)
    _make_pure(model.optimizer)
    holders = [model, model.optimizer, *model.metrics]
    state = [variable for holder in holders for variable in holder.variables]
    strategy = StandIn(platform)

    @tf.function(jit_compile=True)
    def step(replica_id, x_q, x_k, *values):
        state_mapping = list(zip(state, values, strict=True))
        with (
            strategy.replica(replica_id),
            keras.StatelessScope(state_mapping) as scope,
            mock.patch.object(moco, "move_towards", _move_towards),
        ):
            logs = model.train_step((x_q, x_k))
            # As in `make_train_function`.
            logs = tf.distribute.get_replica_context().all_reduce("MEAN", logs)
        # Only what is returned is lowered.
        changed = [scope.get_current_value(variable) for variable in state]
        for variable, old, new in zip(state, values, changed, strict=True):
            assert new is not old, f"the step does not change {variable.path}"
        return logs, changed

    n = config.batch_size // REPLICAS
    views = tf.TensorSpec([n, config.image_size, config.image_size, 3], tf.uint8)
    state_specs = [tf.TensorSpec(variable.shape, variable.dtype) for variable in state]
    specs = [tf.TensorSpec([], tf.int32), views, views, *state_specs]
    return step.experimental_get_compiler_ir(*specs)(stage="hlo", platform_name=platform)


def _make_pure(optimizer):
    """Make the `apply` of an optimizer run in a `keras.StatelessScope`.

    Keras' implementation for TensorFlow updates TensorFlow's variables through the strategy, which
    a scope does not see. The replacement does the same on a replica of a TPU: the sum of the
    gradients, and the arithmetic of SGD instead of the in-place operation ResourceApplyMomentum,
    for which XLA has a kernel.
    """
    keys = {
        id(variable): optimizer._var_key(variable) for variable in optimizer._trainable_variables
    }

    def update(gradients, variables, learning_rate):
        gradients = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
        for gradient, variable in zip(gradients, variables, strict=True):
            buffer = optimizer.momentum_buffers[variable_index(optimizer, variable)]
            decay = optimizer.coupled_weight_decay * variable.value
            buffer.assign(optimizer.momentum * buffer.value + gradient + decay)
            variable.assign_sub(learning_rate * buffer.value)

    optimizer._backend_update_step = update
    optimizer._var_key = lambda variable: keys[id(variable)]


def _move_towards(target, variable, fraction):
    # The arithmetic of ResourceApplyGradientDescent, for which XLA has a kernel too.
    variable.assign_sub(fraction * (variable.value - target.value))


def describe(hlo):
    """Return the number of the main operations in an HLO as text."""
    patterns = {
        "convolutions": "convolution",
        "batch-norms": "batch-norm-(?:training|grad)",
        "all-reduces": "all-reduce",
    }
    return ", ".join(
        f"{len(re.findall(rf' {pattern}[(]', hlo))} {name}" for name, pattern in patterns.items()
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--platform", default="TPU", choices=["TPU", "CPU"])
    platform = parser.parse_args(arguments).platform
    status = 0
    for name, precision in VARIANTS:
        config = importlib.import_module(f"configs.{name}").get_config()
        config.batch_size, config.precision = REPLICAS * BATCH, precision
        start = time.perf_counter()
        try:
            outcome = describe(lower(config, platform))
        except ValueError as error:
            if "Failed getting HLO" not in str(error):
                raise
            status = 1
            missing = re.findall(r"(\w+) \(No registered", str(error))
            outcome = f"{platform} lacks {', '.join(missing) or 'an operation'}: {error}"
        seconds = time.perf_counter() - start
        print(f"{name}, {precision}: {outcome}, {seconds:.0f} s", flush=True)
        keras.backend.clear_session()
    return status


if __name__ == "__main__":
    sys.exit(main())
