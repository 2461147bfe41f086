"""Made-up results of studies."""

import numpy as np

from moco_tf.config import flatten
from moco_tf.configs.photos import get_config
from studies import experiments, findings

PAPER_MOMENTUM = {0.0: 0.0, 0.9: 0.552, 0.99: 0.578, 0.999: 0.59, 0.9999: 0.589}


def base_config():
    config = get_config()
    config.epochs = 8
    return config


def make_record(accuracy, loss=None, cheating=0.0):
    """Return a record, without its name, of a run with this accuracy and loss curve."""
    record = {
        "knn_top1": accuracy - cheating,
        "linear_top1": accuracy,
        "parameters": 1000,
        "seconds": 1.0,
    }
    if loss is None:
        return record
    return record | {
        "final_loss": loss[-1],
        "final_contrastive_top1": 0.2 + cheating,
        "chance": 6.93,
        "steps_per_epoch": 63,
        "curves": {
            "step": [100, 200, 300, 400],
            "loss": loss,
            "contrastive_top1": [0.1, 0.2, 0.2, 0.2],
        },
        "knn_curve": {"step": [0, 504], "top1": [0.3, accuracy]},
    }


def make_results(accuracy, loss, noise=0.001, seeds=(0, 1, 2)):
    """Return the results of a finished study.

    Args:
        accuracy: Function from a flat config to an accuracy.
        loss: Function from a flat config to a loss curve.
        noise: Difference between the results of two seeds.
        seeds: Seeds of the study.
    """
    base = flatten(base_config())
    runs = []
    for name, settings in experiments.plan(base, experiments.NAMES).items():
        config = {**base, **settings}
        for seed in seeds:
            curve = [value + noise * seed for value in loss(config)] if config["epochs"] else None
            cheating = 0.0 if config["shuffle_bn"] else 0.1
            record = make_record(accuracy(config) + noise * (seed - 1), curve, cheating)
            runs.append({"name": name, "seed": seed, "settings": settings, **record})
    return {
        "commands": ["python -m studies"],
        "versions": {"keras": "3"},
        "config": base,
        "data": {
            "source": "photos",
            "num_images": 8116,
            "num_train": 8116,
            "num_test": 1818,
            "num_classes": 19,
        },
        "seeds": list(seeds),
        "seconds": 600.0,
        "runs": runs,
    }


def paper_accuracy(config):
    """Return an accuracy that depends on the settings as in the paper."""
    if not config["epochs"]:
        return 0.2
    accuracy = PAPER_MOMENTUM[config["momentum"]]
    accuracy += 0.01 * np.log2(findings.dictionary_size(config))
    accuracy += 0.02 * np.log2(config["epochs"])
    accuracy += 0.01 * (config["head"] == "mlp") + 0.01 * (config["augmentation"] == "v2")
    accuracy += 0.01 * (config["schedule"] == "cosine") + 0.01 * (config["temperature"] == 0.2)
    accuracy -= 0.03 * (config["mechanism"] == "memory_bank")
    return accuracy + 0.05 * config["encoder"].endswith("w2")


def paper_loss(config):
    """Return a loss curve that oscillates without momentum."""
    return [7.0, 6.0, 7.0, 6.5] if config["momentum"] == 0 else [7.0, 6.0, 5.0, 4.9]
