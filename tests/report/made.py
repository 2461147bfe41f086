"""Runs and features made by hand, healthy and not."""

import dataclasses

import numpy as np

from moco_tf.config import default_config
from moco_tf.report import embedding, page
from moco_tf.report.findings import Evidence, look

CLASSES = ['<b>left</b> & "right"', "</script><script>", "plain"]


def evidence(**changes):
    """What is known of a run with nothing wrong; `changes` replace attributes of `Evidence`, and
    those named `config_KEY` settings."""
    config = default_config()
    config.data.source = "folder:photos"
    config.queue_size = 4096
    accuracies = {
        "trained": {"knn": 0.6, "linear_cached": 0.7},
        "random initialisation": {"knn": 0.33, "linear_cached": 0.45},
        "raw pixels": {"knn": 0.17, "linear_cached": 0.14},
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
    """Lines of metrics.jsonl, which come to the loss and the contrastive accuracy at the end."""
    lines = []
    for step in range(every, steps + 1, every):
        share = min(1.0, 1.25 * step / steps)
        lines.append(
            {
                "step": step,
                "loss": 8.0 + (loss - 8.0) * share,
                "contrastive_top1": top1 * share,
                "contrastive_top5": (top1 + 1) / 2 * share,
                "learning_rate": 0.03,
                "images_per_second": 256.0,
            }
        )
        if step % 250 == 0:
            lines.append({"step": step, "knn_top1": 0.3 + 0.3 * share})
    return lines


def images(count, seed=0):
    """Tiles of one colour each, with labels in turn."""
    colours = np.random.default_rng(seed).integers(0, 256, [count, 1, 1, 3])
    tiles = np.broadcast_to(colours, [count, 32, 32, 3]).astype(np.uint8)
    names = [f'"image" <{i}>' for i in range(count)]
    return page.Images(tiles, names, np.arange(count) % len(CLASSES))


def contents(of=None, count=45, labelled=True):
    """A page's contents for an `Evidence`, with features of three classes that lie apart."""
    of = of or evidence()
    shown = images(count)
    features = np.eye(len(CLASSES), 8)[shown.labels]
    features += np.random.default_rng(1).normal(scale=0.1, size=features.shape)
    indices = np.arange(count)
    near, cosines = embedding.neighbours(features, indices, features, indices, 8)
    queries, found = images(4, seed=2), images(32, seed=3)
    results = None
    if of.accuracies is not None:
        results = {
            name: {
                protocol: {"top1": top1, "top5": 0.9, "num_train": 2000, "num_test": 500, "k": 200}
                for protocol, top1 in row.items()
            }
            for name, row in of.accuracies.items()
        }
    if not labelled:
        shown, queries, found = (
            dataclasses.replace(part, labels=None) for part in (shown, queries, found)
        )
    return page.Contents(
        name="runs/<made>",
        data="folder:photos",
        channels=3,
        held_out=True,
        evidence=of,
        findings=look(of),
        results=results,
        class_names=CLASSES if labelled else None,
        map=page.Map(shown, embedding.flat_map(features), near, cosines),
        neighbours=page.Neighbours(queries, found, np.full([4, 8], 0.75)),
    )
