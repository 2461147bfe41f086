"""The settings of a pre-training run: keys, defaults, ranges and help texts in one place.

`moco_tf.default_config`, the checks of a config, `train.py --help` and the documentation are made
from this table. A new setting is one entry here. A default is the paper's where the paper states
the setting.
"""

import dataclasses
from typing import Any

from moco_tf.data.pixels import DTYPES
from moco_tf.data.recipes import RECIPES
from moco_tf.ranges import COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, Range


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of a run.

    Attributes:
        key: Its key in the config, such as `"data.source"`.
        default: Its default value. None for that of the preset of the augmentation.
        help: One sentence on what it is, with its unit.
        range: Its valid values. For a setting that is a tuple, those of its items.
        operational: Whether it may change when a run is resumed, because it affects what is logged
            and saved and not what is computed.
        value_type: Type of its values if the default is None.
    """

    key: str
    default: Any
    help: str
    range: Range = Range()
    operational: bool = False
    value_type: type | None = None

    def error(self, value: Any) -> str | None:
        """Return what is wrong with a value and which values are valid, or None."""
        if value is None and self.default is None:
            return None
        return self.range.error(value)


MAX_CHANNELS = 512  # OpenCV resizes no more.
# Values of the kNN monitor that are larger for better features.
BEST_VALUES = ("knn_top1", "effective_rank")
# The default of a setting whose default is None, in words.
FROM_PRESET = "that of the preset"


def _of_preset(name: str, help: str, range: Range) -> Setting:
    """Return a setting `augment.NAME`, which changes a number of the preset."""
    value_type = tuple if range.is_pair else float
    return Setting(f"augment.{name}", None, help, range, value_type=value_type)


GROUPS: dict[str, tuple[Setting, ...]] = {
    "Method": (
        Setting(
            "mechanism",
            "moco",
            "Contrastive mechanism: MoCo, or one of the two that the paper compares it with "
            "(section 3.2).",
            Range(choices=("moco", "memory_bank", "end_to_end")),
        ),
        Setting(
            "encoder",
            "resnet50",
            "Network of the backbone, such as resnet18, resnet50, resnet50w2 or resnext50_32x8d; "
            "keras:NAME for a network of keras.applications, keras_hub:PRESET, or FILE.keras.",
        ),
        Setting(
            "stem",
            "imagenet",
            "First layers of a ResNet; small is for images of about 32 pixels.",
            Range(choices=("imagenet", "small")),
        ),
        Setting(
            "init",
            "",
            "Weights that the encoders start from: run:DIR, saved_model:DIR, keras:FILE, "
            "keras_hub:PRESET or checkpoint:FILE (of PyTorch); empty for random weights.",
        ),
        Setting(
            "init_checksum",
            "",
            "SHA-256 checksum of these weights, which the run fills in; set it to require them.",
        ),
        Setting(
            "head",
            "linear",
            "Projection head: one linear layer (MoCo v1), or a hidden layer before it (MoCo v2).",
            Range(choices=("linear", "mlp")),
        ),
        Setting("dim", 128, "Number of dimensions of queries and keys.", COUNT),
        Setting(
            "queue_size",
            65536,
            "Number of negatives K: keys in the queue, or negatives sampled from the memory bank; "
            "0 for mechanism=end_to_end, which uses the other images of the batch.",
            NOT_NEGATIVE,
        ),
        Setting(
            "momentum",
            0.999,
            "Momentum m of the key encoder, equation 2 (mechanism=moco only).",
            FRACTION,
        ),
        Setting(
            "bank_momentum",
            0.5,
            "Momentum of the representations in the memory bank (mechanism=memory_bank only).",
            FRACTION,
        ),
        Setting("temperature", 0.07, "Temperature of InfoNCE, equation 1.", POSITIVE),
        Setting(
            "bn_groups",
            8,
            "Number of groups that the global batch is split into for BatchNormalization, such as "
            "one for each of the paper's 8 GPUs. batch_size is a multiple of it, and it is a "
            "multiple of the number of devices.",
            COUNT,
        ),
        Setting(
            "shuffle_bn",
            True,
            "Whether to shuffle the keys among the BatchNormalization groups (section 3.3).",
        ),
        Setting(
            "symmetric_loss",
            False,
            "Whether each of the two views of an image is query and key in turn, as in the "
            "reference implementation's notebook for CIFAR-10.",
        ),
    ),
    "Data": (
        Setting(
            "data.source",
            "",
            "Images to train on, such as folder:PATH, files:LIST, npy:FILE, tfrecord:GLOB, "
            "arrayrecord:GLOB, webdataset:GLOB, parquet:GLOB, video:PATH, tfds:NAME, idx:PATH "
            "or photos; required. Several, separated by semicolons, are mixed.",
        ),
        Setting(
            "data.weights",
            (),
            "How often the images of each of several sources are used, relative to the others, "
            "such as 3,1; empty to use every image equally often.",
            Range(above=0),
        ),
        Setting(
            "data.on_error",
            "skip",
            "What to do with an image of pre-training that cannot be read: replace it by another "
            "image and count it, or stop.",
            Range(choices=("skip", "fail")),
            operational=True,
        ),
        Setting(
            "data.image_feature",
            "image/encoded",
            "Feature of a record that holds the encoded image (tfrecord and arrayrecord sources). "
            "Another value chooses the extension of the images in webdataset files, the column of "
            "parquet files or the feature of a tfds data set.",
        ),
        Setting(
            "data.label_feature",
            "image/class/label",
            "Feature of a record that holds the label; empty for none (tfrecord and arrayrecord "
            "sources). Another value chooses the extension or the JSON key of the labels in "
            "webdataset files, the column of parquet files or the feature of a tfds data set.",
        ),
        Setting(
            "data.tfds_dir",
            "",
            "Directory of the data sets; empty for the default of tensorflow-datasets (tfds "
            "sources only).",
        ),
        Setting(
            "data.pixels",
            "uint8",
            "Type of the pixel values: uint8, or uint16 or float32 for images with more than 8 "
            "bits per channel (folder, files and npy sources only).",
            Range(choices=DTYPES),
        ),
        Setting(
            "data.channels",
            0,
            "Number of channels of the images (folder and files sources only); 0 for RGB.",
            Range(minimum=0, maximum=MAX_CHANNELS),
        ),
        Setting(
            "data.value_range",
            "auto",
            "Pixel values of black and white, such as 0,4095; auto for the whole range of an "
            "integer type, or measure for the 0.1 and 99.9 percentiles of a sample, which the run "
            "fills in.",
        ),
        Setting(
            "data.mean",
            "imagenet",
            "Mean that is subtracted from each channel, where 0 is black and 1 is white, such as "
            "0.5 or 0.4,0.5,0.6; imagenet for ImageNet's (their average if there are not three "
            "channels), or measure for that of a sample, which the run fills in.",
        ),
        Setting(
            "data.std",
            "imagenet",
            "Standard deviation that each channel is divided by, as for data.mean.",
        ),
        Setting(
            "data.orientation",
            False,
            "Whether to turn images as their EXIF orientation says (folder and files sources "
            "only).",
        ),
        Setting(
            "data.frame_seconds",
            1.0,
            "Seconds between the frames of a video that are used as images; 0 for all frames "
            "(video sources only).",
            NOT_NEGATIVE,
        ),
        Setting(
            "data.key_frame_seconds",
            0.0,
            "Largest time in seconds between the frame of the query view and that of the key view, "
            "which is then another frame of the same shot; 0 for the same frame, as in the paper "
            "(video sources only; not mechanism=memory_bank).",
            NOT_NEGATIVE,
        ),
        Setting(
            "data.neighbor_seconds",
            0.0,
            "Time in seconds around the frame of a query within which frames of the same video are "
            "not among its negatives; 0 for none, as in the paper (video sources and "
            "mechanism=moco only).",
            NOT_NEGATIVE,
        ),
        Setting("image_size", 224, "Side of a view in pixels.", COUNT),
        Setting(
            "evaluation_size",
            0,
            "Side of the central views of the kNN monitor, and by default of evaluations and "
            "exports, in pixels. It must be at least image_size; 0 means image_size. Training on "
            "smaller views takes less time.",
            NOT_NEGATIVE,
            operational=True,
        ),
    ),
    "Augmentation": (
        Setting(
            "augmentation",
            "v1",
            "Preset of the augmentation: that of MoCo v1, of MoCo v2, of the reference "
            "implementation's notebook for CIFAR-10, or any_orientation for images without an up "
            "direction, such as overhead images and microscopy. The settings augment.* change "
            "single values of it.",
            Range(choices=tuple(RECIPES)),
        ),
        Setting(
            "rgb_operations",
            True,
            "Whether the augmentation changes saturation and hue and converts to grayscale; set it "
            "to False for images that do not have three channels.",
        ),
        _of_preset(
            "crop_scale",
            "Smallest and largest fraction of an image's area in a random crop.",
            Range(above=0, maximum=1, is_pair=True),
        ),
        _of_preset(
            "aspect_ratio",
            "Smallest and largest ratio of width to height of a random crop.",
            Range(minimum=0.1, maximum=10, is_pair=True),
        ),
        _of_preset(
            "horizontal_flip", "Probability that left and right of a view are exchanged.", FRACTION
        ),
        _of_preset(
            "vertical_flip", "Probability that top and bottom of a view are exchanged.", FRACTION
        ),
        _of_preset(
            "quarter_turns",
            "Probability that a view is turned by 0, 90, 180 or 270 degrees, each equally likely.",
            FRACTION,
        ),
        _of_preset(
            "jitter_probability",
            "Probability that brightness, contrast, saturation and hue change, in random order.",
            FRACTION,
        ),
        _of_preset(
            "brightness",
            "Strength a of changes in brightness: the factor is between 1 - a and 1 + a, and never "
            "below 0.",
            NOT_NEGATIVE,
        ),
        _of_preset(
            "contrast", "Strength of changes in contrast, as for augment.brightness.", NOT_NEGATIVE
        ),
        _of_preset(
            "saturation",
            "Strength of changes in saturation, as for augment.brightness.",
            NOT_NEGATIVE,
        ),
        _of_preset(
            "hue",
            "Largest shift of the hue in either direction, in turns of the color wheel.",
            Range(minimum=0, maximum=0.5),
        ),
        _of_preset("gray_probability", "Probability of conversion to grayscale.", FRACTION),
        _of_preset("blur_probability", "Probability of Gaussian blur.", FRACTION),
        _of_preset(
            "blur_sigma",
            "Smallest and largest standard deviation of the blur in pixels of the view.",
            Range(above=0, maximum=20, is_pair=True),
        ),
        _of_preset(
            "solarize_probability",
            "Probability of solarization, which inverts values from a threshold on.",
            FRACTION,
        ),
        _of_preset(
            "solarize_threshold",
            "Threshold of solarization, where 0 is black and 1 is white.",
            FRACTION,
        ),
        _of_preset(
            "noise_probability",
            "Probability of Gaussian noise, independent for each pixel and channel.",
            FRACTION,
        ),
        _of_preset(
            "noise_std",
            "Standard deviation of the noise, where 0 is black and 1 is white.",
            Range(above=0, maximum=1),
        ),
    ),
    "Optimization": (
        Setting(
            "seed",
            0,
            "Random seed of the initial weights, the order of the images, the augmentation and "
            "the shuffling.",
            NOT_NEGATIVE,
        ),
        Setting("batch_size", 256, "Number of images in a batch, over all devices.", COUNT),
        Setting("epochs", 200, "Length of the run in epochs.", COUNT),
        Setting(
            "steps", 0, "Length of the run in steps, instead of epochs; 0 for epochs.", NOT_NEGATIVE
        ),
        Setting(
            "learning_rate",
            0.03,
            "Initial learning rate for 256 images, scaled linearly with batch_size.",
            POSITIVE,
        ),
        Setting(
            "scale_learning_rate",
            True,
            "Whether to scale learning_rate by batch_size / 256.",
        ),
        Setting(
            "schedule",
            "step",
            "Learning rate schedule: steps at milestones (MoCo v1), half a cosine (MoCo v2), or "
            "exponential decay (Instagram-1B).",
            Range(choices=("step", "cosine", "exponential")),
        ),
        Setting(
            "milestones",
            (120, 160),
            "Epochs at which the learning rate is multiplied by 0.1 (schedule=step only).",
            COUNT,
        ),
        Setting(
            "decay_every",
            62500,
            "Number of steps after which the learning rate is multiplied by 0.9 "
            "(schedule=exponential only).",
            COUNT,
        ),
        Setting("sgd_momentum", 0.9, "Momentum of SGD.", FRACTION),
        Setting(
            "weight_decay",
            1e-4,
            "Weight decay, an L2 penalty whose gradient is added to that of every parameter.",
            NOT_NEGATIVE,
        ),
        Setting(
            "precision",
            "float32",
            "Precision of the encoders' computation; variables, normalization statistics and the "
            "loss stay float32.",
            Range(choices=("float32", "mixed_bfloat16", "mixed_float16")),
        ),
        Setting(
            "jit_compile",
            False,
            "Whether to compile the training step with XLA: all of it on one device, the parts "
            "between the communication on several.",
        ),
    ),
    "Logging and saving": (
        Setting(
            "log_every",
            10,
            "Number of steps between lines of metrics.jsonl.",
            COUNT,
            operational=True,
        ),
        Setting(
            "checkpoint_every",
            1000,
            "Number of steps between checkpoints.",
            COUNT,
            operational=True,
        ),
        Setting(
            "knn_every",
            10,
            "Number of epochs between evaluations by the kNN monitor, whose accuracy needs labels; "
            "0 for none.",
            NOT_NEGATIVE,
            operational=True,
        ),
        Setting(
            "monitor_source",
            "",
            "Images that the kNN monitor evaluates, named as data.source; empty for those of "
            "data.source.",
            operational=True,
        ),
        Setting(
            "keep_best",
            "",
            "Value of the kNN monitor whose best checkpoint is kept in WORKDIR/best, a run "
            "directory of its own: knn_top1 or effective_rank; empty for none.",
            Range(choices=("", *BEST_VALUES)),
            operational=True,
        ),
    ),
}
SETTINGS: tuple[Setting, ...] = tuple(setting for group in GROUPS.values() for setting in group)
