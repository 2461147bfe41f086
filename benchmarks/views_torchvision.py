"""Two augmented views per image with torchvision, from JPEG files."""

import io
import os
import pathlib
import random
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageFilter
from pytorch import torch, torchvision  # Before the module that imports torchvision.

from torchvision.transforms import v2  # isort: skip

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def make_pillow_epoch(folder: str, size: int, batch: int) -> Callable[[], None]:
    """Use the transforms and the loader of the reference implementation's main_moco.py.

    Args:
        folder: Folder of the JPEG files.
        size: Side of the views in pixels.
        batch: Batch size.

    Returns:
        A function that runs one epoch.
    """
    transforms = torchvision.transforms
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([_blur_with_pillow], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    def decode(data):
        return Image.open(io.BytesIO(data)).convert("RGB")

    return _make_epoch(folder, batch, decode, augment)


def make_v2_epoch(folder: str, size: int, batch: int, colors: str | None) -> Callable[[], None]:
    """Use transforms.v2, on uint8 tensors from the decoder to the flip.

    Args:
        folder: Folder of the JPEG files.
        size: Side of the views in pixels.
        batch: Batch size.
        colors: What changes the colors and blurs: `"tensors"`, in float32, which is faster than
            uint8 for these operations; `"Pillow"`; or None to stop after the flip.

    Returns:
        A function that runs one epoch.
    """
    operations = [
        v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
    ]
    jitter = [
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(p=0.2),
    ]
    to_float, normalize = v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)
    if colors == "tensors":
        # Three of the largest standard deviations on either side, as in moco-tf.
        blur = v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5)
        operations += [to_float, *jitter, blur, normalize]
    elif colors == "Pillow":
        blur = v2.RandomApply([_blur_with_pillow], p=0.5)
        operations += [v2.ToPILImage(), *jitter, blur, v2.ToImage(), to_float, normalize]
    _, decode = tensor_decoder()
    return _make_epoch(folder, batch, decode, v2.Compose(operations), prefetch_factor=4)


def _blur_with_pillow(image):
    return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def tensor_decoder() -> tuple[str, Callable[[bytes], torch.Tensor]]:
    """Return torchvision's JPEG decoder, or its substitute, and its name.

    The wheels of torchvision need the libraries of a CUDA build of torch, so beside a CPU build the
    decoder does not load, and simplejpeg replaces it. Both call libjpeg-turbo, and both return the
    pixels with the channels last in memory. simplejpeg is slightly faster, because it can use the
    fast integer DCT, as moco-tf does.
    """
    io_module = torchvision.io
    if hasattr(torch.ops.image, "decode_jpeg"):

        def decode(data):
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return io_module.decode_jpeg(encoded, io_module.ImageReadMode.RGB)

        return "torchvision.io", decode
    import simplejpeg

    def decode_with_substitute(data):
        return torch.from_numpy(simplejpeg.decode_jpeg(data, fastdct=True)).permute(2, 0, 1)

    return "simplejpeg", decode_with_substitute


def _make_epoch(folder, batch, decode, augment, **loader_settings: Any):
    """Return a function that runs an epoch of a DataLoader with a worker per core."""
    files = sorted(pathlib.Path(folder).iterdir())

    class TwoCrops(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            image = decode(files[index].read_bytes())
            return augment(image), augment(image)

    loader = torch.utils.data.DataLoader(
        TwoCrops(),
        batch_size=batch,
        shuffle=True,
        num_workers=len(os.sched_getaffinity(0)),
        drop_last=True,
        persistent_workers=True,  # Each of them has one thread.
        **loader_settings,
    )

    def run_epoch():
        for _ in loader:
            pass

    return run_epoch
