"""The README.md of a study: which findings of the paper are reproduced, and all numbers."""

import os
import textwrap
from collections.abc import Iterator, Sequence

import scipy.stats
import tensorflow as tf

from moco_tf import markdown
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically
from studies import figures, results
from studies.experiments import NAMES, plan
from studies.findings import TOO_FEW_SEEDS, Finding, findings
from studies.results import Results
from studies.tables import mean_and_std, tables

TITLES = {
    "mechanisms": "Figure 3: three mechanisms",
    "momentum": "Ablation of the momentum",
    "shuffling": "Shuffling BN",
    "v2": "From v1 to v2",
    "epochs": "Longer pre-training",
    "width": "Wider networks",
}


def write(directory: str) -> list[str]:
    """Write the figures and the README.md of a study from its results.json.

    Args:
        directory: Directory with the results.json of a study, finished or not.

    Returns:
        The paths of the files that were written.

    Raises:
        UserError: If there are no results, or a file cannot be written.
    """
    study = results.read(directory)
    if study is None:
        raise UserError(f"--out={directory} holds no {results.FILE}: run the study first")
    try:
        plotted = figures.write_figures(directory, study)
        path = os.path.join(directory, "README.md")
        write_atomically(path, text(study, plotted))
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--out={directory} cannot be written ({error_reason(error)}): choose another directory"
        ) from error
    return [*(os.path.join(directory, f"{name}.png") for name in plotted), path]


def text(study: Results, plotted: Sequence[str]) -> str:
    """Return the text of the README.md.

    Args:
        study: Results, as `studies.results.read` returns them.
        plotted: Names of the experiments that have a figure.

    Returns:
        Markdown.
    """
    all_findings, all_tables = findings(study), tables(study)
    parts = [*_introduction(study), *_summary(study, all_findings), *_scale(study)]
    for name in NAMES:
        if name in plotted:
            parts += [f"## {TITLES[name]}\n![{TITLES[name]}]({name}.png)", all_tables[name]]
            parts += [_describe(finding) for finding in all_findings if finding.experiment == name]
    return "\n\n".join(parts) + "\n"


def _introduction(study: Results) -> Iterator[str]:
    base, data = study["config"], study["data"]
    versions = ", ".join(f"{name} {version}" for name, version in study["versions"].items())
    # Version 0.1 had a script of its own.
    commands = "\n".join(study["commands"]).replace("python study.py", "python -m studies")
    yield f"# The paper's findings on `{data['source']}`\n```\n{commands}\n```"
    yield _paragraph(
        f"The {len(study['runs'])} runs took {study['seconds'] / 60:.0f} minutes in all, with "
        f"{versions}. All numbers and figures come from [results.json](results.json), which has "
        "one line per run. To write the figures and this page again, run `python -m studies "
        "--figures_only`."
    )
    missing = _missing(study)
    if missing:
        count = sum(map(len, missing.values()))
        runs = "; ".join(f"`{name}`, {_seeds(seeds)}" for name, seeds in missing.items())
        planned = len(study["seeds"]) * len(plan(base, NAMES))
        yield _paragraph(f"**Not finished: {count} of {planned} runs are missing**: {runs}.")
    yield _paragraph(
        f"Pre-training uses {data['num_images']:,} images without their labels. kNN and the linear "
        "probe, a logistic regression on frozen features, use "
        f"{data['num_train']:,} labeled training images and {data['num_test']:,} test images of "
        f"{data['num_classes']} classes. Accuracies are top-1 in percent, as mean ± standard "
        f"deviation over {_seeds(study['seeds'])}."
    )
    yield _paragraph(
        f"Unless stated otherwise, a run has these settings: {base['encoder']}, {base['head']} "
        f"head, K = {base['queue_size']:,}, m = {base['momentum']:g}, temperature "
        f"{base['temperature']:g}, augmentation {base['augmentation']}, batches of "
        f"{base['batch_size']} images in {base['bn_groups']} BatchNormalization groups, learning "
        f"rate {base['learning_rate']:g} per 256 images, {base['schedule']} schedule, "
        f"{base['epochs']} epochs."
    )


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _missing(study: Results) -> dict[str, list[int]]:
    missing = {}
    for name in plan(study["config"], NAMES):
        seeds = [seed for seed in study["seeds"] if results.find(study, name, seed) is None]
        if seeds:
            missing[name] = seeds
    return missing


def _summary(study: Results, all_findings: Sequence[Finding]) -> Iterator[str]:
    rows = [[finding.claim, finding.paper, f"**{finding.verdict}**"] for finding in all_findings]
    yield "## Summary\n" + markdown.table(["finding", "paper", "this study"], rows)
    yield _paragraph(
        "Each finding consists of the comparisons that are listed below. Two settings differ if "
        "the difference of their means is more than twice its standard error; otherwise there is "
        "no clear difference. A finding is *reproduced* if every comparison agrees with the paper, "
        "*partly reproduced* if some do, and *not reproduced* if none does. It has *too few seeds* "
        "if a setting was run with fewer than two."
    )
    seeds = len(study["seeds"])
    if seeds > 1:
        freedom = 2 * seeds - 2
        rate = 200 * scipy.stats.t.sf(2, freedom)
        yield _paragraph(
            f"With {seeds} seeds per setting, this rule finds a difference between two equal "
            f"settings in {rate:.0f} % of all cases (Student's t, {freedom} degrees of freedom). "
            "With this many comparisons, expect some of them to be wrong."
        )


def _scale(study: Results) -> Iterator[str]:
    base, images = study["config"], study["data"]["num_images"]
    steps = base["epochs"] * (images // base["batch_size"])
    percent = 100 * base["queue_size"] / images
    points = [
        "**K relative to the data set.** The paper's 65,536 keys are 5 % of ImageNet's 1.28 "
        "million images, and 4,096 keys are 0.3 %. In this study, "
        f"K = {base['queue_size']:,} is {percent:.1f} % of the images, and Figure 3 ranges from "
        f"{percent / 16:.1f} to {percent * 4:.1f} %. With a larger fraction, more near neighbors "
        "of a query are among its negatives, and the keys are older in epochs.",
        f"**m relative to the number of steps.** A run has {steps:,} steps, and the paper's runs "
        "have about a million. The key encoder lags about 1/(1 - m) steps behind the query "
        "encoder: 100 with m = 0.99, 1,000 with 0.999 and 10,000 with 0.9999. At the end of a run, "
        "the random initialization still has a weight of "
        f"{100 * 0.99**steps:.1f}, {100 * 0.999**steps:.0f} and {100 * 0.9999**steps:.0f} % in the "
        "key encoder. In the paper's runs, its weight is practically 0.",
        f"**Network and images.** The study uses {base['encoder']} on images of "
        f"{base['image_size']} pixels, and the paper uses a ResNet-50 on images of 224 pixels. "
        "Compare the directions of the differences, not the accuracies.",
    ]
    if base["data.source"] == "photos":
        points.append(
            "**Gray patches.** The images are gray, so of the augmentation only crop, flip, "
            "brightness, contrast and blur have an effect; saturation, hue and grayscale have "
            "none. The task is texture recognition, as `docs/photos.md` describes."
        )
    bullets = "\n".join(_paragraph(point, "- ") for point in points)
    yield f"## Differences in scale from the paper\n{bullets}"


def _describe(finding: Finding) -> str:
    lines = [f"**{finding.claim}** Paper: {finding.paper}. This study: **{finding.verdict}**.", ""]
    for comparison in finding.comparisons:
        first, second = (
            mean_and_std(values, comparison.key) or "missing"
            for values in (comparison.first, comparison.second)
        )
        outcome = comparison.outcome
        if outcome != TOO_FEW_SEEDS and outcome not in comparison.expected:
            outcome = f"{outcome} (paper: {' or '.join(comparison.expected)})"
        lines.append(
            f"- {comparison.description}, {comparison.metric}: {first} against {second}: {outcome}"
        )
    return "\n".join(lines)


def _paragraph(paragraph: str, bullet: str = "") -> str:
    return textwrap.fill(
        paragraph,
        width=100,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )
