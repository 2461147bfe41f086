"""The paper's findings as comparisons of runs, and the rule for whether one is reproduced."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from moco_tf.run_summary import MECHANISMS
from studies.experiments import Settings, experiments, run_name
from studies.results import Results

HIGHER = "higher"
LOWER = "lower"
SAME = "no clear difference"
TOO_FEW_SEEDS = "too few seeds"

REPRODUCED = "reproduced"
PARTLY_REPRODUCED = "partly reproduced"
NOT_REPRODUCED = "not reproduced"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison of two settings by one metric.

    Attributes:
        description: What is compared.
        metric: Name of the metric.
        key: The key of the metric, as for `metric_values`.
        first: Values of the first settings, one per seed.
        second: Values of the second settings, one per seed.
        expected: The outcomes, among `HIGHER`, `LOWER` and `SAME`, that agree with the paper.
    """

    description: str
    metric: str
    key: str
    first: list[float]
    second: list[float]
    expected: tuple[str, ...]

    @property
    def outcome(self) -> str:
        """How `first` compares with `second`, as `compare` returns it."""
        return compare(self.first, self.second)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A finding of the paper.

    Attributes:
        experiment: Name of the experiment that tests it.
        claim: The finding in one sentence.
        paper: The paper's evidence.
        comparisons: The comparisons that it consists of.
    """

    experiment: str
    claim: str
    paper: str
    comparisons: list[Comparison]

    @property
    def verdict(self) -> str:
        """Whether the finding is reproduced, as `judge` returns it."""
        return judge(self.comparisons)


# A function of description, first and second settings, expected outcomes, key and metric.
Compare = Callable[..., Comparison]


def compare(first: Sequence[float], second: Sequence[float]) -> str:
    """Compare the means of two samples.

    Args:
        first: Values, one per seed.
        second: Values, one per seed.

    Returns:
        `HIGHER` or `LOWER` if the mean of `first` differs from that of `second` by more than two
        standard errors of the difference, otherwise `SAME`; `TOO_FEW_SEEDS` if one of them has
        fewer than two values.

    Example:
        >>> compare([0.62, 0.63], [0.51, 0.53])
        'higher'
    """
    if min(len(first), len(second)) < 2:
        return TOO_FEW_SEEDS
    difference = np.mean(first) - np.mean(second)
    error = math.sqrt(sum(np.var(values, ddof=1) / len(values) for values in (first, second)))
    if abs(difference) <= 2 * error:
        return SAME
    return HIGHER if difference > 0 else LOWER


def judge(comparisons: Sequence[Comparison]) -> str:
    """Decide whether a finding is reproduced.

    Args:
        comparisons: The comparisons that the finding consists of.

    Returns:
        `REPRODUCED` if all comparisons have an expected outcome, `NOT_REPRODUCED` if none has,
        `PARTLY_REPRODUCED` otherwise; `TOO_FEW_SEEDS` if one comparison has too few seeds or there
        are no comparisons.
    """
    outcomes = [comparison.outcome for comparison in comparisons]
    if TOO_FEW_SEEDS in outcomes or not outcomes:
        return TOO_FEW_SEEDS
    agreeing = sum(comparison.outcome in comparison.expected for comparison in comparisons)
    if agreeing == len(comparisons):
        return REPRODUCED
    return PARTLY_REPRODUCED if agreeing else NOT_REPRODUCED


def metric_values(results: Results, settings: Settings, key: str) -> list[float]:
    """Return a metric of all finished runs with some settings.

    Args:
        results: Results, as `studies.results.read` returns them.
        settings: Settings, as `studies.experiments.experiments` returns them.
        key: Key of a record, or `"loss_fluctuation"` for `loss_fluctuation` of its loss curve.

    Returns:
        The values, ordered by seed.
    """
    name = run_name(results["config"], settings)
    runs = [run for run in results["runs"] if run["name"] == name]
    runs.sort(key=lambda run: run["seed"])
    if key == "loss_fluctuation":
        return [loss_fluctuation(run["curves"]["loss"]) for run in runs]
    return [run[key] for run in runs if key in run]


def loss_fluctuation(losses: Sequence[float]) -> float:
    """Return the mean absolute change between successive values in the second half of a curve.

    Args:
        losses: A loss curve in nats.

    Example:
        >>> loss_fluctuation([9.0, 8.0, 5.0, 6.0])
        1.0
    """
    second_half = np.array(losses[len(losses) // 2 :])
    return float(np.abs(np.diff(second_half)).mean()) if len(second_half) > 1 else 0.0


def findings(results: Results) -> list[Finding]:
    """Return the findings that the study tests.

    Args:
        results: Results, as `studies.results.read` returns them, finished or not.

    Returns:
        The findings, in the order of `studies.experiments.NAMES`.
    """
    table = experiments(results["config"])

    def compare_settings(
        description: str,
        first: Settings,
        second: Settings,
        expected: tuple[str, ...] = (HIGHER,),
        key: str = "linear_top1",
        metric: str = "linear probe",
    ) -> Comparison:
        return Comparison(
            description,
            metric,
            key,
            metric_values(results, first, key),
            metric_values(results, second, key),
            expected,
        )

    return [
        *_mechanisms(table["mechanisms"], compare_settings),
        *_momentum(table["momentum"], compare_settings),
        *_shuffling(table["shuffling"], compare_settings),
        *_v2(table["v2"], compare_settings),
        *_longer_and_wider(table["epochs"], table["width"], compare_settings),
    ]


def dictionary_size(settings: Settings) -> int:
    """Return the x value of Figure 3: K, or the batch size if the batch is the dictionary."""
    return settings["queue_size"] or settings["batch_size"]


def by_mechanism(rows: Sequence[Settings]) -> dict[str, dict[int, Settings]]:
    """Group settings by mechanism and dictionary size: `{mechanism: {K: settings}}`."""
    groups: dict[str, dict[int, Settings]] = {}
    for settings in rows:
        groups.setdefault(settings["mechanism"], {})[dictionary_size(settings)] = settings
    return groups


def _mechanisms(rows: Sequence[Settings], compare_settings: Compare) -> list[Finding]:
    groups = by_mechanism(rows)
    moco, bank, end_to_end = (groups[name] for name in ("moco", "memory_bank", "end_to_end"))
    return [
        Finding(
            "mechanisms",
            "All three mechanisms benefit from a larger K.",
            "Figure 3; MoCo has 59.0 % with K = 4,096 and 60.6 % with 65,536",
            [
                compare_settings(
                    f"{MECHANISMS[name]}, K = {max(sizes):,} against {min(sizes):,}",
                    sizes[max(sizes)],
                    sizes[min(sizes)],
                )
                for name, sizes in groups.items()
            ],
        ),
        Finding(
            "mechanisms",
            "While K is small, end-to-end performs similarly to MoCo.",
            "Figure 3",
            [
                compare_settings(
                    f"end-to-end against MoCo, K = {K:,}", end_to_end[K], moco[K], (SAME,)
                )
                for K in sorted(set(end_to_end) & set(moco))
            ],
        ),
        Finding(
            "mechanisms",
            "The memory bank is worse than MoCo.",
            "58.0 against 60.6 % with K = 65,536",
            [
                compare_settings(f"memory bank against MoCo, K = {K:,}", bank[K], moco[K], (LOWER,))
                for K in sorted(set(bank) & set(moco))
            ],
        ),
    ]


def _momentum(rows: Sequence[Settings], compare_settings: Compare) -> list[Finding]:
    untrained, zero, small, *large = rows
    smallest_large = large[0]
    description = f"m = 0 against {smallest_large['momentum']:g}"
    return [
        Finding(
            "momentum",
            "Without momentum (m = 0) the training loss oscillates and does not converge.",
            '"fail"',
            [
                compare_settings(
                    description,
                    zero,
                    smallest_large,
                    (HIGHER,),
                    "loss_fluctuation",
                    "fluctuation of the loss",
                ),
                compare_settings(
                    description, zero, smallest_large, (HIGHER,), "final_loss", "final loss"
                ),
                compare_settings(
                    "m = 0 against random initialization", zero, untrained, (SAME, LOWER)
                ),
            ],
        ),
        Finding(
            "momentum",
            "Too small a momentum (m = 0.9) costs considerable accuracy.",
            "55.2 % with 0.9; 57.8, 59.0 and 58.9 % with 0.99, 0.999 and 0.9999",
            [
                compare_settings(f"m = 0.9 against {row['momentum']:g}", small, row, (LOWER,))
                for row in large
            ],
        ),
        Finding(
            "momentum",
            "Any m from 0.99 to 0.9999 performs reasonably well.",
            "57.8, 59.0 and 58.9 % with 0.99, 0.999 and 0.9999",
            [
                compare_settings(
                    f"m = {row['momentum']:g} against 0.99", row, smallest_large, (SAME, HIGHER)
                )
                for row in large[1:]
            ],
        ),
    ]


def _shuffling(rows: Sequence[Settings], compare_settings: Compare) -> list[Finding]:
    return [
        Finding(
            "shuffling",
            claim,
            paper,
            [
                compare_settings(
                    f"without against with shuffling BN, {on['bn_groups']} groups",
                    off,
                    on,
                    (expected,),
                    key,
                    metric,
                )
                for on, off in zip(rows[::2], rows[1::2], strict=True)
            ],
        )
        for metric, key, expected, claim, paper in (
            (
                "contrastive accuracy",
                "final_contrastive_top1",
                HIGHER,
                "Without shuffling BN the model cheats: its contrastive accuracy is higher.",
                "section 3.3, without numbers",
            ),
            (
                "kNN",
                "knn_top1",
                LOWER,
                "Without shuffling BN the features are worse.",
                "section 3.3, without numbers; 4 points on CIFAR-10 after 800 epochs (notebook of "
                "the reference implementation)",
            ),
        )
    ]


STEPS_TO_V2 = ("v1", "+ MLP head", "+ v2 augmentation", "+ cosine schedule", "+ temperature 0.2")


def _v2(rows: Sequence[Settings], compare_settings: Compare) -> list[Finding]:
    steps = [
        compare_settings(f"{title} against the previous step", row, previous)
        for title, previous, row in zip(STEPS_TO_V2[1:], rows, rows[1:], strict=False)
    ]
    paper = (
        "60.8 ± 0.2 % for v1 and 67.5 ± 0.1 % for v2 after 200 epochs (README of the reference "
        "implementation)"
    )
    return [
        Finding(
            "v2",
            "MoCo v2 is better than v1.",
            paper,
            [compare_settings("v2 against v1", rows[-1], rows[0])],
        ),
        Finding("v2", "Each change of v2 helps, added one at a time.", paper, steps),
    ]


def _longer_and_wider(
    epochs: Sequence[Settings], width: Sequence[Settings], compare_settings: Compare
) -> list[Finding]:
    _, *lengths = epochs
    _, narrow, _, wide = width
    return [
        Finding(
            "epochs",
            "Longer pre-training is better.",
            "v2: 67.5 % after 200 epochs and 71.1 % after 800",
            [
                compare_settings(
                    f"{longer['epochs']} epochs against {shorter['epochs']}", longer, shorter
                )
                for shorter, longer in zip(lengths, lengths[1:], strict=False)
            ],
        ),
        Finding(
            "width",
            "A wider network is better.",
            "60.6, 65.4 and 68.6 % with a ResNet-50 of one, two and four times the width",
            [compare_settings("twice the width against the normal width", wide, narrow)],
        ),
    ]
