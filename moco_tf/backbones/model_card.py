"""The model card of an export: its network, training data, recipe and results, in Markdown."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras

import moco_tf
from moco_tf import encoders, run_directory
from moco_tf.backbones import history
from moco_tf.backbones.history import Origin
from moco_tf.data.pixels import range_text
from moco_tf.encoders.names import is_foreign
from moco_tf.evaluation.settings import SETTINGS
from moco_tf.keras_internals import all_layers
from moco_tf.markdown import code, table, text

LICENSE = """\
Not filled in yet. State the license of these weights here; it depends on the images that they were
trained on."""


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
    training = history.training(origin, checkpoint)
    evaluation = history.evaluation(origin, checkpoint)
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
        backbone_history: The text about the training of the backbone before, by
            `moco_tf.backbones.history.training`.

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
            "Evaluation": f"- {protocol} on {data}: {text(history.describe_result(result))}",
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
        f"# {text(network.encoder)}, {title}\n\n{history.facts_table(facts)}\n"
        f"\n{export_format.loading.strip()}\n"
        + "".join(f"\n## {name}\n{text.strip()}\n" for name, text in sections.items())
    )
