"""The results of the study of small data sets: the accuracy by setting, and what changes it."""

import json
import os
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

FILE = "results.json"
METRICS = {"knn_top1": "kNN", "linear_top1": "linear probe"}
UNTRAINED, BASE = "epochs=0,steps=0", "base"


class Factor(NamedTuple):
    """A setting whose values are compared.

    Attributes:
        key: The setting, which a run has to change.
        others: Settings that may change with it.
    """

    key: str
    others: frozenset[str] = frozenset()


FACTORS = {
    "K": Factor("queue_size"),
    "m": Factor("momentum"),
    "groups": Factor("bn_groups", frozenset({"shuffle_bn"})),
    "temperature": Factor("temperature"),
    "learning rate": Factor("learning_rate"),
    "batch, as many images in all": Factor("batch_size", frozenset({"bn_groups", "steps"})),
    "steps": Factor("steps"),
}


class Change(NamedTuple):
    """How another value of a setting changes the accuracy of the base.

    Attributes:
        value: The value.
        shuffles: Whether the keys are shuffled.
        points: The change of the mean of kNN and linear probe in points, of each seed.
    """

    value: float
    shuffles: bool
    points: list[float]


class DataSet:
    """The results on one data set.

    Args:
        directory: Directory of the results of the study.
        name: Name of the data set: a number of images of Fashion-MNIST, or photos.

    Attributes:
        runs: The records of the runs.
        config: The config of the base.
        num_images: Number of images that the runs train on.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str) -> None:
        self.name = name
        with open(os.path.join(directory, name, FILE), encoding="utf-8") as file:
            results = json.load(file)
        self.runs: list[dict[str, Any]] = results["runs"]
        self.config: dict[str, Any] = results["config"]
        self.num_images: int = results["data"]["num_images"]

    @property
    def title(self) -> str:
        """What tables and figures call the data set."""
        return f"{int(self.name):,}" if self.name.isdigit() else f"`{self.name}`"

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The changes of the base by the names of the runs."""
        return {run["name"]: run["settings"] for run in self.runs}

    def percents(self, name: str, metric: str) -> dict[int, float]:
        """Return the accuracies of the runs with a name in percent, by their seeds."""
        return {run["seed"]: 100 * run[metric] for run in self.runs if run["name"] == name}

    def points(
        self, name: str, base: str = BASE, metrics: Sequence[str] = tuple(METRICS)
    ) -> list[float]:
        """Return the difference of two runs in the mean of some metrics, for each seed."""
        pairs = [(self.percents(name, metric), self.percents(base, metric)) for metric in metrics]
        seeds = sorted(set(pairs[0][0]) & set(pairs[0][1]))
        return [
            statistics.mean(first[seed] - second[seed] for first, second in pairs) for seed in seeds
        ]

    def changes(self, factor: Factor) -> list[Change]:
        """Return the values of a setting that were tried, other than that of the base."""
        found = []
        for name, settings in self.settings.items():
            of_factor = {factor.key, *factor.others}
            if not settings or settings.keys() - of_factor:
                continue
            shuffles = settings.get("shuffle_bn", True)
            if factor.key in settings or not shuffles:
                value = settings.get(factor.key, self.config[factor.key])
                # Shuffling has no effect on a single group.
                has_groups = settings.get("bn_groups", self.config["bn_groups"]) > 1
                found.append(Change(value, shuffles or not has_groups, self.points(name)))
        return found


def data_sets(directory: str | os.PathLike[str]) -> list[DataSet]:
    """Return the data sets that have results, the smallest of Fashion-MNIST first.

    Args:
        directory: Directory of the results of the study, which does not have to exist.
    """
    names = os.listdir(directory) if os.path.isdir(directory) else []
    names = [name for name in names if os.path.exists(os.path.join(directory, name, FILE))]
    names.sort(key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0))
    return [DataSet(directory, name) for name in names]
