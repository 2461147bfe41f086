"""Two augmented views per image with NVIDIA DALI on the CPU, from JPEG files."""

import os
import pathlib
from collections.abc import Callable

from nvidia.dali import fn, pipeline_def, types

AHEAD = 2  # Number of batches that are prepared at a time.
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def make_epoch(folder: str, size: int, batch: int, is_host_part: bool) -> Callable[[], None]:
    """Build a pipeline without a GPU.

    It differs from the others in two points: the order of the color operations is always the same,
    and brightness and contrast, and hue and saturation, are one operation each.

    Args:
        folder: Folder of the JPEG files.
        size: Side of the views in pixels.
        batch: Batch size.
        is_host_part: Whether to stop after crops and flips, with uint8 images.

    Returns:
        A function that runs one epoch.
    """
    files = sorted(map(str, pathlib.Path(folder).iterdir()))

    @pipeline_def(enable_conditionals=True)
    def views():
        encoded, _ = fn.readers.file(files=files, random_shuffle=True, name="reader")
        image = fn.decoders.image(encoded, output_type=types.RGB, use_fast_idct=True)
        crops = (
            fn.random_resized_crop(image, size=size, random_area=(0.2, 1.0), antialias=True)
            for _ in range(2)
        )
        finish = _flip if is_host_part else _augment
        return tuple(finish(crop) for crop in crops)

    pipeline = views(
        batch_size=batch,
        num_threads=len(os.sched_getaffinity(0)),
        device_id=None,
        prefetch_queue_depth=AHEAD,
    )
    pipeline.build()
    steps = len(files) // batch

    def run_epoch():
        # `run` would prepare batches of the next epoch, in the turn of another contestant.
        for step in range(steps + AHEAD):
            if step < steps:
                pipeline.schedule_run()
            if step >= AHEAD:
                pipeline.share_outputs()
                pipeline.release_outputs()

    return run_epoch


def _flip(image):
    return fn.flip(image, horizontal=fn.random.coin_flip())


def _augment(image):
    """Apply the color operations, the blur, the flip and the normalization of MoCo v2."""
    if fn.random.coin_flip(probability=0.8, dtype=types.BOOL):
        image = fn.color_twist(
            image,
            brightness=fn.random.uniform(range=(0.6, 1.4)),
            contrast=fn.random.uniform(range=(0.6, 1.4)),
            saturation=fn.random.uniform(range=(0.6, 1.4)),
            hue=fn.random.uniform(range=(-36.0, 36.0)),
        )
    if fn.random.coin_flip(probability=0.2, dtype=types.BOOL):
        image = fn.saturation(image, saturation=0.0)
    if fn.random.coin_flip(probability=0.5, dtype=types.BOOL):
        # The window is as large as the standard deviation needs.
        image = fn.gaussian_blur(image, sigma=fn.random.uniform(range=(0.1, 2.0)))
    return fn.crop_mirror_normalize(
        image,
        mirror=fn.random.coin_flip(),
        mean=[255 * value for value in MEAN],
        std=[255 * value for value in STD],
        dtype=types.FLOAT,
        output_layout="CHW",
    )
