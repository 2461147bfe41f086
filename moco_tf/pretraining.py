"""Pre-training in Python and in notebooks."""

import contextlib
import copy
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import tensorflow as tf

from moco_tf import config_files, paths, run_images, workers
from moco_tf.backbones.loading import SAVED_MODEL_FILE
from moco_tf.data import given
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.runs import Run
from moco_tf.training import preview as previews
from moco_tf.training import run as training


def train(
    images: Any,
    workdir: str | os.PathLike[str],
    config: str | os.PathLike[str] | ml_collections.ConfigDict = "folder",
    *,
    init: str | os.PathLike[str] | Run | None = None,
    encoder: str | os.PathLike[str] | None = None,
    strategy: tf.distribute.Strategy | None = None,
    **settings: Any,
) -> Run:
    """Pre-train an encoder on images, or resume the run in a directory.

    The same call resumes a run that was interrupted, at its last checkpoint. On the CPU, the result
    is bit-identical to that of an uninterrupted run. (With several replicas the moving statistics
    round differently, because a checkpoint holds their mean.) The call returns at once if the run
    is finished.

    An interruption, by Ctrl-C or by the button of a notebook, saves a checkpoint after the current
    step, and the call returns. A second one stops the run at once. SIGTERM and SIGHUP save a
    checkpoint as well, and then end the process, as they do without this function. Until the first
    step has ended there is nothing to save. Outside of the main thread, signals are not handled.

    Train one run at a time in a process: two calls in two threads share the global random seed of
    Keras, so their results cannot be reproduced.

    Args:
        images: The images, which need no labels: the name of a data source, as in
            `moco_tf.load_source`; an array, uint8 `[N, H, W]` or `[N, H, W, C]`, or of another type
            if the setting `data.pixels` says so; a list of image files; or a pair of an array
            or a list and the labels, N integers or texts, which are used to evaluate the features.
            Arrays and lists are kept in the run directory, in `images.npy`, `images.labels.npy` and
            `images.txt`; other files with these names are an error, and are never overwritten. None
            for the images of the config.
        workdir: Path of the run directory, which is created if it does not exist.
        config: Name of an installed config: `"folder"`, a ResNet-50 on views of 224 pixels, which
            needs a GPU; `"photos"`, a small network for a laptop; `"auto"`, whose settings are
            planned; or another one. Or the path of a config file, or a config, which is not
            changed.
        init: Weights to start from: a text such as `"run:DIR"`, a `Run`, or the `pathlib.Path` of
            a run directory, a SavedModel or a .keras file; by default as the config says.
        encoder: Name of the encoder, such as `"resnet18"`, or the path of a .keras file; by default
            that of the config.
        strategy: A `tf.distribute.Strategy`; by default the current one.
        **settings: Settings of the config to change, such as `epochs=100`, `augment={"hue": 0.1}`
            or `data={"on_error": "fail"}`.

    Returns:
        The `Run`.

    Raises:
        UserError: If an argument or a setting is invalid, the images cannot be read, or the run
            directory cannot be written, is in use or holds another run; or if the training
            diverges. A call that is refused leaves nothing in a new run directory.

    Example:
        >>> import moco_tf
        >>> few = dict(batch_size=32, queue_size=256, steps=2, knn_every=0)
        >>> run = moco_tf.train("photos", "runs/few", config="photos", **few)  # doctest: +ELLIPSIS
        photos: 9,934 images...
        >>> run.finished, run.backbone.output_shape
        (True, (None, 64))
    """
    directory = paths.expand_argument(workdir, "workdir")
    if not isinstance(strategy, tf.distribute.Strategy | None):
        raise UserError(
            f"strategy={strategy!r:.100}: pass a tf.distribute.Strategy, such as "
            "tf.distribute.MirroredStrategy()"
        )
    changed = _config(images, config, init, encoder, settings)
    if images is not None:
        _require_one_process(images, strategy)
    with _with_images(changed, images, directory):
        outcome = training.train(changed, directory, strategy)
    if outcome.stopped_by is not None:
        print(
            f"stopped at step {outcome.step} of {outcome.total_steps} and saved to {directory}; "
            "the same call resumes the run"
        )
        if outcome.stopped_by != signal.SIGINT:
            signal.raise_signal(outcome.stopped_by)
    return Run(directory)


def preview(
    images: Any,
    path: str | os.PathLike[str],
    config: str | os.PathLike[str] | ml_collections.ConfigDict = "folder",
    *,
    init: str | os.PathLike[str] | Run | None = None,
    encoder: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> str:
    """Plot the first images of a run beside the augmented views that it would train on.

    Args:
        images: The images, as in `moco_tf.train`.
        path: Path of the PNG file to write. Endings of other formats, such as .jpg, are refused.
        config: As in `moco_tf.train`.
        init: As in `moco_tf.train`.
        encoder: As in `moco_tf.train`.
        **settings: As in `moco_tf.train`.

    Returns:
        The path. In a notebook, `IPython.display.Image` shows the file.

    Raises:
        UserError: If an argument or a setting is invalid, the images cannot be read, or the file
            cannot be written.

    Example:
        >>> import moco_tf
        >>> moco_tf.preview("photos", "views.png", config="photos")  # doctest: +ELLIPSIS
        'views.png'
    """
    path = paths.expand_argument(path, "path")
    changed = _config(images, config, init, encoder, settings)
    with tempfile.TemporaryDirectory() as directory, _with_images(changed, images, directory):
        previews.preview(changed, path)
    return path


@contextlib.contextmanager
def _with_images(config: ml_collections.ConfigDict, images: Any, directory: str) -> Iterator[None]:
    """Set the data source of a config to images that are kept in a directory, if there are any."""
    if images is None:
        yield
        return
    with run_images.kept(images, directory, config.data.pixels) as source:
        config.data.source = source
        config_files.expand_paths(config)
        yield


def _config(
    images: Any,
    config: str | os.PathLike[str] | ml_collections.ConfigDict,
    init: "str | os.PathLike[str] | Run | None",
    encoder: str | os.PathLike[str] | None,
    settings: Mapping[str, Any],
) -> ml_collections.ConfigDict:
    """Return the config with the changed settings; that of the data is still missing."""
    if isinstance(images, ml_collections.ConfigDict):
        raise UserError("images is a config: pass it as config=..., and None for its images")
    if isinstance(images, Source):
        raise UserError(
            f"images is an open data source: pass its name, {images.name!r}, and its options as "
            'settings, such as data={"pixels": "uint16"}'
        )
    if isinstance(config, ml_collections.ConfigDict):
        loaded = copy.deepcopy(config)
    elif isinstance(config, str | os.PathLike):
        loaded = config_files.load(os.fspath(config))
    else:
        raise UserError(
            f"config is of the type {type(config).__name__}: use the name of a config, the path of "
            "a config file, or a config such as moco_tf.default_config() returns"
        )
    arguments = {"init": _init(init), "encoder": encoder}
    changes = {name: value for name, value in arguments.items() if value is not None}
    _require_distinct(settings)
    config_files.change(loaded, {**settings, **changes})
    if images is not None and _has_source(settings):
        raise UserError(
            "the images are given twice, by images and by the setting data.source: remove one"
        )
    if images is None and not loaded.data.source:
        raise UserError(f"images=None, and the config names no images: use {given.FORMS}")
    config_files.expand_paths(loaded)
    return loaded


def _init(init: str | os.PathLike[str] | Run | None) -> str | None:
    """Return the text of the setting `init` for weights that are given as a run or a path."""
    if isinstance(init, Run):
        return f"run:{init.workdir}"
    if not isinstance(init, os.PathLike):
        return init
    path = paths.expand_argument(init, "init")
    if path.endswith(".keras"):
        return f"keras:{path}"
    if os.path.exists(os.path.join(path, SAVED_MODEL_FILE)):
        return f"saved_model:{path}"
    return f"run:{path}" if os.path.isdir(path) else path


def _has_source(settings: Mapping[str, Any]) -> bool:
    """Return whether the settings name a data source."""
    group = settings.get("data")
    return "data.source" in settings or (isinstance(group, Mapping) and "source" in group)


def _require_distinct(settings: Mapping[str, Any]) -> None:
    """Raise a `UserError` if a setting is in a group and also has an argument of its own."""
    for group, values in settings.items():
        if isinstance(values, Mapping):
            for name in values:
                if f"{group}.{name}" in settings:
                    raise UserError(
                        f"{group}.{name} is set twice, in {group}={{...}} and by itself: remove one"
                    )


def _require_one_process(images: Any, strategy: tf.distribute.Strategy | None) -> None:
    """Raise a `UserError` for arrays and lists if several workers would write them."""
    with (strategy or tf.distribute.get_strategy()).scope():
        if workers.several_workers() and not isinstance(images, str | os.PathLike):
            raise UserError(
                "images is an array or a list, which one process alone can keep in the run "
                "directory: with several workers, use files:LIST or npy:FILE"
            )
