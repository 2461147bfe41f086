"""Damaged image files are decoded or raise an error, in little time and memory.

They are decoded in a process of their own, so that a crash of a decoder is a failed test.
"""

import functools
import io
import itertools
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import Recipe
from tests.command import ROOT
from tests.data.test_decoding import KINDS, with_size

PHOTO = Image.fromarray(skimage.data.astronaut()[40:73, 150:201])
# For fields of two and four bytes: zero, the largest signed and unsigned numbers, and others.
NUMBERS = [b"\x00\x00", b"\xff\xff", b"\xff\x7f", b"\x7f\xff", b"\x00\x40", b"\x40\x00"]
NUMBERS += [2 * number for number in NUMBERS] + [b"\xff\xff\x00\x00", b"\x00\x00\xff\xff"]

# Prints as JSON the shape of each image, or [-1, -1, -1] for an error; and by how many bytes they
# increase the peak memory of the process.
DECODE_ALL = """
import json, pathlib, resource, sys
import tensorflow as tf
from moco_tf.data.decoding import decode

def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

decode = tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)])

def shape_or_error(path):
    try:
        return decode(path.read_bytes()).shape.as_list()
    except tf.errors.OpError:
        return [-1, -1, -1]

paths = [pathlib.Path(sys.argv[1], str(number)) for number in range(int(sys.argv[2]))]
shape_or_error(paths[-1])
before = peak_bytes()
shapes = [shape_or_error(path) for path in paths]
print(json.dumps({"shapes": shapes, "growth": peak_bytes() - before}))
"""


def valid_files():
    """Return a file of every format and variant, by name."""
    palette = PHOTO.quantize(64)
    variants = {
        "jpeg": (PHOTO, "JPEG", {}),
        "progressive": (PHOTO, "JPEG", {"progressive": True, "restart_marker_rows": 1}),
        "cmyk": (PHOTO.convert("CMYK"), "JPEG", {}),
        "png": (PHOTO, "PNG", {}),
        "palette": (palette, "PNG", {"transparency": 3}),
        "gif": (palette, "GIF", {"transparency": 3}),
        "animation": (palette, "GIF", {"save_all": True, "append_images": [palette.rotate(180)]}),
        "bmp": (PHOTO, "BMP", {}),
        "palette bmp": (palette, "BMP", {}),
        "webp": (PHOTO, "WEBP", {}),
        "lossless": (PHOTO.convert("RGBA"), "WEBP", {"lossless": True}),
        "webp animation": (PHOTO, "WEBP", {"save_all": True, "append_images": [PHOTO.rotate(180)]}),
    }
    files = {}
    for name, (image, image_format, options) in variants.items():
        file = io.BytesIO()
        image.save(file, image_format, **options)
        files[name] = file.getvalue()
    return files


def boundaries(contents):
    """Return positions in the header, and around each JPEG marker and each PNG or WebP chunk."""
    positions = set(range(0, 64, 2))
    for position in range(len(contents) - 1):
        if contents[position] == 0xFF and contents[position + 1] > 0x80:
            positions.add(position)
    for name in (b"PLTE", b"tRNS", b"IDAT", b"IEND", b"VP8 ", b"VP8L", b"ANIM", b"ANMF", b"ALPH"):
        position = contents.find(name)
        if position > 0:
            positions |= {position - 4, position, position + 4, position + 8}
    return sorted(position for position in positions if position < len(contents))


def damage(contents, others, rng):
    """Yield damaged versions of a file; parts of some come from other files."""
    marks = boundaries(contents)
    for end in [*marks, *rng.integers(0, len(contents), 15), len(contents) - 1]:
        yield contents[:end]
    # This changes the sizes, depths and lengths in the header.
    for position in range(4, 60, 2):
        for number in (NUMBERS[position % len(NUMBERS)], NUMBERS[(position + 5) % len(NUMBERS)]):
            yield contents[:position] + number + contents[position + len(number) :]
    for mark in marks:
        number, position = NUMBERS[mark % len(NUMBERS)], mark + 5
        yield contents[:position] + number + contents[position + len(number) :]
    for num_bits in (1, 1, 1, 8, 8, 64, 512):
        flipped = np.frombuffer(contents, np.uint8).copy()
        positions = rng.integers(0, len(contents), num_bits)
        flipped[positions] ^= (1 << rng.integers(0, 8, num_bits)).astype(np.uint8)
        yield flipped.tobytes()
    garbage = rng.bytes(100)
    yield garbage + contents
    yield contents + garbage
    yield contents[:10] + garbage + contents[10:]
    yield contents[: len(contents) // 2] + bytes(len(contents) // 2)
    yield contents + contents
    for other in others:
        yield contents[:16] + other[16:]
        yield contents[: len(contents) // 2] + other[len(other) // 2 :]


@functools.cache
def damaged_files():
    files = valid_files()
    rng = np.random.default_rng(0)
    damaged = [b"", b"\0", b"\xff\xd8\xff", bytes(1000), b"\xff" * 1000, rng.bytes(1000)]
    for kind, side in itertools.product(KINDS, [2000, 8000, 16000, 16383, 20000, 65535]):
        if side < 2**14 or "WebP" not in kind:
            damaged += [with_size(kind, side, side), with_size(kind, 51, side)]
    for name, contents in files.items():
        others = [other for other_name, other in files.items() if other_name != name]
        damaged += damage(contents, others, rng)
    return damaged


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The report of the other process about the damaged files, followed by the valid ones."""
    folder = tmp_path_factory.mktemp("malformed")
    files = [*damaged_files(), *valid_files().values()]
    for number, contents in enumerate(files):
        (folder / str(number)).write_bytes(contents)
    start = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", DECODE_ALL, str(folder), str(len(files))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        timeout=120,
    )
    seconds = time.monotonic() - start
    assert child.returncode == 0, child.stderr.decode()[-2000:]
    return {**json.loads(child.stdout), "seconds": seconds}


@pytest.mark.slow
def test_every_file_is_an_image_or_an_error(outcome):
    num_damaged = len(damaged_files())
    assert num_damaged >= 1000
    shapes = np.array(outcome["shapes"])
    assert len(shapes) == num_damaged + len(valid_files())
    is_image = (shapes[:, :2] > 0).all(axis=1) & (shapes[:, 2] == 3)
    assert (is_image | (shapes == -1).all(axis=1)).all()
    # Some damage is harmless, most is not.
    assert 0.05 < is_image[:num_damaged].mean() < 0.6


@pytest.mark.slow
def test_valid_files_are_images(outcome):
    assert outcome["shapes"][len(damaged_files()) :] == [[33, 51, 3]] * len(valid_files())


@pytest.mark.slow
def test_damaged_files_cost_neither_time_nor_memory(outcome):
    # The decoder of WebP may need 4 bytes for each pixel that a file of this size can encode.
    assert outcome["growth"] < 400e6
    assert outcome["seconds"] < 60


def test_folder_of_mostly_damaged_files_gives_full_batches(tmp_path):
    damaged = damaged_files()
    suffixes = ("jpg", "png", "gif", "bmp", "webp")
    for number, contents in enumerate(damaged[:: len(damaged) // 90][:90]):
        (tmp_path / f"{number:03}.{suffixes[number % 5]}").write_bytes(contents)
    for name, contents in valid_files().items():
        (tmp_path / f"valid {name}").write_bytes(contents)
    source = sources.load(f"folder:{tmp_path}")
    views = TwoViews(source, 16, Recipe(), 34, seed=0)
    assert views.steps_per_epoch == 3  # Of 102 images.
    for batch in views.between(0, 3).as_numpy_iterator():
        for view in batch:
            assert view.shape == (34, 16, 16, 3)
            assert view.dtype == np.uint8

    def is_readable(index):
        try:
            source.read(tf.constant(index, tf.int64))
        except tf.errors.OpError:
            return False
        return True

    unreadable = {index for index in range(source.size) if not is_readable(index)}
    assert len(unreadable) > 50
    assert views.unreadable == unreadable
    names = [os.path.basename(source.describe(index)) for index in unreadable]
    assert not any("valid" in name for name in names)
