"""A picture of the views that a run would train on."""

import os

import ml_collections
import tensorflow as tf

from moco_tf import paths, run_directory, run_pixels, workers
from moco_tf.config_checks import check
from moco_tf.data import sources, unreadable
from moco_tf.data.pipeline import TwoViews
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.plan import plan
from moco_tf.training.build import build_augment, build_data

# Endings of paths that promise another format than the PNG of a preview.
OTHER_FORMATS = (".bmp", ".gif", ".jpeg", ".jpg", ".pdf", ".svg", ".tif", ".tiff", ".webp")


def preview(config: ml_collections.ConfigDict, path: str, workdir: str | None = None) -> None:
    """Plot the first images of a run beside the views that it would train on.

    Images of the first step that cannot be read are counted and named in a line. The views do not
    depend on the devices of the current strategy, but planned settings do. With several workers,
    the chief writes the file.

    Args:
        config: A config with the keys of `moco_tf.default_config`.
        path: Path of the PNG file to write. Endings of other formats, such as .jpg, are refused.
        workdir: Path of the run directory, or None without one. If it holds a run, open settings
            and measured values are those of the run.

    Raises:
        UserError: If the path ends as another format, a setting is invalid, the data source cannot
            be read, or the file cannot be written; or if an image of the first step cannot be read
            and `config.data.on_error` is `fail`.
    """
    root, extension = os.path.splitext(path)
    if extension.lower() in OTHER_FORMATS:
        png = f"{root.removesuffix('.png')}.png"
        raise UserError(
            f"the preview {path} ends in {extension}, but it is written as a PNG file: use {png}"
        )
    if workdir is not None:
        workdir = paths.expand(workdir, "workdir")
    config = run_pixels.resolve(plan.resolve(config, workdir), workdir)
    # Imports Matplotlib, which takes a second.
    from moco_tf.plots.run import plot_preview

    check(config, tf.distribute.get_strategy().num_replicas_in_sync)
    if workdir is None or not run_directory.exists(workdir):
        sources.require_effect(config)
    source, batches = build_data(config)
    if not workers.is_chief():
        return
    try:
        plot_preview(path, config, source, batches, build_augment(config, source.channels))
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"the preview {path} cannot be written: {error_reason(error)}") from error
    if batches.unreadable:
        names = [source.describe(index) for index in batches.unreadable]
        print(f"the preview {unreadable.line(names, _num_read(batches))}")


def _num_read(batches: TwoViews) -> int:
    """Return the number of images of the first step, with those of other frames as key views."""
    epochs, indices = batches.rows(step=0)
    keys = (int(batches.key_index(*row)) for row in zip(epochs, indices, strict=True))
    return len({*indices.tolist(), *keys, *batches.unreadable})
