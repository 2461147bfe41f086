"""Measure how much faster training reads photos of 12 megapixels once they are prepared.

    python benchmarks/prepare.py                                (about two minutes)

JPEG files of 4000 x 3000 pixels are the sample photographs of scikit-image, enlarged, with noise
that makes the files as large as those of a camera. There are 32 of them; more are links to the
same. Contestants take turns of one epoch of the host part of training: reading, decoding, two crops
and flips at 224 pixels. On a GPU, this is what limits the training if the network is fast enough.
The results are also written to benchmarks/prepare.json; --output names another file.

    original        the JPEG files in a folder
    tfrecord        what moco-prepare writes with its defaults
    arrayrecord
    webdataset
"""

import argparse
import json
import os
import pathlib
import tempfile
import time

import machine
import turns

FORMATS = ("tfrecord", "arrayrecord", "webdataset")
SIZE = 224
BATCH = 16
WIDTH, HEIGHT = 4000, 3000
PHOTOS = 32
# Of the noise, in gray levels. A file then has about 4 MB.
NOISE = 6


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=128, help="number of photos")
    parser.add_argument("--rounds", type=int, default=3, help="number of epochs per contestant")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path(__file__).with_suffix(".json"),
        help="the JSON file",
    )
    # In a child: the source to read.
    parser.add_argument("--source", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.images < BATCH:
        parser.error(f"--images={options.images}: give at least {BATCH}")
    if options.source:
        turns.serve(make_epoch(options.source))
        return
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory) / "original"
        folder.mkdir()
        size = write_photos(folder, options.images)
        sources = {"original": f"folder:{folder}"}
        seconds, sizes = {}, {}
        for name in FORMATS:
            seconds[name], sizes[name], sources[name] = prepare(
                sources["original"], directory, name
            )

        def command(name):
            return [__file__, f"--source={sources[name]}"]

        median, last = turns.compare(list(sources), command, options.rounds)
    result = {
        "machine": machine.describe("tensorflow", "pillow", "array-record"),
        "images": options.images,
        "rounds": options.rounds,
        "bytes_per_image": {"original": size, **sizes},
        "preparation_images_per_second": {
            name: options.images / value for name, value in seconds.items()
        },
        "images_per_second": {name: options.images / median[name] for name in sources},
    }
    show(result, last)
    options.output.write_text(json.dumps(result, indent=2) + "\n")


def write_photos(folder, count):
    """Write JPEG files of 12 megapixels, and return their mean size in bytes."""
    import numpy as np
    import skimage.data
    from PIL import Image

    names = ("astronaut", "chelsea", "coffee", "immunohistochemistry", "rocket")
    photographs = [Image.fromarray(getattr(skimage.data, name)()[..., :3]) for name in names]
    generator = np.random.default_rng(0)
    for number in range(min(count, PHOTOS)):
        photograph = photographs[number % len(photographs)]
        width = int(generator.uniform(0.6, 1) * min(photograph.width, photograph.height * 4 / 3))
        height = width * 3 // 4
        left = int(generator.integers(photograph.width - width + 1))
        top = int(generator.integers(photograph.height - height + 1))
        box = (left, top, left + width, top + height)
        enlarged = np.asarray(photograph.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box))
        noise = generator.normal(0, NOISE, (HEIGHT, WIDTH, 1)).astype(np.float32)
        pixels = np.clip(enlarged + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.jpg", quality=92)
    for number in range(PHOTOS, count):
        os.link(folder / f"{number % PHOTOS:05}.jpg", folder / f"{number:05}.jpg")
    return sum(file.stat().st_size for file in folder.iterdir()) / count


def prepare(source, directory, name):
    """Prepare the photos; return the seconds, the bytes of an image, and the new source."""
    import moco_tf

    opened = moco_tf.load_source(source)
    start = time.perf_counter()
    outcome = moco_tf.prepare(opened, f"{directory}/{name}", format=name)
    return time.perf_counter() - start, outcome.bytes / outcome.num_images, outcome.data


def make_epoch(source):
    """Return a function that reads the two views of all photos once."""
    from moco_tf.data import sources
    from moco_tf.data.pipeline import TwoViews
    from moco_tf.data.recipes import RECIPES

    batches = TwoViews(sources.load(source), SIZE, RECIPES["v2"], BATCH, seed=0)
    # Traced once, as in a training of many epochs.
    epoch = batches.between(0, batches.steps_per_epoch)

    def run_epoch():
        for _ in epoch:
            pass

    return run_epoch


def show(result, last):
    """Print the rates, and how much faster than the original photos the prepared ones are."""
    rates = result["images_per_second"]
    print(
        f"{result['images']} photos of {WIDTH} x {HEIGHT} pixels, {result['machine']['cores']} "
        f"cores, medians of {result['rounds']} epochs in turns"
    )
    print(f"{'':14}{'images/s':>10}{'times':>8}{'kB/image':>10}{'prepared/s':>12}{'GiB':>7}")
    for name, rate in rates.items():
        prepared = result["preparation_images_per_second"].get(name)
        print(
            f"{name:14}{rate:10.1f}{rate / rates['original']:8.1f}"
            f"{result['bytes_per_image'][name] / 1000:10.0f}"
            f"{f'{prepared:.1f}' if prepared else '':>12}{last[name]['peak'] / 2**30:7.2f}"
        )


if __name__ == "__main__":
    main()
