"""Prepared images: the same data source at a bounded size, in a few files."""

import io
import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

import moco_tf
from moco_tf.errors import UserError
from tests.images import crops, write_folder

FORMATS = ["tfrecord", "arrayrecord", "webdataset"]


def write_classes(folder, **options):
    """Write ten images of 40 pixels to each of two folders; one image of each is damaged."""
    write_folder(folder, images_per_class=10, **options)
    (folder / "left" / "003.jpg").write_bytes(b"no image")
    contents = (folder / "right" / "004.jpg").read_bytes()
    (folder / "right" / "004.jpg").write_bytes(contents[:300])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("images") / "images")


@pytest.fixture
def source(folder):
    return moco_tf.load_source(f"folder:{folder}")


def images(source, indices):
    return {
        int(i): source.read(tf.constant(i, tf.int64)).numpy().astype(int)
        for i in indices
        if not source.describe(int(i)).endswith(("left/003.jpg", "right/004.jpg"))
    }


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("format", FORMATS)
def test_result_is_the_same_source(source, format, tmp_path):
    outcome = moco_tf.prepare(source, tmp_path / "out", format=format, images_per_file=6)
    assert outcome.is_complete
    assert (outcome.num_images, outcome.num_copied, outcome.num_dropped) == (18, 18, 2)
    assert outcome.bytes == outcome.source_bytes
    prepared = moco_tf.load_source(outcome.data)
    assert prepared.size == 18
    assert prepared.class_names == ["left", "right"]
    for part in ("pretrain", "train", "test"):
        expected = images(source, source.part(part))
        found = images(prepared, prepared.part(part))
        assert len(found) == len(expected)
        # The order within a part is the same, but the parts are in different files.
        if part != "pretrain":
            for old, new in zip(expected, found, strict=True):
                np.testing.assert_array_equal(found[new], expected[old])
                assert prepared.labels[new] == source.labels[old]
    assert np.isin(prepared.test, prepared.pretrain).all()


@pytest.mark.parametrize("format", FORMATS)
def test_parts_are_kept(format, tmp_path):
    for number, part in enumerate(("train", "val", "unlabeled")):
        write_folder(tmp_path / "images" / part, images_per_class=2 + number)
    source = moco_tf.load_source(f"folder:{tmp_path}/images")
    outcome = moco_tf.prepare(source, tmp_path / "out", format=format, max_side=20)
    assert outcome.num_copied == 0
    prepared = moco_tf.load_source(outcome.data)
    for part in ("pretrain", "train", "test"):
        assert len(prepared.part(part)) == len(source.part(part))
    assert not np.isin(prepared.test, prepared.pretrain).any()
    assert prepared.labels[prepared.test].tolist() == [0, 0, 0, 1, 1, 1]
    assert prepared.class_names == ["left", "right"]
    assert max(images(prepared, [0])[0].shape) == 20


def test_test_images_that_pretraining_sees_and_others_are_both_kept(tmp_path):
    write_folder(tmp_path / "whole", images_per_class=10)
    for part in ("train", "val"):
        write_folder(tmp_path / "parts" / part, images_per_class=4)
    mixture = moco_tf.load_source(f"folder:{tmp_path}/whole;folder:{tmp_path}/parts")
    # The first source holds out images that pre-training sees, and the second has a folder `val`.
    num_held_out = int(np.isin(mixture.test, mixture.pretrain).sum())
    assert 0 < num_held_out == len(mixture.test) - 8
    prepared = moco_tf.load_source(moco_tf.prepare(mixture, tmp_path / "out").data)
    assert "(heldout, test)" in prepared.summary

    def pixels(source, part):
        indices = [tf.constant(index, tf.int64) for index in source.part(part).tolist()]
        return sorted(source.read(index).numpy().tobytes() for index in indices)

    for part in ("pretrain", "train", "test"):
        assert pixels(prepared, part) == pixels(mixture, part)
    assert np.isin(prepared.test, prepared.pretrain).sum() == num_held_out


def test_images_are_shrunk_with_all_formats_of_files(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(crops(6, 96)):
        path = folder / f"{number}.{['jpg', 'png', 'webp'][number % 3]}"
        Image.fromarray(image).save(path, **({"lossless": True} if number % 3 == 2 else {}))
    source = moco_tf.load_source(f"folder:{folder}")
    outcome = moco_tf.prepare(source, tmp_path / "out", max_side=48, quality=95)
    prepared = moco_tf.load_source(outcome.data)
    assert not prepared.has_labels
    order = np.concatenate([np.setdiff1d(np.arange(6), source.train), source.train])
    for index, old in enumerate(order):
        original = Image.fromarray(source.read(tf.constant(old, tf.int64)).numpy())
        expected = np.asarray(original.resize((48, 48), Image.Resampling.LANCZOS)).astype(int)
        assert np.abs(images(prepared, [index])[index] - expected).mean() < 5


def test_dropped_images_are_listed_with_reasons(source, folder, tmp_path):
    moco_tf.prepare(source, tmp_path / "out", images_per_file=6)
    lines = (tmp_path / "out" / "dropped.tsv").read_text().splitlines()
    found = dict(line.split("\t") for line in lines)
    assert set(found) == {f"{folder}/left/003.jpg", f"{folder}/right/004.jpg"}
    assert found[f"{folder}/left/003.jpg"].startswith("not a JPEG, PNG, GIF, BMP, WebP, TIFF, ")


def test_records_have_the_names_of_tf_slim(source, folder, tmp_path):
    moco_tf.prepare(source, tmp_path / "out")
    [path] = (tmp_path / "out").glob("train-00000-of-00001.tfrecord")
    [payload, *_] = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    features = tf.train.Example.FromString(payload).features.feature
    values = {
        name: (feature.bytes_list.value or feature.int64_list.value)[0]
        for name, feature in features.items()
    }
    contents = values.pop("image/encoded")
    first = source.describe(int(source.train[0]))
    with open(first, "rb") as file:
        assert contents == file.read()
    assert values == {
        "image/format": b"jpeg",
        "image/filename": first.encode(),
        "image/height": 40,
        "image/width": 40,
        "image/class/label": 0,
        "image/class/text": b"left",
    }
    assert (tmp_path / "out" / "labels.txt").read_text() == "0:left\n1:right\n"


def test_labels_are_positions_whose_names_are_in_a_file(tmp_path):
    paths = []
    for name, image in zip(["0", "1", "2", "10"], crops(4, 20), strict=True):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            paths.append(tmp_path / "images" / name / f"{number}.png")
            Image.fromarray(image).save(paths[-1])
    lines = [f"{path}\t{[7, 3, 9, 3][number % 4]}\n" for number, path in enumerate(paths)]
    (tmp_path / "list.txt").write_text("".join(lines))
    for name, class_names in (
        (f"files:{tmp_path}/list.txt", ["3", "7", "9"]),
        (f"folder:{tmp_path}/images", ["0", "1", "10", "2"]),
    ):
        out = tmp_path / name[:5]
        prepared = moco_tf.load_source(moco_tf.prepare(moco_tf.load_source(name), out).data)
        lines = (out / "labels.txt").read_text().splitlines()
        assert lines == [f"{label}:{name}" for label, name in enumerate(class_names)]
        assert prepared.class_names == class_names


def test_array_records_can_be_read_alone(source, tmp_path):
    moco_tf.prepare(source, tmp_path / "out", format="arrayrecord")
    [path] = (tmp_path / "out").glob("train-*.array_record")
    reader = ArrayRecordReader(str(path))
    assert "group_size:1," in reader.writer_options_string()
    assert reader.num_records() == len(images(source, source.train))


def test_tar_files_are_those_of_webdataset(source, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    moco_tf.prepare(source, tmp_path / "out", format="webdataset")
    [path] = (tmp_path / "out").glob("train-*.tar")
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    expected = list(images(source, source.train))
    assert [int(sample["__key__"]) for sample in samples] == expected
    assert [int(sample["cls"]) for sample in samples] == source.labels[expected].tolist()
    facts = json.loads(samples[0]["json"])
    assert facts == {"name": source.describe(expected[0]), "label": 0, "class_name": "left"}
    with tarfile.open(path) as archive:
        assert {(member.mtime, member.uid) for member in archive} == {(0, 0)}


@pytest.mark.parametrize("format", FORMATS)
def test_stopped_preparation_goes_on_with_the_missing_files(source, format, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    options = {"format": format, "images_per_file": 5, "max_side": 30}
    expected = moco_tf.prepare(source, whole, **options)
    first = moco_tf.prepare(source, out, shard=(1, 2), **options)
    assert not first.is_complete
    assert not (out / "dropped.tsv").exists()
    # What a kill leaves behind while it writes a file.
    (out / ".train-00000-of-00004.tar.abcdefgh.unfinished").mkdir()
    kept = files(out)
    outcome = moco_tf.prepare(source, out, **options)
    assert outcome == expected._replace(data=outcome.data, num_files=outcome.num_files)
    assert outcome.num_files + first.num_files == expected.num_files == 5
    assert files(out).items() >= kept.items()
    for name, contents in files(whole).items():
        if not name.endswith(".array_record"):
            assert (out / name).read_bytes() == contents
    before = files(out)
    assert moco_tf.prepare(source, out, **options).num_files == 0
    assert files(out) == before


def test_failure_within_a_file_leaves_none_of_it(source, tmp_path, monkeypatch):
    from moco_tf.preparation import prepare as module

    suffix, write = module.WRITERS["tfrecord"]

    def write_part(path, items):
        write(path, [next(items)])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setitem(module.WRITERS, "tfrecord", (suffix, write_part))
        with pytest.raises(UserError, match="No space left on device.*free some space there"):
            moco_tf.prepare(source, tmp_path / "out")
    assert set(files(tmp_path / "out")) == {"_facts.json", "labels.txt"}
    assert moco_tf.prepare(source, tmp_path / "out").is_complete


def test_arrays_become_png_files(tmp_path):
    arrays = np.stack(crops(10, 24))
    np.save(tmp_path / "a.npy", arrays)
    np.save(tmp_path / "a.labels.npy", np.arange(10) % 2)
    source = moco_tf.load_source(f"npy:{tmp_path}/a.npy")
    outcome = moco_tf.prepare(source, tmp_path / "out")
    assert outcome.source_bytes == 0
    prepared = moco_tf.load_source(outcome.data)
    order = [*source.test, *source.train]
    for index, old in enumerate(order):
        np.testing.assert_array_equal(images(prepared, [index])[index], arrays[old])
    assert prepared.labels.tolist() == [old % 2 for old in order]


@pytest.mark.parametrize("is_mixture", [False, True])
def test_upright_files_are_copied_where_others_are_turned(tmp_path, is_mixture):
    folder = tmp_path / "images"
    folder.mkdir()
    orientations = [None, 1, 6, 0, 3, None]
    for number, (image, orientation) in enumerate(zip(crops(6, 40), orientations, strict=True)):
        exif = Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        Image.fromarray(image[:30]).save(folder / f"{number}.jpg", exif=exif)
    plain = moco_tf.load_source(f"folder:{folder}")
    names = [plain.name]
    if is_mixture:
        records = moco_tf.prepare(moco_tf.load_source(plain.name), tmp_path / "records")
        names.append(records.data)
    source = moco_tf.load_source(";".join(names), orientation=True)
    outcome = moco_tf.prepare(source, tmp_path / "out")
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert outcome.source_bytes == sum(sizes) * len(names)
    prepared = moco_tf.load_source(outcome.data)
    order = np.concatenate([np.setdiff1d(source.pretrain, source.train), source.train])
    for index, old in enumerate(order.tolist()):
        read = source.read(tf.constant(old, tf.int64)).numpy()
        np.testing.assert_array_equal(images(prepared, [index])[index], read)
        if old < 6:
            with open(plain.describe(old), "rb") as file:
                is_copy = prepared.read_file(tf.constant(index, tf.int64)).numpy() == file.read()
            assert is_copy == (orientations[old] not in (6, 3))


def test_containers_can_be_prepared_again(source, tmp_path):
    first = moco_tf.prepare(source, tmp_path / "a", format="webdataset")
    second = moco_tf.prepare(
        moco_tf.load_source(first.data), tmp_path / "b", format="arrayrecord", max_side=20
    )
    prepared = moco_tf.load_source(second.data)
    assert prepared.class_names == ["left", "right"]
    assert (second.num_images, second.num_dropped) == (18, 0)


def test_files_of_a_mixture_are_copied(tmp_path):
    write_folder(tmp_path / "images", images_per_class=3)
    folder = moco_tf.load_source(f"folder:{tmp_path}/images")
    records = moco_tf.prepare(folder, tmp_path / "records")
    mixture = moco_tf.load_source(f"{folder.name};{records.data}")
    outcome = moco_tf.prepare(mixture, tmp_path / "out")
    assert (outcome.num_images, outcome.num_copied) == (12, 12)
    assert outcome.bytes == outcome.source_bytes == 2 * records.bytes
    prepared = moco_tf.load_source(outcome.data)
    copies = {
        prepared.read_file(tf.constant(index, tf.int64)).numpy() for index in range(prepared.size)
    }
    assert copies == {path.read_bytes() for path in (tmp_path / "images").rglob("*.jpg")}


@pytest.mark.parametrize("name", ["p[1]", "a*b?", "[!x]", "[[", "out]"])
def test_data_names_the_directory_whatever_its_name(tmp_path, name):
    write_folder(tmp_path / "images", images_per_class=2)
    write_folder(tmp_path / "more", images_per_class=1)
    # Directories that match the name as a pattern.
    for other in ("p1", "aabb", "y"):
        moco_tf.prepare(moco_tf.load_source(f"folder:{tmp_path}/more"), tmp_path / other)
    source = moco_tf.load_source(f"folder:{tmp_path}/images")
    outcome = moco_tf.prepare(source, tmp_path / name)
    assert moco_tf.load_source(outcome.data).size == outcome.num_images == 4


def test_remote_directory(source, tmp_path):
    outcome = moco_tf.prepare(source, "ram://prepared/out", images_per_file=8)
    assert outcome.is_complete
    assert moco_tf.load_source(outcome.data).class_names == ["left", "right"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_side": 32}, "was written with max_side=512, not 32: use another directory"),
        ({"format": "webdataset"}, 'format="tfrecord", not "webdataset"'),
        ({"quality": 80}, "quality=90, not 80"),
    ],
)
def test_directory_with_other_settings_is_refused(source, tmp_path, options, message):
    moco_tf.prepare(source, tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match=message):
        moco_tf.prepare(source, tmp_path / "out", **options)
    assert files(tmp_path / "out") == before


def test_directory_of_other_images_is_refused(source, folder, tmp_path):
    moco_tf.prepare(source, tmp_path / "out")
    write_folder(tmp_path / "other", images_per_class=10, side=30)  # The names are the same.
    (tmp_path / "out" / "train-00000-of-00001.tfrecord").unlink()
    with pytest.raises(UserError, match=f"from 'folder:{folder}', not from .*/other': use another"):
        moco_tf.prepare(moco_tf.load_source(f"folder:{tmp_path}/other"), tmp_path / "out")
    outcome = moco_tf.prepare(source, tmp_path / "records")
    records = moco_tf.load_source(outcome.data)
    moco_tf.prepare(records, tmp_path / "again")
    unlabeled = moco_tf.load_source(outcome.data, label_feature="")
    with pytest.raises(UserError, match='{"label_feature": ""}, other labels or names of c.*: use'):
        moco_tf.prepare(unlabeled, tmp_path / "again")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a.tex").write_text("...")
    with pytest.raises(UserError, match="exists and holds no prepared images"):
        moco_tf.prepare(source, tmp_path / "thesis")


def test_changed_images_are_named_in_words(tmp_path):
    folder, out = write_folder(tmp_path / "images", images_per_class=6), tmp_path / "out"
    moco_tf.prepare(moco_tf.load_source(f"folder:{folder}"), out)
    for name in ("006.jpg", "007.jpg"):
        (folder / "left" / name).write_bytes((folder / "left" / "000.jpg").read_bytes())
    with pytest.raises(UserError, match=r"have changed since .*/out was written \(12 .*, 14 now\)"):
        moco_tf.prepare(moco_tf.load_source(f"folder:{folder}"), out)


def test_directory_of_images_that_were_read_with_other_options_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, image in enumerate(crops(6, 24)):
            for name, pixels in (("left", image), ("right", image[:, ::-1])):
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                member = tarfile.TarInfo(f"{number}.{name}.png")
                member.size = buffer.tell()
                archive.addfile(member, io.BytesIO(buffer.getvalue()))

    def load(extension):
        return moco_tf.load_source(f"webdataset:{tmp_path}/a.tar", image_feature=extension)

    out = tmp_path / "out"
    moco_tf.prepare(load("left.png"), out, images_per_file=2, shard=(0, 2))
    before = files(out)
    with pytest.raises(UserError, match='"left.png".*, not .*"right.png".*use another directory'):
        moco_tf.prepare(load("right.png"), out, images_per_file=2, shard=(1, 2))
    assert files(out) == before
    assert moco_tf.prepare(load("left.png"), out, images_per_file=2, shard=(1, 2)).is_complete
    # Directories of earlier versions do not record the options.
    facts = json.loads((out / "_facts.json").read_text())
    del facts["source_options"]
    (out / "_facts.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match='source_options={}, not {"image_feature": "left.png"}'):
        moco_tf.prepare(load("left.png"), out, images_per_file=2)


def test_directory_of_an_earlier_version_is_continued(source, tmp_path):
    out = tmp_path / "out"
    moco_tf.prepare(source, out, images_per_file=6, shard=(0, 2))
    facts = json.loads((out / "_facts.json").read_text())
    assert facts.pop("source_options") == {}
    del facts["source_location"], facts["files_checksum"]
    (out / "_facts.json").write_text(json.dumps(facts))
    assert moco_tf.prepare(source, out, images_per_file=6).is_complete


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "zip"}, "format=zip: choose one of tfrecord, arrayrecord, webdataset"),
        ({"max_side": 0}, "max_side=0: must be 1 or greater"),
        ({"max_side": 16.5}, "max_side=16.5: must be an integer, 1 or greater"),
        ({"quality": "90"}, "quality='90': must be an integer, between 1 and 95"),
        ({"images_per_file": 2.0}, "images_per_file=2.0: must be an integer, 1 or greater"),
        ({"shard": None}, r"shard=None: must be two integers \(i, n\)"),
        ({"shard": "0/2"}, r"shard='0/2': must be two integers \(i, n\)"),
        ({"images_per_file": 0}, "images_per_file=0: must be 1 or greater"),
        ({"quality": 96}, "quality=96: must be between 1 and 95"),
        ({"shard": (2, 2)}, "shard=2/2: must be i/n"),
    ],
)
def test_invalid_argument(source, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        moco_tf.prepare(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("channels", "dtype"), [(5, "uint8"), (3, "uint16")])
def test_images_that_are_not_rgb_with_8_bits_are_refused(tmp_path, channels, dtype):
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8, channels), dtype))
    source = moco_tf.load_source(f"npy:{tmp_path}/a.npy", pixels=dtype)
    with pytest.raises(UserError, match=f"with {channels} channels of the type {dtype}, but only"):
        moco_tf.prepare(source, tmp_path / "out")


def test_images_none_of_which_can_be_read(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("not an image")
    with pytest.raises(UserError, match="none of the 2 images can be read: .*dropped.tsv says why"):
        moco_tf.prepare(moco_tf.load_source(f"folder:{tmp_path}"), tmp_path / "out")


def test_every_decoder_reads_the_result(source, tmp_path):
    moco_tf.prepare(source, tmp_path / "out", max_side=20)
    for path in (tmp_path / "out").glob("*.tfrecord"):
        for payload in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(payload).features.feature
            contents = features["image/encoded"].bytes_list.value[0]
            assert Image.open(io.BytesIO(contents)).size == (20, 20)
