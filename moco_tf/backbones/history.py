"""What is known about a backbone: how it was trained, and how it was evaluated, in Markdown."""

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from moco_tf import run_data, run_directory, run_metrics, run_summary
from moco_tf.backbones.saving import CARD
from moco_tf.errors import UserError
from moco_tf.evaluation.results import summarize
from moco_tf.files import read_json
from moco_tf.markdown import code, table, text

UNKNOWN = "The training data and the recipe are not known."
NO_RESULTS = "No results are known."


class Origin(NamedTuple):
    """Where a backbone was loaded from.

    Attributes:
        source: "workdir" (a run directory), "saved_model", or "checkpoint" (a file of PyTorch, or a
            .keras file).
        path: Path of that directory or file.
    """

    source: str
    path: str


def training(origin: Origin | None, checkpoint: str) -> str:
    """Return the text about the training of a backbone.

    Args:
        origin: Where the backbone was loaded from, or None if that is not known.
        checkpoint: Name of the checkpoint if the origin is a run.

    Raises:
        UserError: If the origin is a run whose config or metrics cannot be read.
    """
    if origin is None:
        return UNKNOWN
    if origin.source == "workdir":
        return _history_of_run(origin.path, checkpoint)
    loaded_from = f"Loaded from {code(origin.path)}"
    if origin.source == "checkpoint":
        kind = "Keras" if origin.path.endswith(".keras") else "PyTorch"
        return f"{loaded_from}, a {kind} file. {UNKNOWN}"
    sections = _sections_of_card(origin.path)
    if sections is None:
        return f"{loaded_from}, a SavedModel without a model card. {UNKNOWN}"
    section = _without_html(sections.get("Training", UNKNOWN).strip())
    return f"{loaded_from}, a SavedModel, whose model card says:\n\n{section}"


def evaluation(origin: Origin | None, checkpoint: str) -> str:
    """Return the text about the results of a backbone.

    Args:
        origin: As for `training`.
        checkpoint: Name of the checkpoint of a run.

    Raises:
        UserError: If the metrics of the run, or one of the results, cannot be read.
    """
    if origin is None or origin.source == "checkpoint":
        return NO_RESULTS
    if origin.source == "workdir":
        section = _results(origin.path, checkpoint) or NO_RESULTS
        step = run_directory.step_of(checkpoint)
        # A run that goes on, or was killed, has further lines.
        metrics = [line for line in run_metrics.read_metrics(origin.path) if line["step"] <= step]
        if metrics:
            last = text(_numbers(metrics[-1]))
            section += f"\n\nLast line of `metrics.jsonl` up to this checkpoint: {last}."
        return section
    results, sections = _results(origin.path, ""), _sections_of_card(origin.path)
    if sections is None:
        return results or NO_RESULTS
    section = _without_html(sections.get("Evaluation", NO_RESULTS).strip())
    return f"{section}\n\n{results}"


def _sections_of_card(directory: str) -> dict[str, str] | None:
    """Return the sections of the model card of a SavedModel; None if it has no card."""
    card = os.path.join(directory, CARD)
    if not tf.io.gfile.exists(card):
        return None
    with tf.io.gfile.GFile(card) as file:
        return dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", file.read(), re.MULTILINE))


def facts_of_run(workdir: str, show: Callable[[str], str] = str) -> dict[str, str]:
    """Return a summary of a run for people to read, as `run_summary.summarize`.

    Args:
        workdir: Path of the run directory.
        show: Function of the name of the data source that returns how it is shown.

    Raises:
        UserError: If the files of the run cannot be read.
    """
    config = run_directory.read_config(workdir)
    return run_summary.summarize(
        config,
        run_data.read_num_images(workdir),
        show(config.data.source),
        run_data.read_channels(workdir),
        run_metrics.read_metrics(workdir),
    )


def _history_of_run(workdir: str, checkpoint: str) -> str:
    """Return the text about the training of a run."""
    config = run_directory.read_config(workdir)
    section = (
        f"The query encoder of the run {code(workdir)} at the checkpoint `{checkpoint}`.\n\n"
        f"{facts_table(facts_of_run(workdir, code))}"
    )
    differences = run_summary.differing_settings(config)
    if not differences:
        return f"{section}\n\nAll settings are the paper's."
    rows = [
        (code(key), code(json.dumps(value)), code(json.dumps(paper_value)))
        for key, (value, paper_value) in differences.items()
    ]
    header = ["setting", "this run", "paper (MoCo v1, ImageNet)"]
    return f"{section}\n\nSettings that differ from the paper:\n\n{table(header, rows)}"


def _without_html(markdown: str) -> str:
    """Return the Markdown of another card, in which no `<` outside of code starts a tag."""
    # From left to right: what a backslash escapes, code on one line, and the rest. A `|` ends the
    # code in a table.
    parts = r"\\.|(?<!`)(`+)(?!`)[^|\n]*?(?<!`)\1(?!`)|<"
    return re.sub(parts, lambda match: "&lt;" if match[0] == "<" else match[0], markdown)


def _results(directory: str, checkpoint: str) -> str:
    """Return a line for each evaluation result in eval/, or "" if there is none.

    Args:
        directory: A run directory, or that of a SavedModel.
        checkpoint: Name of the checkpoint of the card; "" for a SavedModel.
    """
    lines = []
    folder = os.path.join(directory, "eval")
    names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
    for path in [os.path.join(folder, name) for name in sorted(names) if name.endswith(".json")]:
        try:
            result = read_json(path, "delete the file")
            if result["protocol"] != "report":  # Its numbers are those of knn and linear_cached.
                protocol, data = code(str(result["protocol"])), code(str(result["data"]))
                line = f"- {protocol} on {data}: {text(describe_result(result))}"
                other = str(result.get("checkpoint", checkpoint))
                name = str(result.get("backbone", directory)).rstrip("/")
                if os.path.basename(name) != os.path.basename(directory.rstrip("/")):
                    line += f". **This is a result of another backbone, {code(name)}.**"
                elif other != checkpoint:
                    line += f". **This is a result of another checkpoint, {code(other)}.**"
                lines.append(line)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not the result of an evaluation: delete the file"
            ) from error
    heading = "Results of moco-tf's evaluation, each of the newest checkpoint at that time:"
    return "\n".join([heading, "", *lines]) if lines else ""


def describe_result(result: Mapping[str, Any]) -> str:
    """Return the numbers of the result of an evaluation in one line."""
    if {"top1", "few_shot", "curves", "map", "auroc", "cluster_sizes"} & result.keys():
        return f"{summarize(result)}, views of {result['image_size']} px"
    # Other protocols, such as detection, have other numbers, and a comparison has rows of them.
    rows = [f"{row['initialisation']}: {_numbers(row)}" for row in result.get("rows", [])]
    return "; ".join([_numbers(result), *rows])


def _numbers(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
        if isinstance(value, int | float)
    )


def facts_table(facts: Mapping[str, str]) -> str:
    """Return facts by their names as a Markdown table without a header."""
    return table(["", ""], facts.items())
