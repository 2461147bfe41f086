"""When a run reads the results of its steps."""

import pytest

from moco_tf import run_directory
from moco_tf.keras_internals import DistributedModel
from tests import in_process
from tests.command import TINY
from tests.conftest import source_flag

STEPS_PER_EPOCH = 6  # On the 100 images of `image_folder`, in batches of 16.


class Result:
    """A result of a step that reports when it is read, for which the host waits for the device."""

    def __init__(self, value, read):
        self.value, self.read = value, read

    def __float__(self):
        self.read()
        return float(self.value)

    def __format__(self, format_spec):
        return format(float(self), format_spec)


@pytest.mark.slow
def test_results_stay_on_the_device_between_lines_of_the_log(image_folder, tmp_path, monkeypatch):
    steps, read = [], set()
    make_train_function = DistributedModel.make_train_function

    def make(model, force=False):
        make_train_function(model, force)
        train_function = model.train_function

        def recorded(iterator):
            logs = train_function(iterator)
            step = len(steps) + 1
            steps.append(step)
            return {name: Result(logs[name], lambda: read.add(step)) for name in logs}

        model.train_function = recorded

    monkeypatch.setattr(DistributedModel, "make_train_function", make)
    flags = (
        *("--config.log_every=4", "--config.checkpoint_every=9", "--config.knn_every=0"),
        *("--config.epochs=2", source_flag(image_folder)),
    )
    in_process.run("train.py", *TINY, *flags, workdir=tmp_path)
    assert steps == list(range(1, 2 * STEPS_PER_EPOCH + 1))
    logged = run_directory.read_metrics(str(tmp_path))
    lines = {line["step"] for line in logged if "loss" in line}
    assert lines == {4, 6, 8, 12}
    # Besides, the clock waits for the first step, which compiles, and before a checkpoint.
    assert read == {1, 9} | lines
