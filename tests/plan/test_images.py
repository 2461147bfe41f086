"""What a plan finds in a sample of images."""

import numpy as np
import PIL.Image
import pytest
import skimage.data

from moco_tf.data import sources
from moco_tf.errors import UserError
from moco_tf.plan import images as images_module
from moco_tf.plan.images import look
from tests.images import crops

PHOTOGRAPHS = ("astronaut", "coffee", "rocket", "chelsea")


def write(folder, pictures, **options):
    """Write images to numbered files, and return their source."""
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(pictures):
        PIL.Image.fromarray(picture).save(folder / f"{number:04}.jpg", quality=95, **options)
    return sources.load(f"folder:{folder}")


def camera(photograph, step, count, side=96):
    """Yield the frames of a camera that pans over a photograph, with the noise of a sensor."""
    generator = np.random.default_rng(0)
    height, width, _ = photograph.shape
    x = y = 0.0
    direction = np.array([1.0, 0.6])
    for _ in range(count):
        frame = photograph[int(y) : int(y) + side, int(x) : int(x) + side]
        noise = generator.normal(0, 4, frame.shape)
        yield np.clip(frame + noise, 0, 255).astype(np.uint8)
        for axis, (value, end) in enumerate(((x, width), (y, height))):
            if not 0 <= value + step * direction[axis] <= end - side:
                direction[axis] *= -1
        x, y = np.array([x, y]) + step * direction


def photograph(name):
    return getattr(skimage.data, name)()[..., :3]


@pytest.fixture(scope="module")
def photos():
    return look(sources.load("photos"))


def test_gray_patches_of_one_size(photos):
    assert (photos.number, photos.channels) == (8116, 3)
    assert 512 < photos.sampled <= 1024
    assert photos.side == 32
    assert photos.smallest == photos.largest == (32, 32)
    assert photos.is_gray
    assert photos.unreadable == 0


def test_overlapping_patches_are_not_taken_for_a_video(photos):
    assert not photos.is_video
    assert photos.consecutive < 0.05
    assert photos.random < 0.01
    assert photos.copies == 0
    assert photos.stride == 1


def test_the_same_seed_gives_the_same_facts(photos):
    source = sources.load("photos")
    assert look(source) == photos
    assert look(source, seed=1).consecutive != photos.consecutive


def test_sizes_and_colors_of_a_folder(tmp_path):
    pictures = [photograph("coffee")[:50, :70], photograph("rocket")[:40, :90]] * 3
    facts = look(write(tmp_path, [*pictures, photograph("chelsea")[:200, :300]]))
    assert facts.number == facts.sampled == 7
    assert facts.side == 50
    assert facts.smallest == (40, 90)
    assert facts.largest == (200, 300)
    assert facts.sides == (40, 40, 40, 50, 50, 50, 200)
    assert not facts.is_gray


def test_gray_files_and_one_in_color(tmp_path):
    gray = [picture.mean(axis=-1).astype(np.uint8) for picture in crops(12, 40)]
    assert look(write(tmp_path / "gray", gray)).is_gray
    gray[5] = crops(1, 40)[0]
    assert not look(write(tmp_path / "mixed", gray)).is_gray


def test_frames_of_a_video_are_near_duplicates(tmp_path):
    frames = [frame for name in PHOTOGRAPHS for frame in camera(photograph(name), 2, 80)]
    facts = look(write(tmp_path / "all", frames))
    assert facts.is_video
    assert facts.consecutive > 0.6
    assert facts.random < 0.05
    assert facts.stride in (4, 8, 16)
    assert facts.distinct == 320 // facts.stride
    assert not look(write(tmp_path / "some", frames[:: facts.stride])).is_video


def test_random_crops_of_photographs_are_no_video(tmp_path):
    facts = look(write(tmp_path, crops(200, 96)))
    assert not facts.is_video
    assert facts.copies == 0


def test_copies_are_counted(tmp_path):
    # Of 10 images, each 20 times, a tenth of the pairs are identical.
    facts = look(write(tmp_path, crops(10, 40) * 20))
    assert facts.copies == pytest.approx(0.1, abs=0.02)
    assert facts.consecutive < 0.1


def test_unreadable_images_are_counted_and_named(tmp_path):
    write(tmp_path, crops(20, 40))
    for number in (3, 11):
        (tmp_path / f"{number:04}.jpg").write_bytes(b"\xff\xd8 damaged")
    facts = look(sources.load(f"folder:{tmp_path}"))
    assert (facts.sampled, facts.unreadable) == (20, 2)
    assert {name.rpartition("/")[2] for name in facts.unreadable_names} == {"0003.jpg", "0011.jpg"}
    assert len(facts.sides) == 18


def test_images_of_which_none_can_be_read_are_refused(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"\xff\xd8 damaged")
    with pytest.raises(UserError, match="none of its 3 images can be read"):
        look(sources.load(f"folder:{tmp_path}"))


def test_share_of_files_with_an_orientation(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    write(tmp_path, crops(3, 40), exif=exif)
    name = f"folder:{tmp_path}"
    PIL.Image.fromarray(next(iter(crops(1, 40)))).save(tmp_path / "upright.jpg")
    assert look(sources.load(name)).turned == 0.75
    assert look(sources.load(name, orientation=True)).turned == 0


def test_one_image(tmp_path):
    facts = look(write(tmp_path, crops(1, 40)))
    assert (facts.number, facts.sampled, facts.consecutive, facts.random) == (1, 1, 0, 0)


def test_sample_ends_at_a_number_of_pixels(monkeypatch):
    source = sources.load("photos")
    monkeypatch.setattr(images_module, "MAX_PIXELS", 100 * 32 * 32)
    assert look(source).sampled == 100
    assert len(look(source).sides) == 100


def test_difference_hash_is_that_of_pillow():
    """Nearly: Pillow rounds to gray levels."""
    shares = []
    for picture in crops(30, 120):
        thumbnail = images_module._thumbnail(picture)[2].numpy()
        _, bits, _ = images_module._describe(thumbnail)
        gray = PIL.Image.fromarray(picture).resize((9, 8), PIL.Image.Resampling.BILINEAR)
        pixels = np.asarray(gray, float).mean(axis=-1)
        shares.append(np.mean(bits == (pixels[:, 1:] > pixels[:, :-1]).reshape(-1)))
    assert np.mean(shares) > 0.97
