"""Names as text that can be printed anywhere."""

import os

import pytest

from moco_tf.names import printable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat.png", "cat.png"),
        ("Käse 値 🐱", "Käse 値 🐱"),
        ("👩\u200d🔬", "👩\u200d🔬"),  # The joiner of an emoji belongs to it.
        ("$x^2$ & <b> {a} %s", "$x^2$ & <b> {a} %s"),
        ("C:\\cat", "C:\\cat"),
        (b"caf\xe9.png", r"caf\xe9.png"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x1b[31mred\x07\x7f\x9b", r"\x1b[31mred\x07\x7f\x9b"),
        ("a\u2028b\u202egnp\ufeff", r"a\u2028b\u202egnp\ufeff"),
        ("\ud83d", r"\ud83d"),
        ("", ""),
    ],
)
def test_printable(name, expected):
    assert printable(name) == expected
    assert printable(os.fsdecode(name) if isinstance(name, bytes) else name) == expected
    assert len(printable(name).splitlines()) == bool(name)
    printable(name).encode()
    assert printable(printable(name)) == expected
