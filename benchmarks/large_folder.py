"""Measure the time and the memory that opening a folder with millions of images takes.

    python benchmarks/large_folder.py                    (1,300,000 files; some minutes)
    python benchmarks/large_folder.py --files=100000

It creates a folder with 1,000 subfolders in a temporary directory and removes it afterwards. The
files are hard links to 500 small JPEG files, so the benchmark measures the cost of a long list of
files, not of the disk. One process opens the source and takes the first batches of two views, from
the start and from the middle of the third epoch; another only imports TensorFlow.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

SUBFOLDERS, IMAGES = 1000, 500
BATCH, BATCHES = 256, 3


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1_300_000, help="number of files")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # In a child: the folder to open.
    options = parser.parse_args()
    if options.files < BATCH:
        parser.error(f"--files={options.files}: give at least {BATCH}")
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory() as directory:
        free = os.statvfs(directory).f_favail
        if free < IMAGES + SUBFOLDERS + 100:
            sys.exit(f"error: {directory} has {free} inodes left: set TMPDIR to a larger disk")
        start = time.perf_counter()
        folder = make_folder(pathlib.Path(directory), options.files)
        print(f"{options.files} files made in {time.perf_counter() - start:.0f} s", flush=True)
        imports, result = in_child(""), in_child(folder)
    for name, seconds in result["seconds"].items():
        print(f"{name:40}{seconds:8.1f} s")
    for name, size in (
        ("peak memory", result["peak"]),
        ("of TensorFlow alone", imports["peak"]),
        ("of the images", result["peak"] - imports["peak"]),
    ):
        print(f"{name:40}{size / 2**20:8.0f} MiB")


def make_folder(directory, count):
    """Create a folder with `count` links to small JPEG files, and return its path."""
    from jpeg_files import write_small_images

    originals = directory / "originals"
    originals.mkdir()
    write_small_images(originals, IMAGES)
    folder = directory / "images"
    for number in range(SUBFOLDERS):
        (folder / f"n{number:08}").mkdir(parents=True)
    for number in range(count):
        # The names are as long as ImageNet's.
        parent = f"n{number % SUBFOLDERS:08}"
        link = folder / parent / f"{parent}_{number // SUBFOLDERS}.JPEG"
        os.link(originals / f"{number % IMAGES}.jpg", link)
    return str(folder)


def in_child(folder):
    """Call `measure` in its own process."""
    command = [sys.executable, __file__, f"--measure={folder}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(folder):
    """Open a folder and take batches from it, or only import TensorFlow if `folder` is "".

    Returns:
        A dict with `seconds`, a dict of the seconds of each part, and `peak`, the peak memory of
        the process in bytes.
    """
    from moco_tf.data import sources
    from moco_tf.data.pipeline import TwoViews
    from moco_tf.data.recipes import Recipe

    seconds = {}
    if folder:
        start = time.perf_counter()
        source = sources.load(f"folder:{folder}")
        seconds["opening the source"] = time.perf_counter() - start
        batches = TwoViews(source, 224, Recipe(), BATCH, seed=0)
        for place, first in (
            ("the start", 0),
            ("the middle of epoch 3", 5 * batches.steps_per_epoch // 2),
        ):
            before = time.perf_counter()
            iterator = iter(batches.between(first, 3 * batches.steps_per_epoch))
            next(iterator)
            seconds[f"first batch of {BATCH} from {place}"] = time.perf_counter() - before
            for _ in range(BATCHES - 1):
                next(iterator)
            seconds[f"{BATCHES} batches from {place}"] = time.perf_counter() - before
            del iterator  # A run has one such iterator at a time.
        seconds["everything, from opening on"] = time.perf_counter() - start
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak": peak}


if __name__ == "__main__":
    main()
