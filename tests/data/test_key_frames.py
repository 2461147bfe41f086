"""Views of two frames of a video, and the frames near them.

The red channel of a frame tells its index in the source.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import Recipe
from moco_tf.data.timeline import Timeline
from moco_tf.errors import UserError

COUNT, SIZE, BATCH = 24, 8, 6
# Three videos of 8 frames, half a second apart. The second one has a cut before its fifth frame.
VIDEOS = np.repeat([0, 1, 2], 8)
SECONDS = np.tile(np.arange(8) / 2, 3)
SHOTS = np.repeat([0, 1, 2, 3], [8, 4, 4, 8])


def frame(index):
    return tf.fill([SIZE, SIZE, 3], tf.cast(10 * index, tf.uint8))


@pytest.fixture
def source():
    everything = np.arange(COUNT)
    return sources.source.Source(
        name="frames",
        size=COUNT,
        read=frame,
        describe=str,
        pretrain=everything,
        train=everything,
        test=everything[:0],
        timeline=Timeline(VIDEOS, SECONDS, lambda: SHOTS),
    )


def batches(source, epochs=1, seed=0, **settings):
    views = TwoViews(source, SIZE, Recipe(), BATCH, seed, **settings)
    return views, list(views.between(0, epochs * views.steps_per_epoch).as_numpy_iterator())


def frames_of(views):
    return views[:, 0, 0, 0] // 10


def near(index, other, limit, groups):
    return groups[index] == groups[other] and abs(SECONDS[index] - SECONDS[other]) <= limit


@pytest.mark.parametrize("limit", [0.1, 0.5, 1.0, 99])
@pytest.mark.parametrize("same_shot", [False, True])
def test_ranges_against_every_pair(source, limit, same_shot):
    groups = SHOTS if same_shot else VIDEOS
    for index, (first, end) in enumerate(source.timeline.nearby(limit, same_shot)):
        expected = [other for other in range(COUNT) if near(index, other, limit, groups)]
        assert expected == list(range(first, end))


def test_key_frames_are_other_frames_of_the_same_shot_in_reach(source):
    _, run = batches(source, epochs=30, key_frame_seconds=1.0)
    pairs = set()
    for query, key in run:
        pairs |= set(zip(frames_of(query).tolist(), frames_of(key).tolist(), strict=True))
    allowed = {(a, b) for a in range(COUNT) for b in range(COUNT) if near(a, b, 1.0, SHOTS)}
    assert pairs == {(a, b) for a, b in allowed if a != b}


def test_key_frames_are_equally_likely(source):
    views, _ = batches(source, key_frame_seconds=1.0)
    drawn = [views.key_index(epoch, 4) for epoch in range(4000)]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [2, 3, 5, 6]
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.03)


def test_the_same_frame_if_no_other_is_in_reach(source):
    seconds = SECONDS.copy()
    seconds[1] = 0.1  # Only the first two frames are in reach of each other.
    source = dataclasses.replace(source, timeline=Timeline(VIDEOS, seconds, lambda: SHOTS))
    other = {0: 1, 1: 0}
    _, run = batches(source, key_frame_seconds=0.1)
    for query, key in run:
        expected = [other.get(frame, frame) for frame in frames_of(query).tolist()]
        assert frames_of(key).tolist() == expected


def test_key_frames_that_are_never_in_reach_are_refused(source):
    with pytest.raises(UserError, match=r"key_frame_seconds=0.1 .* at least 0.5 seconds apart: "):
        batches(source, key_frame_seconds=0.1)
    alone = dataclasses.replace(
        source, timeline=Timeline(VIDEOS, SECONDS, lambda: np.arange(COUNT))
    )
    with pytest.raises(UserError, match="no shot has more than one frame"):
        batches(alone, key_frame_seconds=5)


def test_key_frames_depend_on_seed_epoch_and_index_only(source):
    views, whole = batches(source, epochs=3, key_frame_seconds=2.0)
    resumed = list(views.between(5, 12).as_numpy_iterator())
    for expected, batch in zip(whole[5:], resumed, strict=True):
        np.testing.assert_array_equal(expected, batch)
    keys = [[views.key_index(epoch, index) for index in range(COUNT)] for epoch in range(3)]
    other, _ = batches(source, seed=1, key_frame_seconds=2.0)
    assert keys[0] != keys[1]
    assert keys[0] != [other.key_index(0, index) for index in range(COUNT)]


def test_query_views_do_not_change(source):
    _, plain = batches(source)
    _, run = batches(source, key_frame_seconds=1.0, neighbor_seconds=1.0)
    for (query, key), (new_query, _, _) in zip(plain, run, strict=True):
        np.testing.assert_array_equal(query, new_query)
        np.testing.assert_array_equal(frames_of(query), frames_of(key))


def test_an_unreadable_key_frame_is_replaced_by_the_frame_of_the_query(source):
    def read(index):
        with tf.control_dependencies([tf.debugging.assert_none_equal(index, np.int64(9))]):
            return frame(index)

    broken = dataclasses.replace(source, read=read)
    views, run = batches(broken, epochs=10, key_frame_seconds=0.5, neighbor_seconds=1)
    expected, alone = batches(source, epochs=10, key_frame_seconds=0.5)
    seen = 0
    for number, (query, key, frames) in enumerate(run):
        np.testing.assert_array_equal(frames_of(query), frames[:, 0, 0])
        np.testing.assert_array_equal(frames_of(key), frames[:, 1, 0])
        for row, (a, b) in enumerate(zip(frames_of(query), frames_of(key), strict=True)):
            assert 9 not in (a, b)
            whole = alone[number][1][row]
            if frames_of(whole[np.newaxis]) == 9 and frames_of(alone[number][0])[row] == a:
                assert a == b
                seen += 1
    assert seen > 2
    assert views.unreadable == {9}


def test_an_unreadable_frame_is_counted_that_is_only_a_key_frame(source):
    def read(index):
        with tf.control_dependencies([tf.debugging.assert_none_equal(index, np.int64(9))]):
            return frame(index)

    queries = source.pretrain[source.pretrain != 9]
    broken = dataclasses.replace(source, read=read, pretrain=queries)
    views, _ = batches(broken, epochs=10, key_frame_seconds=0.5)
    assert views.unreadable == {9}


def test_batches_have_the_neighbors_of_both_frames(source):
    _, run = batches(source, key_frame_seconds=1.0, neighbor_seconds=1.5)
    for query, key, frames in run:
        assert frames.dtype == np.int64
        assert frames.shape == (BATCH, 2, 3)
        for column, view in enumerate((query, key)):
            np.testing.assert_array_equal(frames[:, column, 0], frames_of(view))
        for index, first, end in frames.reshape(-1, 3):
            expected = [other for other in range(COUNT) if near(index, other, 1.5, VIDEOS)]
            assert expected == list(range(first, end))


@pytest.mark.parametrize("setting", ["key_frame_seconds", "neighbor_seconds"])
def test_other_sources_are_refused(setting):
    with pytest.raises(UserError, match=f"'photos' is not a single video source.*{setting}.* to 0"):
        TwoViews(sources.load("photos"), SIZE, Recipe(), BATCH, 0, **{setting: 1.0})
