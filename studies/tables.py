"""The tables of the study in Markdown: results over the seeds, and the paper's numbers."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from moco_tf import markdown
from moco_tf.run_summary import MECHANISMS
from studies.experiments import Settings, experiments
from studies.findings import STEPS_TO_V2, by_mechanism, metric_values
from studies.results import Results

# Titles and keys of columns.
LINEAR = ("linear probe", "linear_top1")
KNN = ("kNN", "knn_top1")
LOSS = ("final loss", "final_loss")
CONTRASTIVE = ("contrastive accuracy", "final_contrastive_top1")
PARAMETERS = ("parameters", "parameters")

PAPER_MOMENTUM = ("", "fail", "55.2", "57.8", "59.0", "58.9")
PAPER_V2 = ("60.8 ± 0.2", "", "", "", "67.5 ± 0.1")


def tables(results: Results) -> dict[str, str]:
    """Return the table of each experiment, with notes below it where they are needed.

    Args:
        results: Results, as `studies.results.read` returns them, finished or not.

    Returns:
        `{name of the experiment: Markdown}`.
    """
    base = results["config"]
    rows = experiments(base)

    def table(
        experiment: str,
        title: str,
        row_title: Callable[[Settings], str],
        columns: Sequence[tuple[str, str]],
        paper: Sequence[str] | None = None,
    ) -> str:
        header = [title, *(title for title, _ in columns)]
        lines = [
            [row_title(row), *(_cell(results, row, key) for _, key in columns)]
            for row in rows[experiment]
        ]
        if paper:
            header.append("paper (%)")
            lines = [[*line, number] for line, number in zip(lines, paper, strict=True)]
        return markdown.table(header, lines)

    def momentum_title(row: Settings) -> str:
        return f"{row['momentum']:g}" if "momentum" in row else "random initialization"

    def shuffling_title(row: Settings) -> str:
        return f"{row['bn_groups']} groups, {'with' if row['shuffle_bn'] else 'without'}"

    def v2_title(row: Settings) -> str:
        return STEPS_TO_V2[rows["v2"].index(row)]

    def epochs_title(row: Settings) -> str:
        return str(row["epochs"] or "0, random initialization")

    def width_title(row: Settings) -> str:
        encoder = row.get("encoder", base["encoder"])
        return f"{encoder}, {'random' if row.get('epochs') == 0 else 'pre-trained'}"

    return {
        "mechanisms": _mechanisms(results, rows["mechanisms"]),
        "momentum": table("momentum", "m", momentum_title, (LINEAR, KNN, LOSS), PAPER_MOMENTUM)
        + f"\n\nThis study has K = {base['queue_size']:,}, so the chance-level loss is "
        f"{math.log(base['queue_size'] + 1):.2f}; the paper's numbers are for K = 4,096.",
        "shuffling": table(
            "shuffling", "Shuffling BN", shuffling_title, (CONTRASTIVE, KNN, LINEAR, LOSS)
        ),
        "v2": table("v2", "", v2_title, (LINEAR, KNN), PAPER_V2)
        + "\n\nv1 has temperature 0.07, and its learning rate is multiplied by 0.1 at 60 and 80 % "
        "of the epochs.\nThe paper's numbers are those of the reference implementation after 200 "
        "epochs.",
        "epochs": table("epochs", "epochs", epochs_title, (LINEAR, KNN)),
        "width": table("width", "", width_title, (PARAMETERS, LINEAR, KNN)),
    }


def mean_and_std(values: Sequence[float], key: str) -> str:
    """Format mean ± standard deviation.

    Args:
        values: Values, one per seed. One value has no standard deviation.
        key: Key of the values in a record. If it ends with `top1`, the values are fractions and
            formatted in percent.

    Returns:
        Text such as "62.1 ± 1.0", empty if there are no values.

    Example:
        >>> mean_and_std([0.611, 0.631], "knn_top1"), mean_and_std([4.5], "final_loss")
        ('62.1 ± 1.4', '4.500')
    """
    if not values:
        return ""
    scale, digits = (100, 1) if key.endswith("top1") else (1, 3)
    std = f" ± {scale * np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * np.mean(values):.{digits}f}{std}"


def _mechanisms(results: Results, rows: Sequence[Settings]) -> str:
    groups = by_mechanism(rows)
    lines = [
        [
            f"{size:,}",
            *(
                _cell(results, group[size], "linear_top1") if size in group else ""
                for group in groups.values()
            ),
        ]
        for size in sorted({size for group in groups.values() for size in group})
    ]
    return (
        markdown.table(["K", *(MECHANISMS[name] for name in groups)], lines)
        + "\n\nThe numbers are accuracies of the linear probe. K of end-to-end is the batch size, "
        "which is one more\nthan the number of negatives; its learning rate scales with the batch "
        "size."
    )


def _cell(results: Results, settings: Settings, key: str) -> str:
    values = metric_values(results, settings, key)
    return f"{values[0]:,}" if values and key == "parameters" else mean_and_std(values, key)
