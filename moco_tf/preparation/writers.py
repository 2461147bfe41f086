"""Files of prepared images: TFRecord, ArrayRecord, and tar files of WebDataset."""

import contextlib
import dataclasses
import io
import json
import tarfile
from collections.abc import Callable, Iterable

import tensorflow as tf

from moco_tf.preparation.images import PreparedImage


@dataclasses.dataclass(frozen=True)
class Item:
    """An image to write.

    Attributes:
        index: Index of the image in its source.
        name: Short description of the image, such as its path.
        image: The image.
        label: Index of its class; None without one.
        class_name: Name of its class; None without one.
    """

    index: int
    name: str
    image: PreparedImage
    label: int | None
    class_name: str | None


def write_tfrecord(path: str, items: Iterable[Item]) -> None:
    """Write a TFRecord file, with the names of the features of TF-Slim."""
    with tf.io.TFRecordWriter(path) as writer:
        for item in items:
            writer.write(example(item))


def write_arrayrecord(path: str, items: Iterable[Item]) -> None:
    """Write an ArrayRecord file with the same records, each of which can be read alone."""
    from array_record.python.array_record_module import ArrayRecordWriter

    # Images are compressed already.
    with contextlib.closing(ArrayRecordWriter(path, "group_size:1,uncompressed")) as writer:
        for item in items:
            writer.write(example(item))


def write_webdataset(path: str, items: Iterable[Item]) -> None:
    """Write a tar file with an image, a `.json` and, if there is a label, a `.cls` for each item.

    The members have no owner and no time, so the file depends on the images only.
    """
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for item in items:
            facts: dict[str, str | int | None] = {"name": item.name}
            members = {item.image.suffix: item.image.contents}
            if item.label is not None:
                facts |= {"label": item.label, "class_name": item.class_name}
                members["cls"] = str(item.label).encode()
            members["json"] = json.dumps(facts).encode()
            for suffix, contents in members.items():
                member = tarfile.TarInfo(f"{item.index:09}.{suffix}")
                member.size = len(contents)
                archive.addfile(member, io.BytesIO(contents))


# The suffix of the files of each format in `settings.FORMATS`, and the function that writes one.
WRITERS: dict[str, tuple[str, Callable[[str, Iterable[Item]], None]]] = {
    "tfrecord": (".tfrecord", write_tfrecord),
    "arrayrecord": (".array_record", write_arrayrecord),
    "webdataset": (".tar", write_webdataset),
}


def example(item: Item) -> bytes:
    """Return the record of an image, a serialized `tf.train.Example`."""
    image_format = {"jpg": "jpeg"}.get(item.image.suffix, item.image.suffix)
    values: dict[str, bytes | str | int] = {
        "image/encoded": item.image.contents,
        "image/format": image_format,
        "image/filename": item.name,
        "image/height": item.image.height,
        "image/width": item.image.width,
    }
    if item.label is not None:
        values |= {"image/class/label": item.label, "image/class/text": item.class_name or ""}
    feature = {name: _feature(value) for name, value in values.items()}
    message = tf.train.Example(features=tf.train.Features(feature=feature))
    return message.SerializeToString(deterministic=True)


def _feature(value: bytes | str | int) -> tf.train.Feature:
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    contents = value.encode() if isinstance(value, str) else value
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[contents]))
