"""The report on a run: one HTML page that holds all that it shows."""

import os

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf import distribution, run_directory
from moco_tf.backbones.loading import load_backbone, random_backbone
from moco_tf.config import total_steps
from moco_tf.data import sources
from moco_tf.data.sources.source import evenly_spaced
from moco_tf.errors import UserError
from moco_tf.evaluation import protocols
from moco_tf.evaluation.features import extract
from moco_tf.files import write_atomically
from moco_tf.plots.thumbnails import thumbnails
from moco_tf.report import embedding, page
from moco_tf.report.findings import Evidence, look
from moco_tf.training import knn_monitor

TRAINED, RANDOM, PIXELS = "trained", "random initialisation", "raw pixels"
PIXELS_SIDE = 32  # of raw pixels: more would be too many numbers for the probe
ROWS, COLUMNS = 8, 8  # test images whose neighbours are shown, and neighbours of each


def write_report(workdir, source=None, image_size=None, output_dir=None):
    """Writes report.html, a page on a run that needs no other file and no network.

    It says how the run was trained, draws its curves, compares its backbone with the same encoder
    untrained and with raw pixels, maps the features of test images, shows neighbours, and warns of
    what looks wrong. Features are of the images that the kNN monitor looks at: at most 10,000 for
    training and 2,000 for testing. Without labels there is no comparison. Where nothing is held
    out for testing, the images of pre-training take its place, and there is no comparison either.
    What it found is in eval/report.json as well.

    In every process of the current `tf.distribute` strategy; the chief alone writes.

    Args:
        workdir: str, the run directory.
        source: the `moco_tf.data.source.Source` to look at; the run's own by default.
        image_size: int, side of the central views in pixels; the run's own by default.
        output_dir: str, where report.html and eval/report.json go; `workdir` by default.

    Returns:
        In the chief what is in report.json, a dict: `protocol`, "report"; `backbones`, by name
        what `moco_tf.evaluation.protocols.evaluate` returns of "knn" and of "linear_cached", or
        None; `warnings` and `looked_at`, the kinds of the `moco_tf.report.findings` that warn, and
        of all of them; `step`, of the checkpoint; `num_train` and `num_test`; `data`; `image_size`.
        None in other processes.

    Raises:
        UserError: no run there, or no checkpoint yet, a source that cannot be read, or a place
            that cannot be written.
    """
    config = run_directory.read_config(workdir)
    if source is None:
        source = sources.from_config(config)
    image_size = image_size or config.image_size
    parts, held_out = _parts(source)
    backbones = {TRAINED: load_backbone(workdir)}
    if comparable := held_out and _has_classes(source, parts[0]):
        backbones |= _baselines(config, source, image_size)
    features = {
        name: [
            extract(backbone, source, part, image_size, f"{name}, {words}")
            for part, words in zip(parts, ("bank", "test images"), strict=True)
        ]
        for name, backbone in backbones.items()
    }
    if not distribution.is_chief():
        return None

    train, test = features[TRAINED]
    finite = bool(np.isfinite(train.features).all() and np.isfinite(test.features).all())
    total = 3 + (2 * len(features) if comparable and finite else 0)
    # tqdm's None: no bar where there is no terminal.
    with tqdm(total=total, desc="report", unit="part", disable=None) as bar:
        results = _compare(features, source, bar) if comparable and finite else None
        evidence = _evidence(workdir, config, test, finite, results)
        findings = look(evidence)
        bar.update()
        contents = page.Contents(
            name=os.path.basename(os.path.normpath(workdir)),
            data=source.name,
            channels=source.channels,
            held_out=held_out,
            evidence=evidence,
            findings=findings,
            results=results,
            class_names=None if source.labels is None else list(source.class_names),
            map=_map(source, test, image_size) if finite else None,
            neighbours=_neighbours(source, train, test, image_size) if finite else None,
        )
        bar.update()
        result = {
            "protocol": "report",
            "backbones": results,
            "warnings": [finding.kind for finding in findings if finding.warns],
            "looked_at": [finding.kind for finding in findings],
            "step": evidence.step,
            "num_train": len(train.indices),
            "num_test": len(test.indices),
            "data": source.name,
            "image_size": image_size,
        }
        directory = output_dir or workdir
        protocols.write_result(directory, result)
        _write(os.path.join(directory, "report.html"), page.render(contents))
        bar.update()
    return result


def _parts(source):
    """The indices of the bank and of the images shown, and whether these are held out."""
    held_out = len(source.train) > 0 and len(source.test) > 0
    bank, shown = (source.train, source.test) if held_out else (source.pretrain, source.pretrain)
    return (
        evenly_spaced(bank, knn_monitor.TRAIN),
        evenly_spaced(shown, knn_monitor.TEST),
    ), held_out


def _has_classes(source, indices):
    return source.labels is not None and len(np.unique(np.asarray(source.labels)[indices])) > 1


def _baselines(config, source, image_size):
    """What a backbone is compared with, by name."""
    random = random_backbone(config.encoder, config.stem, source.channels, config.seed)
    side = min(image_size, PIXELS_SIDE)

    def pixels(images):
        if side < image_size:
            images = tf.image.resize(images, [side, side], antialias=True)
        return tf.reshape(images, [images.shape[0], -1])

    return {RANDOM: random, PIXELS: pixels}


def _compare(features, source, bar):
    """`{backbone: {protocol: result}}`."""
    results = {}
    for name, (train, test) in features.items():
        results[name] = {}
        for protocol in ("knn", "linear_cached"):
            num_classes = len(source.class_names)
            results[name][protocol] = protocols.evaluate(protocol, train, test, num_classes)
            bar.update()
    return results


def _evidence(workdir, config, test, finite, results):
    num_images = run_directory.read_num_images(workdir)
    steps_per_epoch = num_images // config.batch_size
    step = int(run_directory.latest_checkpoint(workdir).rsplit("-", 1)[1])
    accuracies = most_frequent = None
    if results is not None:
        accuracies = {
            name: {protocol: result["top1"] for protocol, result in of_backbone.items()}
            for name, of_backbone in results.items()
        }
        most_frequent = float(np.bincount(test.labels).max() / len(test.labels))
    several = finite and len(test.features) > 1
    return Evidence(
        config=config,
        metrics=[line for line in run_directory.read_metrics(workdir) if line["step"] <= step],
        step=step,
        total_steps=total_steps(config, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        num_images=num_images,
        finite=finite,
        low_cosine=_low_cosine(test.features) if several else None,
        effective_rank=embedding.effective_rank(test.features) if several else None,
        accuracies=accuracies,
        most_frequent=most_frequent,
        num_test=len(test.indices),
    )


def _low_cosine(features):
    return float(np.percentile(embedding.cosines_of_pairs(features), 5))


def _map(source, test, image_size):
    near, cosines = embedding.neighbours(
        test.features, test.indices, test.features, test.indices, COLUMNS
    )
    images = _images(source, test.indices, image_size, largest=64)
    return page.Map(images, embedding.flat_map(test.features), near, cosines)


def _neighbours(source, train, test, image_size):
    # Test images lie sorted by class, so an even spread shows different ones.
    rows = min(ROWS, len(test.features))
    queries = ((np.arange(rows) + 0.5) * len(test.features) / rows).astype(int)
    indices = test.indices[queries]
    near, cosines = embedding.neighbours(
        train.features, train.indices, test.features[queries], indices, COLUMNS
    )
    return page.Neighbours(
        _images(source, indices, image_size, largest=128),
        _images(source, train.indices[near].ravel(), image_size, largest=128),
        cosines,
    )


def _images(source, indices, image_size, largest):
    return page.Images(
        thumbnails(source, indices, image_size, largest),
        [source.describe(int(index)) for index in indices],
        None if source.labels is None else np.asarray(source.labels)[indices],
    )


def _write(path, text):
    try:
        write_atomically(path, text)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path} cannot be written ({error}): give another --output_dir") from error
