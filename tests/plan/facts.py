"""Made-up facts for the rules and the warnings of a plan."""

import dataclasses

from moco_tf.plan.facts import Devices, Images

GB = 10**9
PHOTOS = Images(
    number=50_000,
    channels=3,
    sampled=1_024,
    unreadable=0,
    side=375,
    smallest=(300, 400),
    largest=(500, 375),
    sides=(375,) * 1_024,
    is_gray=False,
    consecutive=0.01,
    random=0.003,
    copies=0.0,
    stride=1,
)
CPU = Devices("cpu", "CPU", replicas=1, memory=16 * GB, has_bfloat16=False, cores=4)
GPU = Devices("gpu", "GPU", replicas=1, memory=24 * GB, has_bfloat16=True, cores=16)


def photos(number=PHOTOS.number, side=PHOTOS.side, **changes):
    """Return the facts of images of one size."""
    size = dict(side=side, sides=(side,) * 1_024, smallest=(side, side), largest=(side, side))
    return dataclasses.replace(PHOTOS, number=number, **{**size, **changes})


def gpus(count, gigabytes, has_bfloat16=False):
    return dataclasses.replace(
        GPU, replicas=count, memory=gigabytes * GB, has_bfloat16=has_bfloat16
    )
