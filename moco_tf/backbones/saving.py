"""What every export does alike: it is written whole or not at all, with a model card beside it."""

import contextlib
import os

import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.files import atomic_directory, write_atomically

CARD = "README.md"  # in a directory, where model cards are looked for


def require_free(path):
    """Raises a `UserError` if there is something at `path`."""
    if tf.io.gfile.exists(path):
        raise UserError(f"--out={path} exists: give a path that does not")


def write_file(path, fill, card):
    """Writes a file, and its model card to `<path>.md`.

    Args:
        path: str, where nothing is yet.
        fill: callable, of the path to write to, which ends as `path` does.
        card: str, Markdown.

    Raises:
        UserError: there is something, or it cannot be written. Then nothing is left there.
    """
    require_free(path)
    card_path = f"{path}.md"
    if os.path.exists(card_path):
        raise UserError(
            f"--out={path}: {card_path} exists, where its model card would be: give another path"
        )
    root, ending = os.path.splitext(path)
    unfinished = f"{root}.unfinished{ending}"
    try:
        fill(unfinished)
        # First, so that no export is without its card, whenever it is killed.
        write_atomically(card_path, card)
        os.replace(unfinished, path)
    except (tf.errors.OpError, OSError) as error:
        with contextlib.suppress(FileNotFoundError):
            os.remove(card_path)
        raise _cannot_be_written(path, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(unfinished)


def write_directory(path, fill, card):
    """Writes a directory, with its model card as README.md in it.

    Args:
        path: str, where nothing is yet.
        fill: callable, of the path of the directory to make.
        card: str, Markdown.

    Raises:
        UserError: there is something, or it cannot be written. Then nothing is left there.
    """
    require_free(path)
    try:
        with atomic_directory(path) as unfinished:
            fill(unfinished)
            write_atomically(os.path.join(unfinished, CARD), card)
    except (tf.errors.OpError, OSError) as error:
        raise _cannot_be_written(path, error) from error


def _cannot_be_written(path, error):
    reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
    return UserError(f"--out={path} cannot be written: {reason}")
