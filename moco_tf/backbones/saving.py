"""Writing of exports with their model cards. An export is written completely or not at all."""

import contextlib
import os
from collections.abc import Callable

import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.files import atomic_directory, error_reason, write_atomically

CARD = "README.md"  # Name of the model card in a directory, where model hubs look for it.


def require_free(path: str) -> None:
    """Raise a `UserError` if something exists at `path`."""
    if tf.io.gfile.exists(path):
        raise UserError(f"the path {path} exists: use a path that does not exist")


def write_file(path: str, fill: Callable[[str], object], card: str) -> None:
    """Write a file, and its model card to `<path>.md`.

    If it fails, nothing is left at either path.

    Args:
        path: Path of the file, at which nothing exists.
        fill: Function that writes the file to the path that it is passed, which has the same
            extension as `path`.
        card: The model card, in Markdown.

    Raises:
        UserError: If something exists at either path, or the file cannot be written.
    """
    require_free(path)
    card_path = f"{path}.md"
    if os.path.exists(card_path):
        raise UserError(
            f"the path {card_path} exists, but the model card of {path} belongs there: use another "
            "path"
        )
    root, extension = os.path.splitext(path)
    unfinished = f"{root}.unfinished{extension}"
    try:
        fill(unfinished)
        # The card comes first, so that a kill cannot leave an export without a card.
        write_atomically(card_path, card)
        os.replace(unfinished, path)
    except (tf.errors.OpError, OSError) as error:
        with contextlib.suppress(FileNotFoundError):
            os.remove(card_path)
        raise _cannot_be_written(path, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(unfinished)


def write_directory(path: str, fill: Callable[[str], object], card: str) -> None:
    """Write a directory, with its model card as README.md inside.

    If it fails, nothing is left at the path.

    Args:
        path: Path of the directory, at which nothing exists.
        fill: Function that creates the directory at the path that it is passed.
        card: The model card, in Markdown.

    Raises:
        UserError: If something exists at the path, or the directory cannot be written.
    """
    require_free(path)
    try:
        with atomic_directory(path) as unfinished:
            fill(unfinished)
            write_atomically(os.path.join(unfinished, CARD), card)
    except (tf.errors.OpError, OSError) as error:
        raise _cannot_be_written(path, error) from error


def _cannot_be_written(path: str, error: Exception) -> UserError:
    return UserError(f"the path {path} cannot be written: {error_reason(error)}")
