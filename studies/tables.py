"""The tables of the study in Markdown: means and spreads, the paper's numbers beside them."""

import math

import numpy as np

from studies.experiments import experiments
from studies.findings import STEPS_TO_V2, by_mechanism, values

LINEAR = ("linear probe", "linear_top1")
KNN = ("kNN", "knn_top1")
LOSS = ("final loss", "final_loss")
CONTRASTIVE = ("contrastive accuracy", "final_contrastive_top1")
PAPER_MOMENTUM = ("fail", "55.2", "57.8", "59.0", "58.9")
PAPER_V2 = ("60.8 ± 0.2", "", "", "", "67.5 ± 0.1")


def tables(results):
    """The table of each experiment, with what has to be said beside it.

    Args:
        results: of `studies.results.read`, finished or not.

    Returns:
        `{name of an experiment: Markdown}`.
    """
    rows, base = experiments(results["config"]), results["config"]

    def by_columns(head, names, found, columns, paper=None):
        lines = [
            [name, *(_cell(results, settings, key) for _, key in columns)]
            for name, settings in zip(names, found, strict=True)
        ]
        heads = [head, *(words for words, _ in columns)]
        if paper:
            heads.append("the paper (%)")
            lines = [[*line, number] for line, number in zip(lines, paper, strict=True)]
        return _markdown(heads, lines)

    def name_of_momentum(row):
        return f"{row['momentum']:g}" if "momentum" in row else "random initialisation"

    def name_of_shuffling(row):
        return f"{row['bn_groups']} groups, {'with' if row['shuffle_bn'] else 'without'}"

    def name_of_width(row):
        encoder = row.get("encoder", base["encoder"])
        return f"{encoder}, {'random' if row.get('epochs') == 0 else 'pre-trained'}"

    return {
        "mechanisms": _mechanisms(results, rows["mechanisms"]),
        "momentum": by_columns(
            "m",
            map(name_of_momentum, rows["momentum"]),
            rows["momentum"],
            (LINEAR, KNN, LOSS),
            ("", *PAPER_MOMENTUM),
        )
        + f"\n\nHere K = {base['queue_size']:,}, so that the loss of pure chance is "
        f"{math.log(base['queue_size'] + 1):.2f}; in the paper's table K = 4,096.",
        "shuffling": by_columns(
            "Shuffling BN",
            map(name_of_shuffling, rows["shuffling"]),
            rows["shuffling"],
            (CONTRASTIVE, KNN, LINEAR, LOSS),
        ),
        "v2": by_columns("", STEPS_TO_V2, rows["v2"], (LINEAR, KNN), PAPER_V2)
        + "\n\nv1 has temperature 0.07, and a learning rate that falls to a tenth at 60 and 80 % "
        "of the epochs.\nThe paper's numbers are the reference implementation's, after 200 epochs.",
        "epochs": by_columns(
            "epochs",
            (str(row["epochs"] or "0, random initialisation") for row in rows["epochs"]),
            rows["epochs"],
            (LINEAR, KNN),
        ),
        "width": by_columns(
            "",
            map(name_of_width, rows["width"]),
            rows["width"],
            (("parameters", "parameters"), LINEAR, KNN),
        ),
    }


def mean_and_spread(each, key):
    """Mean ± standard deviation of a key of the records, such as "62.1 ± 1.0"; "" of nothing.

    Args:
        each: list of float, a value for each seed.
        key: str; shares, whose names end with `top1`, are given in percent.
    """
    if not each:
        return ""
    scale, digits = (100, 1) if key.endswith("top1") else (1, 3)
    spread = f" ± {scale * np.std(each, ddof=1):.{digits}f}" if len(each) > 1 else ""
    return f"{scale * np.mean(each):.{digits}f}{spread}"


def _mechanisms(results, rows):
    mechanisms = by_mechanism(rows)
    sizes = sorted({size for points in mechanisms.values() for size in points})
    lines = [
        [f"{size:,}"]
        + [
            _cell(results, points[size], "linear_top1") if size in points else ""
            for points in mechanisms.values()
        ]
        for size in sizes
    ]
    return (
        _markdown(["K", *mechanisms], lines)
        + "\n\nThe linear probe. K of end_to_end is its batch, one more than its negatives; its "
        "learning rate\ngrows with it."
    )


def _cell(results, settings, key):
    each = values(results, settings, key)
    return f"{each[0]:,}" if each and key == "parameters" else mean_and_spread(each, key)


def _markdown(heads, lines):
    lines = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
