"""The tables of the study of Fashion-MNIST, for `result_tables.py`."""

import json
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from moco_tf import markdown
from moco_tf.config import default_config, flatten

PATH = pathlib.Path(__file__).resolve().parent.parent / "studies/fashion_mnist/results.json"

UNFINISHED = "*This study is not complete yet, so there are no results.*"

Record = dict[str, Any]


def frozen() -> str:
    """Return the accuracies of features, as mean and standard deviation over the seeds."""
    columns: dict[str, Callable[[Record], float]] = {
        "kNN": lambda record: record["knn_top1"],
        "linear probe": lambda record: record["linear_top1"],
        "1 label per class": lambda record: record["few_shot_top1"]["1"],
        "5 labels": lambda record: record["few_shot_top1"]["5"],
        "10 labels": lambda record: record["few_shot_top1"]["10"],
    }
    runs = _runs()
    rows = []
    for encoder, seeds in _encoders(runs).items():
        titles = {
            "pixels": "raw pixels",
            f"{encoder}-random": f"{encoder}, random initialization",
            f"{encoder}-moco": f"**{encoder}, MoCo{_epochs(runs, encoder)}**",
        }
        for name, title in titles.items():
            cells = [
                _cell([column(runs[name][seed]) for seed in seeds]) for column in columns.values()
            ]
            row = [title, *(f"**{cell}**" if "**" in title else cell for cell in cells)]
            if row[0] not in [other[0] for other in rows]:
                rows.append(row)
    return _table(["features", *columns], rows, runs)


def finetuning() -> str:
    """Return the accuracies after fine-tuning and after supervised training."""
    columns = {"0.01": "1 % of the labels", "0.1": "10 %", "1": "100 %"}
    runs = _runs()
    rows = []
    for encoder, seeds in _encoders(runs).items():
        random, pretrained = runs[f"{encoder}-random"], runs[f"{encoder}-moco"]
        moco = f"MoCo{_epochs(runs, encoder)}"
        supervised = random[seeds[0]]["finetune"]
        factor = supervised["0.01 longer"]["epochs"] / supervised["0.01"]["epochs"]
        for title, records, suffix in (
            (f"{encoder}, supervised only", random, ""),
            (f"{encoder}, supervised only, {factor:g} times the epochs", random, " longer"),
            (f"**{encoder}, {moco}, then fine-tuned**", pretrained, ""),
        ):
            results = [records[seed]["finetune"] for seed in seeds]
            cells = [
                _cell([result[key + suffix]["top1"] for result in results])
                if key + suffix in results[0]
                else "–"
                for key in columns
            ]
            rows.append([title, *(f"**{cell}**" if "**" in title else cell for cell in cells)])
    return _table(["training", *columns.values()], rows, runs)


def schedules() -> str:
    """Return the settings of fine-tuning."""
    runs = _runs()
    rows = []
    for encoder, seeds in _encoders(runs).items():
        for name, used in runs[f"{encoder}-random"][seeds[0]]["finetune"].items():
            fraction, *longer = name.split()
            rows.append(
                [
                    encoder,
                    f"{100 * float(fraction):g} %{', longer' if longer else ''}",
                    f"{used['num_train']:,}",
                    *(str(used[key]) for key in ("epochs", "batch_size")),
                    *(f"{used[key]:g}" for key in ("learning_rate", "head_learning_rate")),
                    f"{used['weight_decay']:g}",
                    "–".join(f"{scale:g}" for scale in used["crop_scale"]),
                ]
            )
    header = [
        "encoder",
        "labels",
        "images",
        "epochs",
        "batch size",
        "learning rate",
        "of the new layer",
    ]
    header += ["weight decay", "area of crops"]
    return markdown.table(header, rows) if rows else UNFINISHED


def recipe() -> str:
    """Return the settings of pre-training that differ from the defaults, and the commands."""
    results = _read()
    if results is None:
        return UNFINISHED
    defaults = flatten(default_config())
    rows = [
        [f"`{key}`", f"`{value}`"]
        for key, value in results["config"].items()
        if value != defaults[key]
    ]
    others = {
        record["settings"]["encoder"]: record["settings"]
        for record in results["runs"]
        if record["settings"].get("epochs") and "encoder" in record["settings"]
    }
    differences = ""
    for encoder, settings in others.items():
        changes = [f"`{key}` {value}" for key, value in settings.items() if key != "encoder"]
        differences += f"\n\nFor {encoder}: {', '.join(changes)}."
    commands = "\n".join(results["commands"])
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"```bash\n{commands}\n```\n\n{markdown.table(['setting', 'value'], rows)}{differences}\n\n"
        f"Versions: {versions}."
    )


def _read() -> dict[str, Any] | None:
    return json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else None


def _runs() -> dict[str, dict[int, Record]]:
    """Return the records of the finished runs by name and seed."""
    runs: dict[str, dict[int, Record]] = {}
    for record in (_read() or {"runs": []})["runs"]:
        runs.setdefault(record["name"], {})[record["seed"]] = record
    return runs


def _encoders(runs: dict[str, dict[int, Record]]) -> dict[str, list[int]]:
    """Return the encoders with the seeds of which all runs are finished, so that rows compare."""
    seeds = {}
    for name in runs:
        encoder, _, kind = name.partition("-")
        if kind == "moco":
            names = ("pixels", f"{encoder}-random", name)
            common = set.intersection(*(set(runs.get(each, {})) for each in names))
            if common:
                seeds[encoder] = sorted(common)
    return seeds


def _epochs(runs: dict[str, dict[int, Record]], encoder: str) -> str:
    """Return the epochs of pre-training, such as " for 10 epochs", if they are not the config's."""
    record, *_ = runs[f"{encoder}-moco"].values()
    epochs = record["settings"].get("epochs")
    return f" for {epochs} epochs" if epochs else ""


def _cell(fractions: Sequence[float]) -> str:
    percents = [100 * fraction for fraction in fractions]
    deviation = f" ± {statistics.stdev(percents):.1f}" if len(percents) > 1 else ""
    return f"{statistics.mean(percents):.1f}{deviation}"


def _table(header: list[str], rows: list[list[str]], runs: dict[str, dict[int, Record]]) -> str:
    if not rows:
        return UNFINISHED
    numbers = [
        f"{encoder} with {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        for encoder, seeds in _encoders(runs).items()
    ]
    return f"{markdown.table(header, rows)}\n\nTop-1 accuracy in percent, {', '.join(numbers)}."
