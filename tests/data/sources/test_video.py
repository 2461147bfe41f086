"""Frames of videos, against the plain decoding of the whole file by PyAV."""

import os
import pathlib
import shutil

import av
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import run_data
from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import Recipe
from moco_tf.data.sources import video_index, video_reader
from moco_tf.errors import UserError
from tests import videos

FRAMES = np.concatenate([videos.pan("chelsea", 25), videos.pan("coffee", 15)])


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return a video of 40 frames with B-frames, 1.6 seconds long."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    videos.encode(path, FRAMES, options={"bf": "3", "g": "12"})
    return path


def load(path, frame_seconds=0.0):
    return sources.load(f"video:{path}", frame_seconds=frame_seconds)


def read(source, index):
    return source.read(tf.constant(index, tf.int64)).numpy()


def require_exact(source, expected):
    """Compare all frames with others, in a random order and then in their own."""
    assert source.size == len(expected)
    for index in [*np.random.default_rng(0).permutation(source.size), *range(source.size)]:
        np.testing.assert_array_equal(read(source, index), expected[index], err_msg=f"{index}")


@pytest.mark.parametrize("name", videos.FORMATS)
def test_frames_are_those_of_plain_decoding(tmp_path, name):
    suffix, codec, options = videos.FORMATS[name]
    path = tmp_path / f"clip.{suffix}"
    videos.encode(path, FRAMES, codec, options)
    expected, _ = videos.decoded(path)
    assert len(expected) == len(FRAMES)
    # The frames are those that were encoded, in their order and colors.
    errors = [np.abs(a.astype(float) - b).mean() for a, b in zip(expected, FRAMES, strict=True)]
    assert max(errors) < 15
    source = load(path)
    require_exact(source, expected)
    assert "warning" not in source.summary


def test_frames_of_a_variable_rate_are_those_shown_at_each_time(tmp_path):
    path = tmp_path / "clip.mkv"
    gaps = np.random.default_rng(0).integers(10, 400, len(FRAMES))
    videos.encode(path, FRAMES, options={"bf": "2", "g": "10"}, times=np.cumsum(gaps) / 1000)
    images, times = videos.decoded(path)
    assert np.ptp(np.diff(times)) > 0.2
    require_exact(load(path), images)
    elapsed = np.round(1000 * (np.array(times) - times[0])).astype(int)
    shown = []
    for moment in range(0, elapsed[-1] + 1, 300):
        number = max(n for n, time in enumerate(elapsed) if time <= moment)
        shown += [] if number in shown else [number]
    source = load(path, 0.3)
    require_exact(source, [images[number] for number in shown])
    for index, number in enumerate(shown):
        assert source.describe(index) == f"{path} at {elapsed[number] / 1000:.2f} s"


@pytest.mark.parametrize(("seconds", "step"), [(0.04, 1), (0.2, 5), (1.0, 25), (0.1, 2.5), (9, 99)])
def test_one_frame_in_so_many_seconds(clip, seconds, step):
    images, _ = videos.decoded(clip)
    shown = [images[int(number)] for number in np.arange(0, len(images), step)]
    require_exact(load(clip, seconds), shown)


@pytest.mark.parametrize("seconds", [1e-4, 1e-6, 1e-7, 1e-300])
def test_seconds_below_the_unit_of_time_are_all_frames(clip, seconds):
    require_exact(load(clip, seconds), videos.decoded(clip)[0])


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_impossible_seconds(clip, seconds):
    with pytest.raises(UserError, match=rf"^frame_seconds={seconds}: must be .*0 or greater"):
        load(clip, seconds)


def test_default_is_a_frame_each_second(clip):
    assert sources.load(f"video:{clip}").size == 2


@pytest.mark.parametrize("suffix", ["mp4", "ts", "mkv"])
def test_first_time_that_is_not_zero(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    times = 7.5 + np.arange(len(FRAMES)) / 25
    videos.encode(path, FRAMES, options={"bf": "2", "g": "8"}, times=times)
    images, decoded_times = videos.decoded(path)
    assert decoded_times[0] > 7
    require_exact(load(path), images)
    assert load(path, 1.0).describe(1).endswith(" at 1.00 s")


def test_frames_that_an_edit_list_leaves_out(tmp_path):
    # The second half of a video, cut without encoding it again.
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    videos.encode(whole, FRAMES, options={"bf": "2", "g": "10"})
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size and packet.pts is not None:
                packet.pts -= 5 * 512
                packet.dts -= 5 * 512
                packet.stream = stream
                target.mux(packet)
    images, _ = videos.decoded(cut)
    require_exact(load(cut), images)


def test_files_without_times_are_counted(tmp_path):
    path = tmp_path / "clip.h264"
    videos.encode(path, FRAMES, options={"bf": "2", "g": "10"})
    images, _ = videos.decoded(path)
    source = load(path)
    require_exact(source, images)
    assert "warning: 1 video has no time for each frame" in source.summary


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(suffix, "libx264") for suffix in ("avi", "asf", "wmv")]
    + [(suffix, "mpeg2video") for suffix in ("asf", "wmv")],
)
def test_times_in_decoding_order_are_counted(tmp_path, suffix, codec):
    path = tmp_path / f"clip.{suffix}"
    videos.encode(path, FRAMES, codec, {"bf": "3", "g": "12"})
    images, times = videos.decoded(path)
    assert times != sorted(times)
    source = load(path)
    require_exact(source, images)
    assert "warning: 1 video has no time for each frame" in source.summary


@pytest.mark.parametrize(("suffix", "codec"), [("avi", "libx264"), ("wmv", "libx264")])
def test_without_b_frames_the_times_are_used(tmp_path, suffix, codec):
    path = tmp_path / f"clip.{suffix}"
    videos.encode(path, FRAMES, codec, {"bf": "0", "g": "12"})
    source = load(path)
    require_exact(source, videos.decoded(path)[0])
    assert "warning" not in source.summary


def test_threads_read_the_same_frames(clip):
    images, _ = videos.decoded(clip)
    source = load(clip)
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(len(images)), 3))
    dataset = tf.data.Dataset.from_tensor_slices(order).map(source.read, num_parallel_calls=8)
    for index, image in zip(order, dataset, strict=True):
        np.testing.assert_array_equal(image, images[index])


def test_files_in_the_order_of_their_paths_and_few_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr(video_reader, "MAX_OPEN", 2)
    names = ["b/1.mp4", "a.mp4", "c.MKV", "b/0.mp4"]
    images = {}
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        videos.encode(tmp_path / name, FRAMES[5 * number : 5 * number + 4])
        images[name] = videos.decoded(tmp_path / name)[0]
    (tmp_path / "notes.txt").write_text("no video")
    source = load(tmp_path)
    require_exact(source, [image for name in sorted(names) for image in images[name]])
    assert source.ignored == [f"{tmp_path}/notes.txt"]
    assert "16 images in 4 videos" in source.summary
    assert len(os.listdir("/proc/self/fd")) < 200


def test_index_is_kept_until_the_file_changes(clip, tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    shutil.copy(clip, path)
    os.utime(path, (1e9, 1e9))
    size = load(path).size
    with monkeypatch.context() as patch:
        patch.setattr(video_index, "_build", None)  # Calling it would fail.
        assert load(path).size == size
    videos.encode(path, FRAMES[:7])
    assert load(path).size == 7


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Return class folders with 12 videos of 3 frames."""
    folder = tmp_path_factory.mktemp("classes")
    for name in ("cat", "cup"):
        (folder / name).mkdir()
        for number in range(6):
            start = 25 * (name == "cup") + number
            videos.encode(folder / name / f"{number}.mp4", FRAMES[start : start + 3])
    return folder


def test_classes_are_folders_and_whole_videos_are_held_out(classes):
    source = load(classes)
    assert source.class_names == ["cat", "cup"]
    assert source.labels.tolist() == [0] * 18 + [1] * 18
    assert len(source.pretrain) == 36
    train, test = (set(source.part(name) // 3) for name in ("train", "test"))
    assert train
    assert test
    assert not train & test
    assert len(source.train) + len(source.test) == 36
    assert "36 images in 12 videos, in 2 classes: cat, cup" in source.summary


def test_parts_are_folders(classes, tmp_path):
    shutil.copytree(classes, tmp_path / "train")
    shutil.copytree(classes, tmp_path / "val")
    source = load(tmp_path)
    assert source.class_names == ["cat", "cup"]
    assert source.pretrain.tolist() == source.train.tolist() == list(range(36))
    assert source.test.tolist() == list(range(36, 72))


@pytest.mark.parametrize("count", [2, 3])
def test_one_of_few_videos_is_held_out(classes, tmp_path, count):
    for number in range(count):
        shutil.copy(classes / "cat" / f"{number}.mp4", tmp_path / f"{number}.mp4")
    source = load(tmp_path)
    assert len(source.test) == 3
    assert len(source.train) == 3 * (count - 1)
    assert not set(source.train // 3) & set(source.test // 3)


def test_the_only_video_is_for_training(clip):
    source = load(clip)
    assert len(source.pretrain) == len(source.train) == source.size
    assert not len(source.test)
    assert "no labels, because there is only one video" in source.summary


def test_files_that_cannot_be_opened_are_skipped(classes, tmp_path):
    shutil.copytree(classes / "cat", tmp_path / "videos")
    folder = tmp_path / "videos"
    whole = (folder / "0.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(
        whole[: len(whole) // 2]
    )  # The index of an MP4 file is at its end.
    (folder / "text.mkv").write_text("no video")
    (folder / "empty.mp4").write_bytes(b"")
    # The MPEG format cannot tell this codec, although it is written without an error.
    videos.encode(folder / "unknown.mpg", FRAMES[:3], "wmv2")
    source = load(folder)
    assert source.size == 18
    assert "skipped 4 videos that cannot be opened" in source.summary
    assert "cut.mp4 (Invalid data found when processing input" in source.summary
    assert {pathlib.Path(path).name for path in source.ignored} == {
        "cut.mp4",
        "text.mkv",
        "empty.mp4",
        "unknown.mpg",
    }
    lone = pathlib.Path(tmp_path / "unknown.mpg")
    shutil.copy(folder / "unknown.mpg", lone)
    with pytest.raises(UserError, match=r"unknown.mpg \(no decoder knows its codec\)"):
        load(lone)


def test_a_class_without_readable_videos_is_named(classes, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(classes, folder)
    assert "no video that can be opened" not in load(folder).summary
    for path in (folder / "cup").iterdir():
        path.write_text("no video")
    source = load(folder)
    assert source.size == 18
    assert "warning: 1 class has no video that can be opened: cup" in source.summary


def test_seconds_are_for_the_videos_of_a_mixture_only(clip):
    source = sources.load(f"photos;video:{clip}", frame_seconds=0.2)
    images, _ = videos.decoded(clip)
    assert source.size == sources.load("photos").size + 8
    np.testing.assert_array_equal(read(source, source.size - 1), images[35])


def test_damaged_frames_are_errors_and_are_replaced(tmp_path):
    path = tmp_path / "clip.mkv"
    videos.encode(path, FRAMES, options={"g": "10", "bf": "0", "x264-params": "scenecut=0"})
    images, _ = videos.decoded(path)
    contents = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    position, size = packets[20]  # A keyframe.
    contents[position + size // 4 : position + size] = bytes(size - size // 4)
    path.write_bytes(contents)
    source = load(path)
    for index in range(20):
        np.testing.assert_array_equal(read(source, index), images[index])
    for index in range(20, 30):
        with pytest.raises(tf.errors.OpError, match=f"frame {index}"):
            next(iter(tf.data.Dataset.from_tensors(np.int64(index)).map(source.read)))
        with pytest.raises(tf.errors.OpError, match=f"frame {index}"):
            read(source, index)
    for index in range(30, 40):
        np.testing.assert_array_equal(read(source, index), images[index])
    views = TwoViews(source, 16, Recipe(), 40, seed=0)
    batches = list(views.between(0, 1))
    assert batches[0][0].shape == (40, 16, 16, 3)
    assert views.unreadable == set(range(20, 30))


def test_order_and_resume(clip):
    views = TwoViews(load(clip), 16, Recipe(), 8, seed=3)
    whole = [batch[0].numpy() for batch in views.between(0, 10)]
    resumed = [batch[0].numpy() for batch in views.between(7, 10)]
    np.testing.assert_array_equal(whole[7:], resumed)


def test_a_changed_video_is_noticed(classes, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(classes / "cat", folder)
    before = run_data.of_source(load(folder))
    assert run_data.of_source(load(folder)) == before
    videos.encode(folder / "3.mp4", FRAMES[:5])
    assert run_data.of_source(load(folder)) != before


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("{}/none", "there is no file or folder '.*/none'"),
        ("{}/text.mp4", r"the video cannot be opened: text.mp4 \(Invalid data.*: use files"),
        ("{}/empty", "there is no video file .*it is empty"),
        ("gs://bucket/a.mp4", "copy the videos to a local disk"),
    ],
)
def test_mistakes(tmp_path, location, message):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        sources.load(f"video:{location.format(tmp_path)}")


def test_without_pyav(clip, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match=r"PyAV.*pip install '\.\[video\]'$"):
        load(clip)
