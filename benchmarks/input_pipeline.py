"""Compare the input pipeline, from JPEG files to two augmented views, with torchvision's.

    python benchmarks/input_pipeline.py                    (about five minutes)

Images of 500 x 375 pixels become two views of 224 x 224 with the augmentation of MoCo v2, all on
the CPU. The contestants take turns of one epoch each, and their medians are compared. The results
are also written to benchmarks/input_pipeline.json. `make pytorch` installs torchvision.

    ours, host          reading, decoding, two crops and flips: the part that feeds an accelerator
    ours, whole         the same with colors, blur and normalization, which an accelerator would do
    torchvision         everything, with Pillow, in a DataLoader with one worker per core
"""

import argparse
import json
import os
import pathlib
import random
import tempfile

import turns

HERE = pathlib.Path(__file__).parent

CONTESTANTS = ("ours, host", "ours, whole", "torchvision")
SIZE = 224
BATCH = 64


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4096, help="number of images in an epoch")
    parser.add_argument("--rounds", type=int, default=5, help="number of epochs per contestant")
    # In a child: the contestant, and the folder of the images.
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.images < BATCH:
        parser.error(f"--images={options.images}: give at least {BATCH}")
    if options.contestant:
        turns.serve(make_epoch(options.contestant, options.folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        from jpeg_files import write_images

        size = write_images(folder, options.images)

        def command(name):
            return [__file__, f"--contestant={name}", f"--folder={folder}"]

        median, last = turns.compare(CONTESTANTS, command, options.rounds)
    rates = {name: options.images / seconds for name, seconds in median.items()}
    cores = len(os.sched_getaffinity(0))
    print(
        f"{options.images} JPEG files of {size / 1024:.0f} KiB, {cores} cores, medians of "
        f"{options.rounds} epochs in turns"
    )
    print(f"{'':16}{'images/s':>10}{'of torchvision':>16}{'GiB':>7}")
    for name in CONTESTANTS:
        ratio = rates[name] / rates["torchvision"]
        print(f"{name:16}{rates[name]:10.0f}{ratio:16.2f}{last[name]['peak'] / 2**30:7.2f}")
    result = {
        "images": options.images,
        "bytes_per_image": size,
        "cores": cores,
        "rounds": options.rounds,
        "images_per_second": rates,
    }
    (HERE / "input_pipeline.json").write_text(json.dumps(result, indent=2) + "\n")


def make_epoch(contestant, folder):
    """Return a function that runs one epoch of a contestant."""
    if contestant == "torchvision":
        return make_torchvision_epoch(folder)
    return make_our_epoch(folder, is_augmented=contestant == "ours, whole")


def make_our_epoch(folder, is_augmented):
    """Return a function that runs one epoch of the host part, and the device part if asked for."""
    import tensorflow as tf

    from moco_tf.data import sources
    from moco_tf.data.augment import Augment
    from moco_tf.data.pipeline import TwoViews
    from moco_tf.data.recipes import RECIPES

    recipe = RECIPES["v2"]
    batches = TwoViews(sources.load(f"folder:{folder}"), SIZE, recipe, BATCH, seed=0)
    augment = Augment(recipe)

    @tf.function
    def augment_batch(images, seed):
        return augment(images, tf.range(BATCH), BATCH, seed)

    def run_epoch():
        for views in batches.between(0, batches.steps_per_epoch):
            if is_augmented:
                for index, images in enumerate(views):
                    augment_batch(images, tf.constant([0, index], tf.int64))[0, 0, 0, 0].numpy()

    return run_epoch


def make_torchvision_epoch(folder):
    """Use the transforms and the loader of the reference implementation's main_moco.py."""
    from PIL import Image, ImageFilter
    from pytorch import torch, torchvision

    transforms = torchvision.transforms

    def blur(image):
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))

    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([blur], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    files = sorted(pathlib.Path(folder).iterdir())

    class TwoCrops(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            with open(files[index], "rb") as file:
                image = Image.open(file).convert("RGB")
            return augment(image), augment(image)

    loader = torch.utils.data.DataLoader(
        TwoCrops(),
        batch_size=BATCH,
        shuffle=True,
        num_workers=len(os.sched_getaffinity(0)),
        drop_last=True,
        persistent_workers=True,
    )

    def run_epoch():
        for _ in loader:
            pass

    return run_epoch


if __name__ == "__main__":
    main()
