"""Measure whether a source of a billion images starts, reads and resumes like a small one.

    python benchmarks/large_source.py                       (10,000 to 1 billion images)
    python benchmarks/large_source.py --sizes=10000,1280000

The records are those of four TFRecord files with 2,500 JPEG images of 500 x 375 pixels each, which
are listed again and again until there are as many as asked for. The offsets of the records, 8 bytes
each, are shared by the repetitions, so their memory is not in the numbers. Every size is measured
in its own process: opening the source, the first batch from the start and from the middle of the
third epoch, batches of two views of 224 pixels, and the peak memory. The rounds take the sizes in
turn, and the medians are reported.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import machine

SIZES = (10_000, 1_280_000, 100_000_000, 1_000_000_000)
FILES, RECORDS = 4, 2_500
BATCH = 256


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of images")
    parser.add_argument("--batches", type=int, default=20, help=f"number of batches of {BATCH}")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--output", help="path of the JSON file to write")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # In a child: the folder.
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    if options.measure is not None:
        print(json.dumps(measure(options.measure, sizes[0], options.batches)))
        return
    if min(sizes) < 2 * BATCH:
        parser.error(f"--sizes={options.sizes}: give at least {2 * BATCH}")
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        write_files(folder)
        for _ in range(options.rounds):
            rounds.append([in_child(folder, size, options.batches) for size in sizes])
    results = [
        {"images": size, **medians([results[number] for results in rounds])}
        for number, size in enumerate(sizes)
    ]
    print(f"{'images':>14}{'start':>9}{'resume':>9}{'images/s':>10}{'peak memory':>14}")
    for result in results:
        print(
            f"{result['images']:>14,}{result['start']:>7.1f} s{result['resume']:>7.1f} s"
            f"{result['images_per_second']:>10.0f}{result['peak'] / 2**20:>10.0f} MiB"
        )
    if options.output:
        summary = {
            "machine": machine.describe("tensorflow", "numpy", "opencv-python-headless"),
            "settings": {"batch": BATCH, "batches": options.batches, "rounds": options.rounds},
            "results": results,
        }
        pathlib.Path(options.output).write_text(json.dumps(summary, indent=2) + "\n")


def medians(results):
    """Return the median of each number over the rounds."""
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def write_files(folder):
    """Write TFRecord files with JPEG images."""
    import tensorflow as tf
    from jpeg_files import write_images

    with tempfile.TemporaryDirectory() as images:
        write_images(images, 500)
        contents = [path.read_bytes() for path in sorted(pathlib.Path(images).iterdir())]
    for file in range(FILES):
        with tf.io.TFRecordWriter(f"{folder}/{file}.tfrecord") as writer:
            for number in range(RECORDS):
                image = contents[(file * RECORDS + number) % len(contents)]
                feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
                features = tf.train.Features(feature={"image/encoded": feature})
                writer.write(tf.train.Example(features=features).SerializeToString())


def in_child(folder, size, batches):
    """Call `measure` in its own process."""
    command = [
        *(sys.executable, __file__, f"--measure={folder}"),
        *(f"--sizes={size}", f"--batches={batches}"),
    ]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def repeated_source(pattern, size):
    """Open TFRecord files as a source of `size` images, by listing them again and again.

    Args:
        pattern: Pattern of files with equally many records.
        size: Number of images, a multiple of the number of records of a file.
    """
    from moco_tf.data.sources.record_parts import matching_files
    from moco_tf.data.sources.tfrecord import IMAGE_FEATURE, open_records
    from moco_tf.data.sources.tfrecord_files import offsets_of, records_at

    name = f"tfrecord:{pattern}"
    paths = matching_files(name, pattern, "TFRecord")
    offsets = offsets_of(paths)
    files = [number % len(paths) for number in range(size // (len(offsets[0]) - 1))]
    records = records_at([paths[file] for file in files], [offsets[file] for file in files])
    return open_records(name, records, IMAGE_FEATURE, label_feature="")


def measure(folder, size, batches):
    """Measure a source of `size` images.

    Returns:
        The seconds of opening it and taking the first batch from the start; those of the first
        batch from the middle of the third epoch; images per second of further batches; and the peak
        memory in bytes.
    """
    from moco_tf.data.pipeline import TwoViews
    from moco_tf.data.recipes import Recipe

    start = time.perf_counter()
    views = TwoViews(repeated_source(f"{folder}/*", size), 224, Recipe(), BATCH, seed=0)
    steps = views.steps_per_epoch
    iterator = iter(views.between(0, 3 * steps))
    next(iterator)
    seconds = {"start": time.perf_counter() - start}
    del iterator  # A run has one such iterator at a time.
    before = time.perf_counter()
    iterator = iter(views.between(5 * steps // 2, 3 * steps))
    next(iterator)
    seconds["resume"] = time.perf_counter() - before
    batches = min(batches, 3 * steps - 5 * steps // 2 - 1)
    before = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    rate = batches * BATCH / (time.perf_counter() - before)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**seconds, "images_per_second": rate, "peak": peak}


if __name__ == "__main__":
    main()
