"""Write the tables of measured results into the README and the documentation.

    python docs/result_tables.py            (make results)
    python docs/result_tables.py --check    (part of make check)

A table stands between the comments `<!-- begin: NAME -->` and `<!-- end: NAME -->`. It is made
from the results that are committed, so a page cannot show numbers that were not measured. The table
of the presets and that of the rules of a plan are made from their definitions. With --check,
nothing is written, and the exit status is 1 if a page differs.
"""

import dataclasses
import json
import pathlib
import re
import statistics
import sys
from typing import Any

from moco_tf import markdown
from moco_tf.data.recipes import RECIPES, Recipe
from moco_tf.plan.rules import RULES

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"(<!-- begin: (\w+) -->\n)(.*?)(<!-- end: \2 -->)", re.DOTALL)

GIB = 2**30


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
    """Return the accuracies of fine-tuning with a tenth of the labels, over the demo's seeds."""
    header = ["trained", "random initialization", "MoCo, pre-trained"]
    results = _read("studies/demo/finetuning.json")["results"]
    rows = []
    for layers, title in (("head", "new layer only"), ("all", "all layers")):
        cells = []
        for initialization in ("random", "pre-trained"):
            percents = [
                100 * curve["top1"]
                for result in results
                for curve in result["curves"]
                if (curve["initialization"], curve["layers"]) == (initialization, layers)
            ]
            cells.append(f"{statistics.mean(percents):.1f} ± {statistics.stdev(percents):.1f}")
        rows.append([title, *cells])
    return markdown.table(header, rows)


def train_step() -> str:
    """Return the times and the memory of a training step, for both sizes of the benchmark."""
    texts = {
        "large": "ResNet-50 at 224 pixels",
        "small": "ResNet-18 with the small stem at 32 pixels",
    }
    titles = {
        "ours": "moco-tf",
        "floor": "encoders alone",
        "small queue": "moco-tf, a sixteenth of the queue",
        "eight groups": "moco-tf, 8 groups of BatchNormalization",
        "ours, bfloat16": "moco-tf, bfloat16",
    }
    header = ["implementation", "ms per step", "images/s", "time, moco-tf = 1"]
    header += ["share of the matrix rate", "peak memory, GiB"]
    parts = []
    for size, result in _read("benchmarks/train_step.json").items():
        batch = result["settings"]["batch"]
        rows = []
        for group, contestants in result["groups"].items():
            ours = next(iter(contestants.values()))["seconds"]
            for name, values in contestants.items():
                if group == "parts" and name == "ours":  # It is in the first group as well.
                    continue
                time = values["seconds"]
                rate = result["step_flops"] / time / result["matrix_flops_per_second"]
                memory = values["peak_bytes"] - values["bytes_after_imports"]
                milliseconds = f"{1000 * time:.0f}"
                rows.append(
                    [
                        titles.get(name, name),
                        f"**{milliseconds}**" if name == "ours" else milliseconds,
                        f"{batch / time:.1f}",
                        f"{time / ours:.2f}",
                        "" if group == "bfloat16" else f"{rate:.2f}",
                        f"{memory / GIB:.2f}",
                    ]
                )
        parts.append(
            f"{texts[size]}, batch of {batch}, K = {result['settings']['queue']:,}, medians of "
            f"{result['rounds']} steps{_on_machine(result)}:\n\n{markdown.table(header, rows)}\n\n"
            f"{_ratio_to_pytorch(result['groups'])}"
        )
    return "\n\n".join(parts)


def _ratio_to_pytorch(groups: dict[str, Any]) -> str:
    """Return a sentence that compares moco-tf's step with the fastest one in PyTorch."""
    sentences = []
    for group in ("float32", "bfloat16"):
        if group in groups:
            ours, name, theirs = _fastest_rival(groups[group])
            sentences.append(
                f"In {group}, the fastest step in PyTorch is that of *{name}*, and takes "
                f"{theirs / ours:.2f} times as long as moco-tf's."
            )
    if "PyTorch, channels_last" not in groups["float32"]:
        sentences.append(
            "PyTorch with `channels_last` or `torch.compile`, which is faster than plain PyTorch, "
            "was not measured."
        )
    return " ".join(sentences)


def _fastest_rival(contestants: dict[str, Any]) -> tuple[float, str, float]:
    """Return the time of the first contestant, and the name and the time of the fastest other."""
    (_, ours), *others = contestants.items()
    name, theirs = min(others, key=lambda item: item[1]["seconds"])
    return ours["seconds"], name, theirs["seconds"]


def _on_machine(result: dict[str, Any]) -> str:
    """Return the processor and the versions of a measurement, as the end of a phrase."""
    if "machine" not in result:
        return ""
    machine = result["machine"]
    versions = " and ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f", on {machine['cores']} cores of {machine['processor']} "
        f"({', '.join(machine['instructions'])}), with {versions}"
    )


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


def plan_rules() -> str:
    """Return the rules of a plan with their sources."""
    rows = [
        [f"[`{rule.setting}`](configuration.md#setting-{rule.setting})", rule.text, rule.source]
        for rule in RULES
    ]
    return markdown.table(["setting", "value", "source"], rows)


def speed() -> str:
    """Return the times of a training step as multiples of ours."""
    titles = {"large": "ResNet-50 at 224 pixels", "small": "ResNet-18 at 32 pixels"}
    rows = []
    for size, result in _read("benchmarks/train_step.json").items():
        for group in ("float32", "bfloat16"):
            if group not in result["groups"]:
                continue
            ours, name, theirs = _fastest_rival(result["groups"][group])
            rival = f"{theirs / ours:.2f} ({name.removeprefix('PyTorch, ')})"
            floor = ""
            if group == "float32":
                parts = result["groups"]["parts"]
                floor = f"{parts['floor']['seconds'] / parts['ours']['seconds']:.2f}"
            rows.append([f"{titles[size]}, {group}", "1.00", rival, floor])
    alone = "lower bound: both encoders forward, query encoder backward"
    table = markdown.table(["encoder", "moco-tf", "fastest variant of PyTorch", alone], rows)
    text = f"Medians of {result['rounds']} steps{_on_machine(result)}."
    if "PyTorch, channels_last" not in result["groups"]["float32"]:
        text += " PyTorch with `channels_last` or `torch.compile`, which is faster than plain "
        text += "PyTorch, was not measured."
    return f"{table}\n\n{text}"


def input_pipeline() -> str:
    """Return the rates of the input pipeline."""
    rates = _read("benchmarks/input_pipeline.json")["images_per_second"]
    titles = {
        "ours, host": "moco-tf, host part: reading, decoding, crops, flips",
        "ours, whole": "moco-tf, whole: also color jitter, blur and normalization",
        "torchvision": "torchvision with Pillow, a DataLoader of two workers",
    }
    rows = [
        [title, f"{rates[name]:.0f}", f"{rates[name] / rates['torchvision']:.2f}"]
        for name, title in titles.items()
    ]
    return markdown.table(["pipeline", "images/s", "torchvision = 1"], rows)


def fit() -> str:
    """Return the rates of `train.py` and of its parts."""
    rates = {
        name: statistics.median(values)
        for name, values in _read("benchmarks/fit.json")["images_per_second"].items()
    }
    rows = [
        ["host part of the input pipeline alone", f"{rates['pipeline']:.0f}"],
        ["training step alone", f"{rates['step']:.1f}"],
        ["`train.py`", f"{rates['train.py']:.1f}"],
    ]
    share = rates["train.py"] / min(rates["pipeline"], rates["step"])
    table = markdown.table(["part", "images/s"], rows)
    return f"{table}\n\n`train.py` reaches {share:.2f} of the slower of the other two."


TABLES = {
    "demo": demo,
    "demo_output": demo_output,
    "finetuning": finetuning,
    "fit": fit,
    "input_pipeline": input_pipeline,
    "plan_rules": plan_rules,
    "presets": presets,
    "speed": speed,
    "train_step": train_step,
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
            print(f"{name} differs from the committed results: run python docs/result_tables.py")
            status = 1
        else:
            page.write_text(updated, encoding="utf-8")
            print(f"wrote {name}")
    return status


def _read(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
