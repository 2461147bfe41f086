"""Run commands as a person would, in processes of their own."""

import os
import pathlib
import subprocess
import sys
import time

import tensorflow as tf

from moco_tf import run_directory, run_metrics

ROOT = pathlib.Path(__file__).parent.parent

# A run of seconds: everything as in a real one, only small.
TINY = (
    "--config=configs/photos.py",
    "--config.encoder=resnet8",
    "--config.image_size=32",
    "--config.batch_size=16",
    "--config.bn_groups=2",
    "--config.queue_size=100",
    "--config.epochs=6",
    "--config.log_every=1",
    "--config.checkpoint_every=2",
    "--config.knn_every=3",
)


def start(*arguments):
    """Start `python *arguments` in the checkout; its output can be read from `stdout`."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        # As in a person's shell, where nothing sets TensorFlow's log level.
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments, status=0):
    """Run `python *arguments` to its end with the expected status, and return what it printed."""
    process = start(*arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def run_mistake(*arguments):
    """Run a command that must fail with one line and exit status 2, and return the line."""
    output = run(*arguments, status=2)
    lines = output.strip().splitlines()
    assert len(lines) == 1, output
    assert lines[0].startswith("error: "), output
    return lines[0]


def state(workdir):
    """Return the values of all variables in the newest checkpoint, without the number of saves."""
    reader = tf.train.load_checkpoint(run_directory.latest_checkpoint(str(workdir)))
    # The object graph has names of layers, which count up in a process.
    ignored = ("save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH")
    names = [n for n in reader.get_variable_to_shape_map() if not any(i in n for i in ignored)]
    return {name: reader.get_tensor(name) for name in names}


def wait_for(condition, process, interval=0.02):
    """Wait until the condition holds while the process runs; check it every `interval` seconds."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(interval)


def logged_steps(workdir):
    """Return the last step in metrics.jsonl, or 0 if it is empty."""
    return max([line["step"] for line in run_metrics.read_metrics(str(workdir))], default=0)
