"""README.md of a study: for each finding of the paper, whether it shows, and by what numbers."""

import os
import textwrap

import scipy.stats
import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.files import write_atomically
from studies import figures, results
from studies.experiments import NAMES, plan
from studies.findings import NOT_JUDGED, findings
from studies.tables import mean_and_spread, tables

TITLES = {
    "mechanisms": "Figure 3: three mechanisms",
    "momentum": "The momentum table",
    "shuffling": "Shuffling BN",
    "v2": "From v1 to v2",
    "epochs": "Longer pre-training",
    "width": "Wider networks",
}


def write(directory):
    """Draws the pictures of a study and writes its README.md, from results.json alone.

    Args:
        directory: str, with the results.json of a study, finished or not.

    Returns:
        list of str, the paths of what it wrote.

    Raises:
        UserError: there are no results, or nothing can be written.
    """
    found = results.read(directory)
    if found is None:
        raise UserError(f"--out={directory} has no {results.FILE} to draw: run the study first")
    try:
        drawn = figures.draw(directory, found)
        path = os.path.join(directory, "README.md")
        write_atomically(path, text(found, drawn))
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--out={directory} cannot be written ({error}): give a directory that can"
        ) from error
    return [*(os.path.join(directory, f"{name}.png") for name in drawn), path]


def text(found, drawn):
    """The README's text.

    Args:
        found: of `studies.results.read`.
        drawn: list of str, the experiments of which there is a picture.

    Returns:
        str, Markdown.
    """
    all_findings, all_tables = findings(found), tables(found)
    parts = [*_introduction(found), *_summary(found, all_findings), *_scale(found)]
    for name in NAMES:
        if name in drawn:
            parts += [f"## {TITLES[name]}\n![{TITLES[name]}]({name}.png)", all_tables[name]]
            parts += [_describe(each) for each in all_findings if each.experiment == name]
    return "\n\n".join(parts) + "\n"


def _introduction(found):
    base, data = found["config"], found["data"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    commands = "\n".join(found["commands"])
    yield f"# The paper's findings on `{data['source']}`\n```\n{commands}\n```"
    yield _paragraph(
        f"{len(found['runs'])} runs in {found['seconds'] / 60:.0f} minutes, with {versions}. Every "
        "number and picture is made of [results.json](results.json), where each run has a line; "
        "`python study.py --draw` makes them again."
    )
    missing = _missing(found)
    if missing:
        count = sum(map(len, missing.values()))
        runs = "; ".join(f"`{name}`, {_seeds(seeds)}" for name, seeds in missing.items())
        planned = len(found["seeds"]) * len(plan(base, NAMES))
        yield _paragraph(f"**Not finished: {count} of {planned} runs are missing.** These: {runs}.")
    yield _paragraph(
        f"{data['num_images']:,} images to pre-train on, without labels; {data['num_train']:,} "
        "with labels for kNN and for the linear probe, a logistic regression on frozen features; "
        f"{data['num_test']:,} for testing; {data['num_classes']} classes. Accuracies are top-1 in "
        f"percent, mean ± standard deviation over {_seeds(found['seeds'])}."
    )
    yield _paragraph(
        f"What a run has where nothing else is said: {base['encoder']}, {base['head']} head, "
        f"K = {base['queue_size']:,}, m = {base['momentum']:g}, temperature "
        f"{base['temperature']:g}, augmentation {base['augmentation']}, batches of "
        f"{base['batch_size']} in {base['bn_groups']} groups of BatchNormalization, learning rate "
        f"{base['learning_rate']:g} for 256 images, {base['schedule']} schedule, "
        f"{base['epochs']} epochs."
    )


def _seeds(seeds):
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _missing(found):
    missing = {}
    for name in plan(found["config"], NAMES):
        seeds = [seed for seed in found["seeds"] if results.find(found, name, seed) is None]
        if seeds:
            missing[name] = seeds
    return missing


def _summary(found, all_findings):
    lines = ["## Which of them show", "| finding | the paper | here |", "| --- | --- | --- |"]
    for each in all_findings:
        lines.append(f"| {each.claim} | {each.paper} | **{each.verdict}** |")
    yield "\n".join(lines)
    yield _paragraph(
        "Each finding comes down to comparisons, which stand below. Two settings differ where "
        "their means are further apart than twice the standard error of the difference; otherwise "
        "there is no difference beyond the spread. A finding *shows* where every comparison comes "
        "out as the paper has it, *shows in part* where some do, *does not show* where none does, "
        "and is *not judged* while a setting has fewer than two seeds."
    )
    seeds = len(found["seeds"])
    if seeds > 1:
        freedom = 2 * seeds - 2
        yield _paragraph(
            f"With {seeds} seeds a side this rule calls equals different in "
            f"{200 * scipy.stats.t.sf(2, freedom):.0f} % of all cases (Student's t, {freedom} "
            "degrees of freedom). Of so many comparisons some will be wrong."
        )


def _scale(found):
    base, images = found["config"], found["data"]["num_images"]
    steps = base["epochs"] * (images // base["batch_size"])
    share = base["queue_size"] / images
    points = [
        "**K against the data.** The paper's 65,536 keys are 5 % of ImageNet's 1.28 million "
        f"images, its 4,096 are 0.3 %. Here K = {base['queue_size']:,} is {100 * share:.1f} % of "
        f"the images, and Figure 3 goes from {100 * share / 16:.1f} to {100 * share * 4:.1f} %. "
        "The larger the share, the more of a query's near neighbours are among its negatives, and "
        "the older, in epochs, are the keys.",
        f"**m against the steps.** A run has {steps:,} steps, the paper's a million. The key "
        "encoder follows the query encoder at a distance of about 1/(1 - m) steps: 100 with m = "
        "0.99, 1,000 with 0.999, 10,000 with 0.9999. At the end of a run the share of its random "
        f"start that is left in it is {100 * 0.99**steps:.1f}, {100 * 0.999**steps:.0f} and "
        f"{100 * 0.9999**steps:.0f} %; in the paper's, nothing.",
        f"**Network and images.** {base['encoder']} on {base['image_size']} pixels stands where "
        "the paper has a ResNet-50 on 224. The accuracies of one say nothing about the other's; "
        "what is compared is the direction.",
    ]
    if base["data.source"] == "photos":
        points.append(
            "**Grey patches.** Of the augmentations crop, flip, brightness, contrast and blur do "
            "something; saturation, hue and grey do not. The task is texture recognition, as the "
            "project's README says."
        )
    yield "## What the scale changes\n" + "\n".join(_paragraph(point, "- ") for point in points)


def _describe(finding):
    lines = [f"**{finding.claim}** The paper: {finding.paper}. Here: **{finding.verdict}**.", ""]
    for each in finding.comparisons:
        first, second = (
            mean_and_spread(side, each.key) or "missing" for side in (each.first, each.second)
        )
        outcome = each.outcome
        if outcome != NOT_JUDGED and outcome not in each.expected:
            outcome = f"{outcome}, where the paper has {' or '.join(each.expected)}"
        lines.append(f"- {each.words}, {each.measure}: {first} against {second}: {outcome}")
    return "\n".join(lines)


def _paragraph(words, bullet=""):
    return textwrap.fill(
        words,
        width=100,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )
