"""Compare the speed of moco_tf.embed with its two parts: reading the images, and the forward pass.

    python benchmarks/embed.py                                  (about seven minutes)

A ResNet-50 embeds JPEG files of 500 x 375 pixels at 224 pixels on the CPU. The contestants take
turns. On a CPU, both parts use the same cores, so embed cannot be faster than one after the other;
on a GPU, it should be as fast as the slower part. The results are also written to
benchmarks/embed.json.

    reading         only the central views of all images
    forward pass    only the network, on the same batch again and again
    embed           moco_tf.embed, to Parquet files
"""

import argparse
import json
import pathlib
import tempfile

import machine
import turns

HERE = pathlib.Path(__file__).parent

IMAGES = 1024
SIZE = 224
ROWS_PER_FILE = 128


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements of each")
    parser.add_argument("--encoder", default="resnet50", help="name of the network")
    # In a child: the contestant, and the folder of the images.
    parser.add_argument("--contestant", choices=TURNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        turns.serve(TURNS[options.contestant](options.folder, options.encoder))
        return
    with tempfile.TemporaryDirectory() as folder:
        from jpeg_files import write_images

        write_images(folder, IMAGES)

        def command(name):
            flags = [f"--contestant={name}", f"--folder={folder}", f"--encoder={options.encoder}"]
            return [__file__, *flags]

        median, _ = turns.compare(list(TURNS), command, options.rounds)
    rates = {name: IMAGES / seconds for name, seconds in median.items()}
    print(f"medians of {options.rounds} rounds, {options.encoder}, images/s:")
    for name, rate in rates.items():
        print(f"{name:14}{rate:8.1f}")
    slower = min(rates["reading"], rates["forward pass"])
    in_turn = 1 / (1 / rates["reading"] + 1 / rates["forward pass"])
    print(f"embed reaches {rates['embed'] / slower:.3f} of the slower part")
    print(f"and {rates['embed'] / in_turn:.3f} of both parts one after the other")
    result = {
        "machine": machine.describe("tensorflow", "keras", "pyarrow"),
        "encoder": options.encoder,
        "images": IMAGES,
        "images_per_second": rates,
    }
    (HERE / "embed.json").write_text(json.dumps(result, indent=2) + "\n")


def make_reading_turn(folder, encoder):
    """Return a function that reads all images once."""
    from moco_tf.data import sources
    from moco_tf.data.evaluation_views import central_views
    from moco_tf.evaluation.extraction import batch_size

    source = sources.load(f"folder:{folder}")
    batches = central_views(source, source.part("all"), SIZE, batch_size(SIZE))

    def take_turn():
        for _ in batches:
            pass

    return take_turn


def make_forward_turn(folder, encoder):
    """Return a function that runs the network over as many images as there are."""
    import tensorflow as tf

    from moco_tf import encoders
    from moco_tf.evaluation.extraction import batch_size, feature_step

    step = feature_step(encoders.random_backbone(encoder))
    count = batch_size(SIZE)
    batch = (tf.zeros([count], tf.int64), tf.zeros([count, SIZE, SIZE, 3], tf.uint8))

    def take_turn():
        for _ in range(IMAGES // count):
            step(batch)[1].numpy()

    return take_turn


def make_embed_turn(folder, encoder):
    """Return a function that embeds all images to a new directory."""
    import moco_tf
    from moco_tf.evaluation.extraction import traceable

    source = moco_tf.load_source(f"folder:{folder}")
    backbone = traceable(moco_tf.encoders.random_backbone(encoder))

    def take_turn():
        with tempfile.TemporaryDirectory() as parent:
            moco_tf.embed(backbone, source, f"{parent}/out", SIZE, rows_per_file=ROWS_PER_FILE)

    return take_turn


TURNS = {
    "reading": make_reading_turn,
    "forward pass": make_forward_turn,
    "embed": make_embed_turn,
}

if __name__ == "__main__":
    main()
