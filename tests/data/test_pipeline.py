"""Batches of views from a small folder whose images can be recognized in their views.

The red channel of image i is 20 i throughout, so every crop tells which image it is from. Green
and blue are a photograph, so they tell which crop it is.
"""

import dataclasses
import shutil

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf.data import sources
from moco_tf.data.evaluation_views import central_views
from moco_tf.data.pipeline import TwoViews, first_readable
from moco_tf.data.recipes import Recipe
from moco_tf.errors import UserError

COUNT, BATCH, EPOCHS, SIZE = 10, 3, 3, 16
STEPS_PER_EPOCH = 3  # the tenth image of an epoch does not fill a batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    photo = skimage.data.astronaut()
    for number in range(COUNT):
        image = photo[20 * number : 20 * number + 40, 100:148].copy()
        image[..., 0] = 20 * number
        # Without chroma subsampling, red stays within a few gray levels.
        Image.fromarray(image).save(folder / f"{number}.jpg", quality=95, subsampling=0)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def two_views(folder, batch_size=BATCH, seed=0):
    source = sources.load(f"folder:{folder}")
    return TwoViews(source, SIZE, Recipe(), batch_size, seed)


def batches(views, start=0, epochs=EPOCHS):
    """Return the batches from `start`, uint8 `[steps, 2, N, SIZE, SIZE, 3]`, query then key."""
    data = views.between(start, epochs * views.steps_per_epoch)
    return np.array([np.stack(batch) for batch in data.as_numpy_iterator()])


def image_numbers(views):
    """Return the number of the image that each view shows."""
    return np.rint(views[..., 0].mean(axis=(-1, -2)) / 20).astype(int)


@pytest.fixture(scope="module")
def whole_run(folder):
    return batches(two_views(folder))


def test_run_consists_of_full_batches(whole_run, folder):
    assert two_views(folder).steps_per_epoch == STEPS_PER_EPOCH
    assert whole_run.shape == (EPOCHS * STEPS_PER_EPOCH, 2, BATCH, SIZE, SIZE, 3)
    assert whole_run.dtype == np.uint8


def test_query_and_key_are_different_views_of_one_image(whole_run):
    query, key = np.moveaxis(whole_run, 1, 0)
    np.testing.assert_array_equal(image_numbers(query), image_numbers(key))
    assert (query != key).any(axis=(-1, -2, -3)).all()


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3, 8])
def test_run_resumes_at_any_step_with_the_same_batches(whole_run, folder, step):
    np.testing.assert_array_equal(batches(two_views(folder), step), whole_run[step:])


def test_resumed_run_reads_no_skipped_image(folder, whole_run):
    source = sources.load(f"folder:{folder}")
    indices_read = []

    def read(index):
        def record(i):
            indices_read.append(int(i))
            return i

        return source.read(tf.numpy_function(record, [index], tf.int64))

    views = TwoViews(dataclasses.replace(source, read=read), SIZE, Recipe(), BATCH, 0)
    indices_read.clear()  # from the search for a readable image
    np.testing.assert_array_equal(batches(views, start=7), whole_run[7:])
    assert sorted(indices_read) == sorted(image_numbers(whole_run[7:, 0]).ravel())


@pytest.mark.parametrize("threads", [1, 8])
def test_number_of_threads_changes_nothing(whole_run, folder, threads):
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    data = two_views(folder).between(0, len(whole_run)).with_options(options)
    for batch, expected in zip(data.as_numpy_iterator(), whole_run, strict=True):
        np.testing.assert_array_equal(np.stack(batch), expected)


@pytest.mark.parametrize("end", [3, 4])
def test_run_can_end_within_an_epoch(whole_run, folder, end):
    part = list(two_views(folder).between(1, end).as_numpy_iterator())
    assert len(part) == end - 1
    for batch, expected in zip(part, whole_run[1:end], strict=True):
        np.testing.assert_array_equal(np.stack(batch), expected)


def test_no_batch_is_left_after_the_last_step(folder):
    assert len(batches(two_views(folder), EPOCHS * STEPS_PER_EPOCH)) == 0


def test_epochs_have_different_orders_and_repeat_no_image(whole_run):
    orders = image_numbers(whole_run[:, 0]).reshape(EPOCHS, -1)
    for order in orders:
        assert len(set(order)) == STEPS_PER_EPOCH * BATCH
        assert set(order) <= set(range(COUNT))
    assert len({tuple(order) for order in orders}) == EPOCHS


def test_every_image_appears_within_a_few_epochs(folder):
    seen = image_numbers(batches(two_views(folder), epochs=6)[:, 0])
    assert set(seen.ravel()) == set(range(COUNT))


def test_image_has_different_views_in_every_epoch(whole_run):
    views = whole_run[image_numbers(whole_run) == 4].reshape(-1, SIZE * SIZE * 3)
    assert len(views) >= 4
    assert len(np.unique(views, axis=0)) == len(views)


def test_seed_determines_order_and_views(whole_run, folder):
    np.testing.assert_array_equal(batches(two_views(folder, seed=0)), whole_run)
    other = batches(two_views(folder, seed=1))
    assert (image_numbers(other) != image_numbers(whole_run)).any()
    same_image = image_numbers(other) == image_numbers(whole_run)
    assert same_image.any()
    assert (other != whole_run).any(axis=(-1, -2, -3))[same_image].all()


def truncate(path):
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2])


def replace_by_text(path):
    path.write_text("not an image\n")


def make_empty(path):
    path.write_bytes(b"")


# Image 0 is also the first that the search for a readable image tries.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "number"), [(truncate, 0), (replace_by_text, 4), (make_empty, 9)]
)
def test_damaged_file_is_replaced_and_changes_no_other_view(whole_run, copy, damage, number):
    damage(copy / f"{number}.jpg")
    views = two_views(copy)
    run = batches(views)
    is_damaged = image_numbers(whole_run) == number
    assert is_damaged.any()  # otherwise this tests nothing
    np.testing.assert_array_equal(run[~is_damaged], whole_run[~is_damaged])
    assert number not in image_numbers(run)
    # The substitute is one of the images, the same for query and key.
    assert set(image_numbers(run).ravel()) <= set(range(COUNT))
    np.testing.assert_array_equal(*np.moveaxis(image_numbers(run), 1, 0))
    assert views.unreadable == {number}


def test_readable_images_are_not_reported_as_unreadable(folder):
    views = two_views(folder)
    batches(views)
    assert views.unreadable == set()


def test_two_readable_images_are_enough_for_a_run(copy):
    for number in range(COUNT):
        if number not in (3, 7):
            replace_by_text(copy / f"{number}.jpg")
    views = two_views(copy, batch_size=COUNT)
    shown = image_numbers(batches(views, epochs=2))
    assert shown.shape == (2, 2, COUNT)
    assert set(shown.ravel()) == {3, 7}
    assert views.unreadable == set(range(COUNT)) - {3, 7}


@pytest.mark.slow
def test_substitutes_are_reproducible(copy):
    replace_by_text(copy / "2.jpg")
    replace_by_text(copy / "5.jpg")
    expected = batches(two_views(copy))
    np.testing.assert_array_equal(batches(two_views(copy), 4), expected[4:])


def test_first_readable_skips_damaged_files(copy):
    replace_by_text(copy / "0.jpg")
    make_empty(copy / "1.jpg")
    assert first_readable(sources.load(f"folder:{copy}")) == 2


def test_batch_larger_than_the_data_is_refused(folder):
    assert two_views(folder, batch_size=COUNT).steps_per_epoch == 1
    with pytest.raises(UserError, match=r"batch_size=11\b.*\b10 images.*config\.batch_size"):
        two_views(folder, batch_size=COUNT + 1)


def test_source_without_a_readable_image_is_refused(copy):
    for path in copy.iterdir():
        replace_by_text(path)
    with pytest.raises(UserError, match=f"folder:{copy}.*none of its 10 images"):
        two_views(copy)


def input_contexts(workers, replicas):
    """Return the input contexts of several workers with the same number of replicas each."""
    return [
        tf.distribute.InputContext(workers, worker, workers * replicas) for worker in range(workers)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "replicas"), [(2, 1), (1, 2), (2, 2)])
def test_workers_share_each_batch_without_overlap_or_loss(folder, workers, replicas):
    batches = two_views(folder, batch_size=4)
    whole = list(batches.between(1, 5).as_numpy_iterator())
    parts = [
        list(batches.between(1, 5, context).as_numpy_iterator())
        for context in input_contexts(workers, replicas)
    ]
    for step, views in enumerate(whole):
        current = slice(step * replicas, (step + 1) * replicas)
        for view in (0, 1):
            shares = [batch[view] for part in parts for batch in part[current]]
            assert all(len(share) == 4 // (workers * replicas) for share in shares)
            np.testing.assert_array_equal(np.concatenate(shares), views[view])


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "replicas"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("batch_size", [2, 16])
def test_central_views_come_in_full_batches_with_blanks_for_unreadable_images(
    copy, batch_size, workers, replicas
):
    replace_by_text(copy / "2.jpg")
    truncate(copy / "7.jpg")
    requested = [8, 2, 0, 7, 5, 1, 9]
    source = sources.load(f"folder:{copy}")
    parts = [
        list(central_views(source, requested, SIZE, batch_size, context).as_numpy_iterator())
        for context in input_contexts(workers, replicas)
    ]
    assert {len(indices) for part in parts for indices, _ in part} == {batch_size}
    assert len({len(part) for part in parts}) == 1
    # Merge them: step by step, worker by worker, replica by replica.
    steps = [part[i : i + replicas] for i in range(0, len(parts[0]), replicas) for part in parts]
    indices, images = (np.concatenate(x) for x in zip(*sum(steps, []), strict=True))
    assert indices.tolist()[:7] == [8, -1, 0, -1, 5, 1, 9]
    assert set(indices[7:]) == {-1}
    assert images.shape == (len(indices), SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    assert image_numbers(images[indices >= 0]).tolist() == [8, 0, 5, 1, 9]
    assert not images[indices < 0].any()


def test_central_view_is_the_middle_of_the_image(folder):
    source = sources.load(f"folder:{folder}")
    [(_, [view])] = central_views(source, [6], 28, 1).as_numpy_iterator()
    # 40 x 48 is resized to 32 x 38, of which the middle 28 x 28 are cropped.
    image = source.read(tf.constant(6, tf.int64)).numpy()
    resized = Image.fromarray(image).resize((38, 32), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[2:30, 5:33].astype(int)
    assert np.abs(view.astype(int) - expected).max() <= 1
