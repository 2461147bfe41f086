"""When a run reads the results of its steps."""

import pytest

from moco_tf import run_metrics
from tests import in_process
from tests.command import TINY
from tests.conftest import source_flag
from tests.host_reads import recorded_reads

STEPS = 12  # Two epochs of the 100 images of `image_folder`, in batches of 16.


@pytest.mark.slow
def test_results_stay_on_the_device_between_lines_of_the_log(image_folder, tmp_path):
    flags = (
        *("--config.log_every=4", "--config.checkpoint_every=9", "--config.knn_every=0"),
        *("--config.epochs=2", source_flag(image_folder)),
    )
    with recorded_reads() as reads:
        in_process.run("train.py", *TINY, *flags, workdir=tmp_path)
    logged = run_metrics.read_metrics(str(tmp_path))
    lines = {line["step"] for line in logged if "loss" in line}
    assert lines == {4, 6, 8, STEPS}
    # Besides, the clock waits for the first step, which compiles, and before a checkpoint.
    assert reads.keys() == {1, 9} | lines
    assert "metrics_log.py" in " ".join(reads[1])
