"""Compare a training step of MoCo with the same step in PyTorch and with its lower bound.

    python benchmarks/train_step.py                        (both sizes; about 20 minutes)
    python benchmarks/train_step.py --size=small --rounds=20

Contestants of a group take turns of one step each, and their medians are compared. moco-tf takes
part in each group. The results are also written to benchmarks/train_step.json; --output names
another file. `make pytorch` installs PyTorch.

    float32
        ours            MoCo, through the function that `fit` calls
        plain PyTorch   the arithmetic of the reference implementation on one device
        PyTorch, ...    the same with SGD and the momentum update in fused operations, and with
                        weights and images in the channels_last format, with the encoders compiled
                        by torch.compile, or both
    parts
        floor           only the forward passes of the two encoders and the query encoder's backward
        small queue     ours, with a queue of a sixteenth of the size
        eight groups    ours, with eight BatchNormalization groups instead of one
        matrix product  3072 x 3072 in float32, the upper limit of the machine
    bfloat16            if the processor multiplies bfloat16 matrices
        ours, bfloat16  with the Keras policy mixed_bfloat16
        PyTorch, ...    with torch.autocast

torch.compile takes most of the time; another run finds the compiled code in its cache. It needs a
C++ compiler. Without one, the compiled contestants are left out. Memory is the peak of each
process, shown beside its peak after the imports.
"""

import argparse
import importlib.util
import json
import pathlib
import sys

import machine
import turns

SIZES = {
    "large": dict(encoder="resnet50", stem="imagenet", image_size=224, batch=8, queue=65536),
    "small": dict(encoder="resnet18", stem="small", image_size=32, batch=64, queue=4096),
}
OURS = {
    "ours": {},
    "small queue": {},
    "eight groups": dict(groups=8),
    "ours, bfloat16": dict(precision="mixed_bfloat16"),
}
PYTORCH = {
    "plain PyTorch": {},
    "PyTorch, channels_last": dict(channels_last=True),
    "PyTorch, compiled": dict(compiled=True),
    "PyTorch, channels_last, compiled": dict(channels_last=True, compiled=True),
    "PyTorch, channels_last, bfloat16": dict(channels_last=True, bfloat16=True),
    "PyTorch, channels_last, compiled, bfloat16": dict(
        channels_last=True, compiled=True, bfloat16=True
    ),
}
SIDE = 3072  # Number of rows and columns of the matrices.
# The contestants of a group run at the same time, and have to fit into memory together. The others
# are compared with the first.
GROUPS = {
    "float32": (
        "ours",
        "plain PyTorch",
        "PyTorch, channels_last",
        "PyTorch, compiled",
        "PyTorch, channels_last, compiled",
    ),
    "parts": ("ours", "floor", "small queue", "eight groups", "matrix product"),
    "bfloat16": (
        "ours, bfloat16",
        "PyTorch, channels_last, bfloat16",
        "PyTorch, channels_last, compiled, bfloat16",
    ),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", choices=SIZES, help="large: ResNet-50; small: ResNet-18; by default both"
    )
    parser.add_argument("--rounds", type=int, default=10, help="number of steps per contestant")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path(__file__).with_suffix(".json"),
        help="the JSON file; the results of the other size in it are kept",
    )
    parser.add_argument("--contestant", help=argparse.SUPPRESS)  # In a child.
    options = parser.parse_args()
    if options.contestant:
        serve(options.contestant, **SIZES[options.size])
        return
    if importlib.util.find_spec("torch") is None:
        sys.exit("error: PyTorch is not installed: make pytorch installs it")
    groups = available_groups()
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    for size in [options.size] if options.size else SIZES:
        results[size] = compare(size, groups, options.rounds)
        options.output.write_text(json.dumps(results, indent=2) + "\n")


def available_groups():
    """Return the groups with those contestants that can run on this machine."""
    groups = dict(GROUPS)
    if not machine.has_bfloat16():
        print("without bfloat16: the processor has no instructions for it")
        del groups["bfloat16"]
    if machine.has_compiler():
        return groups
    print("without torch.compile: there is no C++ compiler (g++, or the one that CXX names)")
    return {
        group: tuple(name for name in names if not PYTORCH.get(name, {}).get("compiled"))
        for group, names in groups.items()
    }


def compare(size, groups, rounds):
    """Run all groups; print and return the results."""

    def command(name):
        return [__file__, f"--size={size}", f"--contestant={name}"]

    settings = SIZES[size]
    print(f"\n{size}: {settings}, medians of {rounds} steps in turns")
    result = {
        "machine": machine.describe("tensorflow", "torch"),
        "settings": settings,
        "rounds": rounds,
        "groups": {},
    }
    for group, names in groups.items():
        median, last = turns.compare(names, command, rounds)
        if "matrix product" in median:
            result["step_flops"] = last["ours"]["flops"]
            result["matrix_flops_per_second"] = 2 * SIDE**3 / median.pop("matrix product")
        result["groups"][group] = {
            name: {
                "seconds": seconds,
                "peak_bytes": last[name]["peak"],
                "bytes_after_imports": last[name]["imports"],
            }
            for name, seconds in median.items()
        }
        show(group, result["groups"][group], settings["batch"])
    print(f"matrix product: {result['matrix_flops_per_second'] / 1e9:.0f} GFLOP/s")
    return result


def show(group, contestants, batch):
    """Print the results of a group."""
    print(f"{group:44}{'ms/step':>8}{'images/s':>10}{'of ours':>9}{'GiB':>7}{'imports':>9}")
    ours = next(iter(contestants.values()))["seconds"]
    for name, values in contestants.items():
        seconds = values["seconds"]
        peak, imports = (values[key] / 2**30 for key in ("peak_bytes", "bytes_after_imports"))
        print(
            f"{name:44}{1e3 * seconds:8.0f}{batch / seconds:10.1f}{seconds / ours:9.3f}"
            f"{peak:7.2f}{imports:9.2f}",
            flush=True,
        )


def serve(name, **settings):
    """Run a contestant of the given name and size."""
    if name in PYTORCH:
        import steps_pytorch as steps
    else:
        import steps_tensorflow as steps
    facts = {"imports": turns.peak_memory()}
    if name == "small queue":
        settings["queue"] //= 16
    if name in PYTORCH:
        step = steps.make_step(**settings, **PYTORCH[name])
    elif name in OURS:
        step, facts["flops"] = steps.make_step(**settings, **OURS[name])
    elif name == "floor":
        step = steps.make_floor_step(**settings)
    else:
        step = steps.make_matrix_step(SIDE)
    turns.serve(step, **facts)


if __name__ == "__main__":
    main()
