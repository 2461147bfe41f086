"""Arrangements of folders of images that would be misread, and are refused instead."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from moco_tf.data.sources.image_files import suffix
from moco_tf.data.sources.layout import TRAIN, listed_folders, part_in, part_of
from moco_tf.data.sources.walk import MAX_NAMES
from moco_tf.errors import UserError
from moco_tf.names import printable

LEVELS = 6  # Number of levels of folders that are looked at.
# Names are compared in lower case, and without digits and punctuation.
MASKS = re.compile(
    r"mask|annotation|segment|segmim|trimap|groundtruth|^gt(s|fine|coarse)?$|^labels?(images?)?$"
)
IMAGES = re.compile(
    r"(jpe?g|png|rgb|raw|original|input|source)?(images?|imgs?|photos?)|"
    r"originals?|inputs?|rgb|jpe?g|png|leftimgbit"
)
# What the names of masks have after the names of their images.
MASK_ENDING = re.compile(r"[ _.-]*(mask|segmentation|seg|annotation|label|gt)s?$", re.IGNORECASE)
MASK_FILES = 1000  # Number of masks whose names are compared with those of images.


class Tree:
    """The folders that have images in them or below.

    Args:
        first_files: Of each folder with images, the number of its first file. The path of a folder
            is relative, and empty or ends in a slash.
        count: Number of files.
        path_at: Returns the encoded path of a file by its number, in the order of the paths.
    """

    def __init__(
        self, first_files: Mapping[str, int], count: int, path_at: Callable[[int], bytes]
    ) -> None:
        self.first_files = first_files
        self.count = count
        self.path_at = path_at
        self.folders: dict[str, dict[str, None]] = {}
        for path in first_files:
            start = 0
            while (end := path.find("/", start)) >= 0:
                self.folders.setdefault(path[:start], {})[path[start:end]] = None
                start = end + 1

    def names(self, path: str) -> list[str]:
        """Return the names of the folders in a folder, without those that have no images."""
        return list(self.folders.get(path, ()))

    def below_single_folders(self, path: str) -> str:
        """Return the first folder, from this one downward, that holds more than one folder.

        A folder that is named as a part of a data set is not entered.
        """
        while path not in self.first_files:
            names = self.names(path)
            if len(names) != 1 or part_of(names[0]):
                break
            path += f"{names[0]}/"
        return path

    def files(self, path: str, limit: int | None = None) -> list[str]:
        """Return the names of the first files in a folder, up to its first subfolder."""
        names: list[str] = []
        encoded = os.fsencode(path)
        for number in range(self.first_files.get(path, self.count), self.count):
            folder, file = os.path.split(self.path_at(number))
            if os.path.join(folder, b"") != encoded or len(names) == limit:
                break
            names.append(os.fsdecode(file))
        return names


def require_clear(name: str, folder: str, tree: Tree) -> None:
    """Check that the folders of images can be told apart: parts, classes and masks.

    Args:
        name: The string that names the source, for messages.
        folder: Printable path of the folder.
        tree: The folders below it.

    Raises:
        UserError: If masks are beside the images, parts are deeper than the first level or have
            other words in their names, or a folder has a copy of the folders beside it.
    """
    folder = folder.rstrip("/")
    _require_no_masks(name, folder, tree)
    end = tree.below_single_folders("")
    _require_no_copy(name, folder, tree, end)
    names = tree.names(end)
    if end:
        _require_no_deeper_parts(name, folder, tree, [end] if _has_parts(names) else [])
    if any(map(part_of, names)):
        return
    below = [tree.below_single_folders(f"{end}{child}/") for child in names]
    deeper = [path for path in below if _has_parts(tree.names(path), only=True)]
    _require_no_deeper_parts(name, folder, tree, deeper)
    _require_no_words_around_parts(name, folder, tree, end)


def _require_no_masks(name: str, folder: str, tree: Tree) -> None:
    all_images, all_masks = [], []
    for path, names in tree.folders.items():
        masks = [child for child in names if MASKS.search(_letters(child))]
        if not masks:
            continue
        others = [child for child in names if child not in masks]
        images = [child for child in others if IMAGES.fullmatch(_letters(child))]
        if not images:
            images = [
                child
                for child in others
                if any(_are_masks_of(tree, f"{path}{mask}/", f"{path}{child}/") for mask in masks)
            ]
        if images:
            all_images += [path + child for child in images]
            all_masks += [path + child for child in masks]
    if not all_masks:
        return
    masks_text = listed_folders(all_masks)
    seem, them = ("seems", "it") if len(all_masks) == 1 else ("seem", "them")
    use = f"use folder:{folder}/{printable(all_images[0])}, or " if len(all_images) == 1 else ""
    raise UserError(
        f"data source '{name}': in '{folder}', {masks_text} {seem} to hold masks or annotations of "
        f"the images in {listed_folders(all_images)}: {use}move {masks_text} elsewhere, or "
        f"rename {them} if these are classes"
    )


def _are_masks_of(tree: Tree, masks: str, images: str) -> bool:
    """Return whether the files in a folder are named after those in the other folder.

    Numbers alone are no evidence, because the images of each class are often counted from 1.
    """
    mask_files, image_files = tree.files(masks, MASK_FILES), tree.files(images)
    if len(mask_files) < 3 or not image_files:
        return False
    full_stems = [os.path.splitext(file)[0] for file in mask_files]
    stems = [MASK_ENDING.sub("", stem) for stem in full_stems]
    image_stems = {os.path.splitext(file)[0] for file in image_files}
    if sum(stem in image_stems for stem in stems) < 0.9 * len(stems):
        return False
    is_counted = len({re.sub(r"\d+", "", stem) for stem in stems}) == 1
    is_same_suffix = suffix(mask_files[0]) == suffix(image_files[0])
    return not is_counted or not is_same_suffix or stems != full_stems


def _require_no_copy(name: str, folder: str, tree: Tree, path: str) -> None:
    names = tree.names(path)
    for child in names:
        inner = tree.names(f"{path}{child}/")
        if len(inner) < max(len(names) - 1, 2):
            continue  # Most folders, and comparing the names would take long for many of them.
        siblings = set(names) - {child}
        if len(siblings) > 1 and siblings <= set(inner):
            copy = f"{folder}/{printable(path + child)}"
            raise UserError(
                f"data source '{name}': {copy} has folders of the same names as the folders beside "
                f"it ({listed_folders(sorted(siblings))}), so it may be a copy of them: use "
                f"folder:{copy}, or move {copy} elsewhere"
            )


def _require_no_deeper_parts(name: str, folder: str, tree: Tree, paths: Sequence[str]) -> None:
    if not paths:
        return
    names = sorted(child for child in tree.names(paths[0]) if part_of(child))
    if len(paths) == 1:
        path = f"{folder}/{printable(paths[0]).rstrip('/')}"
        raise UserError(
            f"data source '{name}': the parts {listed_folders(names)} are in {path}: use "
            f"folder:{path}"
        )
    sources = [f"folder:{folder}/{printable(path).rstrip('/')}" for path in paths]
    one_of = f"one of them, as folder:{folder}/NAME"
    if len(sources) <= MAX_NAMES:
        one_of = f"{', '.join(sources[:-1])} or {sources[-1]}"
    folders = listed_folders([path.rstrip("/") for path in paths])
    raise UserError(
        f"data source '{name}': {len(paths)} folders in '{folder}' have parts of their own, such "
        f"as {printable(names[0])}/ ({folders}): use {one_of}, or move the images of all of them "
        f"to {folder}/train/ and {folder}/test/"
    )


def _require_no_words_around_parts(name: str, folder: str, tree: Tree, path: str) -> None:
    groups: dict[str | None, dict[str, str]] = {}
    names = tree.names(path)
    parts = [part_in(child) for child in names]
    for child, (part, rest) in zip(names, parts, strict=True):
        if part:
            groups.setdefault(rest, {}).setdefault(part, child)
    if all(part for part, _ in parts):
        groups[None] = {part: child for group in groups.values() for part, child in group.items()}
    for group in groups.values():
        if TRAIN not in group or len(group) == 1:
            continue
        folders, moves = listed_folders([path + child for child in group.values()]), []
        for part, child in group.items():
            nested = f"{child}/{child}" if tree.names(f"{path}{child}/") == [child] else child
            moves.append(f"{printable(path + nested)}/ to {printable(path)}{part}/")
        raise UserError(
            f"data source '{name}': in '{folder}', {folders} seem to be parts of a data set: move "
            f"{', '.join(moves)}, or rename one of them if these are classes"
        )


def _has_parts(names: Iterable[str], only: bool = False) -> bool:
    """Return whether two names are those of parts; if `only`, the others have to be of masks."""
    parts = {part_of(name) for name in names if not MASKS.search(_letters(name))}
    return len(parts - {None}) > 1 and not (only and None in parts)


def _letters(name: str) -> str:
    return re.sub(r"[\W\d_]+", "", name.lower())
