"""Paths as people write them: `~` and environment variables are expanded, in this module only."""

import os
import re
from collections.abc import Callable
from typing import Any

from moco_tf.errors import UserError

VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([^{}]*)\})")
# The schemes whose location is a path: of data sources, and of initial weights.
PATH_SCHEMES = (
    *("folder", "files", "npy", "idx", "coco", "video"),
    *("tfrecord", "arrayrecord", "webdataset", "parquet"),
    *("run", "saved_model", "keras", "keras_hub", "checkpoint"),
)
# Between the sources of a mixture.
SEPARATOR = re.compile(r";\s*(?=[a-z_]+:|photos\s*(?:;|$))")


def expand(path: str, label: str) -> str:
    """Return a path with `~` and the environment variables in it replaced by their values.

    A part of the path that exists as it is written is kept, so a file whose name contains `$`, or
    begins with `~`, can be named.

    Args:
        path: A path, local or of a file system that TensorFlow supports.
        label: What the path is, for messages, such as `"--workdir"`.

    Returns:
        The path. A relative path stays relative.

    Raises:
        UserError: If the path is empty, a variable is not set or is empty, there is no such user,
            or the path is not UTF-8.

    Example:
        >>> os.environ["DATA"] = "/mnt/data"
        >>> expand("${DATA}/photos", "data")
        '/mnt/data/photos'
    """
    return _require_utf8(_expand(path, label), label)


def expand_argument(path: Any, label: str) -> str:
    """Return the path that a function was given, expanded as by `expand`.

    Args:
        path: The argument, a text or a `pathlib.Path`.
        label: Name of the argument, for messages.

    Raises:
        UserError: If it is something else, or as `expand`.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{label} is {path!r:.100}: use a path, a text or a pathlib.Path")
    return expand(os.fsdecode(path), label)


def absolute(path: str) -> str:
    """Return the absolute path of a local path, and a path such as `gs://bucket` as it is."""
    return path if "://" in path else os.path.abspath(path)


def absolute_source(name: str) -> str:
    """Return the string that names a data source, with the absolute path of a local one.

    Args:
        name: A string such as `"folder:photos"`, with its path expanded, or several separated by
            semicolons. A string without a path, such as `"tfds:mnist"`, is returned as it is.

    Example:
        >>> absolute_source("folder:/data/./photos/"), absolute_source("tfds:mnist")
        ('folder:/data/photos', 'tfds:mnist')
    """
    return ";".join(_with_path(part, absolute) for part in names_in(name))


def same_place(name: str, other: str) -> bool:
    """Return whether two strings name data sources at the same place, whatever links lead there.

    Args:
        name: A string that names a data source, with its path expanded.
        other: Another one.
    """
    if absolute_source(name) == absolute_source(other):
        return True
    real = [[_with_path(part, _real) for part in names_in(each)] for each in (name, other)]
    return real[0] == real[1]


def names_in(name: str) -> list[str]:
    """Return the names of the sources in the name of a mixture, or the name of the one source.

    A semicolon separates sources if the name of another source follows it, so the path of a folder
    may contain one.

    Example:
        >>> names_in("folder:/data/a;b; photos;npy:c.npy")
        ['folder:/data/a;b', 'photos', 'npy:c.npy']
    """
    return SEPARATOR.split(name)


def expand_source(name: str, label: str = "data source") -> str:
    """Return the string that names a data source, with its path expanded as by `expand`.

    Args:
        name: A string such as `"folder:~/photos"`, or several separated by semicolons. A string of
            another form, such as `"tfds:mnist"` or `"photos"`, is returned as it is.
        label: What the string is, for messages.

    Raises:
        UserError: As `expand`. The path of a `folder` source does not have to be UTF-8.
    """
    names = names_in(name)
    if len(names) > 1:
        return ";".join(expand_source(part, label) for part in names)
    scheme, colon, location = name.partition(":")
    if scheme not in PATH_SCHEMES or not location:
        return name
    location = _expand(location, f"{label} '{name}'")
    if scheme != "folder":
        _require_utf8(location, label)
    return f"{scheme}{colon}{location}"


def expand_encoder(name: str, label: str = "encoder") -> str:
    """Return the name of an encoder, with its path expanded as by `expand` if it has one.

    Args:
        name: A .keras file or `"keras_hub:PRESET"`. Any other name is returned as it is.
        label: What the name is, for messages.

    Raises:
        UserError: As `expand`.
    """
    if name.endswith(".keras"):
        return expand(name, label)
    return expand_source(name, label) if name.startswith("keras_hub:") else name


def _with_path(name: str, function: Callable[[str], str]) -> str:
    """Return the string that names one data source, with a function of its path if it has one."""
    scheme, colon, location = name.partition(":")
    if scheme not in PATH_SCHEMES or not location:
        return name
    return f"{scheme}{colon}{function(location).rstrip('/') or '/'}"


def _real(path: str) -> str:
    return path if "://" in path else os.path.realpath(path)


def _expand(path: str, label: str) -> str:
    if not path.strip():
        raise UserError(
            f"{label} is empty: give a path, and check that the variables in it are set"
        )
    root, separator, rest = path.partition("://")
    if not separator:
        root, rest = "", path
    parts = rest.split("/")
    if not separator and parts[0].startswith("~") and not os.path.lexists(parts[0]):
        parts[0] = _home(parts[0], label)
    expanded: list[str] = []
    for part in parts:
        if "$" in part and (separator or not os.path.lexists("/".join([*expanded, part]))):
            part = VARIABLE.sub(lambda match: _value(match, label), part)
        expanded.append(part)
    return f"{root}{separator}{'/'.join(expanded)}"


def _home(part: str, label: str) -> str:
    home = os.path.expanduser(part)
    if home.startswith("~"):
        raise UserError(
            f"{label}: there is no user '{part[1:]}': write ./{part} if this is the name of a file"
        )
    return home


def _value(match: re.Match[str], label: str) -> str:
    name = match[1] or match[2]
    value = os.environ.get(name, "")
    if not value:
        state = "is empty" if name in os.environ else "is not set"
        raise UserError(f"{label}: the environment variable {name} {state}: set it, or replace it")
    return value


def _require_utf8(path: str, label: str) -> str:
    """Return the path. TensorFlow's file system takes UTF-8 only."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{label}: the path '{path}' is not encoded in UTF-8: rename it, or use a link to it"
        ) from error
    return path
