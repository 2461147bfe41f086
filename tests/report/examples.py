"""Evidence and contents of reports that the tests construct: of healthy runs and of others."""

import dataclasses

import numpy as np

from moco_tf.config import default_config
from moco_tf.evaluation import knn
from moco_tf.report.contents import Contents, FeatureMap, Images, Neighbors
from moco_tf.report.evidence import Evidence
from moco_tf.report.feature_map import map_to_plane
from moco_tf.report.findings import PIXELS, RANDOM, TRAINED, check

# Hostile names that must appear as they are.
CLASSES = ['<b>left</b> & "right"', "</script><script>", "{{ 7 * 7 }}"]
RUN_NAME = "runs/<made>"


def evidence(**changes):
    """Return the evidence of a run with nothing wrong.

    Args:
        **changes: Attributes of `Evidence` to replace, and settings as `config_KEY`.
    """
    config = default_config()
    config.data.source = "folder:photos"
    config.queue_size = 4096
    accuracies = {
        TRAINED: {"knn": 0.6, "linear_cached": 0.7},
        RANDOM: {"knn": 0.33, "linear_cached": 0.45},
        PIXELS: {"knn": 0.17, "linear_cached": 0.14},
    }
    for key in [key for key in changes if key.startswith("config_")]:
        config[key.removeprefix("config_")] = changes.pop(key)
    healthy = Evidence(
        config=config,
        metrics=metrics(loss=5.0, top1=0.4),
        step=1000,
        total_steps=1000,
        steps_per_epoch=100,
        num_images=25_600,
        finite=True,
        low_cosine=0.2,
        effective_rank=40.0,
        accuracies=accuracies,
        most_frequent=0.1,
        num_test=500,
    )
    return dataclasses.replace(healthy, **changes)


def metrics(loss, top1, steps=1000, every=10):
    """Return lines of metrics.jsonl that end at this loss and contrastive accuracy."""
    lines = []
    for step in range(every, steps + 1, every):
        progress = min(1.0, 1.25 * step / steps)
        lines.append(
            {
                "step": step,
                "loss": 8.0 + (loss - 8.0) * progress,
                "contrastive_top1": top1 * progress,
                "contrastive_top5": (top1 + 1) / 2 * progress,
                "learning_rate": 0.03,
                "images_per_second": 256.0,
            }
        )
        if step % 250 == 0:
            lines.append({"step": step, "knn_top1": 0.3 + 0.3 * progress})
    return lines


def images(count, seed=0):
    """Return tiles of a random color each, with the classes in turn."""
    colors = np.random.default_rng(seed).integers(0, 256, [count, 1, 1, 3])
    tiles = np.broadcast_to(colors, [count, 32, 32, 3]).astype(np.uint8)
    names = [f'"image" <{i}>' for i in range(count)]
    return Images(tiles, names, np.arange(count) % len(CLASSES))


def contents(run_evidence=None, count=45, labeled=True):
    """Return the contents of a page, with the features of three well separated classes."""
    run_evidence = run_evidence or evidence()
    map_images = images(count)
    features = np.eye(len(CLASSES), 8)[map_images.labels]
    features += np.random.default_rng(1).normal(scale=0.1, size=features.shape)
    indices = np.arange(count)
    nearest, cosines = knn.nearest_others(features, indices, features, indices, 8)
    queries, neighbors = images(4, seed=2), images(32, seed=3)
    results = None
    if run_evidence.accuracies is not None:
        results = {
            name: {
                protocol: {"top1": top1, "top5": 0.9, "num_train": 2000, "num_test": 500, "k": 200}
                for protocol, top1 in accuracies.items()
            }
            for name, accuracies in run_evidence.accuracies.items()
        }
    if not labeled:
        map_images, queries, neighbors = (
            dataclasses.replace(part, labels=None) for part in (map_images, queries, neighbors)
        )
    return Contents(
        name=RUN_NAME,
        trained_on="folder:photos",
        data="folder:photos",
        is_monitored=True,
        channels=3,
        held_out=True,
        evidence=run_evidence,
        findings=check(run_evidence),
        results=results,
        class_names=CLASSES if labeled else None,
        feature_map=FeatureMap(map_images, map_to_plane(features), nearest, cosines),
        neighbors=Neighbors(queries, neighbors, np.full([4, 8], 0.75)),
    )
