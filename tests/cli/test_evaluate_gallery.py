"""evaluate.py with a gallery of its own, and clusters of images without labels."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
from sklearn.metrics import roc_auc_score

import moco_tf
from moco_tf.evaluation import galleries
from tests import in_process
from tests.images import write_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in the layout of MVTec AD, in which the scratches are drawn."""
    folder = tmp_path_factory.mktemp("bottle")
    write_folder(folder / "train", ["good"], images_per_class=30)
    write_folder(folder / "test", ["bent", "good", "scratched"], images_per_class=10)
    for path in (folder / "test" / "scratched").iterdir():
        image = np.asarray(PIL.Image.open(path)).copy()
        image[15:25] = 255
        PIL.Image.fromarray(image).save(path)
    return folder


def evaluate(trained_run, out, *flags):
    """Return the last line that is printed, and the result."""
    output = in_process.run("evaluate.py", *flags, f"--output_dir={out}", workdir=trained_run)
    *_, line = output.strip().splitlines()
    [path] = (out / "eval").glob("*.json")
    return line, json.loads(path.read_text())


def is_picture(path):
    with PIL.Image.open(path) as image:
        return image.format == "PNG" and min(image.size) > 200


def test_anomalies_in_the_layout_of_mvtec(trained_run, folder, tmp_path):
    line, result = evaluate(
        trained_run,
        tmp_path,
        *("--protocol=anomaly", "--k=1", f"--data=folder:{folder}/test"),
        f"--gallery_data=folder:{folder}/train/good",
    )
    assert (result["num_train"], result["num_test"]) == (30, 30)
    assert "30 gallery and 30 query images" in line
    assert is_picture(tmp_path / "eval" / "anomaly.png")
    backbone = moco_tf.load_backbone(str(trained_run))
    bank, test = (
        moco_tf.extract_features(backbone, moco_tf.load_source(f"folder:{path}"), "all", 32)
        for path in (folder / "train" / "good", folder / "test")
    )
    unit, bank_unit = (
        part.features / np.linalg.norm(part.features, axis=1, keepdims=True)
        for part in (test, bank)
    )
    scores = 1 - (unit @ bank_unit.T).max(axis=1)
    assert result["auroc"] == pytest.approx(roc_auc_score(test.labels != 1, scores), abs=1e-3)


def test_patches_have_files_of_their_own_and_maps_of_heat(trained_run, folder, tmp_path):
    line, result = evaluate(
        trained_run,
        tmp_path,
        *("--protocol=anomaly", "--level=patch", f"--data=folder:{folder}/test"),
        f"--gallery_data=folder:{folder}/train",
    )
    assert (result["protocol"], result["num_normal"], result["num_test"]) == (
        *("anomaly_patch", 30, 30),
    )
    assert line.startswith("anomaly_patch of ")
    assert is_picture(tmp_path / "eval" / "anomaly_patch.png")


def test_patches_of_a_gallery_with_the_test_images_are_named(trained_run, folder, tmp_path):
    printed = in_process.run(
        *("evaluate.py", "--protocol=anomaly", "--level=patch", f"--data=folder:{folder}/test"),
        *(f"--gallery_data=folder:{folder}/test/good", "--normal=good"),
        f"--output_dir={tmp_path}",
        workdir=trained_run,
    )
    assert f"warning: --data and --gallery_data both have {folder}/test/good/" in printed


def test_anomalies_without_a_gallery_name_the_two_flags(trained_run, folder, tmp_path):
    line = in_process.run_mistake(
        *("evaluate.py", "--protocol=anomaly", f"--data=folder:{folder}"),
        f"--output_dir={tmp_path}",
        workdir=trained_run,
    )
    assert "test/ has images of the class 'bent', but train/ has none" in line
    assert "--gallery_data, such as folder:PATH/train/good" in line


def test_classes_of_a_gallery_are_compared_by_their_names(trained_run, folder, tmp_path):
    gallery = write_folder(tmp_path / "gallery", ["a", "good", "scratched"], images_per_class=10)
    line, result = evaluate(
        trained_run,
        tmp_path / "out",
        *("--protocol=retrieval", f"--data=folder:{folder}/test"),
        f"--gallery_data=folder:{gallery}",
    )
    # The images of the class "bent" have none of their class in the gallery.
    assert (result["num_queries"], result["num_left_out"]) == (20, 10)
    assert [row["class"] for row in result["per_class"]] == ["good", "scratched"]
    assert result["gallery"] == "train"
    assert result["gallery_data"] == f"folder:{gallery}"
    # The images of the class "good" are the same in both, so that each finds itself first.
    assert result["recall"][0]["recall"] >= 0.5
    assert "of 20 queries: the other 10 have no image of their class to find" in line
    assert "30 gallery and 30 query images" in line
    assert result["num_copies"] == 20  # Those of "good" and "bent" are cut at the same places.


def test_notes_on_gallery_and_queries_are_printed(trained_run, folder, tmp_path):
    gallery = write_folder(tmp_path / "gallery", ["bent", "good"], images_per_class=2)
    (gallery / "clip.mp4").write_bytes(b"no image")
    printed = in_process.run(
        *("evaluate.py", "--protocol=retrieval", f"--data=folder:{folder}/test"),
        *(f"--gallery_data=folder:{gallery}", f"--output_dir={tmp_path}/out"),
        workdir=trained_run,
    )
    assert "ignored 1 file: 1 .mp4 (clip.mp4)" in printed
    assert "pre-training uses" not in printed


def test_gallery_of_other_classes_is_refused(trained_run, folder, tmp_path):
    gallery = write_folder(tmp_path / "gallery", ["Bent", "Good"], images_per_class=2)
    data = (f"--data=folder:{folder}/test", f"--gallery_data=folder:{gallery}")
    line = in_process.run_mistake(
        "evaluate.py", "--protocol=retrieval", f"--workdir={trained_run}", *data
    )
    assert f"no class of 'folder:{folder}/test' (bent, good, scratched) is in" in line
    assert "(Bent, Good): use the same names of classes" in line


def test_retrieval_among_test_images_needs_no_others(trained_run, folder, tmp_path, monkeypatch):
    extracted = []
    extract = galleries.Extractor

    def record(source, indices, image_size):
        extracted.append(indices)
        return extract(source, indices, image_size)

    monkeypatch.setattr(galleries, "Extractor", record)
    data = f"--data=folder:{folder}/test"
    line, result = evaluate(trained_run, tmp_path / "out", "--protocol=retrieval", data)
    [indices] = extracted
    np.testing.assert_array_equal(indices, moco_tf.load_source(f"folder:{folder}/test").test)
    assert (result["num_train"], result["num_test"]) == (0, len(indices))
    assert f"({len(indices)} test images)" in line


def test_clusters_of_images_without_labels(trained_run, folder, tmp_path):
    images = shutil.copytree(folder / "train" / "good", tmp_path / "images")
    (images / "damaged.png").write_text("no image")
    flags = ("--protocol=cluster", f"--data=folder:{images}")
    line, result = evaluate(trained_run, tmp_path / "out", *flags, "--clusters=4")
    assert sum(result["cluster_sizes"]) == 30
    assert set(sum(result["examples"], [])) <= set(range(30))
    assert f"4 clusters of {min(result['cluster_sizes'])} to" in line
    assert "nmi" not in result
    assert result["unreadable"] == [f"{images}/damaged.png"]
    assert (result["num_unreadable_train"], result["num_unreadable_test"]) == (0, 1)
    assert is_picture(tmp_path / "out" / "eval" / "cluster.png")
    line = in_process.run_mistake("evaluate.py", *flags, workdir=trained_run)
    assert "give the number by --clusters, such as --clusters=20" in line
    assert not (trained_run / "eval" / "cluster.json").exists()
