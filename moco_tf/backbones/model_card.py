"""The model card of an export: its network, training data, recipe and results, in Markdown."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

import moco_tf
from moco_tf import encoders, run_data, run_directory, run_metrics, run_summary
from moco_tf.backbones.saving import CARD
from moco_tf.data.pixels import range_text
from moco_tf.encoders.names import is_foreign
from moco_tf.errors import UserError
from moco_tf.evaluation.results import summarize
from moco_tf.evaluation.settings import SETTINGS
from moco_tf.files import read_json
from moco_tf.keras_internals import all_layers
from moco_tf.markdown import code, table, text

UNKNOWN = "The training data and the recipe are not known."
NO_RESULTS = "No results are known."
LICENSE = """\
Not filled in yet. State the license of these weights here; it depends on the images that they were
trained on."""


class Origin(NamedTuple):
    """Where a backbone was loaded from.

    Attributes:
        source: "workdir" (a run directory), "saved_model", or "checkpoint" (a file of PyTorch, or a
            .keras file).
        path: Path of that directory or file.
    """

    source: str
    path: str


class Format(NamedTuple):
    """What a model card states about an export format.

    `{channels}` and `{features}` in `inputs` and `outputs` are replaced by numbers, and `{values}`
    by the range of the pixel values.

    Attributes:
        name: Name of the format.
        inputs: The inputs: type, shape and range, and whether normalization is included.
        outputs: The outputs: type and shape.
        loading: The code that loads the export, in Markdown.
    """

    name: str
    inputs: str
    outputs: str
    loading: str


def keras_format(model: keras.Model) -> str:
    """Return the name of the format of a .keras file, with the layers that are not Keras' own."""
    kinds = {type(layer) for layer in all_layers(model)}
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]
    foreign = sorted(name for name in names if not name.startswith("keras."))
    if not foreign:
        return "Keras model, made of Keras' own layers"
    shown = ", ".join(map(code, foreign))
    return f"Keras model. Import the modules of these layers before you load it: {shown}"


def model_card(backbone: keras.Model, export_format: Format, origin: Origin | None = None) -> str:
    """Return the model card of an export.

    The card of a run states its recipe with the settings that differ from the paper's, the last
    line of metrics.jsonl and the results in eval/. The card of a SavedModel repeats these sections
    of the SavedModel's own card. Otherwise the card says that they are not known.

    Args:
        backbone: A `keras.Model` of `moco_tf.encoders.build` without a head, or of
            `moco_tf.encoders.with_normalization`.
        export_format: Description of the format.
        origin: Where the backbone was loaded from, or None if that is not known.

    Returns:
        The card, in Markdown.

    Raises:
        UserError: If the origin is a run that has no checkpoint, or whose config, metrics or
            results cannot be read.
    """
    checkpoint = getattr(backbone, "checkpoint", "")
    if origin is not None and origin.source == "workdir" and not checkpoint:
        checkpoint = os.path.basename(run_directory.require_checkpoint(origin.path))
    training = history(origin, checkpoint)
    evaluation = _evaluation(origin, checkpoint)
    return _card(
        backbone,
        export_format,
        "a backbone for image features",
        {"Training": training, "Evaluation": evaluation, "License": LICENSE},
    )


def classifier_card(
    backbone: keras.Model,
    export_format: Format,
    class_names: Sequence[str],
    result: Mapping[str, Any],
    backbone_history: str,
) -> str:
    """Return the model card of a classifier, a linear layer on a backbone.

    Args:
        backbone: As for `model_card`.
        export_format: Description of the format.
        class_names: The names of the classes, in the order of the outputs.
        result: The result of the evaluation that trained the layer.
        backbone_history: The text about the training of the backbone before, by `history`.

    Returns:
        The card, in Markdown.
    """
    names = "".join(f"    {json.dumps(name, ensure_ascii=False)},\n" for name in class_names)
    settings = SETTINGS[result["protocol"]]
    rows = [
        (code(field.name), code(json.dumps(result[field.name])))
        for field in dataclasses.fields(settings)
        if field.name in result
    ]
    protocol, data = code(result["protocol"]), code(result["data"])
    return _card(
        backbone,
        export_format,
        f"a classifier of {len(class_names)} classes",
        {
            "Classes": f"```python\nCLASSES = [\n{names}]\n```",
            "Training": f"Trained on {data} by the protocol {protocol} of moco-evaluate:\n\n"
            f"{table(['setting', 'value'], rows)}\n\n### Backbone\n{backbone_history}",
            "Evaluation": f"- {protocol} on {data}: {text(_describe_result(result))}",
            "License": LICENSE,
        },
    )


def _card(
    backbone: keras.Model, export_format: Format, title: str, sections: Mapping[str, str]
) -> str:
    """Return a model card.

    Args:
        backbone: As for `model_card`.
        export_format: Description of the format.
        title: What the export is.
        sections: The text of each section by its heading.
    """
    network = encoders.network_of(backbone)
    pixels = encoders.pixels_of(backbone)
    numbers = {
        "channels": network.channels,
        "features": backbone.output_shape[-1],
        "values": pixels.values,
    }
    parameters = sum(weight.value.shape.num_elements() for weight in backbone.trainable_variables)
    mean, std = (
        ", ".join(f"{value:.3f}" for value in values) for values in (pixels.mean, pixels.std)
    )
    scaled = "" if pixels.are_bytes else f", the ends of [{range_text(pixels)}]"
    # An encoder that is not one of our ResNets has first layers of its own.
    stem = "" if is_foreign(network.encoder) else f" `{network.stem}` stem,"
    inputs = export_format.inputs.format(**numbers)
    height, width = backbone.input_shape[1:3]
    if height is not None:
        inputs = inputs.replace("any size", f"{height}x{width} pixels only")
    facts = {
        "network": f"{text(network.encoder)},{stem} {parameters:,} parameters",
        "format": export_format.name,
        "input": inputs,
        "output": export_format.outputs.format(**numbers),
        "normalization": (
            f"for values in 0 to 1{scaled}, per channel: mean {mean}; standard deviation {std}"
        ),
        "written by": f"moco-tf {moco_tf.__version__}",
    }
    return (
        f"# {text(network.encoder)}, {title}\n\n{_facts_table(facts)}\n"
        f"\n{export_format.loading.strip()}\n"
        + "".join(f"\n## {name}\n{text.strip()}\n" for name, text in sections.items())
    )


def history(origin: Origin | None, checkpoint: str) -> str:
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
    training = _without_html(sections.get("Training", UNKNOWN).strip())
    return f"{loaded_from}, a SavedModel, whose model card says:\n\n{training}"


def _evaluation(origin: Origin | None, checkpoint: str) -> str:
    """Return the text about the results of a backbone.

    Args:
        origin: As for `history`.
        checkpoint: Name of the checkpoint of a run.

    Raises:
        UserError: If the metrics of the run, or one of the results, cannot be read.
    """
    if origin is None or origin.source == "checkpoint":
        return NO_RESULTS
    if origin.source == "workdir":
        evaluation = _results(origin.path, checkpoint) or NO_RESULTS
        step = run_directory.step_of(checkpoint)
        # A run that goes on, or was killed, has further lines.
        metrics = [line for line in run_metrics.read_metrics(origin.path) if line["step"] <= step]
        if metrics:
            last = text(_numbers(metrics[-1]))
            evaluation += f"\n\nLast line of `metrics.jsonl` up to this checkpoint: {last}."
        return evaluation
    results, sections = _results(origin.path, ""), _sections_of_card(origin.path)
    if sections is None:
        return results or NO_RESULTS
    evaluation = _without_html(sections.get("Evaluation", NO_RESULTS).strip())
    return f"{evaluation}\n\n{results}"


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
    training = (
        f"The query encoder of the run {code(workdir)} at the checkpoint `{checkpoint}`.\n\n"
        f"{_facts_table(facts_of_run(workdir, code))}"
    )
    differences = run_summary.differing_settings(config)
    if not differences:
        return f"{training}\n\nAll settings are the paper's."
    rows = [
        (code(key), code(json.dumps(value)), code(json.dumps(paper_value)))
        for key, (value, paper_value) in differences.items()
    ]
    header = ["setting", "this run", "paper (MoCo v1, ImageNet)"]
    return f"{training}\n\nSettings that differ from the paper:\n\n{table(header, rows)}"


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
                line = f"- {protocol} on {data}: {text(_describe_result(result))}"
                if (other := str(result.get("checkpoint", checkpoint))) != checkpoint:
                    line += f". **This is a result of another checkpoint, {code(other)}.**"
                lines.append(line)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not the result of an evaluation: delete the file"
            ) from error
    heading = "Results of moco-tf's evaluation, each of the newest checkpoint at that time:"
    return "\n".join([heading, "", *lines]) if lines else ""


def _describe_result(result: Mapping[str, Any]) -> str:
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


def _facts_table(facts: Mapping[str, str]) -> str:
    return table(["", ""], facts.items())
