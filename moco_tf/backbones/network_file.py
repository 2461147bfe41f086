"""The file network.json in a SavedModel: which network it holds, and which images that takes."""

import json
import os
from typing import NamedTuple

import tensorflow as tf

from moco_tf import encoders
from moco_tf.data.pixels import Pixels, default, from_json, to_json
from moco_tf.errors import UserError
from moco_tf.files import read_json, write_atomically

FILE = "network.json"


class NetworkFile(NamedTuple):
    """The contents of network.json.

    Attributes:
        network: The network.
        pixels: The pixel values of the images that it takes.
        image_size: Side of the views of encoded images in pixels; None in files of version 0.1.
    """

    network: encoders.Network
    pixels: Pixels
    image_size: int | None


def read(directory: str) -> NetworkFile | None:
    """Return the contents of network.json in a SavedModel; None if there is no such file.

    Args:
        directory: Path of the SavedModel.

    Raises:
        UserError: If the file is invalid.
    """
    path = os.path.join(directory, FILE)
    if not tf.io.gfile.exists(path):
        return None
    remedy = "delete it, and set encoder"
    values = read_json(path, remedy)
    try:
        pixels, image_size = values.pop("pixels", None), values.pop("image_size", None)
        network = encoders.Network(**values)
        pixels = default(network.channels) if pixels is None else from_json(pixels)
        return NetworkFile(network, pixels, None if image_size is None else int(image_size))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} was not written by the SavedModel export: {remedy}") from error


def require(directory: str) -> NetworkFile:
    """Return the contents of network.json in a SavedModel.

    Args:
        directory: Path of the SavedModel.

    Raises:
        UserError: If the file is missing, as in SavedModels of early versions, or invalid.
    """
    content = read(directory)
    if content is None:
        raise UserError(
            f"the SavedModel {directory} does not say which network it holds: set encoder, for "
            "example to resnet50, and stem unless it is imagenet"
        )
    return content


def write(directory: str, network: encoders.Network, pixels: Pixels, image_size: int) -> None:
    """Write network.json into the directory of a SavedModel."""
    content = {**network._asdict(), "image_size": image_size}
    if pixels != default(network.channels):
        content["pixels"] = to_json(pixels)
    write_atomically(os.path.join(directory, FILE), json.dumps(content) + "\n")
