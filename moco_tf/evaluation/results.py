"""Results of evaluations: in one line, and as files in `eval/` of a directory."""

import json
import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically, write_remedy

# The layers that are trained, for the names of curves.
LAYERS = {"head": "only the new layer", "all": "all layers"}


def summarize(result: Mapping[str, Any]) -> str:
    """Return the accuracy in a result and the numbers of images behind it, in one line."""
    if "curves" in result:
        parts = [
            f"{curve['initialisation']}, {LAYERS[curve['layers']]} {curve['top1']:.4f}"
            f"{_interval(curve)}"
            for curve in result["curves"]
        ]
        accuracy, result = f"top-1 {'; '.join(parts)}", result["curves"][0]
    elif "few_shot" in result:
        parts = [
            f"{row['top1']:.4f} ± {row['top1_std']:.4f} with {row['shots']} per class"
            for row in result["few_shot"]
        ]
        accuracy = f"top-1 {', '.join(parts)}"
    elif "map" in result:
        low, high = result["map_interval"]
        recall = [f"recall at {row['rank']} {row['recall']:.4f}" for row in result["recall"]]
        accuracy = f"mAP {result['map']:.4f} ({low:.4f} to {high:.4f}), {', '.join(recall)}"
        if left_out := result.get("num_left_out"):
            accuracy += (
                f", of {result['num_queries']} queries: the other {left_out} have no image of "
                "their class to find"
            )
    elif "auroc" in result:
        low, high = result["auroc_interval"]
        accuracy = (
            f"AUROC {result['auroc']:.4f} ({low:.4f} to {high:.4f}), average precision "
            f"{result['average_precision']:.4f} with {result['num_normal']} normal images"
        )
    elif "cluster_sizes" in result:
        sizes = result["cluster_sizes"]
        accuracy = f"{len(sizes)} clusters of {min(sizes)} to {max(sizes)} images"
        if "nmi" in result:
            ends = result.get("ari_interval")  # None for few images; earlier versions had none.
            interval = f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else ""
            agreement = f"NMI {result['nmi']:.4f}, ARI {result['ari']:.4f}{interval}"
            accuracy = f"{agreement}, {accuracy}"
        else:
            return accuracy
    else:
        accuracy = f"top-1 {result['top1']:.4f}{_interval(result)}, top-5 {result['top5']:.4f}"
        mean = result.get("mean_per_class", result["top1"])  # Earlier versions had none.
        low, high = result.get("top1_interval", (mean, mean))
        if not low <= mean <= high:
            accuracy += f", mean of the classes {mean:.4f}"
        if "training_images" in result:
            accuracy += f", k = {result['k']} chosen on training images"
    if result.get("gallery") == "test":
        return f"{accuracy} ({result['num_test']} test images)"
    roles = ("gallery", "query") if "gallery_data" in result else ("training", "test")
    numbers = f"{result['num_train']} {roles[0]} and {result['num_test']} {roles[1]} images"
    return f"{accuracy} ({numbers})"


def _interval(result: Mapping[str, Any]) -> str:
    """Return the interval of the accuracy in a result; "" for a result of an earlier version."""
    if "top1_interval" not in result:
        return ""
    low, high = result["top1_interval"]
    return f" ({low:.4f} to {high:.4f})"


def require_writable(directory: str) -> None:
    """Check that results can be written to `directory/eval`, before they are computed.

    Nothing is created. A directory on a file system of TensorFlow, such as `gs://`, is not checked.

    Raises:
        UserError: If they cannot be written.
    """
    results = os.path.join(directory, "eval")
    if "://" in results:
        return
    path = os.path.abspath(results)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        problem = f"{path} is not a directory"
    elif not os.access(path, os.W_OK | os.X_OK):
        problem = f"{path} is not writable"
    else:
        return
    raise UserError(
        f"results cannot be written to {results}, because {problem}: correct that, or choose "
        "another output_dir"
    )


def result_path(directory: str, protocol: str) -> str:
    """Return the path of the result of a protocol, `directory/eval/<protocol>.json`."""
    return os.path.join(directory, "eval", f"{protocol}.json")


def write_result(directory: str, result: dict[str, Any]) -> str:
    """Write a result to the file of its `protocol`, and return the path.

    Raises:
        UserError: If it cannot be written.
    """
    path = result_path(directory, result["protocol"])
    try:
        tf.io.gfile.makedirs(os.path.dirname(path))
        write_atomically(path, json.dumps(result, indent=2) + "\n")
    except (tf.errors.OpError, OSError) as error:
        remedy = write_remedy(error, directory)
        raise UserError(
            f"{path} cannot be written ({error_reason(error)}): {remedy}, or choose another "
            "output_dir"
        ) from error
    return path
