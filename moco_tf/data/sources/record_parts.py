"""What sources of records have in common: files that match a pattern, and the parts they are."""

import os
import re

import tensorflow as tf

from moco_tf.data.sources.index_cache import FOLDER
from moco_tf.data.sources.indices import Blocks
from moco_tf.data.sources.layout import TEST, TRAIN, UNLABELED, VALIDATION, part_of
from moco_tf.data.sources.records import Records
from moco_tf.errors import UserError
from moco_tf.names import printable

# Word in the names of files with images for testing that pre-training sees too, as it sees the
# fifth of the records that is held out where no file is named as a part.
HELD_OUT = "heldout"
LABEL_NAMES_FILE = "labels.txt"


def matching_files(name: str, pattern: str, kind: str) -> list[str]:
    """Return the paths of the files that match a pattern, in order.

    Args:
        name: The string that names the source.
        pattern: Path with the wildcards `*`, `?` or `[...]`.
        kind: What the files are, for messages, such as `"TFRecord"`.

    Raises:
        UserError: If no file matches, or the pattern is a folder.
    """
    scheme = name.partition(":")[0]
    try:
        paths = sorted(tf.io.gfile.glob(pattern))
        is_folder = paths == [pattern] and tf.io.gfile.isdir(pattern)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"data source '{name}' cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"data source '{name}' has a file whose name is not encoded in UTF-8 "
            f"({printable(error.object)}): rename the file, or use another pattern"
        ) from error
    if is_folder:
        raise UserError(
            f"data source '{name}': '{pattern}' is a folder: use a pattern that matches its files, "
            f"such as {scheme}:{pattern.rstrip('/')}/*"
        )
    paths = [path for path in paths if os.path.basename(path.rstrip("/")) != FOLDER]
    if not paths:
        raise UserError(
            f"data source '{name}': no file matches '{pattern}': use a pattern that matches "
            f"{kind} files, such as {scheme}:/data/imagenet/train-*"
        )
    return paths


def label_names(records: Records) -> dict[int, str]:
    """Return the names of labels from the file labels.txt in the folder of the records, if any.

    It has lines such as `0:cat`, as TF-Slim writes them. A file with other lines is ignored.
    """
    path = os.path.join(os.path.dirname(records.paths[0]), LABEL_NAMES_FILE)
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            lines = file.read().decode(errors="surrogateescape").splitlines()
    except (tf.errors.OpError, OSError):
        return {}
    matches = [re.fullmatch(r"(\d+):(.+)", line.strip()) for line in lines if line.strip()]
    return {int(match[1]): match[2] for match in matches if match} if all(matches) else {}


def split(name: str, records: Records) -> tuple[Blocks, Blocks, Blocks, tuple[str, str, str]]:
    """Return the indices for pre-training, training and testing, and the names of these parts.

    If a word in the name of each file is that of a part of a data set, as `layout.part_of` knows
    them, pre-training uses the training and the unlabeled files, and an evaluation trains on the
    training files and tests on the validation files, or on the test files if there are none of
    validation. Files with the word `heldout` are for testing in addition to these, and for
    pre-training as well. If there are files of one part only, or no file is named as a part, an
    evaluation holds out a fifth of the records.

    Args:
        name: The string that names the source.
        records: The records.

    Returns:
        The indices, and the names of the three parts, "" for one that no file names.

    Raises:
        UserError: If files of parts are mixed with others, or there is no part for pre-training.
    """
    parts = _parts(name, records.paths)
    present = set(parts)

    def of_parts(*names: str, held_out: bool | None = None) -> Blocks:
        files = [number for number, part in enumerate(parts) if part in names]
        return records.of_files(files, held_out)

    if len(present) == 1:
        train, test = (of_parts(*present, held_out=held_out) for held_out in (False, True))
        return of_parts(*present), train, test, ("", "", "")
    train_part = TRAIN if TRAIN in present else UNLABELED
    tests = [part for part in (HELD_OUT, VALIDATION, TEST) if part in present]
    pretrain = of_parts(TRAIN, UNLABELED, HELD_OUT)
    pretrain_names = ", ".join(part for part in (TRAIN, UNLABELED, HELD_OUT) if part in present)
    if not tests:
        train, test = (of_parts(train_part, held_out=held_out) for held_out in (False, True))
        return pretrain, train, test, (pretrain_names, train_part, "")
    unused = [TEST] if {VALIDATION, TEST} <= present else []
    used = [part for part in tests if part not in unused]
    test_names = ", not ".join([", ".join(used), *unused])
    return pretrain, of_parts(train_part), of_parts(*used), (pretrain_names, train_part, test_names)


def _parts(name: str, paths: list[str]) -> list[str]:
    """Return the part of each file, "" if no file is named as a part.

    Raises:
        UserError: If some of the files are, or there is no part for pre-training.
    """
    parts = [_part_of_file(path) for path in paths]
    present = set(parts)
    if len(present) > 1 and "" in present:
        named = next(path for path, part in zip(paths, parts, strict=True) if part)
        raise UserError(
            f"data source '{name}' mixes files that are named as parts, such as "
            f"{printable(named)}, with others, such as {printable(paths[parts.index('')])}: use a "
            "pattern that matches only the former, or only the latter"
        )
    if len(present) > 1 and not present & {TRAIN, UNLABELED}:
        raise UserError(
            f"data source '{name}' has files for {', '.join(sorted(present))}, but none for "
            "training: use a pattern that matches files for training as well"
        )
    return parts


def _part_of_file(path: str) -> str:
    """Return the part that the one such word in a file's name states; "" without one.

    Example:
        >>> _part_of_file("data/mnist-train.tfrecord-00000-of-00001")
        'train'
    """
    words = re.findall(r"[^\W\d_]+", os.path.basename(path))
    parts = {HELD_OUT if word.lower() == HELD_OUT else part_of(word) or "" for word in words} - {""}
    return parts.pop() if len(parts) == 1 else ""
