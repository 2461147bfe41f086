"""The search for a network in a checkpoint of PyTorch, whatever it is wrapped in.

Projects save a network inside of other dicts, such as `{"model": ...}` or `{"teacher": ...}`, and
inside of other modules, which puts a prefix such as `module.` or `encoder.` before its keys.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from moco_tf.encoders import state_dict
from moco_tf.encoders.state_dict import MismatchError
from moco_tf.errors import UserError

# Prefixes of the encoders in facebookresearch/moco. Features are those of the query encoder.
QUERY, KEY = "encoder_q.", "encoder_k."
# First parts of the names of modules that follow a backbone: a classifier, or the heads of
# self-supervised methods.
HEADS = re.compile(r"(fc|head|classifier|proj|pred|prototype|linear|mlp)\w*\.")
# A dict nests this deep at most.
MAX_DEPTH = 4
# Fraction of the keys of a network that a checkpoint of any other ResNet has. Only the first layers
# of one block, such as `layer1.0.conv1.weight`, look like those of a network by themselves.
MIN_SHARED = 0.15


class Candidate(NamedTuple):
    """A place in a checkpoint where keys of a network are.

    Attributes:
        location: Keys of the nested dicts around the state dict.
        prefix: What precedes torchvision's names.
        tensors: The whole state dict.
    """

    location: tuple[str, ...]
    prefix: str
    tensors: dict[str, Any]

    def __str__(self) -> str:
        keys = f"{self.prefix}*" if self.prefix else "conv1.weight, ..."
        place = "".join(f"[{key!r}]" for key in self.location)
        return f"{keys} in {place}" if place else keys

    def network(self) -> dict[str, Any]:
        """Return the values of the network, with their prefix and without heads after it."""
        start = len(self.prefix)
        return {
            key: tensor
            for key, tensor in self.tensors.items()
            if key.startswith(self.prefix) and not HEADS.match(key, start)
        }

    def count_keys(self, entries: list[state_dict.Entry]) -> int:
        """Return how many of the entries are there, in any shape."""
        return sum(self.prefix + entry.key in self.tensors for entry in entries)

    def fits(self, entries: list[state_dict.Entry]) -> bool:
        """Return whether all entries are there in the right shapes, for any number of channels."""
        for entry in entries:
            shape = tuple(getattr(self.tensors.get(self.prefix + entry.key), "shape", ()))
            expected = entry.shape
            if entry.key == "conv1.weight" and len(shape) == 4:
                shape, expected = shape[:1] + shape[2:], expected[:1] + expected[2:]
            if shape != expected:
                return False
        return True

    @property
    def channels(self) -> int | None:
        """Number of channels of the images that the network takes; None if that is not known."""
        shape: Any = getattr(self.tensors.get(f"{self.prefix}conv1.weight"), "shape", ())
        return shape[1] if len(shape) == 4 and shape[1] else None


def find(checkpoint: dict[Any, Any], network: keras.Model) -> Candidate:
    """Return the place in a checkpoint where the weights of a network are.

    Args:
        checkpoint: The dict that `moco_tf.backbones.pytorch_files.read` returned.
        network: A `keras.Model` of `moco_tf.encoders.build` without a head.

    Returns:
        The only place where all keys of the network are in the right shapes; the number of image
        channels may differ. If there is none, the place with the most keys. Where there is a query
        encoder of MoCo, the key encoder beside it does not count.

    Raises:
        UserError: If there are several such places.
        MismatchError: If there is none with more than a few keys.
    """
    entries = state_dict.entries(network)
    candidates = _without_key_encoders(_candidates(checkpoint, entries))
    fitting = [candidate for candidate in candidates if candidate.fits(entries)]
    if len(fitting) > 1:
        raise UserError(
            f"it holds {len(fitting)} networks that fit, {' and '.join(map(str, fitting))}: save "
            "a state dict with one of them alone"
        )
    if fitting:
        return fitting[0]
    best = max(candidates, key=lambda candidate: candidate.count_keys(entries), default=None)
    if best is None or best.count_keys(entries) < MIN_SHARED * len(entries):
        raise MismatchError(
            "it has no keys with torchvision's names of a ResNet, such as "
            f"'layer1.0.conv1.weight', with any prefix; its keys are {_some_keys(checkpoint)}"
        )
    return best


def _candidates(checkpoint: dict[Any, Any], entries: list[state_dict.Entry]) -> list[Candidate]:
    """Return all places where there is a key of the network."""
    names = {entry.key for entry in entries}
    candidates = []
    for location, tensors in _state_dicts(checkpoint, ()):
        prefixes: Counter[str] = Counter()
        for key in tensors:
            starts = [0, *(match.end() for match in re.finditer(r"\.", key))]
            prefixes.update(key[:start] for start in starts if key[start:] in names)
        candidates += [Candidate(location, prefix, tensors) for prefix in prefixes]
    return candidates


def _state_dicts(
    content: dict[Any, Any], location: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield all dicts in a dict, itself included, with the keys that lead to them."""
    yield location, {key: value for key, value in content.items() if isinstance(key, str)}
    for key, value in content.items():
        if isinstance(value, dict) and len(location) < MAX_DEPTH:
            yield from _state_dicts(value, (*location, str(key)))


def _without_key_encoders(candidates: list[Candidate]) -> list[Candidate]:
    queries = {(c.location, c.prefix) for c in candidates if c.prefix.endswith(QUERY)}
    return [
        candidate
        for candidate in candidates
        if not candidate.prefix.endswith(KEY)
        or (candidate.location, candidate.prefix.removesuffix(KEY) + QUERY) not in queries
    ]


def _some_keys(checkpoint: dict[Any, Any]) -> str:
    """Return the first keys of the largest dict in a checkpoint."""
    largest = max((tensors for _, tensors in _state_dicts(checkpoint, ())), key=len)
    keys = [repr(key) for key in largest][:3]
    return ", ".join(keys) + (", ..." if len(largest) > 3 else "") if keys else "none"
