"""What the folders of images mean: the parts of a data set, and its classes."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from moco_tf.data.sources.walk import listed
from moco_tf.errors import UserError
from moco_tf.names import printable

TRAIN, VALIDATION, TEST, UNLABELED = "train", "val", "test", "unlabeled"
# The usual names of the parts of a data set, in lower case and without digits and punctuation.
PART_NAMES = {
    **dict.fromkeys(["train", "training"], TRAIN),
    **dict.fromkeys(["val", "valid", "validation", "dev", "eval", "evaluation"], VALIDATION),
    **dict.fromkeys(["test", "testing"], TEST),
    **dict.fromkeys(["unlabeled", "unlabelled", "unsupervised"], UNLABELED),
}
# Words that may stand around them, as in `train_images`, `val2017` and `ILSVRC2012_img_test`.
FILLERS = "dataset|data|set|images|image|imgs|img|split|px|x|ilsvrc"
PART = re.compile(f"(?:{FILLERS})*({'|'.join(PART_NAMES)})(?:{FILLERS})*")

# The first two levels of folders that an image is in, with None for a level that it lacks.
Group = tuple[str | None, str | None]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the folders of images mean.

    Attributes:
        parts: The folder of each part, by `TRAIN`, `VALIDATION`, `TEST` and `UNLABELED`; empty if
            the folders are not parts.
        classes: The class of each group of images, or None. Groups of parts that need no labels
            are left out.
        class_names: Names of the classes, in order; empty if there are no labels.
        no_labels: Why there are no labels, as a phrase; "" if there are some.
    """

    parts: Mapping[str, str]
    classes: Mapping[Group, str | None]
    class_names: Sequence[str]
    no_labels: str

    @property
    def pretrain_folders(self) -> list[str]:
        """First-level folders of the images for pre-training, if there are parts."""
        return [self.parts[part] for part in (TRAIN, UNLABELED) if part in self.parts]

    @property
    def train_folder(self) -> str | None:
        """First-level folder of an evaluation's training images, if there are parts."""
        return self.parts.get(TRAIN, self.parts.get(UNLABELED))

    @property
    def test_folder(self) -> str | None:
        """First-level folder of an evaluation's test images; None if they are held out."""
        return self.parts.get(VALIDATION, self.parts.get(TEST))


def part_of(folder: str) -> str | None:
    """Return the part of a data set that a folder holds by its name, or None.

    Example:
        >>> part_of("Training_Set"), part_of("val2017"), part_of("boat")
        ('train', 'val', None)
    """
    match = PART.fullmatch(re.sub(r"[\W\d_]+", "", folder.lower()))
    return PART_NAMES[match[1]] if match else None


def part_in(folder: str) -> tuple[str | None, str]:
    """Return the part that a word in the name of a folder stands for, and the other words.

    Example:
        >>> part_in("DIV2K_train_HR"), part_in("testA"), part_in("contest")
        (('train', 'div 2 k  hr'), ('test', ' a'), (None, 'contest'))
    """
    words = re.findall(r"\d+|[^\W\d_]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", folder))
    parts = [part_of(word) for word in words]
    rest = " ".join("" if part else word.lower() for part, word in zip(parts, words, strict=True))
    return next(filter(None, parts), None), rest


def recognize(name: str, folder: str, examples: Mapping[Group, str]) -> Layout:
    """Recognize the parts and the classes.

    Args:
        name: The string that names the source, for messages.
        folder: Printable path of the folder.
        examples: The groups of images, and of each group the path of an image below the folder.

    Returns:
        The layout.

    Raises:
        UserError: If folders for parts are mixed with other folders, or with images beside them,
            or there is no part for pre-training.
    """
    parts = _parts(name, folder, examples)
    if not parts:
        classes = {group: group[0] for group in examples}
        class_names, no_labels = _class_names(classes, examples)
        return Layout({}, classes, class_names, no_labels)
    train, test = parts.get(TRAIN), parts.get(VALIDATION, parts.get(TEST))
    if train is None:
        reason = f"there is no folder {TRAIN}/ beside {printable(parts[UNLABELED])}/"
        return Layout(parts, {}, [], reason)
    classes = {group: group[1] for group in examples if group[0] in (train, test)}
    if nested := _nested_twice(classes):
        return Layout(parts, classes, [], nested)
    class_names, no_labels = _class_names(classes, examples)
    only_in_test = set(class_names) - {second for first, second in classes if first == train}
    if only_in_test:
        extra = printable(min(only_in_test))
        no_labels = (
            f"{printable(test or '')}/ has images of the class '{extra}', but "
            f"{printable(train)}/ has none"
        )
        class_names = []
    return Layout(parts, classes, class_names, no_labels)


def _parts(name: str, folder: str, examples: Mapping[Group, str]) -> dict[str, str]:
    """Return the folder of each part; an empty dict if no folder is named as one."""
    folders = sorted({first for first, _ in examples if first is not None})
    part_folders = [first for first in folders if part_of(first)]
    if not part_folders:
        return {}
    names = listed_folders(part_folders)
    mixed = f"data source '{name}': '{folder}' has the part {names}"
    others = [first for first in folders if not part_of(first)]
    if others:
        raise UserError(
            f"{mixed} beside other folders ({listed_folders(others)}): move their images into "
            "train/, val/, test/ or unlabeled/, or elsewhere; or, if the names of all of them are "
            f"classes, rename {printable(part_folders[0])}/"
        )
    if (None, None) in examples:
        raise UserError(
            f"{mixed} beside images that are in no folder "
            f"({printable(examples[None, None])}): move them into a part, or elsewhere"
        )
    parts: dict[str, str] = {}
    for first in part_folders:
        part = part_of(first) or ""
        if part in parts:
            raise UserError(
                f"data source '{name}': '{folder}' has two folders for the same part, "
                f"{printable(parts[part])}/ and {printable(first)}/: merge them, or move one of "
                "them elsewhere"
            )
        parts[part] = first
    if TRAIN not in parts and UNLABELED not in parts:
        raise UserError(
            f"{mixed}, but no train/ or unlabeled/, which pre-training uses: add one, or use "
            f"folder:{folder.rstrip('/')}/{printable(part_folders[0])} for the images of one part"
        )
    return {part: parts[part] for part in (TRAIN, UNLABELED, VALIDATION, TEST) if part in parts}


def _nested_twice(classes: Mapping[Group, str | None]) -> str:
    """Return a phrase that names the parts with nothing but a folder for the same part, or ""."""
    seconds: dict[str, list[str | None]] = {}
    for first, second in classes:
        seconds.setdefault(first or "", []).append(second)
    nested = {
        first: folders[0]
        for first, folders in seconds.items()
        if len(folders) == 1 and folders[0] and part_in(folders[0])[0] == part_of(first)
    }
    if not nested:
        return ""
    moves = [
        f"{printable(first)}/{printable(second)}/ to {printable(first)}/"
        for first, second in sorted(nested.items())
    ]
    return f"folders are nested twice: move what is in {', and what is in '.join(moves)}"


def _class_names(
    classes: Mapping[Group, str | None], examples: Mapping[Group, str]
) -> tuple[list[str], str]:
    """Return the classes in order, or why there are no labels."""
    class_names = sorted({class_name for class_name in classes.values() if class_name is not None})
    outside = [examples[group] for group, class_name in classes.items() if class_name is None]
    if not class_names:
        return [], "the images are not in class folders"
    if outside:
        return [], f"{printable(outside[0])} is not in a class folder"
    if len(class_names) == 1:
        return [], f"there is only one class folder, {printable(class_names[0])}/"
    return class_names, ""


def listed_folders(folders: Sequence[str]) -> str:
    """Return the names of the first folders for a message."""
    return listed([f"{printable(folder)}/" for folder in folders])
