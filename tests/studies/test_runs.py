"""The summary of a run's training."""

import numpy as np
import pytest

from studies import runs
from tests.studies.made_up import base_config


def test_final_metrics_are_means_over_the_last_epoch():
    config = base_config()
    config.epochs = 2
    losses = np.random.default_rng(0).uniform(4, 7, size=126)  # Of each step.
    # A line after every tenth step and every epoch, with the mean since the previous line.
    ends = sorted({*range(10, 127, 10), 63, 126})
    lines = [
        {"step": end, "loss": losses[begin:end].mean(), "contrastive_top1": 0.25}
        for begin, end in zip([0, *ends], ends, strict=False)
    ]
    lines.insert(3, {"step": 30, "knn_top1": 0.5})
    summary = runs.summarize(config, lines)
    assert summary["final_loss"] == pytest.approx(losses[63:].mean(), abs=5.1e-5)
    assert summary["final_contrastive_top1"] == 0.25
    assert summary["steps_per_epoch"] == 63
    assert summary["curves"]["step"] == ends
    assert summary["knn_curve"] == {"step": [30], "top1": [0.5]}
    assert summary["chance"] == pytest.approx(np.log(1025), abs=5.1e-5)
