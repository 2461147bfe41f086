"""Files of features against `extract_features` of the same images, as other programs read them."""

import csv
import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import skimage.data
import tensorflow as tf

import moco_tf
from moco_tf import encoders
from moco_tf.data import sources
from moco_tf.data.sources import row_groups
from moco_tf.embedding.directory import EmbeddingDirectory
from moco_tf.embedding.formats import METADATA_KEY, Rows, read_errors, write_parquet
from moco_tf.embedding.settings import FORMATS
from moco_tf.errors import UserError
from tests.images import write_pieces

SIZE = 24
DAMAGED = "cat/3.png"
# Facts that earlier versions did not record.
NEW_FACTS = ("source_options", "source_location", "files_checksum")
PATHS = [f"{folder}/{number}.png" for folder in ("cat", "dog") for number in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pieces(tmp_path_factory.mktemp("images"), PATHS, 40, DAMAGED)


@pytest.fixture(scope="module")
def source(folder):
    return sources.load(f"folder:{folder}")


@pytest.fixture(scope="module")
def backbone():
    return encoders.random_backbone("resnet8", stem="small")


@pytest.fixture(scope="module")
def expected(backbone, source):
    """The features of all images that can be read."""
    return moco_tf.extract_features(backbone, source, "all", SIZE)


@pytest.fixture(scope="module")
def written(backbone, source, tmp_path_factory):
    """The directory of an embedding in three files."""
    out = tmp_path_factory.mktemp("features") / "out"
    facts = {"workdir": "runs/mine"}
    outcome = moco_tf.embed(backbone, source, out, SIZE, rows_per_file=4, facts=facts)
    assert outcome[:3] == (3, 10, 1)
    assert outcome.unreadable == [source.describe(3)]
    assert outcome.is_complete
    return out


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_parquet_has_a_row_for_each_image_in_order(written, source, expected):
    table = pd.read_parquet(written)
    assert table["index"].tolist() == list(range(10))
    assert table["image"].tolist() == [source.describe(index) for index in range(10)]
    assert table["label"].tolist() == [0] * 5 + [1] * 5
    assert table["class_name"].tolist() == ["cat"] * 5 + ["dog"] * 5
    readable = table[table["error"].isna()]
    assert readable.index.tolist() == expected.indices.tolist()
    features = np.stack(readable["features"])
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, expected.features)


def test_unreadable_image_is_a_row_without_features_and_with_a_reason(written):
    row = pd.read_parquet(written).loc[3]
    assert row["image"].endswith(DAMAGED)
    assert row["features"] is None
    assert row["error"].startswith("not a JPEG, PNG, GIF, BMP, WebP, TIFF, DICOM or NumPy file")


def test_files_are_of_a_fixed_number_of_rows_and_say_what_they_hold(written, backbone, source):
    files = sorted(path.name for path in written.glob("*.parquet"))
    assert files == [f"part-0000{number}-of-00003.parquet" for number in range(3)]
    assert [pq.read_metadata(written / name).num_rows for name in files] == [4, 4, 2]
    schema = pq.read_schema(written / files[0])
    assert str(schema.field("features").type) == "fixed_size_list<element: float>[64]"
    facts = json.loads(schema.metadata[METADATA_KEY])
    assert facts == json.loads((written / "_facts.json").read_text())
    assert (facts["source"], facts["image_size"]) == (source.name, SIZE)
    assert facts["backbone"] == {"workdir": "runs/mine"}
    assert sorted(path.name for path in written.iterdir()) == ["_facts.json", *files]


def test_stopped_embedding_goes_on_with_the_missing_files(written, backbone, source, tmp_path):
    out = tmp_path / "out"
    shard = (np.int64(0), np.int64(3))
    moco_tf.embed(backbone, source, out, SIZE, rows_per_file=np.int64(4), shard=shard)
    # What a kill leaves behind while it writes a file.
    (out / ".part-00001-of-00003.parquet.abcdefgh.unfinished").mkdir()
    last = "part-00002-of-00003.parquet"
    shutil.copy2(written / last, out / last)
    outcome = moco_tf.embed(backbone, source, out, SIZE, rows_per_file=4)
    # One of the images of an earlier call cannot be read.
    assert outcome[:3] == (1, 4, 1)
    assert (out / last).stat().st_mtime_ns == (written / last).stat().st_mtime_ns
    for name in ("part-00000-of-00003.parquet", "part-00001-of-00003.parquet"):
        assert pq.read_table(out / name).equals(pq.read_table(written / name))
    assert len(contents(out)) == 4
    assert moco_tf.embed(backbone, source, out, SIZE, rows_per_file=4)[:3] == (0, 0, 1)
    (out / last).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=f"{last} is damaged: delete it"):
        moco_tf.embed(backbone, source, out, SIZE, rows_per_file=4)


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("a.parquet", b"PAR1"),
        ("a.parquet", b"PAR1" + bytes(8) + b"PAR1"),
        ("a.csv", b""),
        ("a.csv", b'image,error\na.png,"not an im'),
        ("a.csv", b"image,error\na.png\n"),
        ("a.csv", b"image,error\na.png,\xff\n"),
        ("a.csv", b"image,error\na.png," + b"x" * 200_000 + b"\n"),  # Longer than a field may be.
    ],
)
def test_damaged_file_is_named(tmp_path, name, contents):
    path = tmp_path / name
    path.write_bytes(contents)
    with pytest.raises(UserError, match=f"{path} is damaged: delete it, and run the same command"):
        read_errors([str(path)])
    path.unlink()
    with pytest.raises(UserError, match=f"{path} cannot be read .*: check its permissions"):
        read_errors([str(path)])


def test_features_are_not_read_to_find_unreadable_images(tmp_path, monkeypatch):
    images = [f"{number}.png" for number in range(1000)]
    features = np.random.default_rng(0).normal(size=(1000, 512)).astype(np.float32)
    rows = Rows(features, np.arange(1000), images, [None] * 999 + ["not an image"])
    write_parquet([str(tmp_path / "a.parquet")], rows, {})
    tf.io.gfile.copy(str(tmp_path / "a.parquet"), "ram://errors.parquet", overwrite=True)
    sizes = []
    read = row_groups._RemoteFile.read

    def counted(file, size=-1):
        contents = read(file, size)
        sizes.append(len(contents))
        return contents

    monkeypatch.setattr(row_groups._RemoteFile, "read", counted)
    assert read_errors(["ram://errors.parquet"]) == [("999.png", "not an image")]
    assert 0 < sum(sizes) < 100_000 < features.nbytes
    assert read_errors([str(tmp_path / "a.parquet")]) == [("999.png", "not an image")]


@pytest.mark.parametrize("format", FORMATS)
def test_collection_of_damaged_images_is_reported_by_every_call(backbone, tmp_path, format):
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(b"\xff\xd8\xff damaged")
    source = sources.load(f"folder:{tmp_path}/images")
    for _ in range(2):
        with pytest.raises(UserError, match="none of the 3 images can be read"):
            moco_tf.embed(backbone, source, tmp_path / "out", SIZE, format=format)


def test_shards_together_are_the_whole(written, backbone, source, tmp_path):
    outcomes = [
        moco_tf.embed(backbone, source, tmp_path / "out", SIZE, rows_per_file=4, shard=(number, 2))
        for number in (1, 0)
    ]
    assert [outcome.num_files for outcome in outcomes] == [1, 2]
    assert [outcome.is_complete for outcome in outcomes] == [False, True]
    assert pq.read_table(tmp_path / "out").equals(pq.read_table(written))


def test_part_float16_and_normalization(backbone, source, expected, tmp_path):
    moco_tf.embed(
        backbone, source, tmp_path / "out", SIZE, part="test", dtype="float16", normalize=True
    )
    table = pd.read_parquet(tmp_path / "out")
    assert table["index"].tolist() == source.test.tolist()
    table = table[table["error"].isna()]
    rows = expected.features[np.isin(expected.indices, source.test)].astype(np.float64)
    unit = rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))
    features = np.stack(table["features"])
    assert features.dtype == np.float16
    np.testing.assert_allclose(features, unit, atol=2**-11)


def test_npy_has_the_features_and_a_table_of_names(written, backbone, source, expected, tmp_path):
    moco_tf.embed(backbone, source, tmp_path / "out", SIZE, rows_per_file=6, format="npy")
    names = [f"part-0000{number}-of-00002" for number in (0, 1)]
    features = np.concatenate(
        [np.load(tmp_path / "out" / f"{name}.npy", mmap_mode="r") for name in names]
    )
    assert np.isnan(features[3]).all()
    np.testing.assert_array_equal(np.delete(features, 3, axis=0), expected.features)
    table = pd.concat(pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in names)
    columns = pd.read_parquet(written).drop(columns="features")
    assert table["image"].tolist() == columns["image"].tolist()
    assert table["class_name"].tolist() == columns["class_name"].tolist()
    assert table["error"].notna().tolist() == [number == 3 for number in range(10)]


def test_csv_has_a_column_for_each_number(backbone, source, expected, tmp_path):
    moco_tf.embed(backbone, source, tmp_path / "out", SIZE, format="csv")
    with open(tmp_path / "out" / "part-00000-of-00001.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[3]["feature_0"] == ""
    numbers = [[row[f"feature_{i}"] for i in range(64)] for row in rows[:3] + rows[4:]]
    np.testing.assert_array_equal(np.array(numbers, np.float32), expected.features)


def test_source_without_labels(backbone, tmp_path):
    np.save(tmp_path / "images.npy", np.stack([skimage.data.coffee()[:SIZE, :SIZE]] * 3))
    source = sources.load(f"npy:{tmp_path}/images.npy")
    moco_tf.embed(backbone, source, tmp_path / "out", SIZE)
    assert pq.read_schema(tmp_path / "out" / "part-00000-of-00001.parquet").names == [
        *("index", "image", "error", "features")
    ]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"image_size": 32}, ["image_size=24, not 32", "use another directory"]),
        ({"dtype": "float16"}, ['dtype="float32", not "float16"']),
        ({"part": "train"}, ['part="all", not "train"']),
        ({"rows_per_file": 5}, ["rows_per_file=4, not 5"]),
    ],
)
def test_directory_with_other_features_is_refused(written, backbone, source, arguments, parts):
    before = contents(written)
    with pytest.raises(UserError) as error:
        moco_tf.embed(
            backbone, source, written, **{"image_size": SIZE, "rows_per_file": 4, **arguments}
        )
    for part in parts:
        assert part in str(error.value)
    assert contents(written) == before


def test_directory_with_features_of_images_read_otherwise_is_refused(written, backbone, folder):
    before = contents(written)
    turned = sources.load(f"folder:{folder}", orientation=True)
    with pytest.raises(UserError, match='source_options={}, not {"orientation": true}'):
        moco_tf.embed(backbone, turned, written, SIZE, rows_per_file=4)
    assert contents(written) == before


def test_directory_with_features_of_other_labels_is_refused(written, backbone, source):
    names = [f"other {name}" for name in source.class_names]
    renamed = dataclasses.replace(source, load_labels=lambda: (source.labels, names))
    with pytest.raises(UserError, match="was written with other labels or names of classes: use"):
        moco_tf.embed(backbone, renamed, written, SIZE, rows_per_file=4)


def test_directory_with_features_of_other_weights_is_refused(written, source):
    other = encoders.random_backbone("resnet8", stem="small", seed=1)
    with pytest.raises(UserError, match="was written with other weights of the backbone: use"):
        moco_tf.embed(other, source, written, SIZE, rows_per_file=4)


def network(scale):
    images = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(4, 3, kernel_initializer="ones")(
        keras.layers.Rescaling(scale)(images)
    )
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(maps))


def test_directory_with_features_of_another_preprocessing_is_refused(source, tmp_path):
    out = tmp_path / "out"
    moco_tf.embed(network(1 / 255), source, out, SIZE, rows_per_file=4, shard=(0, 2))
    with pytest.raises(UserError, match="was written with other layers of the backbone: use"):
        moco_tf.embed(network(1 / 127.5), source, out, SIZE, rows_per_file=4)
    # The same network, whose layers have other numbers in their names.
    assert moco_tf.embed(network(1 / 255), source, out, SIZE, rows_per_file=4).is_complete


def test_directory_of_an_earlier_version_is_continued(written, backbone, source, tmp_path):
    out = shutil.copytree(written, tmp_path / "out")
    facts = json.loads((out / "_facts.json").read_text())
    for name in ("network_checksum", "labels_checksum", *NEW_FACTS):
        del facts[name]
    (out / "_facts.json").write_text(json.dumps(facts))
    (out / "part-00001-of-00003.parquet").unlink()
    assert moco_tf.embed(backbone, source, out, SIZE, rows_per_file=4).num_files == 1
    assert pq.read_table(out).equals(pq.read_table(written))


def test_other_images_of_the_same_names_are_refused(written, backbone, folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    for path in other.glob("*/*.png"):  # Other pixels in files of the same names and sizes.
        path.write_bytes(path.read_bytes()[::-1])
    out = shutil.copytree(written, tmp_path / "out")
    before = contents(out)
    message = (
        f"{out} was written from 'folder:{folder}', not from 'folder:{other}': use another "
        "directory, or, if the same images were moved, leave a link at the old path"
    )
    for _ in range(2):
        with pytest.raises(UserError) as error:
            moco_tf.embed(backbone, sources.load(f"folder:{other}"), out, SIZE, rows_per_file=4)
        assert str(error.value) == message
        assert contents(out) == before
        (out / "part-00001-of-00003.parquet").unlink(missing_ok=True)
        before = contents(out)
    # An earlier version recorded only the source.
    facts = json.loads((out / "_facts.json").read_text())
    for name in NEW_FACTS:
        del facts[name]
    (out / "_facts.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=message):
        moco_tf.embed(backbone, sources.load(f"folder:{other}"), out, SIZE, rows_per_file=4)


def test_same_images_are_recognized_by_every_path_to_them(
    written, backbone, folder, tmp_path, monkeypatch
):
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    for path in (f"{folder}/", folder.name, f"./{folder.name}", tmp_path / "link"):
        source = sources.load(f"folder:{path}")
        assert moco_tf.embed(backbone, source, written, SIZE, rows_per_file=4).num_files == 0


def test_moved_images_are_recognized(backbone, folder, tmp_path):
    old, new, out = tmp_path / "old", tmp_path / "new", tmp_path / "out"
    shutil.copytree(folder, old)
    moco_tf.embed(backbone, sources.load(f"folder:{old}"), out, SIZE, rows_per_file=4)
    old.rename(new)
    moved = sources.load(f"folder:{new}")
    assert moco_tf.embed(backbone, moved, out, SIZE, rows_per_file=4).num_files == 0
    # A directory of an earlier version has nothing to recognize them by but the place.
    facts = json.loads((out / "_facts.json").read_text())
    del facts["files_checksum"]
    (out / "_facts.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="if the same images were moved, leave a link"):
        moco_tf.embed(backbone, moved, out, SIZE, rows_per_file=4)
    old.symlink_to(new)
    assert moco_tf.embed(backbone, moved, out, SIZE, rows_per_file=4).num_files == 0


def test_changed_images_are_named_in_words(backbone, folder, tmp_path):
    images, out = shutil.copytree(folder, tmp_path / "images"), tmp_path / "out"

    def embed():
        source = sources.load(f"folder:{images}")
        return moco_tf.embed(backbone, source, out, SIZE, rows_per_file=4)

    embed()
    shutil.copy2(images / "cat" / "0.png", images / "dog" / "9.png")
    remedy = "use another directory, or restore the images"
    with pytest.raises(UserError) as error:
        embed()
    assert str(error.value) == (
        f"the images of 'folder:{images}' have changed since {out} was written (10 images then, "
        f"11 now): {remedy}"
    )
    (images / "dog" / "1.png").unlink()
    with pytest.raises(UserError, match="written .10 images then and now, but not the same.: use"):
        embed()
    shutil.copy2(folder / "dog" / "1.png", images / "dog" / "1.png")
    (images / "dog" / "9.png").unlink()
    assert embed().num_files == 0
    shutil.copy2(images / "dog" / "0.png", images / "dog" / "1.png")
    with pytest.raises(UserError, match=f"^the contents of the files of .* have changed.*{remedy}"):
        embed()


def test_function_without_weights_is_recognized_by_its_facts(source, tmp_path):
    def corner(images):
        return images[:, 0, 0]

    with pytest.raises(UserError, match="set facts"):
        moco_tf.embed(corner, source, tmp_path / "out", SIZE)
    moco_tf.embed(corner, source, tmp_path / "out", SIZE, facts={"name": "corner"})
    outcome = moco_tf.embed(corner, source, tmp_path / "out", SIZE, facts={"name": "corner"})
    assert outcome.num_files == 0
    with pytest.raises(UserError, match="was written with backbone="):
        moco_tf.embed(corner, source, tmp_path / "out", SIZE, facts={"name": "mean"})


def test_processes_that_start_together_write_one_directory(written, backbone, source, tmp_path):
    # What another process leaves while it writes its facts, or after it was killed.
    (tmp_path / "out" / "._facts.json.abcdefgh.unfinished").mkdir(parents=True)
    with ThreadPoolExecutor(8) as pool:
        directories = list(
            pool.map(
                lambda number: EmbeddingDirectory(
                    str(tmp_path / "race"),
                    {
                        **{"num_images": 1, "rows_per_file": 1, "format": "parquet"},
                        **{"weights_checksum": "a", "source": "b", "source_location": "b"},
                        "moco_tf": number,
                    },
                ),
                range(8),
            )
        )
    assert len(directories) == 8
    assert json.loads((tmp_path / "race" / "_facts.json").read_text())["moco_tf"] in range(8)
    moco_tf.embed(backbone, source, tmp_path / "out", SIZE, rows_per_file=4)
    assert pq.read_table(tmp_path / "out").equals(pq.read_table(written))


def test_file_without_its_table_is_named(backbone, source, tmp_path):
    moco_tf.embed(backbone, source, tmp_path / "out", SIZE, format="npy")
    (tmp_path / "out" / "part-00000-of-00001.csv").unlink()
    with pytest.raises(UserError, match=r"\.npy exists without .*\.csv: delete it"):
        moco_tf.embed(backbone, source, tmp_path / "out", SIZE, format="npy")


@pytest.mark.parametrize("shape", ["map", "vector"])
def test_backbone_that_returns_no_features_is_refused(source, tmp_path, shape):
    def backbone(images):
        return images if shape == "map" else images[:, 0, 0, 0]

    with pytest.raises(UserError, match=r"it must return features \[N, D\]"):
        moco_tf.embed(backbone, source, tmp_path / "out", SIZE, facts={"name": shape})


def test_other_directory_is_refused(backbone, source, tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match="exists and holds no features"):
        moco_tf.embed(backbone, source, tmp_path, SIZE)
    with pytest.raises(UserError, match="exists and holds no features"):
        moco_tf.embed(backbone, source, tmp_path / "thesis.tex", SIZE)
    assert contents(tmp_path) == {"thesis.tex": b"..."}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "xlsx"}, "format=xlsx: choose one of parquet, npy, csv"),
        ({"dtype": "int8"}, "dtype=int8: choose one of float32, float16"),
        ({"rows_per_file": 10.5}, "rows_per_file=10.5: must be an integer, 1 or greater"),
        ({"shard": (0.0, 2)}, r"shard=\(0.0, 2\): must be two integers"),
        ({"rows_per_file": 0}, "rows_per_file=0: must be 1 or greater"),
        ({"shard": (4, 4)}, "shard=4/4: must be i/n"),
        ({"shard": (0, 0)}, "shard=0/0: must be i/n"),
        ({"image_size": 0}, "image_size=0: must be 1 or greater"),
    ],
)
def test_invalid_argument(backbone, source, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        moco_tf.embed(backbone, source, tmp_path / "out", **{"image_size": SIZE, **arguments})
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_finite_are_not_written(source, tmp_path):
    def diverged(images):
        return images[:, 0, 0] * float("nan")

    with pytest.raises(UserError, match="NaN or infinity"):
        moco_tf.embed(diverged, source, tmp_path / "out", SIZE, facts={"name": "a"})
    assert list(contents(tmp_path / "out")) == ["_facts.json"]


def test_features_that_float16_cannot_represent(source, tmp_path):
    def large(images):
        return 1e4 * images[:, 0, 0]

    facts = {"name": "large"}

    with pytest.raises(UserError, match="float16 cannot represent"):
        moco_tf.embed(large, source, tmp_path / "out", SIZE, dtype="float16", facts=facts)
    moco_tf.embed(
        large, source, tmp_path / "unit", SIZE, dtype="float16", normalize=True, facts=facts
    )


def test_images_none_of_which_can_be_read(backbone, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("not an image")
    source = sources.load(f"folder:{tmp_path}")
    with pytest.raises(UserError, match="none of the 2 images can be read"):
        moco_tf.embed(backbone, source, tmp_path / "out", SIZE)


def test_network_of_build_gets_its_normalization(backbone, source, expected, tmp_path):
    network = encoders.without_normalization(backbone)
    moco_tf.embed(network, source, tmp_path, SIZE)
    features = pd.read_parquet(tmp_path)["features"].dropna()
    np.testing.assert_array_equal(np.stack(features), expected.features)
    # It is recognized as the same network with its normalization.
    assert moco_tf.embed(network, source, tmp_path, SIZE).num_files == 0
    assert moco_tf.embed(backbone, source, tmp_path, SIZE).num_files == 0
