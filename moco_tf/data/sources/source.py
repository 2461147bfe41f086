"""The interface of a data source: images by index, with labels if there are any."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from moco_tf.data.pixels import BYTES
from moco_tf.data.sources.indices import Blocks, Indices, is_in
from moco_tf.data.timeline import Timeline
from moco_tf.errors import UserError

if TYPE_CHECKING:
    # Not at run time, because `moco_tf.config` reads this module and loads without TensorFlow.
    import tensorflow as tf

SOURCE_NAMES = (
    "photos, folder:PATH, files:LIST, npy:FILE, idx:PATH, tfrecord:GLOB, arrayrecord:GLOB, "
    "webdataset:GLOB, parquet:GLOB, video:PATH or tfds:NAME"
)
PARTS = ("train", "test", "pretrain", "all")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Source:
    """Images by index, with labels if there are any.

    Attributes:
        name: The string that names the source, such as `"folder:PATH"`.
        size: Number of images, N.
        read: Function from an index, an int64 scalar tensor, to an image, `[H, W, channels]` of
            the type `dtype`. It works inside tf.data functions. An image that cannot be read
            raises a `tf.errors.OpError` there.
        describe: Function from an index to a short description of the image for messages, such as
            its path.
        pretrain: Indices of the images for pre-training: an int64 array, or for sources with very
            many images `Blocks`, which are used like one. They are in ascending order.
        train: Indices of the training images of an evaluation, likewise.
        test: Indices of the test images of an evaluation, likewise, disjoint from `train`.
        load_labels: Function that returns the labels, int32 `[N]`, and the names of the classes;
            None if the source has no labels. The label of a record that cannot be read is -1. The
            function is called when `labels` or `class_names` is first read, because it may have to
            read every record.
        channels: Number of channels of every image; 3 for RGB.
        ignored: Paths of the files and folders that were skipped because they are not images. Those
            of folders end in a slash.
        no_labels: Why there are no labels, as a phrase such as "the images are not in class
            folders"; "" if there are labels or nothing more is known.
        found: Where the images were found, as a phrase for the summary.
        part_names: Names of the parts that `pretrain`, `train` and `test` were found in, or "".
        notes: Further lines of the summary.
        collection_notes: Those of `collection_summary`; None for the same as `notes`.
        list_contents: Function that returns what the indices depend on: the names of the files in
            their order, or a line about each file of records. A run that is resumed compares it.
        list_files: Function that returns the paths of the files that hold the images, which may be
            relative; none if the source does not read all images of its files, or reads no files.
        mixture: For a mixture of sources with weights, the number of images for pre-training and
            the weight of each source, in the order of the sources.
        read_file: Function like `read`, but it returns the contents of the image file, a scalar
            string tensor; None if the images are not files but arrays.
        turns: Whether `read` turns images as the EXIF orientation of their files says. The contents
            that `read_file` returns are not turned.
        dtype: Type of the pixel values: `"uint8"`, `"uint16"` or `"float32"`.
        value_range: The pixel values of black and white.
        timeline: When the images were taken, if they are frames of videos; otherwise None.
        options: The arguments of `moco_tf.load_source` that the images depend on and that differ
            from their defaults, as values of JSON. Those of a mixture are by part, such as
            `{"source 1": {"orientation": True}}`.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> source
        <moco_tf source 'photos': 9,934 images>
        >>> len(source.train), len(source.test), source.class_names[0]
        (8116, 1818, 'astronaut')
    """

    name: str
    size: int
    read: "Callable[[tf.Tensor], tf.Tensor]"
    describe: Callable[[int], str]
    pretrain: Indices
    train: Indices
    test: Indices
    load_labels: Callable[[], tuple[np.ndarray, list[str]]] | None = None
    channels: int = 3
    ignored: list[str] = dataclasses.field(default_factory=list)
    no_labels: str = ""
    found: str = ""
    part_names: tuple[str, str, str] = ("", "", "")
    notes: tuple[str, ...] = ()
    collection_notes: tuple[str, ...] | None = None
    # A factory, because a function in the class would be a method.
    list_contents: Callable[[], list[bytes]] = dataclasses.field(default_factory=lambda: list)
    list_files: Callable[[], Iterable[bytes]] = dataclasses.field(default_factory=lambda: tuple)
    mixture: tuple[tuple[int, float], ...] = ()
    read_file: "Callable[[tf.Tensor], tf.Tensor] | None" = None
    turns: bool = False
    dtype: str = "uint8"
    value_range: tuple[float, float] = BYTES
    timeline: Timeline | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def summary(self) -> str:
        """What was found, in a few lines: the numbers of images, the parts, what was ignored.

        Labels are not loaded for it.
        """
        return self._summarize(is_pretraining=True)

    @property
    def evaluation_summary(self) -> str:
        """As `summary`, without the number of images that pre-training would use."""
        return self._summarize(is_pretraining=False)

    @property
    def collection_summary(self) -> str:
        """As `summary`, without what pre-training and an evaluation would use."""
        notes = self.notes if self.collection_notes is None else self.collection_notes
        return "\n".join([self._found_images(), *notes])

    def _found_images(self) -> str:
        if self.has_labels:
            labels = "" if self.found else " with labels"
        else:
            labels = f"; no labels, because {self.no_labels}" if self.no_labels else "; no labels"
        images = "image" if self.size == 1 else "images"
        return f"{self.name}: {self.size:,} {images}{' ' * bool(self.found)}{self.found}{labels}"

    def _summarize(self, is_pretraining: bool) -> str:
        pretrain, train, test = (f" ({name})" if name else "" for name in self.part_names)
        uses = f"pre-training uses {len(self.pretrain):,} of them{pretrain}; " * is_pretraining
        some = sample(self.test, 100)
        num_seen = sum(is_in(index, self.pretrain) for index in some)
        held_out = " held-out images" if num_seen else ""
        if num_seen and is_pretraining:
            held_out += ", some of which " if num_seen < len(some) else ", which "
            held_out += "pre-training sees too"
        lines = [
            self._found_images(),
            f"{uses}an evaluation trains on {len(self.train):,}{train} and tests on "
            f"{len(self.test):,}{test}{held_out}",
            *self.notes,
        ]
        return "\n".join(lines)

    @property
    def has_labels(self) -> bool:
        """Whether the images have labels. Unlike `labels`, this loads nothing."""
        return self.load_labels is not None

    @property
    def labels(self) -> np.ndarray | None:
        """Labels, int32 `[N]`, indices into `class_names`; None if there are none.

        Classes of the same name may have other labels in another source.
        """
        return self._labels_and_class_names[0]

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes; None if there are no labels."""
        return self._labels_and_class_names[1]

    @functools.cached_property
    def _labels_and_class_names(self) -> tuple[np.ndarray, list[str]] | tuple[None, None]:
        return (None, None) if self.load_labels is None else self.load_labels()

    def part(self, name: str) -> Indices:
        """Return the indices of the images of a part, in ascending order.

        Args:
            name: `"train"` or `"test"`, the two disjoint parts of an evaluation; `"pretrain"`, the
                images of pre-training; or `"all"`.

        Raises:
            UserError: If there is no such part.
        """
        if not isinstance(name, str) or name not in PARTS:
            raise UserError(f"part={name!r:.100}: choose one of {', '.join(PARTS)}")
        return Blocks([0], [self.size]) if name == "all" else getattr(self, name)

    def chosen(self, indices: ArrayLike) -> np.ndarray:
        """Return indices of images as an array, after checking them.

        Args:
            indices: Indices of images, such as a slice of `train`.

        Returns:
            int64 `[M]`.

        Raises:
            UserError: If they are not the indices of images of this source.
        """
        try:
            array = np.asarray(indices)
        except ValueError:  # Lists of different lengths.
            array = np.array(None)
        if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
            raise UserError(
                f"part={indices!r:.100}: choose one of {', '.join(PARTS)}, or pass the indices of "
                "images, an array [M] of integers"
            )
        outside = array[(array < 0) | (array >= self.size)]
        if outside.size:
            raise UserError(
                f"part has the index {outside[0]}: data source '{self.name}' has the images 0 to "
                f"{self.size - 1}"
            )
        return array.astype(np.int64)

    def __repr__(self) -> str:
        return f"<moco_tf source {self.name!r}: {self.size:,} images>"


def require_source(source: Any) -> None:
    """Raise a `UserError` unless an argument is a data source that was opened.

    Args:
        source: The argument `source` of a function.
    """
    if not isinstance(source, Source):
        is_text = isinstance(source, str)
        given = f"the text {source!r}" if is_text else f"of the type {type(source).__name__}"
        raise UserError(
            f"source is {given}: pass an open data source, the result of "
            f"moco_tf.load_source({repr(source) if is_text else '...'})"
        )


def evenly_spaced(indices: Indices, count: int) -> np.ndarray:
    """Return at most `count` of the indices, evenly spaced over them.

    Args:
        indices: int64 `[N]`.
        count: Number of indices to return; all of them if there are fewer.

    Returns:
        int64 `[min(N, count)]`.

    Example:
        >>> evenly_spaced(np.arange(10), 3).tolist()
        [0, 3, 6]
    """
    if len(indices) <= count:
        return np.asarray(indices)
    return indices[np.arange(count) * len(indices) // count]


def sample(indices: Indices, count: int) -> np.ndarray:
    """Return at most `count` of the indices, which stand for all of them in a measurement.

    The indices are divided into `count` parts of about the same size, and one is drawn at random
    from each part. Every class has its share, whether the images are sorted by class or are of
    the classes in turns. In the second case, evenly spaced images may all be of one class.

    Args:
        indices: int64 `[N]`.
        count: Number of indices to return; all of them if there are fewer.

    Returns:
        int64 `[min(N, count)]`, in the order of the indices. The same N and `count` always give the
        same positions, so that different networks are measured on the same images.

    Example:
        >>> sample(np.arange(100), 5).tolist()
        [19, 38, 49, 76, 83]
    """
    if len(indices) <= count:
        return np.asarray(indices)
    bounds = np.arange(count + 1) * len(indices) // count
    numbers = np.random.Philox(key=0).random_raw(count) % np.diff(bounds).astype(np.uint64)
    return indices[bounds[:-1] + numbers.astype(np.int64)]
