"""Images that an evaluation left out, because they cannot be read."""

import os
from collections.abc import Mapping
from typing import Any

from moco_tf.data import unreadable


def entries(
    train: Mapping[int, str], test: Mapping[int, str], classes: list[str] | None = None
) -> dict[str, Any]:
    """Return what the result of an evaluation says about images that cannot be read.

    Args:
        train: Names of such training images, by their indices.
        test: Names of such test images, by their indices.
        classes: Names of the classes that have test images, but none that can be read.

    Returns:
        A dict with `num_unreadable_train`, `num_unreadable_test`, `unreadable`, the names of all,
        and `unreadable_classes`.
    """
    return {
        "num_unreadable_train": len(train),
        "num_unreadable_test": len(test),
        "unreadable": [names[index] for names in (train, test) for index in sorted(names)],
        "unreadable_classes": list(classes or []),
    }


KEYS = tuple(entries({}, {}))


def path(directory: str, protocol: str) -> str:
    """Return the path of the file with the names of all images that cannot be read."""
    return os.path.join(directory, "eval", f"{protocol}_unreadable.txt")


def report(directory: str, result: dict[str, Any]) -> list[str]:
    """Write the names of all images that cannot be read to a file next to the result.

    Args:
        directory: Directory of the result, such as the run directory.
        result: The result of a protocol, or of a comparison, which has several in `curves` or
            `rows`. All of them are of the same images.

    Returns:
        Lines for the terminal that count and name these images and the classes that are lost;
        empty if all images can be read.

    Raises:
        UserError: If the file cannot be written.
    """
    parts = result.get("curves") or result.get("rows") or [result]
    names = {name for part in parts for name in part.get("unreadable", [])}
    names_path = path(directory, result["protocol"])
    unreadable.write(names, names_path)
    if not names:
        return []
    total = max(_num_images(part) for part in parts)
    lines = [unreadable.line(names, total, names_path)]
    classes = sorted({name for part in parts for name in part.get("unreadable_classes", [])})
    if classes:
        quoted = ", ".join(f"'{name}'" for name in classes)
        noun = "class" if len(classes) == 1 else "classes"
        lines.append(
            f"the result says nothing about the {noun} {quoted}: none of the test images can be "
            "read"
        )
    return lines


def _num_images(result: dict[str, Any]) -> int:
    """Return the number of all images of a result, including those that cannot be read."""
    if "num_images_used" in result:  # Not all of them are training or test images of the result.
        return result["num_images_used"]
    keys = ("num_train", "num_held_out", "num_test", "num_unreadable_train", "num_unreadable_test")
    return sum(result.get(key, 0) for key in keys)
