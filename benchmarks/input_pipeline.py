"""Times the way from JPEG files to two augmented views, beside torchvision's.

    python benchmarks/input_pipeline.py                    (some five minutes)

Images of 500 x 375 pixels, two views of 224 x 224 by MoCo v2's augmentation, all on this machine's
CPU. The contestants take turns, an epoch each, and the medians are compared. The table goes to
benchmarks/input_pipeline.json as well.

    ours, host          reading, decoding, two crops, flips: what feeds an accelerator
    ours, whole         and colours, blur and normalisation, which an accelerator would do
    torchvision         all of it, with Pillow, in a DataLoader with a worker for each core
"""

import json
import os
import pathlib
import sys
import tempfile

import turns
from absl import app, flags
from jpeg_files import write_images

HERE = pathlib.Path(__file__).parent

CONTESTANTS = ("ours, host", "ours, whole", "torchvision")
SIZE = 224
BATCH = 64

IMAGES = flags.DEFINE_integer("images", 4096, "In an epoch.", lower_bound=BATCH)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Epochs of each contestant.", lower_bound=1)
CONTESTANT = flags.DEFINE_string("contestant", None, "Be this one; for the script itself.")
FOLDER = flags.DEFINE_string("folder", None, "Of the images; for the script itself.")


def main(_):
    if CONTESTANT.value:
        epochs = {
            "ours, host": lambda: our_epoch(augmented=False),
            "ours, whole": lambda: our_epoch(augmented=True),
            "torchvision": torchvision_epoch,
        }
        turns.serve(epochs[CONTESTANT.value]())
        return
    with tempfile.TemporaryDirectory() as folder:
        size = write_images(folder, IMAGES.value)

        def command(name):
            return [__file__, f"--contestant={name}", f"--folder={folder}"]

        median, last = turns.compare(CONTESTANTS, command, ROUNDS.value)
    rate = {name: IMAGES.value / seconds for name, seconds in median.items()}
    cores = len(os.sched_getaffinity(0))
    print(
        f"{IMAGES.value} JPEG files of {size / 1024:.0f} KiB, {cores} cores, medians of "
        f"{ROUNDS.value} epochs in turns"
    )
    print(f"{'':16}{'images/s':>10}{'of torchvision':>16}{'GiB':>7}")
    for name in CONTESTANTS:
        ratio = rate[name] / rate["torchvision"]
        print(f"{name:16}{rate[name]:10.0f}{ratio:16.2f}{last[name]['peak'] / 2**30:7.2f}")
    result = {
        "images": IMAGES.value,
        "bytes_per_image": size,
        "cores": cores,
        "rounds": ROUNDS.value,
        "images_per_second": rate,
    }
    (HERE / "input_pipeline.json").write_text(json.dumps(result, indent=2) + "\n")


def our_epoch(augmented):
    sys.path.insert(0, str(HERE.parent))
    import tensorflow as tf

    from moco_tf.data import sources
    from moco_tf.data.augment import Augment
    from moco_tf.data.pipeline import TwoViews
    from moco_tf.data.recipes import RECIPES

    recipe = RECIPES["v2"]
    batches = TwoViews(
        sources.load(f"folder:{FOLDER.value}"), SIZE, recipe.crop_scale, BATCH, seed=0
    )
    augment = Augment(recipe)

    @tf.function
    def photometric(images, seed):
        return augment(images, tf.range(BATCH), BATCH, seed)

    def epoch():
        for views in batches.between(0, batches.steps_per_epoch):
            if augmented:
                for place, images in enumerate(views):
                    photometric(images, tf.constant([0, place], tf.int64))[0, 0, 0, 0].numpy()

    return epoch


def torchvision_epoch():
    """The reference implementation's transforms and loader, as its main_moco.py has them."""
    import random

    sys.path.insert(0, str(HERE.parent))
    from PIL import Image, ImageFilter

    from tests.pytorch import torch, torchvision

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
    files = sorted(pathlib.Path(FOLDER.value).iterdir())

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

    def epoch():
        for _ in loader:
            pass

    return epoch


if __name__ == "__main__":
    app.run(main)
