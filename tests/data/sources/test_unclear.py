"""Arrangements of folders, as public data sets have them, that would be misread."""

import pytest

from moco_tf.errors import UserError
from tests.data.sources.layouts import load, parts, write


def in_each(folders, *paths):
    return [f"{folder}/{path}" for folder in folders for path in paths]


def refusal(folder):
    with pytest.raises(UserError) as error:
        load(folder)
    message = str(error.value)
    assert f"data source 'folder:{folder}': " in message
    assert "\n" not in message
    return message


TWO_CLASSES = ("sea/a.png", "sky/b.png")
NAMED = ("left_eye.png", "right_eye.png", "nose.png")  # Names that are more than a number.
COUNTED = ("1.png", "2.png", "3.png")


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        # Parts with other words in their names. Intel Image Classification:
        (
            [
                *in_each(["seg_train/seg_train", "seg_test/seg_test"], *TWO_CLASSES),
                "seg_pred/seg_pred/1.jpg",
            ],
            [
                "seg_test/, seg_train/ seem to be parts",
                "move seg_test/seg_test/ to test/, seg_train/seg_train/ to train/",
            ],
        ),
        (
            in_each(["archive/seg_train", "archive/seg_test"], *TWO_CLASSES),
            ["in '{}', archive/seg_test/", "archive/seg_test/ to archive/test/"],
        ),
        (
            ["DIV2K_train_HR/0001.png", "DIV2K_valid_HR/0801.png"],
            ["move DIV2K_train_HR/ to train/, DIV2K_valid_HR/ to val/"],
        ),
        (
            in_each(["DIV2K_train_HR", "DIV2K_train_LR", "DIV2K_valid_HR"], "0001.png"),
            ["move DIV2K_train_HR/ to train/, DIV2K_valid_HR/ to val/"],
        ),
        # horse2zebra of CycleGAN, and Planet on Kaggle:
        (
            in_each(["trainA", "trainB", "testA", "testB"], "1.jpg"),
            ["move testA/ to test/, trainA/ to train/"],
        ),
        (in_each(["train-jpg", "test-jpg-v2"], "1.jpg"), ["move test-jpg-v2/ to test/"]),
        (in_each(["stage1_train", "stage1_test"], "1.jpg"), ["move stage1_test/ to test/"]),
        # Parts that are in {}/ILSVRC. ImageNet on Kaggle:
        (
            [
                *in_each(["ILSVRC/Data/CLS-LOC/train"], *TWO_CLASSES),
                "ILSVRC/Data/CLS-LOC/val/1.jpg",
                "ILSVRC/Data/CLS-LOC/test/1.jpg",
                "ILSVRC/Annotations/CLS-LOC/train/n01440764/1.xml",
                "LOC_synset_mapping.txt",
            ],
            ["test/, train/, val/ are in {}/ILSVRC", "use folder:{}/ILSVRC/Data/CLS-LOC"],
        ),
        (in_each(["data/val", "data/test"], *TWO_CLASSES), ["use folder:{}/data"]),
        (in_each(["a/b/train", "a/b/test", "a/b/extra"], "1.png"), ["use folder:{}/a/b"]),
        # Chest X-Ray Images (Pneumonia), which has a copy of itself:
        (
            in_each(["chest_xray/train", "chest_xray/val", "chest_xray/test"], *TWO_CLASSES)
            + in_each(["chest_xray/chest_xray/train", "chest_xray/chest_xray/val"], *TWO_CLASSES)
            + in_each(["chest_xray/chest_xray/test", "chest_xray/__MACOSX/train"], *TWO_CLASSES),
            ["the folders beside it (test/, train/, val/)", "use folder:{}/chest_xray/chest_xray"],
        ),
        (
            in_each(["train", "val", "chest_xray/train", "chest_xray/val"], *TWO_CLASSES),
            ["use folder:{}/chest_xray, or move {}/chest_xray elsewhere"],
        ),
        # Malaria Cell Images:
        (
            in_each([".", "cell_images"], "Parasitized/1.png", "Uninfected/2.png"),
            ["Parasitized/, Uninfected/", "use folder:{}/cell_images, or"],
        ),
        # Several folders with parts. MVTec AD, and one with few folders:
        (
            in_each(
                ["bottle", "cable", "hazelnut", "zipper"],
                *("train/good/1.png", "test/good/2.png", "test/cut/3.png"),
                "ground_truth/cut/3_mask.png",
            ),
            [
                "4 folders in '{}' have parts of their own",
                "(bottle/, cable/, hazelnut/, ...)",
                "use one of them, as folder:{}/NAME, or move",
                "{}/train/",
            ],
        ),
        (
            in_each(["cats/train", "cats/test", "dogs/train", "dogs/test"], "1.png"),
            ["use folder:{}/cats or folder:{}/dogs, or move the images of all"],
        ),
        # Masks and annotations. Cityscapes, VOC, Oxford-IIIT Pet, ADE20K:
        (
            in_each(["leftImg8bit", "gtFine"], "train/aachen/1.png", "val/ulm/2.png"),
            ["in '{}', gtFine/ seems", "use folder:{}/leftImg8bit, or move gtFine/ elsewhere"],
        ),
        (
            [
                *in_each(["VOCdevkit/VOC2012/JPEGImages"], "1.jpg", "2.jpg"),
                "VOCdevkit/VOC2012/SegmentationClass/1.png",
                "VOCdevkit/VOC2012/SegmentationObject/1.png",
                "VOCdevkit/VOC2012/Annotations/1.xml",
            ],
            [
                "VOCdevkit/VOC2012/SegmentationObject/ seem to hold masks",
                "use folder:{}/VOCdevkit/VOC2012/JPEGImages, or move VOCdevkit/VOC2012/Seg",
            ],
        ),
        (["JPEGImages/1.jpg", "SegmentationClass/1.png"], ["use folder:{}/JPEGImages"]),
        (["images/1.jpg", "annotations/trimaps/1.png"], ["use folder:{}/images"]),
        (
            in_each(["images", "annotations"], "training/1.jpg", "validation/2.jpg"),
            ["use folder:{}/images, or"],
        ),
        (["train/images/1.jpg", "train/masks/1.png"], ["use folder:{}/train/images, or"]),
        (
            in_each(["train", "val"], "images/1.jpg", "masks/1.png"),
            ["train/images/, val/images/: move train/masks/, val/masks/ elsewhere"],
        ),
        (["Images/1.jpg", "GroundTruth/1.png"], ["use folder:{}/Images"]),
        (["img/1.jpg", "label-images/1.png"], ["use folder:{}/img"]),
        # Penn-Fudan and Oxford Flowers 102:
        (["PNGImages/1.png", "PedMasks/1_mask.png"], ["use folder:{}/PNGImages"]),
        (["jpg/image_1.jpg", "segmim/segmim_1.jpg"], ["use folder:{}/jpg"]),
        (["Original/1.png", "Ground Truth/1.png"], ["use folder:{}/Original"]),
        # COVID-19 Radiography Database:
        (
            in_each(["COVID", "Normal"], "images/1.png", "masks/1.png"),
            ["in COVID/images/, Normal/images/: move COVID/masks/, Normal/masks/ elsewhere"],
        ),
        # The names of the files show what the names of the folders do not.
        (in_each(["faces", "masks"], *NAMED), ["use folder:{}/faces, or move masks/ elsewhere"]),
        (
            in_each(["scans"], *COUNTED) + [f"masks/{n}_mask.png" for n in (1, 2, 3)],
            ["use folder:{}/scans"],
        ),
        (
            in_each(["ISIC"], "I1.jpg", "I2.jpg", "I3.jpg")
            + in_each(["ISIC_segmentation"], "I1.png", "I2.png", "I3.png"),
            ["use folder:{}/ISIC, or", "or move ISIC_segmentation/ elsewhere, or rename it if"],
        ),
    ],
)
def test_layout_is_refused_with_the_folder_to_use(tmp_path, paths, named):
    write(tmp_path, *paths)
    message = refusal(tmp_path)
    for text in named:
        assert text.replace("{}", str(tmp_path)) in message


@pytest.mark.parametrize(
    "classes",
    [
        ["with_mask", "without_mask"],
        ["mask", "no_mask"],
        ["masked", "unmasked"],
        ["mask", "face"],
        ["mask_weared_incorrect", "with_mask", "without_mask"],
        ["glasses", "hats", "masks"],
        ["label", "bottle"],
        ["bullet train", "bus"],
        ["test tube", "flask"],
        ["training shoe", "boot"],
        ["images", "drawings"],
        ["cats", "dogs"],
    ],
)
@pytest.mark.parametrize("part", ["", "train/"])
def test_ordinary_classes_are_accepted(tmp_path, classes, part):
    """Images that are counted from 1 in each class have equal names."""
    write(tmp_path, *in_each([f"{part}{name}" for name in classes], *COUNTED))
    source = load(tmp_path)
    assert source.class_names == sorted(classes)
    assert len(source.pretrain) == 3 * len(classes)


@pytest.mark.parametrize(
    "paths",
    [
        in_each(["vehicles"], "boat/1.png", "train/2.png"),
        in_each(["data/train"], *TWO_CLASSES),
        in_each(["a/b/c/d/e/f/g/h"], "train/1.png", "cat/2.png"),
        ["images/1.png", "masks/1.txt", "Annotations/1.xml", "labels/1.txt"],
        ["cats/1.png", "dogs/2.png", "dogs/cats/3.png"],
    ],
)
def test_other_layouts_are_accepted(tmp_path, paths):
    write(tmp_path, *paths)
    images = sorted(path for path in paths if path.endswith(".png"))
    assert sorted(parts(load(tmp_path), tmp_path)[0]) == images


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train/train", "test/test"),
        ("training_set/training_set", "test_set/test_set"),
        ("train/seg_train", "test/seg_test"),
    ],
)
@pytest.mark.parametrize("images", [TWO_CLASSES, ("1.png", "2.png")])
def test_parts_that_are_nested_twice(tmp_path, train, test, images):
    """Pre-training uses the right images, and an evaluation says what to move."""
    write(tmp_path, *in_each([train, test], *images))
    source = load(tmp_path)
    assert parts(source, tmp_path)[0] == in_each([train], *images)
    assert not source.has_labels
    first_train, first_test = train.split("/")[0], test.split("/")[0]
    assert (
        f"no labels, because folders are nested twice: move what is in {test}/ to {first_test}/, "
        f"and what is in {train}/ to {first_train}/"
    ) in source.summary


def test_only_the_test_part_is_nested_twice(tmp_path):
    write(tmp_path, *in_each(["train", "test/test"], *TWO_CLASSES))
    assert "nested twice: move what is in test/test/ to test/" in load(tmp_path).summary


def test_folder_to_use_is_accepted(tmp_path):
    write(tmp_path, *in_each(["ILSVRC/Data/CLS-LOC/train"], *TWO_CLASSES))
    write(tmp_path, *in_each(["ILSVRC/Data/CLS-LOC/val"], *TWO_CLASSES))
    folder = refusal(tmp_path).rpartition("use folder:")[2]
    assert load(folder).class_names == ["sea", "sky"]


def test_names_that_cannot_be_printed(tmp_path):
    write(tmp_path, *in_each(["new\nline/train", "new\nline/test"], *TWO_CLASSES))
    assert rf"use folder:{tmp_path}/new\nline" in refusal(tmp_path)
