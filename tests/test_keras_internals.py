"""Each workaround in moco_tf/keras_internals.py is still necessary.

Each test fails when the version of Keras no longer needs the workaround that it names, or no longer
has the private member that it uses.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys

import keras
import pytest
import tensorflow as tf

from moco_tf import keras_internals
from moco_tf.keras_internals import DistributedModel, all_layers, random_parts, replace_inside
from tests.command import ROOT


def mean_model(base_class, **members):
    """Return a built and compiled model whose train_step reports the mean of its batch."""

    def train_step(self, batch):
        return {"mean": tf.reduce_mean(batch)}

    def call(self, inputs):
        return inputs

    members = {"train_step": train_step, "call": call, **members}
    model = type("MeanModel", (base_class,), members)()
    model.built = True
    model.compile()
    return model


@pytest.mark.parametrize(
    ("base_class", "expected_starts"), [(keras.Model, 2), (DistributedModel, 1)]
)
def test_fit_under_a_strategy_starts_the_data_set_twice(two_replicas, base_class, expected_starts):
    """If this fails, `DistributedModel` no longer needs `_maybe_symbolic_build` for this reason."""
    starts = []

    def batches():
        starts.append(None)
        for number in range(3):
            yield [float(number)] * 2

    data = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec([2], tf.float32))
    with two_replicas.scope():
        model = mean_model(base_class)
    model.fit(data, verbose=0)
    assert len(starts) == expected_starts


def test_optimizer_returns_the_index_of_a_variable():
    """The private `_get_variable_index`, which `variable_index` calls, must exist."""
    variables = [keras.Variable(0.0), keras.Variable(1.0), keras.Variable(2.0)]
    optimizer = keras.optimizers.SGD()
    optimizer.build(variables)
    assert [keras_internals.variable_index(optimizer, v) for v in variables] == [0, 1, 2]


def test_optimizer_has_no_public_index_of_a_variable():
    """If this fails, `variable_index` can use the public method."""
    public = [name for name in dir(keras.optimizers.Optimizer) if not name.startswith("_")]
    assert not [name for name in public if "index" in name]


def test_layers_of_a_model_leave_out_nested_layers():
    """If this fails, `model.layers` can replace `all_layers`."""

    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="outer")
            self.inner = keras.layers.Dense(1, name="inner")

        def call(self, inputs):
            return self.inner(inputs)

    inputs = keras.Input((2,))
    model = keras.Model(inputs, Outer()(inputs))
    assert "inner" not in [layer.name for layer in model.layers]
    assert {"outer", "inner"} <= {layer.name for layer in keras_internals.all_layers(model)}


@pytest.mark.parametrize("how", ["variable", "name"])
def test_excluded_variables_have_no_weight_decay(how):
    """The private `_use_weight_decay`, which `uses_weight_decay` calls, must exist."""
    variables = [keras.Variable(1.0, name="kernel"), keras.Variable(1.0, name="bias")]
    optimizer = keras.optimizers.SGD()
    if how == "variable":
        optimizer.exclude_from_weight_decay(var_list=variables[1:])
    else:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(variables)
    assert [keras_internals.uses_weight_decay(optimizer, v) for v in variables] == [True, False]


def report_of_fit(base_class, batches):
    """Return what `fit` reports of two epochs in executions of three steps: history, callbacks."""
    model = mean_model(base_class)
    model.compile(steps_per_execution=3)
    ends = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append((batch, logs))
    )
    data = tf.data.Dataset.from_tensor_slices([[float(number)] for number in range(batches)])
    history = model.fit(data, epochs=2, verbose=0, callbacks=[callback]).history
    return history, ends


@pytest.mark.parametrize("batches", [2, 4, 6])
def test_data_may_end_within_an_execution_of_several_steps(batches):
    reports = [report_of_fit(base_class, batches) for base_class in (DistributedModel, keras.Model)]
    assert reports[0] == reports[1]
    assert len(reports[0][1]) == 2 * -(-batches // 3)


def run_worker():
    """Fit as one of two workers with our train function, and then with that of Keras."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    data = tf.data.Dataset.from_tensors(tf.ones([2, 1])).repeat()
    for base_class in (DistributedModel, keras.Model):
        with strategy.scope():
            model = mean_model(base_class, _maybe_symbolic_build=lambda self, **kwargs: None)
            try:
                model.fit(data, steps_per_epoch=2, verbose=0)
                outcome = "succeeded"
            except ValueError as error:
                outcome = f"failed: {str(error).splitlines()[-1]}"
        print(f"{base_class.__name__} {outcome}", flush=True)


@pytest.mark.nightly
@pytest.mark.distributed
def test_train_function_of_keras_fails_with_several_workers():
    """If this fails, keras issue 20585 is solved, and `make_train_function` is no longer needed."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        workers = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    processes = []
    try:
        for index in range(2):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": workers}, "task": task})
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", f"from {__name__} import run_worker; run_worker()"],
                    cwd=ROOT,
                    env={**os.environ, "TF_CONFIG": config},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for output in outputs:
        ours, stock = output.splitlines()
        assert ours == "DistributedModel succeeded"
        assert stock.startswith("Model failed: ")


def test_layer_that_is_assigned_in_place_of_another_one_comes_last():
    """Which `replace_inside` avoids, so that weights keep their order."""

    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.first, self.second = keras.layers.Dense(1), keras.layers.Dense(2)

    def names(block):
        return [layer.name for layer in all_layers(block) if layer is not block]

    block = Block()
    block.first = keras.layers.Dense(3, name="new")
    assert len(names(block)) == 3
    assert names(block)[-1] == "new"
    block = Block()
    old = block.first
    replace_inside(block, lambda layer: keras.layers.Dense(3, name="new") if layer is old else None)
    assert names(block) == ["new", block.second.name]
    assert block.first.name == "new"


def test_dropout_has_a_seed_generator_unless_its_rate_is_0():
    layers = [keras.layers.Dropout(0.5), keras.layers.Dropout(0.0)]
    assert [random_parts(layer) for layer in layers] == [layers[:1], []]
