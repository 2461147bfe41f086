"""Names of files and classes as text that can be printed anywhere."""

import re

# Control characters, line and paragraph separators, marks that reverse the direction of the text
# after them, and surrogates, which no encoding can write.
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(name: str | bytes) -> str:
    r"""Return a name on one line, with escapes for what cannot be printed.

    Every name of a file or a class passes through this function when it leaves its source, so that
    messages, plots, JSON files and HTML pages can show it.

    Args:
        name: A name or a path. Bytes that are not UTF-8 may be in it as `os.fsdecode` represents
            them.

    Returns:
        The name, in which bytes that are not UTF-8, control characters and marks that change the
        direction of text are written as escapes, such as `\xe9`.

    Example:
        >>> print(printable(b"caf\xe9\n.png"))
        caf\xe9\n.png
    """
    if isinstance(name, str):
        if name.isascii() and name.isprintable():
            return name
        try:
            encoded = name.encode(errors="surrogateescape")
        except UnicodeEncodeError:  # Surrogates that do not stand for a byte.
            encoded = name.encode(errors="backslashreplace")
    else:
        encoded = name
    text = encoded.decode(errors="backslashreplace")
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
