"""The flag --seeds of the studies."""

import re
from collections.abc import Sequence

from absl import flags

from moco_tf.errors import UserError


def define_flag(values: flags.FlagValues, default: Sequence[int]) -> None:
    """Define the flag --seeds.

    Args:
        values: Flags to define it in.
        default: Seeds if the flag is not given.
    """
    flags.DEFINE_list(
        "seeds",
        [str(seed) for seed in default],
        "Seeds, separated by commas.",
        flag_values=values,
    )


def parse(values: flags.FlagValues) -> list[int]:
    """Return the seeds, each once and in their order.

    Args:
        values: Parsed flags.

    Raises:
        UserError: If there is none, or one is no integer of 0 or greater.
    """
    for seed in values.seeds or [""]:
        if not re.fullmatch("[0-9]+", seed):
            raise UserError(f"--seeds={seed}: use integers of 0 or greater, separated by commas")
    return list(dict.fromkeys(int(seed) for seed in values.seeds))
