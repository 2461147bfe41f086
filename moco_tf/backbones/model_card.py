"""What stands beside an export: what network it is, what it learned from, how, and how well."""

import json
import os
import re
import typing

import tensorflow as tf

import moco_tf
from moco_tf import encoders, run_directory
from moco_tf.backbones.saving import CARD
from moco_tf.data.normalization import mean_and_std
from moco_tf.errors import UserError

UNKNOWN = "What it was trained on, and how, is not known here."
NO_RESULTS = "No results are known here."
LICENCE = """\
Left for you to fill: the licence of these weights, which depends on the images that they were
learned from."""


class Origin(typing.NamedTuple):
    """Where a backbone was taken from.

    Attributes:
        flag: "workdir", "saved_model" or "checkpoint", as in `moco_tf.cli.backbone_flags`.
        path: str.
    """

    flag: str
    path: str


class Format(typing.NamedTuple):
    """What a card says of a format; `{channels}` and `{features}` stand for numbers.

    Attributes:
        name: str.
        takes: str, what goes in: type, shape, range, and whether normalisation is inside.
        gives: str, what comes out: type and shape.
        loading: str, Markdown, the code that loads it.
    """

    name: str
    takes: str
    gives: str
    loading: str


def model_card(backbone, form, origin=None):
    """The card of an export.

    Args:
        backbone: a `keras.Model` of `moco_tf.encoders.build`, without a head, or of
            `moco_tf.encoders.with_normalization`.
        form: a `Format`.
        origin: an `Origin`, or None where nothing is known of it.

    Returns:
        str, Markdown. Of a run it holds the recipe, with the settings that differ from the paper's,
        the last line of metrics.jsonl and the results in eval/; of a SavedModel what its own card
        says of these; and otherwise that they are not known.

    Raises:
        UserError: the origin is a run whose config cannot be read, or holds a result that cannot.
    """
    network = encoders.network_of(backbone)
    numbers = {"channels": network.channels, "features": backbone.output_shape[-1]}
    parameters = sum(weight.value.shape.num_elements() for weight in backbone.trainable_variables)
    mean, std = (", ".join(f"{v:.3f}" for v in values) for values in mean_and_std(network.channels))
    facts = {
        "network": f"{network.encoder}, `{network.stem}` stem, {parameters:,} parameters",
        "format": form.name,
        "input": form.takes.format(**numbers),
        "output": form.gives.format(**numbers),
        "normalisation": f"of values of 0 to 1, a channel: mean {mean}; standard deviation {std}",
        "written by": f"moco-tf {moco_tf.__version__}",
    }
    training, evaluation = _history(origin)
    sections = {"Training": training, "Evaluation": evaluation, "Licence": LICENCE}
    return (
        f"# {network.encoder}, a backbone for image features\n\n{_table(['', ''], facts.items())}\n"
        f"\n{form.loading.strip()}\n"
        + "".join(f"\n## {name}\n{text.strip()}\n" for name, text in sections.items())
    )


def _history(origin):
    """What is known of the training, and of results: two texts."""
    if origin is None:
        return UNKNOWN, NO_RESULTS
    if origin.flag == "workdir":
        return _of_run(origin.path)
    source = f"Taken over from `{origin.path}`"
    if origin.flag == "checkpoint":
        return f"{source}, a PyTorch file. {UNKNOWN}", NO_RESULTS
    card, results = os.path.join(origin.path, CARD), _results(origin.path)
    if not tf.io.gfile.exists(card):
        return f"{source}, a SavedModel without a model card. {UNKNOWN}", results or NO_RESULTS
    with tf.io.gfile.GFile(card) as file:
        sections = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", file.read(), re.MULTILINE))
    training = sections.get("Training", UNKNOWN).strip()
    evaluation = sections.get("Evaluation", NO_RESULTS).strip()
    return f"{source}, a SavedModel, whose card says:\n\n{training}", f"{evaluation}\n\n{results}"


def _of_run(workdir):
    from moco_tf.report import recipe

    config, metrics = run_directory.read_config(workdir), run_directory.read_metrics(workdir)
    data, channels = config.data.source, run_directory.read_channels(workdir)
    num_images = run_directory.read_num_images(workdir)
    facts = recipe.summary(config, num_images, data, channels, metrics)
    checkpoint = os.path.basename(run_directory.latest_checkpoint(workdir))
    training = f"The query encoder of the run `{workdir}`, at its checkpoint `{checkpoint}`.\n\n"
    training += _table(["", ""], facts.items())
    if differing := recipe.differing_settings(config):
        rows = [
            (f"`{key}`", *(json.dumps(value) for value in values))
            for key, values in differing.items()
        ]
        head = ["setting", "this run", "the paper (MoCo v1, ImageNet)"]
        training += f"\n\nThe settings that differ from the paper's:\n\n{_table(head, rows)}"
    else:
        training += "\n\nEvery setting is the paper's."
    evaluation = _results(workdir) or NO_RESULTS
    if metrics:
        evaluation += f"\n\nThe last line of `metrics.jsonl`: {_numbers(metrics[-1])}."
    return training, evaluation


def _results(directory):
    """What evaluate.py has written into eval/, a line each; nothing where it has not."""
    lines = []
    folder = os.path.join(directory, "eval")
    names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
    for path in [os.path.join(folder, name) for name in sorted(names) if name.endswith(".json")]:
        try:
            with tf.io.gfile.GFile(path) as file:
                result = json.loads(file.read())
            if result["protocol"] != "report":  # its numbers are those of knn and linear_cached
                lines.append(f"- `{result['protocol']}` on `{result['data']}`: {_in_words(result)}")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not what evaluate.py wrote: delete it") from error
    said = "By `evaluate.py`, at the checkpoint that was the newest then:"
    return "\n".join([said, "", *lines]) if lines else ""


def _in_words(result):
    from moco_tf.evaluation import protocols

    if {"top1", "few_shot", "curves"} & result.keys():
        return f"{protocols.in_words(result)}, views of {result['image_size']} px"
    # Of other protocols, such as detection, all numbers; a comparison has them in rows.
    rows = [f"{row['initialisation']}: {_numbers(row)}" for row in result.get("rows", [])]
    return "; ".join([_numbers(result), *rows])


def _numbers(values):
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
        if isinstance(value, int | float)
    )


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
