"""Batches of two views on a small folder whose images can be told from their views.

The red channel of image i is 20 i throughout, so a crop of it names the image; green and blue are
a photograph, so that they show which crop it is.
"""

import dataclasses
import shutil

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews, central_views, first_readable
from moco_tf.errors import UserError

COUNT, BATCH, EPOCHS, SIZE = 10, 3, 3, 16
STEPS_PER_EPOCH = 3  # the tenth image of an epoch fills no batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    photo = skimage.data.astronaut()
    for number in range(COUNT):
        image = photo[20 * number : 20 * number + 40, 100:148].copy()
        image[..., 0] = 20 * number
        # Without subsampling of the colours red stays within a few grey levels.
        Image.fromarray(image).save(folder / f"{number}.jpg", quality=95, subsampling=0)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def two_views(folder, batch_size=BATCH, seed=0):
    source = sources.load(f"folder:{folder}")
    return TwoViews(source, SIZE, (0.2, 1.0), batch_size, seed)


def batches(views, start=0, epochs=EPOCHS):
    """The batches from `start` on: uint8 `[steps, 2, N, SIZE, SIZE, 3]`, query then key."""
    data = views.between(start, epochs * views.steps_per_epoch)
    return np.array([np.stack(batch) for batch in data.as_numpy_iterator()])


def numbers(found):
    """Which image each view is of."""
    return np.rint(found[..., 0].mean(axis=(-1, -2)) / 20).astype(int)


@pytest.fixture(scope="module")
def whole_run(folder):
    return batches(two_views(folder))


def test_a_run_has_its_epochs_of_full_batches(whole_run, folder):
    assert two_views(folder).steps_per_epoch == STEPS_PER_EPOCH
    assert whole_run.shape == (EPOCHS * STEPS_PER_EPOCH, 2, BATCH, SIZE, SIZE, 3)
    assert whole_run.dtype == np.uint8


def test_query_and_key_are_different_views_of_one_image(whole_run):
    query, key = np.moveaxis(whole_run, 1, 0)
    np.testing.assert_array_equal(numbers(query), numbers(key))
    assert (query != key).any(axis=(-1, -2, -3)).all()


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6, 8])
def test_a_run_goes_on_from_any_step_as_if_it_had_not_stopped(whole_run, folder, step):
    np.testing.assert_array_equal(batches(two_views(folder), step), whole_run[step:])


def test_what_a_resumed_run_skips_is_not_read(folder, whole_run):
    source = sources.load(f"folder:{folder}")
    reads = []

    def read(index):
        def note(i):
            reads.append(int(i))
            return i

        return source.read(tf.numpy_function(note, [index], tf.int64))

    views = TwoViews(dataclasses.replace(source, read=read), SIZE, (0.2, 1.0), BATCH, 0)
    reads.clear()  # of the look for a readable image
    np.testing.assert_array_equal(batches(views, start=7), whole_run[7:])
    assert sorted(reads) == sorted(numbers(whole_run[7:, 0]).ravel())


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_number_of_threads_changes_nothing(whole_run, folder, threads):
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    data = two_views(folder).between(0, len(whole_run)).with_options(options)
    for found, expected in zip(data.as_numpy_iterator(), whole_run, strict=True):
        np.testing.assert_array_equal(np.stack(found), expected)


@pytest.mark.parametrize("end", [1, 3, 4, 8])
def test_a_run_may_end_in_the_midst_of_an_epoch(whole_run, folder, end):
    found = list(two_views(folder).between(1, end).as_numpy_iterator())
    assert len(found) == end - 1
    for batch, expected in zip(found, whole_run[1:end], strict=True):
        np.testing.assert_array_equal(np.stack(batch), expected)


def test_nothing_is_left_after_the_last_step(folder):
    assert len(batches(two_views(folder), EPOCHS * STEPS_PER_EPOCH)) == 0


def test_an_epoch_visits_no_image_twice_and_has_an_order_of_its_own(whole_run):
    orders = numbers(whole_run[:, 0]).reshape(EPOCHS, -1)
    for order in orders:
        assert len(set(order)) == STEPS_PER_EPOCH * BATCH
        assert set(order) <= set(range(COUNT))
    assert len({tuple(order) for order in orders}) == EPOCHS


def test_over_several_epochs_every_image_has_its_turn(folder):
    seen = numbers(batches(two_views(folder), epochs=6)[:, 0])
    assert set(seen.ravel()) == set(range(COUNT))


def test_an_image_is_seen_in_other_views_in_every_epoch(whole_run):
    views = whole_run[numbers(whole_run) == 4].reshape(-1, SIZE * SIZE * 3)
    assert len(views) >= 4
    assert len(np.unique(views, axis=0)) == len(views)


def test_the_seed_decides_order_and_views(whole_run, folder):
    np.testing.assert_array_equal(batches(two_views(folder, seed=0)), whole_run)
    other = batches(two_views(folder, seed=1))
    assert (numbers(other) != numbers(whole_run)).any()
    same_image = numbers(other) == numbers(whole_run)
    assert same_image.any()
    assert (other != whole_run).any(axis=(-1, -2, -3))[same_image].all()


def truncated(path):
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2])


def text(path):
    path.write_text("not an image\n")


def empty(path):
    path.write_bytes(b"")


# The first image is the one that a search for a readable one comes upon first.
@pytest.mark.parametrize("damage, number", [(truncated, 0), (text, 4), (empty, 9)])
def test_a_damaged_file_is_replaced_and_changes_no_other_view(whole_run, copy, damage, number):
    damage(copy / f"{number}.jpg")
    views = two_views(copy)
    found = batches(views)
    damaged = numbers(whole_run) == number
    assert damaged.any()  # else there is nothing to see
    np.testing.assert_array_equal(found[~damaged], whole_run[~damaged])
    assert number not in numbers(found)
    # It makes way for a real image, the same for query and key.
    assert set(numbers(found).ravel()) <= set(range(COUNT))
    np.testing.assert_array_equal(*np.moveaxis(numbers(found), 1, 0))
    assert views.unreadable == {number}


def test_what_can_be_read_is_not_noted(folder):
    views = two_views(folder)
    batches(views)
    assert views.unreadable == set()


def test_two_readable_images_are_enough_for_a_run(copy):
    for number in range(COUNT):
        if number not in (3, 7):
            text(copy / f"{number}.jpg")
    views = two_views(copy, batch_size=COUNT)
    found = numbers(batches(views, epochs=2))
    assert found.shape == (2, 2, COUNT)
    assert set(found.ravel()) == {3, 7}
    assert views.unreadable == set(range(COUNT)) - {3, 7}


def test_substitutes_are_as_reproducible_as_the_rest(copy):
    text(copy / "2.jpg")
    text(copy / "5.jpg")
    expected = batches(two_views(copy))
    np.testing.assert_array_equal(batches(two_views(copy), 4), expected[4:])


def test_the_first_readable_image_is_found(copy):
    text(copy / "0.jpg")
    empty(copy / "1.jpg")
    assert first_readable(sources.load(f"folder:{copy}")) == 2


def test_a_batch_larger_than_the_data_is_refused(folder):
    assert two_views(folder, batch_size=COUNT).steps_per_epoch == 1
    with pytest.raises(UserError, match="batch_size=11 is more than the 10 images.*to 10 or less"):
        two_views(folder, batch_size=COUNT + 1)


def test_a_source_without_a_readable_image_is_refused(copy):
    for path in copy.iterdir():
        text(path)
    with pytest.raises(UserError, match=f"folder:{copy}.*none of its 10 images can be read"):
        two_views(copy)


def shares(workers, replicas):
    """The contexts of some workers, of the same number of replicas each."""
    return [
        tf.distribute.InputContext(workers, worker, workers * replicas) for worker in range(workers)
    ]


@pytest.mark.parametrize("workers, replicas", [(2, 1), (1, 2), (2, 2)])
def test_workers_share_each_batch_without_overlap_or_loss(folder, workers, replicas):
    batches = two_views(folder, batch_size=4)
    whole = list(batches.between(1, 5).as_numpy_iterator())
    parts = [
        list(batches.between(1, 5, context).as_numpy_iterator())
        for context in shares(workers, replicas)
    ]
    for step, views in enumerate(whole):
        here = slice(step * replicas, (step + 1) * replicas)
        for view in (0, 1):
            found = [batch[view] for part in parts for batch in part[here]]
            assert all(len(part) == 4 // (workers * replicas) for part in found)
            np.testing.assert_array_equal(np.concatenate(found), views[view])


@pytest.mark.parametrize("workers, replicas", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("batch_size", [2, 256])
def test_central_views_are_shared_in_full_batches_with_gaps_for_what_cannot_be_read(
    copy, batch_size, workers, replicas
):
    text(copy / "2.jpg")
    truncated(copy / "7.jpg")
    wanted = [8, 2, 0, 7, 5, 1, 9]
    source = sources.load(f"folder:{copy}")
    parts = [
        list(central_views(source, wanted, SIZE, batch_size, context).as_numpy_iterator())
        for context in shares(workers, replicas)
    ]
    assert {len(indices) for part in parts for indices, _ in part} == {batch_size}
    assert len({len(part) for part in parts}) == 1
    # Back into one order: step by step, worker by worker, replica by replica.
    steps = [part[i : i + replicas] for i in range(0, len(parts[0]), replicas) for part in parts]
    indices, images = (np.concatenate(x) for x in zip(*sum(steps, []), strict=True))
    assert indices.tolist()[:7] == [8, -1, 0, -1, 5, 1, 9] and set(indices[7:]) == {-1}
    assert images.shape == (len(indices), SIZE, SIZE, 3) and images.dtype == np.uint8
    assert numbers(images[indices >= 0]).tolist() == [8, 0, 5, 1, 9]
    assert not images[indices < 0].any()


def test_a_central_view_is_the_middle_of_the_image(folder):
    source = sources.load(f"folder:{folder}")
    [(_, [view])] = central_views(source, [6], 28, 1).as_numpy_iterator()
    # 40 x 48 becomes 32 x 38, of which the middle 28 x 28 stay.
    decoded = source.read(tf.constant(6, tf.int64)).numpy()
    resized = Image.fromarray(decoded).resize((38, 32), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[2:30, 5:33].astype(int)
    assert np.abs(view.astype(int) - expected).max() <= 1
