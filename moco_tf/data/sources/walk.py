"""The image files below a folder, and what is skipped there."""

import collections
import os
import re
import stat
from collections.abc import Iterable, Iterator

import tensorflow as tf

from moco_tf.data.sources.image_files import IMAGES, FileKind, suffix
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.names import printable

# Folders that operating systems create for themselves. Hidden folders are skipped as well.
SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information"}
)
# What a run writes. These names are skipped in an image folder that is a run directory itself.
RUN_ENTRIES = frozenset(
    {"checkpoints/", "tensorboard/", "eval/", "export/", "curves.png", "neighbours.png"}
)
MAX_NAMES = 3  # Maximum number of names in a note.
BROKEN_LINKS, SPECIAL_FILES = "broken links", "special files"
LINKS_WITHIN = "links to files below this folder"
LINKED_TWICE = "further links to the same file"


class Skipped:
    """What was skipped below a folder, and why.

    Args:
        root: Path of the folder.

    Attributes:
        paths: Printable paths of the skipped files and folders. Those of folders end in a slash.
        kinds: Number of the skipped files of each kind, such as a suffix.
    """

    def __init__(self, root: str) -> None:
        self.paths: list[str] = []
        self._root = root
        self.kinds: collections.Counter[str] = collections.Counter()
        self._file_names: list[str] = []
        self._folders: list[tuple[str, str]] = []

    def add_file(self, path: str, kind: str = "") -> None:
        """Add a file.

        Args:
            path: Path below the root.
            kind: What it is; by default its suffix.
        """
        self.paths.append(printable(os.path.join(self._root, path)))
        ending = suffix(path)
        # A name such as `v1.2 of cat` has no suffix that means anything.
        usual = ending if re.fullmatch(r"\.\w{1,9}", ending) else "without a known suffix"
        self.kinds[kind or usual] += 1
        if len(self._file_names) < MAX_NAMES:
            self._file_names.append(printable(path))

    def add_folder(self, path: str, reason: str) -> None:
        """Add a folder, whose path below the root ends in a slash, and why it was skipped."""
        self.paths.append(printable(os.path.join(self._root, path)))
        self._folders.append((path, f"{printable(path)} ({printable(reason)})"))

    def is_above_folder(self, path: str) -> bool:
        """Return whether a skipped folder is below this one, whose path ends in a slash."""
        return any(folder.startswith(path) for folder, _ in self._folders)

    def notes(self) -> list[str]:
        """Return phrases that count and name what was skipped; none if nothing was."""
        notes = []
        count = self.kinds.total()
        if count:
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.kinds.most_common())
            files = "file" if count == 1 else "files"
            names = listed(self._file_names, count)
            notes.append(f"ignored {count:,} {files}: {kinds} ({names})")
        if self._folders:
            folders = "folder" if len(self._folders) == 1 else "folders"
            names = listed([text for _, text in self._folders])
            notes.append(f"ignored {len(self._folders):,} {folders}: {names}")
        return notes


def listed(names: Iterable[str], count: int | None = None, limit: int = MAX_NAMES) -> str:
    """Return the first names, separated by commas, and `...` if there are more.

    Args:
        names: The names; the first of them are enough if `count` is given.
        count: Number of all names, if `names` does not have all.
        limit: Maximum number of names to list.
    """
    names = list(names)
    more = ", ..." if (count or len(names)) > limit else ""
    return ", ".join(names[:limit]) + more


def walk(
    name: str, root: str, skipped: Skipped, kind: FileKind = IMAGES
) -> Iterator[tuple[str, list[str]]]:
    """Yield the image files below a folder, or those of another kind, in the order of their paths.

    Every folder and every file below it is read once, whatever links lead to it. Hidden files and
    folders are left out, and so are run directories, and files that are not images.

    Args:
        name: The string that names the source, for messages.
        root: Path of the folder, local or one that `tf.io.gfile` supports.
        skipped: Receives what is skipped, except for what is hidden.
        kind: The kind of files.

    Yields:
        The path of a folder below the root, which is empty or ends in a slash, and names of image
        files in it. Each folder comes at least once, and several times if its subfolders sort
        between its files.

    Raises:
        UserError: If a folder cannot be listed.
    """
    folders = _Folders(name, root, skipped, kind)
    stack = [("", iter(folders.entries("")))]
    while stack:
        below, entries = stack[-1]
        names, subfolder = [], None
        for entry in entries:
            if entry.endswith("/"):
                subfolder = below + entry
                break
            if kind.accepts(os.path.join(root, below, entry), entry):
                names.append(entry)
            else:
                skipped.add_file(below + entry)
        yield below, names
        if subfolder is None:
            stack.pop()
        else:
            stack.append((subfolder, iter(folders.entries(subfolder))))


# The device and the number of a local file or folder, the same whatever path leads there.
FileId = tuple[int, int]


class _Folders:
    """Lists folders below a root, each of them once."""

    def __init__(self, name: str, root: str, skipped: Skipped, kind: FileKind) -> None:
        self.name = name
        self.root = root
        self.skipped = skipped
        self.kind = kind
        self.is_local = "://" not in root
        self.real_root = os.path.realpath(root) if self.is_local else root
        self.seen: dict[FileId, str] = {}
        # What is read through links to files, and the folders that hold these files.
        self.linked: set[FileId] = set()
        self.linked_into: set[FileId] = set()

    def entries(self, below: str) -> list[str]:
        """Return the names in a folder in order. Those of folders end in a slash.

        The slash makes whole paths sort in the same order.
        """
        directory = os.path.join(self.root, below)
        links: list[str] = []
        try:
            if not self.is_local:
                names = _remote_entries(directory)
            elif self._was_seen(directory, below):
                return []
            else:
                names, links = self._local_entries(below)
            # Links of a run directory are not followed: what they lead to may be read elsewhere.
            if below and is_run_directory([*names, *links, *(f"{link}/" for link in links)]):
                self.skipped.add_folder(below, "a run directory")
                return []
            # In order, so that the same one of several links is followed on every file system.
            for link in sorted(links):
                names += self._linked_entry(os.path.join(directory, link), below + link, link)
        except (tf.errors.OpError, OSError) as error:
            raise UserError(
                f"data source '{self.name}': '{printable(directory)}' cannot be listed "
                f"({error_reason(error)}): make it readable, or remove it"
            ) from error
        if not below and is_run_directory(names):
            names = self._without_run(names)
        for entry in SYSTEM_FOLDERS.intersection(name[:-1] for name in names if name[-1] == "/"):
            self.skipped.add_folder(f"{below}{entry}/", "of the operating system")
            names.remove(f"{entry}/")
        return sorted(names)

    def _without_run(self, names: list[str]) -> list[str]:
        for entry in sorted(RUN_ENTRIES.intersection(names)):
            if entry.endswith("/"):
                self.skipped.add_folder(entry, "of the run in this folder")
            else:
                self.skipped.add_file(entry)
        return [entry for entry in names if entry not in RUN_ENTRIES]

    def _was_seen(self, directory: str, below: str) -> bool:
        """Return whether a folder was listed under another path, and take note of it."""
        first = self.seen.setdefault(_id(os.stat(directory)), below)
        if first != below:
            self.skipped.add_folder(below, f"the same folder as {first or './'}")
        return first != below

    def _local_entries(self, below: str) -> tuple[list[str], list[str]]:
        """Return the names of files and folders in a local folder, and those of links."""
        directory = os.path.join(self.root, below)
        # tf.io.gfile queries every file, which takes four times as long for a million of them. Only
        # in a folder that links to files lead into, every file has to be compared with those.
        has_linked = bool(self.linked_into) and _id(os.stat(directory)) in self.linked_into
        names: list[str] = []
        links: list[str] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if entry.is_file(follow_symlinks=False):
                    if has_linked and _id(entry.stat(follow_symlinks=False)) in self.linked:
                        self.skipped.add_file(below + name, LINKED_TWICE)
                    else:
                        names.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    names.append(f"{name}/")
                elif entry.is_symlink():
                    links.append(name)
                else:
                    self.skipped.add_file(below + name, SPECIAL_FILES)
        return names, links

    def _linked_entry(self, path: str, below: str, name: str) -> list[str]:
        """Return the entry of a link, or none if it is not followed."""
        try:
            status = os.stat(path)
        except OSError:
            self.skipped.add_file(below, BROKEN_LINKS)
            return []
        target = os.path.realpath(path)
        if stat.S_ISREG(status.st_mode):
            reason = self._why_not_read(path, name, target, _id(status))
            if reason:
                self.skipped.add_file(below, reason)
            return [] if reason else [name]
        if not stat.S_ISDIR(status.st_mode):
            self.skipped.add_file(below, SPECIAL_FILES)
            return []
        if reason := self._why_not_followed(target):
            self.skipped.add_folder(f"{below}/", reason)
            return []
        return [f"{name}/"]

    def _why_not_read(self, path: str, name: str, target: str, file: FileId) -> str:
        """Return why a link to a file is not read, as a kind of files; "" if it may be an image."""
        folder, target_name = os.path.split(target)
        if self._path_within(target) and self.kind.accepts(target, target_name):
            return LINKS_WITHIN
        if not self.kind.accepts(path, name):
            return ""  # The walk skips it, so another path to the file may still be read.
        folder_id = _id(os.stat(folder))
        if file in self.linked or (
            folder_id in self.seen
            and not target_name.startswith(".")
            and self.kind.accepts(target, target_name)
        ):
            return LINKED_TWICE
        self.linked.add(file)
        self.linked_into.add(folder_id)
        return ""

    def _why_not_followed(self, target: str) -> str:
        """Return why a link to a folder is not followed; "" if it is."""
        if _is_within(self.real_root, target):
            return "a link to a folder that contains it"
        # The folder is read at its own path, which does not depend on the order of the names.
        path = self._path_within(target)
        return f"a link to {path}/" if path else ""

    def _path_within(self, target: str) -> str:
        """Return the path below the root of a file or folder that is read there; "" otherwise."""
        if not _is_within(target, self.real_root):
            return ""
        path = os.path.relpath(target, self.real_root)
        parts = path.split("/")
        hidden = any(part.startswith(".") or part in SYSTEM_FOLDERS for part in parts)
        return "" if hidden else path


def is_run_directory(names: Iterable[str]) -> bool:
    """Return whether a folder is a run directory.

    Args:
        names: The names in it. Those of folders end in a slash.
    """
    names = set(names)
    return "config.json" in names and bool(names & {"checkpoints/", "metrics.jsonl"})


def _id(status: os.stat_result) -> FileId:
    return status.st_dev, status.st_ino


def _is_within(path: str, folder: str) -> bool:
    """Return whether a path is that of a folder or below it."""
    return path == folder or path.startswith(os.path.join(folder, ""))


def _remote_entries(directory: str) -> list[str]:
    names = []
    for name in tf.io.gfile.listdir(directory):
        if name.startswith("."):
            continue
        is_folder = name.endswith("/") or tf.io.gfile.isdir(os.path.join(directory, name))
        names.append(name.rstrip("/") + "/" * is_folder)
    return names
