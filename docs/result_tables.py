"""Write the generated tables into the README and the documentation.

    make results
    make check      (whether the pages have the tables)

A table stands between the comments `<!-- begin: NAME -->` and `<!-- end: NAME -->`. It is made
from the results that are committed, so a page cannot show numbers that were not measured. The
tables of settings, presets and plans and the help of the commands are made from their definitions.
With --check, nothing is written, and the exit status is 1 if a page differs.
"""

import dataclasses
import json
import pathlib
import re
import statistics
import sys
from typing import Any

import benchmark_tables
import fashion_mnist_tables
import plan_tables
import reference_tables
import small_data_tables
import transfer_tables

from moco_tf import markdown
from moco_tf.data.recipes import RECIPES, Recipe

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = (
    ROOT / "README.md",
    *(
        ROOT / "studies" / name / "README.md"
        for name in ("fashion_mnist", "small_data", "transfer")
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
)
BLOCK = re.compile(r"(<!-- begin: (\w+) -->\n)(.*?)(<!-- end: \2 -->)", re.DOTALL)


def demo() -> str:
    """Return the accuracies of the demo, as mean and standard deviation over the seeds."""
    results = _read("studies/demo/results.json")
    steps = results["config"]["epochs"] * (8116 // results["config"]["batch_size"])
    titles = {
        "raw pixels": "raw pixels",
        "random initialization": "random initialization",
        "pre-trained": f"**MoCo, pre-trained for {steps:,} steps**",
    }
    rows = []
    for name, title in titles.items():
        cells = []
        for column in ("knn", "linear"):
            percents = [100 * result[name][column] for result in results["results"]]
            cell = f"{statistics.mean(percents):.1f} ± {statistics.stdev(percents):.1f}"
            cells.append(f"**{cell}**" if name == "pre-trained" else cell)
        rows.append([title, *cells])
    return markdown.table(["features", "kNN", "linear probe"], rows)


def demo_precision() -> str:
    """Return the accuracies of the demo on larger views, in float32 and in bfloat16."""
    rows = []
    for precision, summary in _read("studies/demo/precision.json").items():
        cells = []
        for column in ("knn", "linear"):
            percents = [100 * result["pre-trained"][column] for result in summary["results"]]
            cells.append(f"{statistics.mean(percents):.1f} ± {statistics.stdev(percents):.1f}")
        rows.append([f"`{precision}`", *cells])
    return markdown.table(["precision", "kNN", "linear probe"], rows)


def demo_output() -> str:
    """Return what `moco-demo` prints at its end, for the first seed."""
    result = _read("studies/demo/results.json")["results"][0]
    lines = [
        "Top-1 accuracy on held-out patches, 1 seed",
        f"{'':24}{'kNN':>16}{'linear probe':>16}",
    ]
    for name, top1 in result.items():
        cells = [f"{100 * top1[column]:.1f} %" for column in ("knn", "linear")]
        lines.append(f"{name:24}{cells[0]:>16}{cells[1]:>16}")
    return "\n".join(["```text", *lines, "```"])


def finetuning() -> str:
    """Return the accuracies of fine-tuning with a part of the labels, over the demo's seeds."""
    rows = [
        [
            labels,
            title,
            *(_finetuned(summary, start, layers) for start in ("random", "pre-trained")),
        ]
        for labels, summary in _finetunings().items()
        for layers, title in (("head", "new layer only"), ("all", "all layers"))
    ]
    header = ["labels", "trained", "random initialization", "MoCo, pre-trained"]
    return markdown.table(header, rows)


def few_labels() -> str:
    """Return the accuracies after fine-tuning all layers, also after a longer training."""
    rows = [
        [
            labels,
            _finetuned(summary, "random", "all"),
            f"{100 * summary['longer']['top1']:.1f}",
            _finetuned(summary, "pre-trained", "all"),
        ]
        for labels, summary in _finetunings().items()
    ]
    header = ["labels", "random initialization", "random, four times the epochs (one run)"]
    return markdown.table([*header, "MoCo, pre-trained"], rows)


def _finetunings() -> dict[str, Any]:
    """Return the results of fine-tuning by the labels that were used."""
    return {
        f"{100 * float(fraction):g} %, {summary['settings']['num_train']:,} images": summary
        for fraction, summary in _read("studies/demo/finetuning.json").items()
    }


def _finetuned(summary: dict[str, Any], initialization: str, layers: str) -> str:
    """Return the accuracy over the seeds after fine-tuning."""
    percents = [
        100 * curve["top1"]
        for result in summary["results"]
        for curve in result["curves"]
        if (curve["initialization"], curve["layers"]) == (initialization, layers)
    ]
    return f"{statistics.mean(percents):.1f} ± {statistics.stdev(percents):.1f}"


def crops() -> str:
    """Return the accuracies of training with labels on crops of different sizes."""
    results = _read("studies/demo/crops.json")["results"]
    scales = sorted({result["crop_scale"][0] for result in results})
    cells: dict[tuple[str, int, str], dict[float, str]] = {}
    for result in results:
        row = result["protocol"], result["labels"], result["initialization"]
        cells.setdefault(row, {})[result["crop_scale"][0]] = f"{100 * result['top1']:.1f}"
    header = ["protocol", "labels", "start", *(f"`--crop_scale={scale:g},1`" for scale in scales)]
    rows = [
        [f"`{protocol}`", f"{labels:,}", start, *(row.get(scale, "–") for scale in scales)]
        for (protocol, labels, start), row in sorted(cells.items(), reverse=True)
    ]
    return markdown.table(header, rows)


def protocols() -> str:
    """Return the accuracies of one encoder of the demo by other protocols."""
    rows = []
    for result in _read("studies/demo/protocols.json")["results"]:
        # A code span for each flag, because a page breaks lines between them only.
        flags = " ".join(f"`{flag}`" for flag in result["flags"].split())
        rows.append([flags, f"{result['num_train']:,}", f"{100 * result['top1']:.1f}"])
    return markdown.table(["flags", "labels", "top-1, %"], rows)


def presets() -> str:
    """Return the numbers of each preset of the augmentation."""
    rows = []
    for field in dataclasses.fields(Recipe):
        if field.name == "gray_first":  # Not a setting.
            continue
        values = [getattr(recipe, field.name) for recipe in RECIPES.values()]
        texts = [
            ",".join(f"{number:.3g}" for number in value)
            if isinstance(value, tuple)
            else f"{value:g}"
            for value in values
        ]
        rows.append([f"[`augment.{field.name}`](#setting-augment.{field.name})", *texts])
    return markdown.table(["setting", *(f"`{name}`" for name in RECIPES)], rows)


TABLES = {
    "command_help": reference_tables.command_help,
    "crops": crops,
    "demo": demo,
    "demo_output": demo_output,
    "demo_precision": demo_precision,
    "fashion_mnist": fashion_mnist_tables.frozen,
    "fashion_mnist_finetuning": fashion_mnist_tables.finetuning,
    "fashion_mnist_recipe": fashion_mnist_tables.recipe,
    "fashion_mnist_schedules": fashion_mnist_tables.schedules,
    "few_labels": few_labels,
    "finetuning": finetuning,
    "fit": benchmark_tables.fit,
    "embed": benchmark_tables.embed,
    "input_pipeline": benchmark_tables.input_pipeline,
    "large_source": benchmark_tables.large_source,
    "plan_examples": plan_tables.examples,
    "plan_rules": plan_tables.rules,
    "prepare": benchmark_tables.prepare,
    "presets": presets,
    "protocols": protocols,
    "speed": benchmark_tables.speed,
    "training": benchmark_tables.training,
    "train_step": benchmark_tables.train_step,
    "small_data": small_data_tables.small_data,
    "rules": small_data_tables.rules,
    "settings": reference_tables.settings,
    "quality": small_data_tables.quality,
    "transfer": transfer_tables.transfer,
    "transfer_scores": transfer_tables.transfer_scores,
    "views": small_data_tables.views,
}


def update(text: str) -> str:
    """Return the text of a page with its tables made from the results."""
    return BLOCK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[4]}", text)


def main(arguments: list[str]) -> int:
    """Write or check all pages, and return the exit status."""
    if arguments not in ([], ["--check"]):
        print(f"error: unknown arguments {' '.join(arguments)}: use none, or --check")
        return 2
    status = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        updated = update(text)
        if updated == text:
            continue
        name = page.relative_to(ROOT)
        if arguments:
            print(f"{name} is out of date: run make results")
            status = 1
        else:
            page.write_text(updated, encoding="utf-8")
            print(f"wrote {name}")
    return status


def _read(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
