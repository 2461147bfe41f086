"""Damaged files by the thousand: each is an image or an error, and costs neither time nor memory.

They are decoded in a process of its own, so that a crash there is a failed test here.
"""

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
from tests.command import ROOT
from tests.data.test_decoding import KINDS, with_size

PHOTO = Image.fromarray(skimage.data.astronaut()[40:73, 150:201])
# For fields of two and of four bytes: nothing, the largest with and without a sign, and between.
NUMBERS = [b"\x00\x00", b"\xff\xff", b"\xff\x7f", b"\x7f\xff", b"\x00\x40", b"\x40\x00"]
NUMBERS += [2 * number for number in NUMBERS] + [b"\xff\xff\x00\x00", b"\x00\x00\xff\xff"]

CHILD = """
import json, resource, sys
from moco_tf import command_line
import tensorflow as tf
from moco_tf.data.decoding import decode

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def outcome(path):
    one = tf.data.Dataset.from_tensors(path).map(lambda path: decode(tf.io.read_file(path)))
    shapes = one.map(lambda image: tf.shape(image)).ignore_errors(log_warning=False)
    return shapes.concatenate(tf.data.Dataset.from_tensors([-1, -1, -1])).take(1)

paths = sys.argv[1] + "/" + tf.strings.as_string(tf.range(int(sys.argv[2])))
images = tf.data.Dataset.from_tensor_slices(paths)
shapes = images.interleave(outcome, cycle_length=2, num_parallel_calls=2, deterministic=True)
list(shapes.take(1))
before = peak()
print(json.dumps({"shapes": [s.tolist() for s in shapes.as_numpy_iterator()],
                  "growth": peak() - before}))
"""


def valid_files():
    """A file of every kind, by name."""
    palette = PHOTO.quantize(64)
    kinds = {
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
    for name, (image, kind, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        files[name] = file.getvalue()
    return files


def boundaries(contents):
    """Where something begins: each marker of JPEG, chunk of PNG and WebP, and the headers."""
    found = set(range(0, 64, 2))
    found |= {i for i in range(len(contents) - 1) if contents[i] == 0xFF and contents[i + 1] > 0x80}
    for name in (b"PLTE", b"tRNS", b"IDAT", b"IEND", b"VP8 ", b"VP8L", b"ANIM", b"ANMF", b"ALPH"):
        place = contents.find(name)
        found |= {place - 4, place, place + 4, place + 8} if place > 0 else set()
    return sorted(place for place in found if place < len(contents))


def malformed(contents, others, random):
    """What can have become of one file."""
    marks = boundaries(contents)
    for end in [*marks, *random.integers(0, len(contents), 15), len(contents) - 1]:
        yield contents[:end]
    for place in range(4, 60, 2):  # sizes, depths, lengths: whatever the header holds
        for number in (NUMBERS[place % len(NUMBERS)], NUMBERS[(place + 5) % len(NUMBERS)]):
            yield contents[:place] + number + contents[place + len(number) :]
    for place in marks:  # and what stands after each marker
        number = NUMBERS[place % len(NUMBERS)]
        yield contents[: place + 5] + number + contents[place + 5 + len(number) :]
    for bits in (1, 1, 1, 8, 8, 64, 512):
        damaged = np.frombuffer(contents, np.uint8).copy()
        places = random.integers(0, len(contents), bits)
        damaged[places] ^= (1 << random.integers(0, 8, bits)).astype(np.uint8)
        yield damaged.tobytes()
    garbage = random.bytes(100)
    yield garbage + contents
    yield contents + garbage
    yield contents[:10] + garbage + contents[10:]
    yield contents[: len(contents) // 2] + bytes(len(contents) // 2)
    yield contents + contents
    for other in others:
        yield contents[:16] + other[16:]
        yield contents[: len(contents) // 2] + other[len(other) // 2 :]


def damaged_files():
    files = valid_files()
    random = np.random.default_rng(0)
    found = [b"", b"\0", b"\xff\xd8\xff", bytes(1000), b"\xff" * 1000, random.bytes(1000)]
    for kind, side in itertools.product(KINDS, [2000, 8000, 16000, 16383, 20000, 65535]):
        if side < 2**14 or "WebP" not in kind:
            found += [with_size(kind, side, side), with_size(kind, 51, side)]
    for name, contents in files.items():
        others = [other for key, other in files.items() if key != name]
        found += malformed(contents, others, random)
    return found


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The number of files, where the valid ones begin, and what the child said of them."""
    folder = tmp_path_factory.mktemp("malformed")
    damaged, valid = damaged_files(), list(valid_files().values())
    for number, contents in enumerate([*damaged, *valid]):
        (folder / str(number)).write_bytes(contents)
    start = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(len(damaged) + len(valid))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    )
    seconds = time.monotonic() - start
    assert child.returncode == 0, child.stderr.decode()[-2000:]
    return {**json.loads(child.stdout), "damaged": len(damaged), "seconds": seconds}


def test_every_file_is_an_image_or_an_error(outcome):
    assert outcome["damaged"] >= 1000
    shapes = np.array(outcome["shapes"])
    assert len(shapes) == outcome["damaged"] + len(valid_files())
    image = (shapes[:, :2] > 0).all(axis=1) & (shapes[:, 2] == 3)
    assert (image | (shapes == -1).all(axis=1)).all()
    # Some damage does no harm, most does.
    assert 0.05 < image[: outcome["damaged"]].mean() < 0.6


def test_the_files_before_the_damage_are_images(outcome):
    valid = outcome["shapes"][outcome["damaged"] :]
    assert valid == [[33, 51, 3]] * len(valid_files())


def test_no_file_costs_time_or_memory(outcome):
    assert outcome["growth"] < 300e6
    assert outcome["seconds"] < 60


def test_a_folder_of_mostly_damaged_files_gives_full_batches(tmp_path):
    damaged = damaged_files()
    chosen = damaged[:: len(damaged) // 90][:90]
    for number, contents in enumerate(chosen):
        (tmp_path / f"{number:03}.{('jpg', 'png', 'gif', 'bmp', 'webp')[number % 5]}").write_bytes(
            contents
        )
    for name, contents in valid_files().items():
        (tmp_path / f"valid {name}").write_bytes(contents)
    source = sources.load(f"folder:{tmp_path}")
    views = TwoViews(source, 16, (0.2, 1.0), 34, seed=0)
    assert views.steps_per_epoch == 3  # of 102 images
    batches = list(views.between(0, 3).as_numpy_iterator())
    for batch in batches:
        for view in batch:
            assert view.shape == (34, 16, 16, 3) and view.dtype == np.uint8

    def can_be_read(index):
        try:
            source.read(tf.constant(index, tf.int64))
        except tf.errors.OpError:
            return False
        return True

    unreadable = {index for index in range(source.size) if not can_be_read(index)}
    assert views.unreadable == unreadable and len(unreadable) > 50
    names = {source.describe(index) for index in unreadable}
    assert not any("valid" in os.path.basename(name) for name in names)
    assert all(os.path.exists(name) for name in names)
