"""Images with object boxes and masks, for detection and segmentation."""

from moco_tf.data.boxes.annotations import AnnotatedImages
from moco_tf.data.boxes.readable import readable_only
from moco_tf.errors import UserError

__all__ = ["SOURCE_NAMES", "load", "readable_only"]

SOURCE_NAMES = "coco:PATH, or tfds:NAME such as tfds:voc/2007 or tfds:coco/2017"


def load(
    name: str, masks: bool = False, tfds_dir: str = "", skip_invalid: bool = False
) -> AnnotatedImages:
    """Open a data source with object annotations.

    Args:
        name: `"coco:PATH"` for a folder in COCO format, or `"tfds:NAME[/CONFIG][:VERSION][:SPLIT]"`
            for a data set of tensorflow-datasets with boxes.
        masks: Whether to load the object masks as well.
        tfds_dir: Directory of tensorflow-datasets; `""` for its default.
        skip_invalid: Whether to leave out invalid annotations instead of an error. The `tally` of
            the result counts them.

    Returns:
        The images with their annotations.

    Raises:
        UserError: If the name has neither of these forms, the data cannot be read, it has no boxes,
            a value is invalid, or `masks` is True and it has no masks.
    """
    scheme, _, location = name.partition(":")
    if scheme == "coco" and location:
        from moco_tf.data.boxes import coco

        return coco.load(name, location, masks, skip_invalid)
    if scheme == "tfds" and location:
        from moco_tf.data.boxes import tfds

        return tfds.load(name, location, masks, tfds_dir, skip_invalid)
    raise UserError(f"unknown source of annotated images '{name}': use {SOURCE_NAMES}")
