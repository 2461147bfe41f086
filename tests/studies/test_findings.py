"""The table of the study, its records, and the rules by which a finding of the paper shows."""

import json

import numpy as np
import pytest
import scipy.stats

from moco_tf.config import check, flatten
from moco_tf.configs.photos import get_config
from studies import experiments, findings, readme, runs


def base_config():
    config = get_config()
    config.epochs = 8
    return config


def test_final_figures_are_means_over_the_last_epoch():
    config = base_config()
    config.epochs = 2
    losses = np.random.default_rng(0).uniform(4, 7, size=126)  # of each step
    # A line after every tenth step and every epoch, with the mean since the line before.
    ends = sorted({*range(10, 127, 10), 63, 126})
    lines = [
        {"step": end, "loss": losses[begin:end].mean(), "contrastive_top1": 0.25}
        for begin, end in zip([0, *ends], ends, strict=False)
    ]
    lines.insert(3, {"step": 30, "knn_top1": 0.5})
    found = runs.summary(config, lines)
    assert found["final_loss"] == pytest.approx(losses[63:].mean(), abs=5.1e-5)
    assert found["final_contrastive_top1"] == 0.25
    assert found["steps_per_epoch"] == 63 and found["curves"]["step"] == ends
    assert found["knn_curve"] == {"step": [30], "top1": [0.5]}
    assert found["chance"] == pytest.approx(np.log(1025), abs=5.1e-5)


def test_the_table_is_the_papers_and_what_is_shared_is_run_once():
    base = flatten(base_config())
    table = experiments.experiments(base)
    assert set(table) == set(experiments.NAMES)
    lines = findings.by_mechanism(table["mechanisms"])
    assert list(lines["moco"]) == list(lines["memory_bank"]) == [64, 256, 1024, 4096]
    assert list(lines["end_to_end"]) == [64, 128, 256, 512]
    assert [row.get("epochs") for row in table["epochs"]] == [0, 4, 8, 16, 32]
    assert table["v2"][0]["milestones"] == [5, 6]
    planned = experiments.plan(base, experiments.NAMES)
    rows = [row for name in experiments.NAMES for row in table[name]]
    # The base six times, and the random initialisation three times, are each one run.
    assert len(planned) == len(rows) - 4 - 2
    assert planned["base"] == {} and planned["momentum=0.999"] == {"momentum": 0.999}
    assert "batch_size=64,mechanism=end_to_end,queue_size=0" in planned
    for settings in planned.values():
        if settings.get("epochs") != 0:
            check(runs.with_settings(base_config(), settings))
    v2 = flatten(runs.with_settings(base_config(), table["v2"][-1], seed=5))
    expected = {"head": "mlp", "augmentation": "v2", "temperature": 0.2, "seed": 5}
    assert {key: value for key, value in v2.items() if value != base[key]} == expected


def test_a_run_costs_its_epochs_and_more_where_more_is_done():
    base = flatten(base_config())
    cost = {
        name: experiments.cost(base, s)
        for name, s in experiments.plan(base, experiments.NAMES).items()
    }
    assert cost["epochs=0"] < cost["epochs=4"] < cost["epochs=16"] < cost["epochs=32"]
    assert cost["momentum=0.9"] < cost["base"] < cost["encoder=resnet8w2"]  # it is monitored
    assert cost["epochs=32"] - cost["epochs=16"] == pytest.approx(
        16 * experiments.STEP_COST["moco"]
    )


def test_settings_differ_by_more_than_twice_the_standard_error():
    generator = np.random.default_rng(0)
    outcomes = set()
    for shift in np.linspace(-3, 3, 61):
        first, second = generator.normal(size=3) + shift, generator.normal(size=4)
        welch = scipy.stats.ttest_ind(first, second, equal_var=False).statistic
        expected = findings.SAME if abs(welch) <= 2 else findings.HIGHER
        expected = findings.LOWER if welch < -2 else expected
        assert findings.compare(first, second) == expected
        outcomes.add(expected)
    assert len(outcomes) == 3
    assert findings.compare([1.0, 2.0], [5.0]) == findings.NOT_JUDGED
    assert findings.compare([1.0, 1.0], [1.0, 1.0]) == findings.SAME


@pytest.mark.parametrize(
    "seconds, expected",
    [
        ([[0.5, 0.6]], findings.SHOWS),
        ([[0.5, 0.6], [0.1, 0.2]], findings.SHOWS),
        ([[0.5, 0.6], [0.9, 0.9]], findings.SHOWS_IN_PART),
        ([[0.8, 0.9], [1.8, 1.9]], findings.DOES_NOT_SHOW),
        ([[0.5, 0.6], [0.5]], findings.NOT_JUDGED),
        ([], findings.NOT_JUDGED),
    ],
)
def test_a_finding_shows_where_all_of_its_comparisons_do(seconds, expected):
    made_up = [
        findings.Comparison("", "", "", [0.85, 0.86], second, (findings.HIGHER,))
        for second in seconds
    ]
    assert findings.verdict(made_up) == expected


def made_up_results(accuracy, loss, spread=0.001, seeds=(0, 1, 2)):
    """Results of `accuracy(config)` and `loss(config)`, give or take the spread."""
    base = flatten(base_config())
    records = []
    for name, settings in experiments.plan(base, experiments.NAMES).items():
        config = {**base, **settings}
        for seed in seeds:
            value = accuracy(config) + spread * (seed - 1)
            cheats = 0.1 * (not config["shuffle_bn"])
            records.append(
                {
                    "name": name,
                    "seed": seed,
                    "settings": settings,
                    "knn_top1": value - cheats,
                    "linear_top1": value,
                    "parameters": 1000,
                    "seconds": 1.0,
                }
            )
            if config["epochs"]:
                records[-1] |= {
                    "final_loss": loss(config)[-1] + spread * seed,
                    "final_contrastive_top1": 0.2 + cheats + spread * seed,
                    "chance": 6.93,
                    "steps_per_epoch": 63,
                    "curves": {
                        "step": [100, 200, 300, 400],
                        "loss": [value + spread * seed for value in loss(config)],
                        "contrastive_top1": [0.1, 0.2, 0.2, 0.2],
                    },
                    "knn_curve": {"step": [0, 504], "top1": [0.3, value]},
                }
    return {
        "commands": ["python study.py"],
        "versions": {"keras": "3"},
        "config": base,
        "data": {
            "source": "photos",
            "num_images": 8116,
            "num_train": 8116,
            "num_test": 1818,
            "num_classes": 19,
        },
        "seeds": list(seeds),
        "seconds": 600.0,
        "runs": records,
    }


def as_in_the_paper(config):
    """Accuracies with every finding of the paper in them."""
    size = np.log2(findings.dictionary_size(config))
    paper = {0.0: 0.0, 0.9: 0.552, 0.99: 0.578, 0.999: 0.59, 0.9999: 0.589}
    steps = 0.01 * (config["head"] == "mlp") + 0.01 * (config["augmentation"] == "v2")
    steps += 0.01 * (config["schedule"] == "cosine") + 0.01 * (config["temperature"] == 0.2)
    value = paper[config["momentum"]] + 0.01 * size + steps
    value += 0.02 * np.log2(max(config["epochs"], 1)) - 0.03 * (
        config["mechanism"] == "memory_bank"
    )
    return value + 0.05 * config["encoder"].endswith("w2") if config["epochs"] else 0.2


def restless_without_momentum(config):
    return [7.0, 6.0, 7.0, 6.5] if config["momentum"] == 0 else [7.0, 6.0, 5.0, 4.9]


def test_every_finding_shows_in_the_papers_numbers_and_none_in_equal_ones():
    paper = made_up_results(as_in_the_paper, restless_without_momentum)
    assert {each.verdict for each in findings.findings(paper)} == {findings.SHOWS}

    equal = made_up_results(lambda config: 0.5, lambda config: [7.0, 6.0, 5.0, 4.9])
    shown = [each.claim for each in findings.findings(equal) if each.verdict == findings.SHOWS]
    assert shown == [
        "While K is small, end-to-end performs similarly to MoCo.",
        "Any m from 0.99 to 0.9999 performs reasonably well.",
        "Without Shuffling BN the model cheats: it finds the key more easily.",
        "Without Shuffling BN the features are worse.",
    ]


def test_the_readme_gives_every_number_with_its_spread(tmp_path):
    results = made_up_results(as_in_the_paper, restless_without_momentum, spread=0.01)
    (tmp_path / "results.json").write_text(json.dumps(results))
    written = readme.write(str(tmp_path))
    assert len(written) == len(experiments.NAMES) + 1
    text = (tmp_path / "README.md").read_text()
    assert "missing" not in text and "**not judged**" not in text
    base = 100 * as_in_the_paper(flatten(base_config()))
    assert f"| 0.99 | {base:.1f} ± 1.0 | {base:.1f} ± 1.0 | 4.910 ± 0.010 | 57.8 |" in text
    assert f"against {base:.1f} ± 1.0: lower" in text
    words = " ".join(text.split())
    assert "K = 1,024 is 12.6 % of the images" in words and "A run has 504 steps" in words
    assert "0.6, 60 and 95 %" in words  # 0.99, 0.999 and 0.9999 to the power of 504
    assert "in 12 % of all cases" in words  # Student's t with 4 degrees of freedom beyond 2
