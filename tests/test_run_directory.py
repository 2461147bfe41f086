import json

import pytest

from moco_tf import run_directory
from moco_tf.config import default_config, flatten
from moco_tf.errors import UserError


def test_a_config_comes_back_as_it_was(tmp_path):
    config = default_config()
    config.milestones = (3, 7, 9)
    config.data.source = "photos"
    run_directory.open_for_training(str(tmp_path / "run"), config, 10)
    assert flatten(run_directory.read_config(str(tmp_path / "run"))) == flatten(config)
    run_directory.open_for_training(str(tmp_path / "run"), config, 10)  # again, to go on


def test_what_is_looked_at_may_change_when_a_run_goes_on(tmp_path):
    config = default_config()
    run_directory.open_for_training(str(tmp_path), config, 10)
    config.knn_every, config.checkpoint_every = 1, 7
    run_directory.open_for_training(str(tmp_path), config, 10)
    assert run_directory.read_config(str(tmp_path)).checkpoint_every == 7


def test_metrics_are_rewound_and_a_line_cut_short_is_dropped(tmp_path):
    lines = [{"step": step, "loss": 1.0} for step in (1, 2, 3)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 4, "lo')
    assert run_directory.read_metrics(str(tmp_path)) == lines
    run_directory.rewind_metrics(str(tmp_path), 2)
    assert run_directory.read_metrics(str(tmp_path)) == lines[:2]


def test_other_data_than_the_run_began_with_is_refused(tmp_path):
    config = default_config()
    run_directory.open_for_training(str(tmp_path), config, 10)
    with pytest.raises(UserError, match="on 10 images, and .* has 11 now"):
        run_directory.open_for_training(str(tmp_path), config, 11)
