"""The experiments: their settings, the runs that they share, and their costs."""

import pytest

from moco_tf.config import flatten
from moco_tf.config_checks import check
from moco_tf.errors import UserError
from studies import experiments, runs
from studies.findings import by_mechanism
from tests.studies.made_up import base_config

BASE = flatten(base_config())


def test_settings_are_those_of_the_paper_in_proportion():
    table = experiments.experiments(BASE)
    assert set(table) == set(experiments.NAMES)
    groups = by_mechanism(table["mechanisms"])
    assert list(groups["moco"]) == [64, 256, 1024, 4096]
    assert list(groups["memory_bank"]) == [64, 256, 1024, 4096]
    assert list(groups["end_to_end"]) == [64, 128, 256, 512]
    assert [row.get("epochs") for row in table["epochs"]] == [0, 4, 8, 16, 32]
    assert table["v2"][0]["milestones"] == [5, 6]
    v2 = {**BASE, **table["v2"][-1]}
    assert {key: value for key, value in v2.items() if value != BASE[key]} == {
        "head": "mlp",
        "augmentation": "v2",
        "temperature": 0.2,
    }


def test_shared_runs_are_planned_once():
    table = experiments.experiments(BASE)
    planned = experiments.plan(BASE, experiments.NAMES)
    num_rows = sum(len(table[name]) for name in experiments.NAMES)
    # The base config is in five experiments, and random initialization in three.
    assert len(planned) == num_rows - 4 - 2
    assert planned["base"] == {}
    assert planned["momentum=0.999"] == {"momentum": 0.999}
    assert "batch_size=64,mechanism=end_to_end,queue_size=0" in planned


def test_every_planned_config_passes_the_checks():
    for settings in experiments.plan(BASE, experiments.NAMES).values():
        if settings.get("epochs") != 0:
            check(runs.with_settings(base_config(), settings))


def test_settings_and_seed_of_a_run_are_applied():
    settings = {"milestones": [5, 6], "head": "mlp"}
    config = flatten(runs.with_settings(base_config(), settings, seed=5))
    assert config == {**BASE, **settings, "seed": 5}


def test_costs_are_ordered_by_the_work_of_a_run():
    planned = experiments.plan(BASE, experiments.NAMES)
    cost = {name: experiments.cost(BASE, settings) for name, settings in planned.items()}
    assert cost["epochs=0"] < cost["epochs=4"] < cost["epochs=16"] < cost["epochs=32"]
    # The base run is monitored, the wide encoder is more expensive.
    assert cost["momentum=0.9"] < cost["base"] < cost["encoder=resnet8w2"]


def test_dictionaries_that_exceed_the_images_are_rejected():
    experiments.require_enough_images(BASE, experiments.NAMES, 4097)
    experiments.require_enough_images(BASE, ["width"], 100)
    with pytest.raises(UserError, match=r"--config\.queue_size=1024.* set it below 1024"):
        experiments.require_enough_images(BASE, experiments.NAMES, 4096)
