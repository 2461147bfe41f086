"""The `webdataset` source, on files of the webdataset package and of tarfile."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import Recipe
from moco_tf.data.sources.index_cache import FOLDER
from moco_tf.errors import UserError
from tests.data.sources.encoded import assert_images, png, read_image, settle


def write_tar(path, files, format=tarfile.GNU_FORMAT):
    """Write a tar file with files of these names and contents."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, contents in files:
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    return path


def sample(number, **members):
    members = {"png": png(number)[1], **members}
    return [(f"a/{number:03}.{name}", contents) for name, contents in members.items()]


def write_samples(path, numbers, **members):
    files = [file for n in numbers for file in sample(n, cls=b"%d" % (n % 3), **members)]
    return write_tar(path, files)


def load(pattern, **options):
    return sources.load(f"webdataset:{pattern}", **options)


def test_files_of_the_webdataset_package_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(f"{tmp_path}/data-%03d.tar", maxcount=4, verbose=0) as writer:
        for number in range(10):
            writer.write(
                {
                    "__key__": f"{number:05}",
                    "png": png(number)[1],
                    "cls": number % 3,
                    "json": {"label": 7},
                }
            )
    source = load(tmp_path / "data-*.tar")
    assert_images(source, range(10))
    paths = sorted(map(str, tmp_path.glob("data-*.tar")))
    expected = [
        (item["__key__"], int(item["cls"]))
        for item in webdataset.WebDataset(paths, shardshuffle=False)
    ]
    assert source.labels.tolist() == [label for _, label in expected]
    assert source.class_names == ["0", "1", "2"]
    names = [source.describe(index) for index in range(10)]
    keys = [key for key, _ in expected]
    assert names == [f"{key}.png in {paths[i // 4]}" for i, key in enumerate(keys)]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar_is_read(tmp_path, format):
    files = [(f"{'é' * 60}/{'b' * 40}{n}.png", png(n)[1]) for n in range(3)]
    source = load(write_tar(tmp_path / "a.tar", files, format))
    assert_images(source, range(3))


def test_labels_are_in_cls_or_json(tmp_path):
    files = [
        *sample(0, cls=b"dog\n"),
        *sample(1, json=b'{"label": "cat"}'),
        *sample(2, json=b'"dog"'),
        *sample(3, cls=b"cat", json=b'{"label": "dog"}'),
        *sample(4, json=b"{damaged"),
        *sample(5, json=b'{"name": "x"}'),
        *sample(6),
    ]
    source = load(write_tar(tmp_path / "a.tar", files))
    assert source.class_names == ["cat", "dog"]
    assert source.labels.tolist() == [1, 0, 1, 0, -1, -1, -1]
    assert source.pretrain.tolist() == list(range(7))
    assert set(source.train) | set(source.test) == {0, 1, 2, 3}
    assert not load(tmp_path / "a.tar", label_feature="").has_labels


def test_whole_numbers_in_json_are_integers(tmp_path):
    values = ["1.0", "0", "2.0", "1", "1e1", "NaN", "null"]
    files = [x for n, v in enumerate(values) for x in sample(n, json=b'{"label": %s}' % v.encode())]
    source = load(write_tar(tmp_path / "a.tar", files))
    assert source.class_names == ["0", "1", "2", "10"]
    assert source.labels.tolist() == [1, 0, 2, 1, 3, -1, -1]
    files = [file for n in range(4) for file in sample(n, json=b'{"label": %d.5}' % n)]
    source = load(write_tar(tmp_path / "b.tar", files))
    assert "or an integer or a text as label in its .json" in source.summary


def test_note_names_files_that_are_cut_between_two_members(tmp_path):
    paths = [write_samples(tmp_path / f"{n}.tar", range(4)) for n in range(3)]
    assert not load(tmp_path / "*.tar").notes
    with tarfile.open(paths[1]) as archive:
        offset = archive.getmembers()[4].offset  # Two of the four samples have two members each.
    contents = paths[1].read_bytes()
    paths[1].write_bytes(contents[:offset])
    settle(paths[1])
    for _ in range(2):  # The second time with the index that was kept.
        source = load(tmp_path / "*.tar")
        assert source.size == 10
        assert source.notes == (
            f"1 file has no end-of-archive mark and may be cut off: {paths[1]}",
        )
        assert source.notes[0] in source.summary
    # One block of zeros is an end as well: some programs write no second one.
    paths[1].write_bytes(contents[:offset] + bytes(512))
    assert not load(tmp_path / "*.tar").notes


def test_extensions_and_keys_are_arguments(tmp_path):
    files = []
    for n in range(4):
        meta = json.dumps({"species": f"s{n % 2}"}).encode()
        files += sample(n, **{"mask.png": png(9)[1], "left.png": png(n + 20)[1], "json": meta})
    write_tar(tmp_path / "a.tar", files)
    assert_images(load(tmp_path / "a.tar"), range(4))
    source = load(tmp_path / "a.tar", image_feature="left.png", label_feature="species")
    assert_images(source, range(20, 24))
    assert source.class_names == ["s0", "s1"]
    with pytest.raises(UserError, match=r"has a file with the extension right\.png; set config"):
        load(tmp_path / "a.tar", image_feature="right.png")


def test_images_whose_names_have_dots_are_noticed(tmp_path):
    files = [(f"{name}.{n}.png", png(n)[1]) for name in ("cat", "dog") for n in range(3)]
    write_tar(tmp_path / "a.tar", files)
    source = load(tmp_path / "a.tar")
    assert source.size == 2
    assert source.notes[0].startswith("ignored: 4 further images in samples of several. ")
    assert "rename them if their names have dots" in source.summary
    write_tar(tmp_path / "b.tar", sample(0, **{"mask.png": png(1)[1]}))
    assert not load(tmp_path / "b.tar").notes


def test_other_entries_are_skipped(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for kind, name in ((tarfile.DIRTYPE, "a"), (tarfile.SYMTYPE, "a/link.png")):
            member = tarfile.TarInfo(name)
            member.type = kind
            archive.addfile(member)
        for name, contents in (
            ("README", b"text"),
            *sample(1, txt=b"no image"),
            ("a/002.txt", b"no image"),
            *sample(3),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    source = load(path)
    assert_images(source, [1, 3])
    assert source.notes == ("ignored: 1 sample has no image",)


def test_names_of_files_decide_the_split_and_labels_txt_the_names(tmp_path):
    write_samples(tmp_path / "train-0.tar", range(4))
    write_samples(tmp_path / "val-0.tar", range(4, 6))
    (tmp_path / "labels.txt").write_text("0:ant\n1:bee\n2:cat\n")
    source = load(tmp_path / "*.tar")
    assert source.train.tolist() == source.pretrain.tolist() == [0, 1, 2, 3]
    assert source.test.tolist() == [4, 5]
    assert source.class_names == ["ant", "bee", "cat"]
    assert "(train)" in source.summary


def test_places_take_8_bytes_for_each_image_and_are_kept(tmp_path):
    path = write_samples(tmp_path / "a.tar", range(5))
    settle(path)
    load(path)
    [index] = (tmp_path / FOLDER).iterdir()
    before = index.stat().st_mtime_ns
    source = load(tmp_path / "*.tar")
    assert index.stat().st_mtime_ns == before
    assert_images(source, range(5))
    with np.load(io.BytesIO(index.read_bytes()[32:])) as arrays:
        assert arrays["places"].nbytes == 5 * 8
    # A folder in its place is none of the files of a pattern.
    assert load(tmp_path / "*").size == 5


def test_contents_are_read_as_they_are(tmp_path):
    contents = png(0)[1] + b"\0" * 20
    source = load(write_tar(tmp_path / "a.tar", [("a.png", contents)]))
    assert source.read_file(tf.constant(0, tf.int64)).numpy() == contents


def test_remote_files_are_read(tmp_path):
    path = write_samples(tmp_path / "a.tar", range(4))
    tf.io.gfile.makedirs("ram://tars")
    tf.io.gfile.copy(str(path), "ram://tars/a.tar", overwrite=True)
    source = load("ram://tars/*.tar")
    assert_images(source, range(4))
    assert source.labels.tolist() == [0, 1, 2, 0]


def test_training_skips_damaged_images(tmp_path):
    files = [file for n in range(8) for file in sample(n)]
    files[2] = (files[2][0], b"no image")
    files[5] = (files[5][0], files[5][1][:60])
    source = load(write_tar(tmp_path / "a.tar", files))
    for index in (2, 5):
        with pytest.raises(tf.errors.OpError):
            read_image(source, index)
    batches = TwoViews(source, 8, Recipe(), batch_size=8, seed=0)
    [(query, _)] = batches.between(0, 1)
    reds = np.rint(query.numpy()[..., 0].mean((1, 2)) / 5).astype(int)
    assert set(reds) <= {0, 1, 3, 4, 6, 7}
    assert batches.unreadable == {2, 5}


def test_file_that_shrinks_during_a_run_is_an_error_of_its_images(tmp_path):
    path = write_samples(tmp_path / "a.tar", range(4))
    source = load(path)
    with open(path, "r+b") as file:
        file.truncate(3000)
    np.testing.assert_array_equal(read_image(source, 0), png(0)[0])
    with pytest.raises(tf.errors.OpError, match="ends within a record"):
        read_image(source, 3)


def cut(contents):
    return contents[:3900]


def with_damaged_header(contents):
    position = contents.index(b"a/002.png")
    return contents[:position] + b"X" + contents[position + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"a\.tar is not a tar file, or it is damaged or incomplete \(unexpected end"),
        (with_damaged_header, r"a\.tar is not .*no valid header at byte"),
        (gzip.compress, r"a\.tar is compressed, .*: decompress it"),
        (lambda _: b"a,b,c\n" * 200, r"a\.tar is not a tar file"),
        (lambda _: b"", r"a\.tar is not a tar file"),
    ],
)
def test_error_names_a_damaged_file(tmp_path, damage, message):
    path = write_samples(tmp_path / "a.tar", range(5))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        load(path)


def test_files_without_images_are_refused(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.txt", b"text")])
    with pytest.raises(UserError, match="no sample in the files has a file with the extension of"):
        load(tmp_path / "a.tar")
    with pytest.raises(UserError, match="no file matches .*: use a pattern that matches tar files"):
        load(tmp_path / "b*.tar")
