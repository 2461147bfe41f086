"""Shards, the parts of a collection that several processes share; it loads without TensorFlow."""

import numbers
import re
from typing import Any

from moco_tf.errors import UserError


def require_shard(shard: Any) -> None:
    """Raise a `UserError` unless an argument is a shard `(i, n)`, two integers with i in [0, n)."""
    is_pair = isinstance(shard, tuple | list) and len(shard) == 2
    if not is_pair or not all(isinstance(number, numbers.Integral) for number in shard):
        raise UserError(
            f"shard={shard!r:.100}: must be two integers (i, n), such as (0, 4) for the first of "
            "four"
        )
    number, count = map(int, shard)
    if not 0 <= number < count:
        raise UserError(
            f"shard={number}/{count}: must be i/n with i from 0 to n - 1, such as 0/4 for the "
            "first of four"
        )


def parse_shard(text: str) -> tuple[int, int]:
    """Return a shard that is given as a text.

    Raises:
        UserError: If the text is not of this form, or there is no such shard.

    Example:
        >>> parse_shard("0/4")
        (0, 4)
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise UserError(f"shard={text}: must be i/n, such as 0/4 for the first of four")
    shard = int(match[1]), int(match[2])
    require_shard(shard)
    return shard
