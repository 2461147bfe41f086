"""The paper's findings as comparisons of runs, and the rule by which one shows or does not."""

import dataclasses
import math

import numpy as np

from studies.experiments import experiments, run_name

HIGHER = "higher"
LOWER = "lower"
SAME = "no difference beyond the spread"
NOT_JUDGED = "not judged"

SHOWS = "shows"
SHOWS_IN_PART = "shows in part"
DOES_NOT_SHOW = "does not show"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Whether `first` differs from `second` as the paper says.

    Attributes:
        words: str, what is compared.
        measure: str, by which quantity, and `key`: str, that of `values`.
        first, second: lists of float, a value for each seed.
        expected: tuple of `HIGHER`, `LOWER`, `SAME`: what `first` may be for the finding to show.
    """

    words: str
    measure: str
    key: str
    first: list
    second: list
    expected: tuple

    @property
    def outcome(self):
        return compare(self.first, self.second)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One finding of the paper: the experiment that tests it, what the paper says with its numbers,
    and the comparisons that it comes down to."""

    experiment: str
    claim: str
    paper: str
    comparisons: list

    @property
    def verdict(self):
        return verdict(self.comparisons)


def compare(first, second):
    """`HIGHER` or `LOWER` where the means differ by more than two standard errors of their
    difference, else `SAME`; `NOT_JUDGED` with fewer than two values on a side.

    Args:
        first, second: sequences of float, a value for each seed.
    """
    if min(len(first), len(second)) < 2:
        return NOT_JUDGED
    difference = np.mean(first) - np.mean(second)
    error = math.sqrt(sum(np.var(values, ddof=1) / len(values) for values in (first, second)))
    if abs(difference) <= 2 * error:
        return SAME
    return HIGHER if difference > 0 else LOWER


def verdict(comparisons):
    """`SHOWS` where all comparisons come out as expected, `DOES_NOT_SHOW` where none does,
    `SHOWS_IN_PART` between, and `NOT_JUDGED` while one of them is.

    Args:
        comparisons: list of `Comparison`.
    """
    if any(comparison.outcome == NOT_JUDGED for comparison in comparisons) or not comparisons:
        return NOT_JUDGED
    agreeing = sum(comparison.outcome in comparison.expected for comparison in comparisons)
    if agreeing == len(comparisons):
        return SHOWS
    return SHOWS_IN_PART if agreeing else DOES_NOT_SHOW


def values(results, settings, key):
    """A figure of all finished runs of some settings.

    Args:
        results: of `studies.results.read`.
        settings: dict, of a row of `studies.experiments.experiments`.
        key: str, a key of a record, or "unrest" for `unrest` of it.

    Returns:
        list of float, in the order of their seeds.
    """
    name = run_name(results["config"], settings)
    runs = sorted((r for r in results["runs"] if r["name"] == name), key=lambda r: r["seed"])
    if key == "unrest":
        return [unrest(run["curves"]["loss"]) for run in runs]
    return [run[key] for run in runs if key in run]


def unrest(losses):
    """The mean absolute change of a loss from one line of the log to the next, over the second half
    of the training, in nats."""
    second_half = np.array(losses[len(losses) // 2 :])
    return float(np.abs(np.diff(second_half)).mean()) if len(second_half) > 1 else 0.0


def findings(results):
    """The findings that the study tests.

    Args:
        results: of `studies.results.read`, finished or not.

    Returns:
        list of `Finding`, in the order of `studies.experiments.NAMES`.
    """
    table = experiments(results["config"])

    def pair(words, first, second, expected=(HIGHER,), key="linear_top1", measure="linear probe"):
        found = (values(results, settings, key) for settings in (first, second))
        return Comparison(words, measure, key, *found, expected)

    return [
        *_mechanisms(table["mechanisms"], pair),
        *_momentum(table["momentum"], pair),
        *_shuffling(table["shuffling"], pair),
        *_v2(table["v2"], pair),
        *_longer_and_wider(table["epochs"], table["width"], pair),
    ]


def dictionary_size(settings):
    """What Figure 3 has on its axis: K, or the batch where the batch is the dictionary."""
    return settings["queue_size"] or settings["batch_size"]


def by_mechanism(rows):
    """The settings of each mechanism: `{mechanism: {K: settings}}`."""
    found = {}
    for settings in rows:
        found.setdefault(settings["mechanism"], {})[dictionary_size(settings)] = settings
    return found


def _mechanisms(rows, pair):
    rows = by_mechanism(rows)
    ends = {name: (max(sizes), min(sizes)) for name, sizes in rows.items()}
    moco, bank, end_to_end = (rows[name] for name in ("moco", "memory_bank", "end_to_end"))
    return [
        Finding(
            "mechanisms",
            "All three mechanisms benefit from a larger K.",
            "Figure 3; MoCo has 59.0 % with K = 4,096 and 60.6 % with 65,536",
            [
                pair(
                    f"{name}, K = {large:,} against {small:,}", rows[name][large], rows[name][small]
                )
                for name, (large, small) in ends.items()
            ],
        ),
        Finding(
            "mechanisms",
            "While K is small, end-to-end performs similarly to MoCo.",
            "Figure 3",
            [
                pair(f"end_to_end against moco, K = {K:,}", end_to_end[K], moco[K], (SAME,))
                for K in sorted(set(end_to_end) & set(moco))
            ],
        ),
        Finding(
            "mechanisms",
            "The memory bank is worse than MoCo.",
            "58.0 against 60.6 % with K = 65,536",
            [
                pair(f"memory_bank against moco, K = {K:,}", bank[K], moco[K], (LOWER,))
                for K in sorted(set(bank) & set(moco))
            ],
        ),
    ]


def _momentum(rows, pair):
    untrained, none, small, *large = rows
    slow = large[0]
    words = f"m = 0 against {slow['momentum']:g}"
    return [
        Finding(
            "momentum",
            "Without momentum (m = 0) the training loss oscillates and does not converge.",
            '"fail"',
            [
                pair(words, none, slow, (HIGHER,), "unrest", "change of the loss"),
                pair(words, none, slow, (HIGHER,), "final_loss", "final loss"),
                pair("m = 0 against random initialisation", none, untrained, (SAME, LOWER)),
            ],
        ),
        Finding(
            "momentum",
            "Too small a momentum (m = 0.9) costs accuracy considerably.",
            "55.2 %, where 0.99, 0.999 and 0.9999 give 57.8, 59.0 and 58.9 %",
            [pair(f"m = 0.9 against {row['momentum']:g}", small, row, (LOWER,)) for row in large],
        ),
        Finding(
            "momentum",
            "Any m from 0.99 to 0.9999 performs reasonably well.",
            "57.8, 59.0, 58.9 %",
            [
                pair(f"m = {row['momentum']:g} against 0.99", row, slow, (SAME, HIGHER))
                for row in large[1:]
            ],
        ),
    ]


def _shuffling(rows, pair):
    found = []
    for measure, key, expected, claim in (
        (
            "contrastive accuracy",
            "final_contrastive_top1",
            HIGHER,
            "Without Shuffling BN the model cheats: it finds the key more easily.",
        ),
        (
            "kNN",
            "knn_top1",
            LOWER,
            "Without Shuffling BN the features are worse.",
        ),
    ):
        comparisons = [
            pair(
                f"without against with, {on['bn_groups']} groups",
                off,
                on,
                (expected,),
                key,
                measure,
            )
            for on, off in zip(rows[::2], rows[1::2], strict=True)
        ]
        found.append(Finding("shuffling", claim, "section 3.3, without numbers", comparisons))
    return found


STEPS_TO_V2 = ("v1", "+ MLP head", "+ v2 augmentation", "+ cosine schedule", "+ temperature 0.2")


def _v2(rows, pair):
    each = [
        pair(f"{words} against the step before", row, before)
        for words, before, row in zip(STEPS_TO_V2[1:], rows, rows[1:], strict=False)
    ]
    paper = "60.8 ± 0.2 % for v1 and 67.5 ± 0.1 % for v2, 200 epochs (the reference's README)"
    return [
        Finding(
            "v2", "MoCo v2 is better than v1.", paper, [pair("v2 against v1", rows[-1], rows[0])]
        ),
        Finding("v2", "Each of its changes helps, added one at a time.", paper, each),
    ]


def _longer_and_wider(epochs, width, pair):
    _, *lengths = epochs
    _, narrow, _, wide = width
    return [
        Finding(
            "epochs",
            "Longer pre-training is better.",
            "v2: 67.5 % after 200 epochs and 71.1 % after 800",
            [
                pair(f"{b['epochs']} epochs against {a['epochs']}", b, a)
                for a, b in zip(lengths, lengths[1:], strict=False)
            ],
        ),
        Finding(
            "width",
            "A wider network is better.",
            "ResNet-50 of once, twice and four times the width: 60.6, 65.4 and 68.6 %",
            [pair("twice the width against once", wide, narrow)],
        ),
    ]
