"""The tables of the benchmarks, for `result_tables.py`."""

import json
import pathlib
import statistics
from typing import Any

from moco_tf import markdown

ROOT = pathlib.Path(__file__).resolve().parent.parent

GIB = 2**30
# The groups of contestants that moco-tf and PyTorch take part in.
PRECISIONS = ("float32", "bfloat16")


def train_step() -> str:
    """Return the times and the memory of a training step, for both sizes of the benchmark."""
    texts = {
        "large": "ResNet-50 at 224 pixels",
        "small": "ResNet-18 with the small stem at 32 pixels",
    }
    header = ["implementation", "ms per step", "images/s", "time, moco-tf = 1"]
    header += ["share of the matrix rate", "peak memory, GiB"]
    parts = []
    for size, result in _read("train_step.json").items():
        settings = result["settings"]
        rows = [
            row
            for group, contestants in result["groups"].items()
            for row in _rows_of_steps(group, contestants, result)
        ]
        parts.append(
            f"{texts[size]}, batch of {settings['batch']}, K = {settings['queue']:,}, medians of "
            f"{result['rounds']} steps{_on_machine(result)}:\n\n{markdown.table(header, rows)}\n\n"
            f"{_comparison(result['groups'])}"
        )
    return "\n\n".join(parts)


def _rows_of_steps(
    group: str, contestants: dict[str, Any], result: dict[str, Any]
) -> list[list[str]]:
    """Return the rows of a group of contestants, which are compared with its first."""
    titles = {
        # Its times in the first group and in this one differ, because the machine's speed changes.
        "ours": "moco-tf, beside the next rows" if group == "parts" else "moco-tf",
        "floor": "encoders alone",
        "small queue": "moco-tf, a sixteenth of the queue",
        "eight groups": "moco-tf, 8 groups of BatchNormalization",
        "ours, bfloat16": "moco-tf, bfloat16",
    }
    ours = next(iter(contestants.values()))["seconds"]
    rows = []
    for name, values in contestants.items():
        time = values["seconds"]
        rate = result["step_flops"] / time / result["matrix_flops_per_second"]
        memory = values["peak_bytes"] - values["bytes_after_imports"]
        milliseconds = f"{1000 * time:.0f}"
        rows.append(
            [
                titles.get(name, name),
                f"**{milliseconds}**" if name.startswith("ours") else milliseconds,
                f"{result['settings']['batch'] / time:.1f}",
                f"{time / ours:.2f}",
                "" if group == "bfloat16" else f"{rate:.2f}",
                f"{memory / GIB:.2f}",
            ]
        )
    return rows


def speed() -> str:
    """Return the times of a training step as multiples of ours."""
    titles = {"large": "ResNet-50 at 224 pixels", "small": "ResNet-18 at 32 pixels"}
    rows = []
    for size, result in _read("train_step.json").items():
        groups = result["groups"]
        parts = groups["parts"]
        name, ratio = _fastest_rival(groups["float32"])
        rival = f"{ratio:.2f} ({name.removeprefix('PyTorch, ')})"
        floor = f"{parts['floor']['seconds'] / parts['ours']['seconds']:.2f}"
        rows.append([titles[size], "1.00", rival, floor])
    header = ["encoder", "moco-tf", "fastest variant of PyTorch", "lower bound"]
    table = markdown.table(header, rows)
    text = (
        "The lower bound is the time of the encoders alone: both forward passes, and the backward "
        f"pass of the query encoder. Medians of {result['rounds']} steps in float32"
        f"{_on_machine(result)}."
    )
    return f"{table}\n\n{text}{_not_measured(groups)}"


def _comparison(groups: dict[str, Any]) -> str:
    """Return sentences that compare moco-tf's step with the fastest one in PyTorch."""
    sentences = []
    for group in PRECISIONS:
        if group in groups:
            name, ratio = _fastest_rival(groups[group])
            sentences.append(
                f"In {group}, *{name}* is the fastest variant of PyTorch. Its step takes "
                f"{ratio:.2f} times as long as moco-tf's."
            )
    return " ".join(sentences) + _not_measured(groups)


def _fastest_rival(contestants: dict[str, Any]) -> tuple[str, float]:
    """Return the fastest contestant but the first, and its time as a multiple of the first's."""
    (_, ours), *others = contestants.items()
    name, theirs = min(others, key=lambda item: item[1]["seconds"])
    return name, theirs["seconds"] / ours["seconds"]


def _not_measured(groups: dict[str, Any]) -> str:
    """Return a sentence about the variants of PyTorch that were not measured, if there are any."""
    variants = {"PyTorch, channels_last": "`channels_last`", "PyTorch, compiled": "`torch.compile`"}
    missing = [text for name, text in variants.items() if name not in groups["float32"]]
    if not missing:
        return ""
    return f" PyTorch with {' or '.join(missing)}, which can be faster, was not measured."


def input_pipeline() -> str:
    """Return the rates of the input pipelines, for the host part and for the whole."""
    result = _read("input_pipeline.json")
    rates = result["images_per_second"]
    pillow = "Pillow" if "decoder" not in result else f"{result['decoder']} and Pillow"
    decoder = result.get("decoder", "")
    host = {
        "ours, host": "moco-tf",
        "torchvision v2, host": f"torchvision v2 with {decoder}",
        "DALI, host": "DALI on the CPU",
    }
    whole = {
        "ours, whole": "moco-tf",
        "torchvision": "torchvision with Pillow, as in the reference implementation",
        "torchvision v2": f"torchvision v2 with {decoder}",
        "torchvision v2, Pillow colors": f"torchvision v2 with {pillow}",
        "DALI, whole": "DALI on the CPU",
    }
    rows, sentences = [], []
    for part, titles in (("host part", host), ("whole", whole)):
        ours, *others = (name for name in titles if name in rates)
        for name in (ours, *others):
            rate = f"{rates[name]:.0f}"
            cells = [f"**{rate}**" if name == ours else rate, f"{rates[name] / rates[ours]:.2f}"]
            rows.append([part, titles[name], *cells])
        if others:
            best = max(others, key=rates.__getitem__)
            sentences.append(
                f"For the {part}, *{titles[best]}* is the fastest of the others: moco-tf reads "
                f"{rates[ours] / rates[best]:.2f} times as many images per second."
            )
    table = markdown.table(["part", "pipeline", "images/s", "moco-tf = 1"], rows)
    text = f"Medians of {result['rounds']} epochs of {result['images']:,} images"
    return f"{table}\n\n{text}{_on_machine(result)}. {' '.join(sentences)}"


def training() -> str:
    """Return the speed and the accuracy of whole trainings, for each data set."""
    titles = {
        "ours": "moco-tf, one BatchNormalization group",
        "ours, shuffled": "moco-tf, eight groups, shuffled keys",
        "lightly": "lightly",
        "lightly, jitter p = 0.8": "lightly, color jitter with its default probability",
    }
    parts = []
    for data, result in _read("training.json").items():
        runs = next(iter(result["runs"].values()))
        header = ["implementation", "images/s", "seconds", "kNN top-1"]
        header.append(f"seconds to {100 * result['common_top1']:.1f} %")
        rows = []
        for name, values in result["summary"].items():
            percents = [100 * top1 for top1 in values["knn_top1"]]
            spread = f" ± {statistics.stdev(percents):.1f}" if len(percents) > 1 else ""
            rows.append(
                [
                    titles[name],
                    f"{values['images_per_second']:.0f}",
                    f"{values['seconds']:.0f}",
                    f"{statistics.mean(percents):.1f}{spread}",
                    f"{values['seconds_to_common_top1']:.0f}",
                ]
            )
        seeds = "1 seed" if len(runs) == 1 else f"means of {len(runs)} seeds"
        parts.append(
            f"`{data}`, {len(runs[0]['knn_top1'])} epochs of {result['images']:,} images, {seeds}"
            f"{_on_machine(result)}:\n\n{markdown.table(header, rows)}"
        )
    return "\n\n".join(parts)


def fit() -> str:
    """Return the rates of `train.py` and of its parts."""
    rates = {
        name: statistics.median(values)
        for name, values in _read("fit.json")["images_per_second"].items()
    }
    rows = [
        ["host part of the input pipeline alone", f"{rates['pipeline']:.0f}"],
        ["training step alone", f"{rates['step']:.1f}"],
        ["`train.py`", f"{rates['train.py']:.1f}"],
    ]
    share = rates["train.py"] / min(rates["pipeline"], rates["step"])
    table = markdown.table(["part", "images/s"], rows)
    return f"{table}\n\n`train.py` reaches {share:.2f} of the slower of the other two."


def embed() -> str:
    """Return the rates of reading, of the forward pass and of `moco_tf.embed`."""
    result = _read("embed.json")
    rates = result["images_per_second"]
    slower = min(rates["reading"], rates["forward pass"])
    in_turn = 1 / (1 / rates["reading"] + 1 / rates["forward pass"])
    rows = [[name, f"{rate:.1f}"] for name, rate in rates.items()]
    return (
        f"{result['encoder']}, {result['images']:,} JPEG files, medians{_on_machine(result)}:\n\n"
        f"{markdown.table(['what runs', 'images/s'], rows)}\n\n"
        f"`moco-embed` reaches {rates['embed'] / slower:.0%} of its slower part, and "
        f"{rates['embed'] / in_turn:.0%} of the rate of both parts one after the other."
    )


def prepare() -> str:
    """Return the rates of reading photos of 12 megapixels, as they are and prepared."""
    result = _read("prepare.json")
    rates = result["images_per_second"]
    rows = []
    for name, rate in rates.items():
        preparation = result["preparation_images_per_second"].get(name)
        rows.append(
            [
                "JPEG files in a folder" if name == "original" else f"`--format={name}`",
                f"{rate:.0f}",
                f"{rate / rates['original']:.1f}",
                f"{result['bytes_per_image'][name] / 1000:,.0f} kB",
                "–" if preparation is None else f"{preparation:.1f}",
            ]
        )
    header = ["photos of 12 megapixels", "images/s", "JPEG files = 1", "size of an image"]
    table = markdown.table([*header, "images/s of `moco-prepare`"], rows)
    text = f"Medians of {result['rounds']} epochs of {result['images']} images"
    return f"{table}\n\n{text}{_on_machine(result)}."


def large_source() -> str:
    """Return what sources of different sizes take to start, to resume and to read."""
    result = _read("large_source.json")
    rows = [
        [
            f"{size['images']:,}",
            f"{size['start']:.1f} s",
            f"{size['resume']:.1f} s",
            f"{size['images_per_second']:.0f}",
            f"{size['peak'] / 2**20:,.0f} MiB",
        ]
        for size in result["results"]
    ]
    header = ["images", "start", "resume", "images/s", "peak memory of the process"]
    rounds = result["settings"]["rounds"]
    return f"{markdown.table(header, rows)}\n\nMedians of {rounds} rounds{_on_machine(result)}."


def _on_machine(result: dict[str, Any]) -> str:
    """Return the processor and the versions of a measurement, as the end of a phrase."""
    if "machine" not in result:
        return ""
    machine = result["machine"]
    instructions = ", ".join(machine["instructions"])
    *versions, last = (f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f", on {machine['cores']} cores of {machine['processor']} ({instructions}), with "
        f"{', '.join(versions)} and {last}"
    )


def _read(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / name).read_text(encoding="utf-8"))
