"""Whether TensorFlow can lower the whole training step to XLA's HLO for a TPU; it takes no TPU.

    make tpu-check, or python -m tests.tpu_check [--platform=TPU]

For each of `VARIANTS` it builds the model as training does and lowers one replica's `train_step`,
from two batches of bytes to everything that the step changes. It prints what the HLO holds, or the
operation that TPUs lack, and then ends with exit status 1.

TensorFlow's TPU build and the libtpu that goes with it must be installed; `--platform=CPU` needs
neither, and shows what XLA lacks everywhere. The HLO is neither compiled further nor run: whether
it fits into a TPU's memory, how fast it is and what it computes are other questions.
"""

import argparse
import importlib
import os
import re
import sys
import time
from unittest import mock

if __name__ == "__main__":
    # For libtpu, before TensorFlow is imported: four chips. Left to itself it would look for a
    # metadata server that knows them.
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE="v5litepod-4",
        TPU_TOPOLOGY="2x2",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_WORKER_ID="0",
        TPU_HOST_BOUNDS="1,1,1",
        TPU_CHIPS_PER_HOST_BOUNDS="2,2,1",
    )

from moco_tf.cli import app  # noqa: F401, first: it quiets TensorFlow's start

import keras  # isort: skip
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.distribute import tpu_strategy

import moco_tf.mechanisms.moco
from moco_tf.training.build import build_model

REPLICAS, BATCH = 4, 32  # images of one replica
VARIANTS = [
    ("imagenet_v2", "float32"),
    ("imagenet_v2", "mixed_bfloat16"),
    ("imagenet_v1", "float32"),
    ("imagenet_v1", "mixed_bfloat16"),
]


def _sum_of_replicas(platform, value):
    group = [[*range(REPLICAS)]]
    if platform == "TPU":
        return tf.raw_ops.CrossReplicaSum(input=value, group_assignment=group)
    return gen_xla_ops.xla_all_reduce(value, group, "Add", "CrossReplica")


class _Extended(tf.compat.v1.distribute.StrategyExtended):
    """What the replica context of a `TPUStrategy` asks of its strategy."""

    _num_replicas_in_sync = REPLICAS

    def __init__(self, strategy, platform):
        super().__init__(strategy)
        self.platform = platform

    def _get_local_replica_id(self, replica_id):
        return replica_id

    def _reduce_to(self, reduce_op, value, destinations, options):
        # As a TPUStrategy does, which takes the group of replicas from the TPUs that are there.
        if reduce_op == tf.distribute.ReduceOp.MEAN:
            value = tf.math.scalar_mul(1.0 / REPLICAS, value)
        return _sum_of_replicas(self.platform, value)


class StandIn(tf.distribute.TPUStrategy):
    """A `TPUStrategy` of `REPLICAS` replicas without TPUs, to trace what one of them does."""

    def __init__(self, platform):
        # Past TPUStrategy's own, which initialises TPUs.
        tf.distribute.Strategy.__init__(self, _Extended(self, platform))

    def replica(self, replica_id):
        """The context of one replica, with TensorFlow's own `all_gather` for TPUs.

        Args:
            replica_id: int32 scalar tensor.
        """
        return tpu_strategy._TPUReplicaContext(self, replica_id)


def lower(config, platform):
    """Lowers one replica's step of the model that a config describes.

    Args:
        config: a config of `moco_tf.config.default_config`'s keys, for `REPLICAS` devices.
        platform: "TPU" or "CPU".

    Returns:
        str, the HLO.

    Raises:
        ValueError: an operation has no kernel there.
    """
    # The model is built under the default strategy, since the stand-in cannot make variables.
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
            mock.patch.object(moco_tf.model, "move_towards", _move_towards),
        ):
            logs = model.train_step((x_q, x_k))
            # As in `make_train_function`.
            logs = tf.distribute.get_replica_context().all_reduce("MEAN", logs)
        # What is not returned is not lowered.
        changed = [scope.get_current_value(variable) for variable in state]
        for variable, old, new in zip(state, values, changed, strict=True):
            assert new is not old, f"the step leaves {variable.path} as it is"
        return logs, changed

    n = config.batch_size // REPLICAS
    views = tf.TensorSpec([n, config.image_size, config.image_size, 3], tf.uint8)
    held = [tf.TensorSpec(variable.shape, variable.dtype) for variable in state]
    specs = [tf.TensorSpec([], tf.int32), views, views, *held]
    return step.experimental_get_compiler_ir(*specs)(stage="hlo", platform_name=platform)


def _make_pure(optimizer):
    """Lets an optimizer's `apply` run in a `keras.StatelessScope`.

    Keras' for TensorFlow takes the variables of TensorFlow out of its own and has the strategy
    update them, which no scope sees. This is what that comes to on a replica of a TPU: the sum of
    the gradients, and SGD's arithmetic in place of the operation that updates in place,
    ResourceApplyMomentum, for which XLA has a kernel.
    """
    keys = {
        id(variable): optimizer._var_key(variable) for variable in optimizer._trainable_variables
    }

    def update(gradients, variables, learning_rate):
        gradients = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
        for gradient, variable in zip(gradients, variables, strict=True):
            buffer = optimizer.momentum_buffers[optimizer._get_variable_index(variable)]
            decay = optimizer.coupled_weight_decay * variable.value
            buffer.assign(optimizer.momentum * buffer.value + gradient + decay)
            variable.assign_sub(learning_rate * buffer.value)

    optimizer._backend_update_step = update
    optimizer._var_key = lambda variable: keys[id(variable)]


def _move_towards(target, variable, share):
    # Of ResourceApplyGradientDescent, for which XLA has a kernel too, the arithmetic.
    variable.assign_sub(share * (variable.value - target.value))


def describe(hlo):
    """What an HLO holds, in words."""
    counts = {
        "convolutions": "convolution",
        "batch-norms": "batch-norm-(?:training|grad)",
        "all-reduces": "all-reduce",
    }
    found = {what: len(re.findall(rf" {name}\(", hlo)) for what, name in counts.items()}
    return ", ".join(f"{number} {what}" for what, number in found.items())


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
            found = describe(lower(config, platform))
        except ValueError as error:
            if "Failed getting HLO" not in str(error):
                raise
            status = 1
            missing = re.findall(r"(\w+) \(No registered", str(error))
            found = f"{platform} lacks {', '.join(missing) or 'something'}: {error}"
        seconds = time.perf_counter() - start
        print(f"{name}, {precision}: {found}, {seconds:.0f} s", flush=True)
        keras.backend.clear_session()
    return status


if __name__ == "__main__":
    sys.exit(main())
