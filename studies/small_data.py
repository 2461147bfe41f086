"""The command `python -m studies.small_data`: which settings suit a small data set."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from moco_tf.cli import app
from moco_tf.errors import UserError
from studies import seeds

HELP = """Compare settings of pre-training on up to 50,000 images of Fashion-MNIST, and on photos.

    python -m studies.small_data
    python -m studies.small_data --sizes=4000,photos --seeds=0
    python -m studies.small_data --figures_only

Every run differs in one setting, or a few that belong together, from a base of 1,000 steps in
batches of 128 or, on photos, from the config of the demo with half its epochs. Backbones are
evaluated on images that were set aside from the training images, never on the test images, so that
the settings can be chosen by the results. The whole study takes many hours on two CPU cores. It
writes a results.json for each data set after every run, and a figure at the end; run the same
command again to continue a study that was stopped.

The images are those of Debian's package dataset-fashion-mnist.
"""

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
SIZES = (1000, 4000, 16000, 50000)
# Stands for a number of images: patches of two thirds of the training blocks of `photos`.
PHOTOS = "photos"
# The last training images, on which backbones are evaluated: their labels are known to the study.
NUM_EVALUATED = 10_000
BASE_STEPS = 1000
PHOTOS_STEPS = 2016  # Half of those of the demo.
# How many times as long a step takes on views that are twice as wide (measured).
TWICE_AS_WIDE = 2.3


def define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "data", FASHION_MNIST, "Folder of the IDX files of Fashion-MNIST.", flag_values=values
    )
    flags.DEFINE_string(
        "out", "studies/small_data", "Directory of the results.", flag_values=values
    )
    flags.DEFINE_string(
        "workdir",
        "runs/small_data",
        "Local directory for the images and the run directories.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "sizes",
        [*(str(size) for size in SIZES), PHOTOS],
        "Numbers of images of Fashion-MNIST to pre-train on, or photos, separated by commas.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "figures_only", False, "Plot the figure from --out without running.", flag_values=values
    )
    seeds.define_flag(values, default=[0, 1])


def design(num_images: int) -> list[dict[str, Any]]:
    """Return the settings of the runs on a number of images, each a change of the base.

    Args:
        num_images: Number of images N.

    Returns:
        A list of settings; the first is the untrained encoder and the second the base.
    """
    changes: list[dict[str, Any]] = [{"epochs": 0, "steps": 0}, {}]
    changes += [{"image_size": size} for size in (10, 20, 28)]
    # As many steps as the base makes in the same time.
    changes.append({"image_size": 28, "steps": round(BASE_STEPS / TWICE_AS_WIDE)})
    for share in (64, 16, 4, 1):
        changes.append({"queue_size": max(16, power_of_two(num_images / share))})
    changes += [{"momentum": momentum} for momentum in (0.9, 0.999)]
    changes.append({"bn_groups": 1, "shuffle_bn": False})
    changes.append({"shuffle_bn": False})
    changes += [{"bn_groups": groups} for groups in (2, 4, 16)]
    changes += [{"bn_groups": groups, "shuffle_bn": False} for groups in (2, 4, 16)]
    changes += [{"temperature": temperature} for temperature in (0.07, 0.2)]
    changes += [{"learning_rate": rate} for rate in (0.12, 0.48)]
    # As many images in all, so that only the size of a batch changes.
    changes += [
        {"batch_size": size, "bn_groups": size // 16, "steps": BASE_STEPS * 128 // size}
        for size in (64, 256)
    ]
    for steps, momentum in ((BASE_STEPS // 4, 0.9), (4 * BASE_STEPS, 0.999)):
        changes += [{"steps": steps}, {"steps": steps, "momentum": momentum}]
    changes += [
        {"augment.crop_scale": [0.08, 1.0]},
        {"augment.crop_scale": [0.5, 1.0]},
        {"augment.jitter_probability": 1.0},
        {"augment.blur_probability": 0.0},
    ]
    return changes


def design_on_photos() -> list[dict[str, Any]]:
    """Return the settings of the runs on photos, each a change of the demo's config.

    Returns:
        A list of settings; the first is the untrained encoder and the second the base.
    """
    v2 = {"augmentation": "v2", "rgb_operations": False}
    return [
        {"epochs": 0, "steps": 0},
        {},
        *({"image_size": size} for size in (12, 20, 24, 32)),
        # As many steps as the base makes in the same time.
        {"image_size": 32, "steps": round(PHOTOS_STEPS / TWICE_AS_WIDE)},
        {"augment.jitter_probability": 0.8},
        {"augment.crop_scale": [0.08, 1.0]},
        {"augment.crop_scale": [0.4, 1.0]},
        v2,
        {"head": "mlp", "temperature": 0.2},
        {**v2, "head": "mlp", "temperature": 0.2},
        {"temperature": 0.07},
        {"temperature": 0.2},
        {"bn_groups": 1, "shuffle_bn": False},
        {"shuffle_bn": False},
        {"bn_groups": 4},
        {"queue_size": 256},
        {"queue_size": 4096},
        {"momentum": 0.9},
        {"momentum": 0.999},
        {"learning_rate": 0.12},
        {"learning_rate": 0.48},
        {"batch_size": 64, "bn_groups": 4, "steps": 2 * PHOTOS_STEPS},
        # As many forward and backward passes.
        {"symmetric_loss": True, "steps": PHOTOS_STEPS // 2},
    ]


def _seconds(settings: dict[str, Any]) -> float:
    """Return what the training of a run takes, in an arbitrary unit."""
    return settings["steps"] * settings["image_size"] ** np.log2(TWICE_AS_WIDE)


def power_of_two(number: float) -> int:
    """Return the nearest power of two."""
    return 2 ** round(np.log2(number))


def base_config(num_images: int, workdir: str) -> Any:
    """Return the base config for a number of images.

    Args:
        num_images: Number of images N.
        workdir: Directory of the images.
    """
    from moco_tf.configs.photos import get_config

    config = get_config()
    config.data.source = f"npy:{workdir}/first_{num_images}.npy"
    config.monitor_source = f"npy:{workdir}/evaluated.npy"
    config.image_size, config.evaluation_size = 14, 28
    config.augmentation = "v2"
    config.rgb_operations = False
    config.queue_size = power_of_two(num_images / 8)
    config.steps = BASE_STEPS
    config.log_every = 100
    config.checkpoint_every = 500
    return config


def base_config_on_photos(workdir: str) -> Any:
    """Return the base config on photos, that of the demo on other images.

    Args:
        workdir: Directory of the images.
    """
    from moco_tf.configs.photos import get_config

    config = get_config()
    config.data.source = f"folder:{workdir}/{PHOTOS}"
    config.steps = PHOTOS_STEPS
    return config


def write_photos(workdir: str) -> None:
    """Write the training patches of photos as PNG files, unless they are there.

    The parts are `train` and `val`. The latter has the patches of a third of the training blocks.
    Like the test blocks of the source, they share no pixel with the others.

    Args:
        workdir: Directory to write to.

    Raises:
        UserError: If the directory has other patches.
    """
    import PIL.Image

    from moco_tf.data.sources.photos import BLOCK, load_patches
    from moco_tf.new_paths import new_directory

    folder = os.path.join(workdir, PHOTOS)
    patches = load_patches()
    images = {}
    for index in patches.train:
        row, column = patches.corners[index] // BLOCK
        # The test blocks are those with the remainder 0.
        part = "val" if (row + 2 * column) % 4 == 2 else "train"
        name = os.path.join(part, patches.class_names[patches.labels[index]], f"{index:05}.png")
        images[name] = patches.images[index, ..., 0]
    if os.path.exists(folder):
        for name, image in images.items():
            if not _is_picture_of(os.path.join(folder, name), image):
                raise UserError(
                    f"--workdir={workdir}: {os.path.join(folder, name)} does not hold the patch of "
                    "photos of this version: choose another --workdir and another --out"
                )
        return
    os.makedirs(workdir, exist_ok=True)
    with new_directory(folder) as unfinished:
        for name, image in images.items():
            path = os.path.join(unfinished, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            PIL.Image.fromarray(image).save(path)


def _is_picture_of(path: str, image: np.ndarray) -> bool:
    """Return whether an image file holds an array."""
    import PIL.Image

    try:
        with PIL.Image.open(path) as picture:
            return np.array_equal(np.asarray(picture), image)
    except OSError:  # There is no such file, or it is no image.
        return False


def write_images(folder: str, workdir: str, sizes: Sequence[int]) -> None:
    """Write the arrays of Fashion-MNIST that the runs read, unless they are there.

    Args:
        folder: Folder of the IDX files.
        workdir: Directory to write to.
        sizes: Numbers of images to pre-train on.

    Raises:
        UserError: If the files cannot be read, there are fewer images, or the directory has arrays
            of others.
    """
    from moco_tf.data.sources.idx import load_parts

    train, _ = load_parts(folder)
    images = train.images[..., np.newaxis]
    if max(sizes) > len(images) - NUM_EVALUATED:
        raise UserError(
            f"--sizes={max(sizes)}: there are only {len(images) - NUM_EVALUATED} images for "
            f"pre-training in {folder}, because {NUM_EVALUATED} are set aside"
        )
    os.makedirs(workdir, exist_ok=True)
    arrays = {f"first_{size}": images[:size] for size in sizes}
    assert train.labels is not None
    arrays["evaluated"] = images[-NUM_EVALUATED:]
    arrays["evaluated.labels"] = train.labels[-NUM_EVALUATED:]
    paths = {name: os.path.join(workdir, f"{name}.npy") for name in arrays}
    written = {name for name, path in paths.items() if os.path.exists(path)}
    for name in written:
        if not _holds(paths[name], arrays[name]):
            raise UserError(
                f"--workdir={workdir}: {paths[name]} does not hold the images of --data={folder}: "
                "choose another --workdir and another --out, or delete the file if it is incomplete"
            )
    for name in arrays.keys() - written:
        np.save(paths[name], arrays[name])


def _holds(path: str, array: np.ndarray) -> bool:
    """Return whether a file of `numpy.save` holds an array."""
    try:
        return np.array_equal(np.load(path), array)
    except (OSError, EOFError, ValueError):  # It is no such file, or an incomplete one.
        return False


def run(values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Run the study as the flags say, and return the exit status."""
    for size in values.sizes or [""]:
        if size != PHOTOS and not re.fullmatch("[1-9][0-9]*", size):
            raise UserError(
                f"--sizes={size}: use integers of 1 or greater or {PHOTOS}, separated by commas"
            )
    chosen_seeds = seeds.parse(values)
    sizes = [int(size) for size in values.sizes if size != PHOTOS]

    from moco_tf.config import flatten
    from studies import experiments, small_data_figure, study

    if values.figures_only:
        print(f"wrote {small_data_figure.write(values.out)}")
        return 0

    if sizes:
        write_images(values.data, values.workdir, sizes)
    if PHOTOS in values.sizes:
        write_photos(values.workdir)
    for seed in chosen_seeds:
        for name in values.sizes:
            if name == PHOTOS:
                config, changes = base_config_on_photos(values.workdir), design_on_photos()
            else:
                config, changes = base_config(int(name), values.workdir), design(int(name))
            base = flatten(config)
            planned = {}
            for settings in changes:
                differing = experiments.differences(base, settings)
                cost = 0.3 + _seconds(base | differing) / _seconds(base)
                planned[experiments.run_name(base, settings)] = study.Planned(differing, cost)
            stopped_by = study.run(
                config,
                planned,
                seeds=[seed],
                out=os.path.join(values.out, name),
                workdir=os.path.join(values.workdir, name),
                command=shlex.join(["python", "-m", "studies.small_data", *arguments]),
            )
            if stopped_by is not None:
                return 128 + stopped_by
    print(f"wrote {small_data_figure.write(values.out)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = app.Command(
        "studies.small_data",
        HELP,
        define_flags,
        lambda values: run(values, arguments),
    )
    return app.run(command, arguments)


if __name__ == "__main__":
    sys.exit(main())
