"""A folder of image files."""

import os
import zlib

import numpy as np
import tensorflow as tf

from moco_tf.data.decoding import decode
from moco_tf.data.source import Source
from moco_tf.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def load(name, folder):
    """Every JPEG and PNG file below a folder, in the order of their paths.

    The first level of subfolders names the classes, where all images lie in two or more of them.
    Evaluation holds out a fifth of the images, chosen by a checksum of the path below the folder,
    so that a new file does not move the others.
    """
    if not tf.io.gfile.isdir(folder):
        raise UserError(f"data source '{name}': there is no folder '{folder}'")
    below, ignored = [], []  # paths below the folder
    for parent, _, names in tf.io.gfile.walk(folder):
        for file in names:
            path = os.path.relpath(os.path.join(parent, file), folder)
            if path.startswith(".") or f"{os.sep}." in path:
                continue  # hidden, or in a hidden folder
            # A file without a suffix may be an image; decoding it will tell.
            is_image = os.path.splitext(file)[1].lower() in (*IMAGE_SUFFIXES, "")
            (below if is_image else ignored).append(path)
    if not below:
        raise UserError(f"data source '{name}': no JPEG or PNG file in '{folder}' or below it")
    below.sort()
    files = [os.path.join(folder, path) for path in below]
    paths = tf.constant(files)

    classes = [path.split(os.sep)[0] if os.sep in path else None for path in below]
    class_names = sorted(set(classes) - {None})
    labelled = None not in classes and len(class_names) > 1
    indices = np.arange(len(files), dtype=np.int64)
    held_out = np.array([zlib.crc32(path.encode()) % 5 == 0 for path in below])
    return Source(
        name=name,
        size=len(files),
        read=lambda index: decode(tf.io.read_file(paths[index])),
        describe=lambda index: files[index],
        pretrain=indices,
        train=indices[~held_out],
        test=indices[held_out],
        labels=np.array([class_names.index(c) for c in classes], np.int32) if labelled else None,
        class_names=class_names if labelled else None,
        ignored=sorted(os.path.join(folder, path) for path in ignored),
    )
