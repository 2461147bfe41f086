"""A compact list of paths, because there may be millions."""

import array
from collections.abc import Iterator


class PathList:
    """Encoded paths, stored end to end.

    A list of as many Python objects would take several times the memory.

    Example:
        >>> paths = PathList()
        >>> paths.append(b"a.jpg")
        >>> paths.append(b"b.jpg")
        >>> len(paths), paths[1]
        (2, b'b.jpg')
    """

    def __init__(self) -> None:
        self._contents = bytearray()
        self._ends = array.array("q", [0])

    def append(self, path: bytes) -> None:
        """Add a path."""
        self._contents += path
        self._ends.append(len(self._contents))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> bytes:
        return bytes(self._contents[self._ends[index] : self._ends[index + 1]])
