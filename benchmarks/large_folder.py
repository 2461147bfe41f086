"""Times how a folder of millions of images opens, and what memory that takes.

    python benchmarks/large_folder.py                    (1,300,000 files; some minutes)
    python benchmarks/large_folder.py --files=100000

It makes a folder of 1,000 subfolders in a temporary directory, and removes it afterwards. The files
are hard links to 500 different small JPEGs, so that what is measured is what a long list of files
costs, and not the disk. A process of its own opens the source and takes the first batches of two
views, from the start and from a position in the midst of the third epoch; another imports
TensorFlow alone.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from absl import app, flags

ROOT = pathlib.Path(__file__).parent.parent
SUBFOLDERS, IMAGES = 1000, 500
BATCH, BATCHES = 256, 3

FILES = flags.DEFINE_integer("files", 1_300_000, "Files in the folder.", lower_bound=BATCH)
MEASURE = flags.DEFINE_string("measure", None, "Open this folder; for the script itself.")


def main(_):
    if MEASURE.value is not None:
        print(json.dumps(measure(MEASURE.value)))
        return
    with tempfile.TemporaryDirectory() as place:
        free = os.statvfs(place).f_favail
        if free < IMAGES + SUBFOLDERS + 100:
            sys.exit(f"error: {place} has {free} inodes left: set TMPDIR to a larger disk")
        start = time.perf_counter()
        folder = make_folder(pathlib.Path(place), FILES.value)
        print(f"{FILES.value} files made in {time.perf_counter() - start:.0f} s", flush=True)
        bare, result = in_child(""), in_child(folder)
    for name, seconds in result["seconds"].items():
        print(f"{name:40}{seconds:8.1f} s")
    mebibytes = {"peak memory": result["peak"], "of TensorFlow alone": bare["peak"]}
    mebibytes["of the images"] = result["peak"] - bare["peak"]
    for name, value in mebibytes.items():
        print(f"{name:40}{value / 2**20:8.0f} MiB")


def make_folder(place, count):
    """A folder of that many links to small JPEG files."""
    import PIL.Image

    sys.path.insert(0, str(ROOT))
    from tests.images import crops

    originals = place / "originals"
    originals.mkdir()
    for number, image in enumerate(crops(IMAGES, 64)):
        PIL.Image.fromarray(image).save(originals / f"{number}.jpg")
    folder = place / "images"
    for number in range(SUBFOLDERS):
        (folder / f"n{number:08}").mkdir(parents=True)
    for number in range(count):
        # Names as long as ImageNet's.
        parent = f"n{number % SUBFOLDERS:08}"
        link = folder / parent / f"{parent}_{number // SUBFOLDERS}.JPEG"
        os.link(originals / f"{number % IMAGES}.jpg", link)
    return str(folder)


def in_child(folder):
    command = [sys.executable, __file__, f"--measure={folder}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(folder):
    """Seconds of each part, and the peak of the resident memory in bytes; "" only imports."""
    sys.path.insert(0, str(ROOT))
    from moco_tf.cli import app  # noqa: F401, first: it quiets TensorFlow's start
    from moco_tf.data import sources
    from moco_tf.data.pipeline import TwoViews

    seconds = {}
    if folder:
        start = time.perf_counter()
        source = sources.load(f"folder:{folder}")
        seconds["opening the source"] = time.perf_counter() - start
        batches = TwoViews(source, 224, (0.2, 1.0), BATCH, seed=0)
        for words, first in (
            ("the start", 0),
            ("the midst of epoch 3", 5 * batches.steps_per_epoch // 2),
        ):
            begun = time.perf_counter()
            taken = iter(batches.between(first, 3 * batches.steps_per_epoch))
            next(taken)
            seconds[f"first batch of {BATCH} from {words}"] = time.perf_counter() - begun
            for _ in range(BATCHES - 1):
                next(taken)
            seconds[f"{BATCHES} batches from {words}"] = time.perf_counter() - begun
            del taken  # a run has one such line of batches
        seconds["all, from opening on"] = time.perf_counter() - start
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak": peak}


if __name__ == "__main__":
    app.run(main)
