"""The protocols of moco-evaluate that train on views of the images: linear and finetune."""

import os
from typing import Any

from absl import flags

from moco_tf import workers
from moco_tf.backbones import classifier, history
from moco_tf.cli import backbone_flags, evaluate_inputs, evaluated_backbones, result_notes
from moco_tf.cli.evaluate_inputs import Inputs
from moco_tf.errors import UserError
from moco_tf.evaluation import comparison, protocols
from moco_tf.evaluation.identity import identify_training
from moco_tf.evaluation.results import result_path, summarize, write_result
from moco_tf.evaluation.settings import FinetuneSettings, LinearSettings
from moco_tf.evaluation.training_state import state_in
from moco_tf.plots import features as feature_plots


def run(
    values: flags.FlagValues, protocol: str, settings: LinearSettings | FinetuneSettings
) -> None:
    """Train a classifier, or those of --compare, write the result and print it.

    Args:
        values: The parsed flags.
        protocol: The name that the result goes by.
        settings: Settings of the protocol.
    """
    inputs = evaluate_inputs.load(values)
    protocols.require_two_labeled_parts(inputs.source)
    evaluate_inputs.check(inputs, protocol, settings)
    # Every process computes; the chief alone writes.
    if values.compare:
        assert isinstance(settings, FinetuneSettings)
        _compare(values, protocol, settings, inputs)
    else:
        _train(values, protocol, settings, inputs)


def _compare(
    values: flags.FlagValues, protocol: str, settings: FinetuneSettings, inputs: Inputs
) -> None:
    """Fine-tune from several initializations."""
    source, image_size, directory = inputs.source, inputs.image_size, inputs.directory
    picture = os.path.join(directory, "eval", f"{protocol}.png")
    evaluate_inputs.require_outside_images(values, inputs, picture)
    backbones = evaluated_backbones.backbones_to_compare(
        values, inputs.config, source, image_size, inputs.backbone, settings.seed
    )
    comparison.read(directory, comparison.PROTOCOL, "curves")  # Refuses a damaged file early.
    evaluate_inputs.print_summary(values, inputs)
    description = evaluate_inputs.describe(inputs)
    result = comparison.compare(backbones, source, image_size, directory, description, settings)
    if not workers.is_chief():
        return
    feature_plots.plot_comparison(picture, result)
    result_notes.print_unreadable(directory, result)
    result_notes.print_warnings(result)
    print(
        f"{protocol} of {inputs.name} on {source.name}: {summarize(result)}; wrote "
        f"{result_path(directory, protocol)} and {picture}"
    )


def _train(
    values: flags.FlagValues,
    protocol: str,
    settings: LinearSettings | FinetuneSettings,
    inputs: Inputs,
) -> None:
    """Train one classifier, and save it if --save_classifier is given."""
    backbone, source, directory = inputs.backbone, inputs.source, inputs.directory
    backbone_history = ""
    if values.save_classifier:
        if workers.is_chief():
            classifier.require_path(values.save_classifier)
        classifier.require_classifiable(backbone)
        backbone_history = _history(values, backbone)
    evaluate_inputs.print_summary(values, inputs)
    state = state_in(
        directory, protocol, identify_training(backbone, source, inputs.image_size, settings)
    )
    arguments = (backbone, source, inputs.image_size)
    if isinstance(settings, LinearSettings):
        trained, result = protocols.evaluate_linear(*arguments, settings, state)
    else:
        trained, result = protocols.evaluate_finetune(*arguments, settings, state=state)
    # In all workers, because it has variables.
    model = classifier.assemble(*trained) if values.save_classifier else None
    if not workers.is_chief():
        return
    result |= evaluate_inputs.describe(inputs)
    result_notes.print_replaced(directory, result)
    summary = f"{protocol} of {inputs.name} on {source.name}: {summarize(result)}"
    written: list[str] = []
    try:
        try:
            written.append(write_result(directory, result))
        finally:  # A result that cannot be written does not cost the classifier.
            if model is not None:
                names, path = source.class_names or [], values.save_classifier
                classifier.save(model, path, names, result, trained.backbone, backbone_history)
                written.append(path)
    except UserError:
        # A disk that has become full does not cost the result.
        print(f"{summary}; wrote {' and '.join(written)}" if written else summary)
        raise
    state.remove()
    result_notes.print_unreadable(directory, result)
    result_notes.print_warnings(result)
    print(f"{summary}; wrote {' and '.join(written)}")


def _history(values: flags.FlagValues, backbone: Any) -> str:
    """Return the text about the training of the backbone, for the card of a classifier."""
    origin = backbone_flags.origin(values)
    if origin is None:
        return "Random weights, without pre-training."
    return history.training(origin, getattr(backbone, "checkpoint", ""))
