"""Writing of exports with their model cards. An export is written completely or not at all."""

import os
from collections.abc import Callable

import tensorflow as tf

from moco_tf import new_paths
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically

CARD = "README.md"  # Name of the model card in a directory, where model hubs look for it.


def require_free(path: str) -> None:
    """Raise a `UserError` if something exists at `path`."""
    if new_paths.exists(path):
        raise UserError(f"the path {path} exists: use a path that does not exist")


def require_creatable(path: str) -> None:
    """Raise a `UserError` unless a file and its model card can be written, before long work.

    Raises:
        UserError: If something exists at `path` or where the card belongs, or a file of these names
            cannot be created there.
    """
    require_free(path)
    _require_free_card(path)
    try:
        new_paths.try_files(path, f"{path}.md")
    except OSError as error:
        raise UserError(f"the path {path} cannot be written: {error_reason(error)}") from error


def _require_free_card(path: str) -> None:
    if new_paths.exists(f"{path}.md"):
        raise UserError(
            f"the path {path}.md exists, but the model card of {path} belongs there: use another "
            "path"
        )


def require_keras_name(path: str) -> None:
    """Raise a `UserError` if a path does not end in .keras."""
    if not path.endswith(".keras"):
        raise UserError(
            f"the path {path} does not end in .keras, as Keras requires: use "
            f"{path.rstrip('/').removesuffix('.keras')}.keras"
        )


def write_file(path: str, fill: Callable[[str], object], card: str) -> None:
    """Write a file, and its model card to `<path>.md`.

    If it fails, nothing is left at either path. Nothing that exists is replaced, not even by two
    exports to the same path at once: one of them fails.

    Args:
        path: Path of the file, at which nothing exists.
        fill: Function that writes the file to the path that it is passed, a local one with the same
            last component as `path`.
        card: The model card, in Markdown.

    Raises:
        UserError: If something exists at either path, or the file cannot be written.
    """
    require_free(path)
    card_path = f"{path}.md"
    try:
        # The card comes first, so that a kill cannot leave an export without a card.
        with new_paths.new_files(card_path, path) as (unfinished_card, unfinished):
            _require_free_card(path)
            fill(unfinished)
            write_atomically(unfinished_card, card)
    except (tf.errors.OpError, OSError) as error:
        raise _cannot_be_written(path, error) from error


def write_directory(path: str, fill: Callable[[str], object], card: str) -> None:
    """Write a directory, with its model card as README.md inside.

    If it fails, nothing is left at the path. Nothing that exists is replaced, not even by two
    exports to the same path at once: one of them fails.

    Args:
        path: Path of the directory, at which nothing exists.
        fill: Function that creates the directory at the path that it is passed.
        card: The model card, in Markdown.

    Raises:
        UserError: If something exists at the path, or the directory cannot be written.
    """
    require_free(path)
    try:
        with new_paths.new_directory(path) as unfinished:
            fill(unfinished)
            write_atomically(os.path.join(unfinished, CARD), card)
    except (tf.errors.OpError, OSError) as error:
        raise _cannot_be_written(path, error) from error


def _cannot_be_written(path: str, error: Exception) -> UserError:
    if isinstance(error, FileExistsError):
        return UserError(
            f"the path {path} cannot be written: another process created {error.filename} during "
            "this export, and it is kept. Use another path"
        )
    return UserError(f"the path {path} cannot be written: {error_reason(error)}")
