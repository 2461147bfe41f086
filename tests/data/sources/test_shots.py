"""Cuts of videos whose cuts are known."""

import numpy as np
import pytest

from moco_tf.data import sources
from moco_tf.data.sources.shots import THRESHOLD, difference, histogram, shot_starts
from tests import videos

LENGTHS = (30, 12, 25)


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return a video of three shots of 30, 12 and 25 frames."""
    path = tmp_path_factory.mktemp("shots") / "clip.mp4"
    names = ("chelsea", "coffee", "astronaut")
    pans = [videos.pan(name, length) for name, length in zip(names, LENGTHS, strict=True)]
    videos.encode(path, np.concatenate(pans), options={"bf": "2", "g": "50"})
    return path


def test_cuts_are_where_the_photograph_changes(path):
    assert shot_starts(str(path)).tolist() == [30, 42]


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("clip.h264", "libx264", 25), ("clip.avi", "libx264", 25), ("fast.mkv", "mjpeg", 5000)],
)
def test_cuts_of_videos_whose_frames_are_counted(tmp_path, name, codec, rate):
    path = tmp_path / name
    frames = np.concatenate([videos.pan("chelsea", 10), videos.pan("coffee", 15)])
    options = {"bf": "2", "g": "50"} if codec == "libx264" else {}
    videos.encode(path, frames, codec, options, rate=rate)
    assert len(videos.decoded(path)[0]) == 25
    source = sources.load(f"video:{path}", frame_seconds=0)
    assert "no time for each frame" in source.summary
    assert source.timeline.load_shots().tolist() == [0] * 10 + [1] * 15


def test_motion_is_no_cut(tmp_path):
    path = tmp_path / "pan.mp4"
    videos.encode(path, videos.pan("rocket", 40, step=6), options={"bf": "2"})
    assert not len(shot_starts(str(path)))


def test_shots_of_the_frames_of_several_files(path, tmp_path):
    videos.encode(tmp_path / "a.mp4", videos.pan("rocket", 10))
    (tmp_path / "b.mp4").write_bytes(path.read_bytes())
    (tmp_path / "c.mp4").write_text("no video")
    videos.encode(tmp_path / "d.mp4", videos.pan("coffee", 5))
    source = sources.load(f"video:{tmp_path}", frame_seconds=0)
    lengths = [10, *LENGTHS, 5]
    assert source.timeline.load_shots().tolist() == np.repeat(np.arange(5), lengths).tolist()


def test_histogram_and_difference():
    black, white = (np.full([4, 6, 3], value, np.uint8) for value in (0, 255))
    half = np.concatenate([black[:2], white[:2]])
    assert histogram(half).sum() == pytest.approx(1)
    assert difference(histogram(black), histogram(white)) == 1
    assert difference(histogram(black), histogram(half)) == 0.5
    assert THRESHOLD < 0.5
