"""The facts that a plan depends on: what the images and the devices are.

This module and `moco_tf/plan/rules.py` load without TensorFlow, because configs/auto.py needs them.
"""

import dataclasses

from moco_tf.data.pixels import BYTES

# A plan calls two images near-duplicates if their difference hashes, of 64 bits, differ in at most
# this number of bits. `moco_tf/plan/images.py` computes the hashes.
MAX_DIFFERING_BITS = 10
# Share of near-duplicates among consecutive images from which on they count as frames of a video.
# Consecutive frames of a slow camera have 0.4 to 1.0, and unrelated photos have 0.02.
MANY_CONSECUTIVE = 0.2
# Share of near-duplicates among random pairs from which on the images count as repetitive.
# Fashion-MNIST, which has ten classes of centered objects, has 0.05, and unrelated photos 0.003.
MANY_RANDOM = 0.1


@dataclasses.dataclass(frozen=True)
class Images:
    """What the images of a run are, according to a sample of them.

    Attributes:
        number: Number of images for pre-training.
        channels: Number of channels that the source gives every image.
        sampled: Number of images in the sample.
        unreadable: Number of images in the sample that cannot be read.
        side: Median of the shorter sides, in pixels.
        smallest: Height and width of the image with the shortest side in the sample.
        largest: Height and width of the image with the most pixels in the sample.
        sides: Shorter sides of the sampled images in pixels, in ascending order.
        is_gray: Whether every image in the sample is gray.
        consecutive: Share of near-duplicates among pairs of consecutive images.
        random: Share of near-duplicates among random pairs of images.
        copies: Share of identical images among random pairs of images.
        stride: The plan counts one of this number of consecutive images as distinct; 1 unless
            many consecutive images are near-duplicates.
        unreadable_names: Names of a few images that cannot be read.
        pixels: Type of the pixel values.
        value_range: The pixel values of black and white.
        turned: Share of the image files with an EXIF orientation that the source does not apply.
    """

    number: int
    channels: int
    sampled: int
    unreadable: int
    side: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    sides: tuple[int, ...]
    is_gray: bool
    consecutive: float
    random: float
    copies: float
    stride: int
    unreadable_names: tuple[str, ...] = ()
    pixels: str = "uint8"
    value_range: tuple[float, float] = BYTES
    turned: float = 0.0

    @property
    def distinct(self) -> int:
        """Number of images, of which near-duplicates of the previous image do not count."""
        return max(self.number // self.stride, 1)

    @property
    def is_video(self) -> bool:
        """Whether many consecutive images are near-duplicates, unlike random pairs of images."""
        return self.consecutive >= MANY_CONSECUTIVE and self.consecutive > 2 * self.random


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Attributes:
        kind: `"cpu"`, `"gpu"` or `"tpu"`.
        names: Names of the kinds of devices, for messages.
        replicas: Number of devices that share a batch, over all machines.
        memory: Memory of each replica in bytes; None if it is unknown.
        has_bfloat16: Whether the devices compute fast in bfloat16.
        cores: Number of CPU cores that this process may use.
        unused_gpus: Number of GPUs that TensorFlow sees and the strategy does not use.
        has_hidden_gpu: Whether this machine has an NVIDIA GPU, and TensorFlow sees none.
    """

    kind: str
    names: str
    replicas: int
    memory: int | None
    has_bfloat16: bool
    cores: int
    unused_gpus: int = 0
    has_hidden_gpu: bool = False
