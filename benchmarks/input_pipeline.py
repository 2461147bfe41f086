"""Compare the input pipeline, from JPEG files to two augmented views, with others.

    python benchmarks/input_pipeline.py                    (about eight minutes)

Images of 500 x 375 pixels become two views of 224 x 224 with the augmentation of MoCo v2, all on
the CPU. The contestants take turns of one epoch each, and their medians are compared. The results
are also written to benchmarks/input_pipeline.json; --output names another file. `make
benchmark-packages` installs what the others need. DALI takes part if it is installed: `pip install
nvidia-dali-cuda130`, 0.7 GB, needs no GPU.

    The host part: reading, decoding, two crops and flips, which is what feeds an accelerator
        ours, host
        torchvision v2, host    on uint8 tensors
        DALI, host

    The whole: the same with colors, blur and normalization
        ours, whole
        torchvision             with Pillow, as in the reference implementation
        torchvision v2          with colors and blur on float32 tensors
        torchvision v2, Pillow colors
        DALI, whole

torchvision runs in a DataLoader with one worker per core and one thread per worker. The wheels of
torchvision are built for CUDA, and their JPEG decoder does not load beside a CPU build of torch;
simplejpeg, which calls libjpeg-turbo as well, then replaces it for the tensors. FFCV does not take
part: it reads files of its own format, and its last release, of 2023, has no wheels and does not
build without the headers of OpenCV.
"""

import argparse
import importlib
import importlib.metadata
import json
import pathlib
import sys
import tempfile

import machine
import turns

# The module of each contestant, its function and its arguments.
CONTESTANTS = {
    "ours, host": ("views_ours", "make_epoch", dict(is_host_part=True)),
    "torchvision v2, host": ("views_torchvision", "make_v2_epoch", dict(colors=None)),
    "DALI, host": ("views_dali", "make_epoch", dict(is_host_part=True)),
    "ours, whole": ("views_ours", "make_epoch", dict(is_host_part=False)),
    "torchvision": ("views_torchvision", "make_pillow_epoch", {}),
    "torchvision v2": ("views_torchvision", "make_v2_epoch", dict(colors="tensors")),
    "torchvision v2, Pillow colors": ("views_torchvision", "make_v2_epoch", dict(colors="Pillow")),
    "DALI, whole": ("views_dali", "make_epoch", dict(is_host_part=False)),
}
SIZE = 224
BATCH = 64
DALI = "nvidia-dali-cuda130"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2048, help="number of images in an epoch")
    parser.add_argument("--rounds", type=int, default=3, help="number of epochs per contestant")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path(__file__).with_suffix(".json"),
        help="the JSON file",
    )
    # In a child: the contestant, and the folder of the images.
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.images < BATCH:
        parser.error(f"--images={options.images}: give at least {BATCH}")
    if options.contestant:
        serve(options.contestant, options.folder)
        return
    packages, names = available()
    with tempfile.TemporaryDirectory() as folder:
        from jpeg_files import write_images

        size = write_images(folder, options.images)

        def command(name):
            return [__file__, f"--contestant={name}", f"--folder={folder}"]

        median, last = turns.compare(names, command, options.rounds)
    result = {
        "machine": machine.describe(*packages),
        "images": options.images,
        "bytes_per_image": size,
        "rounds": options.rounds,
        "decoder": last["torchvision v2"]["decoder"],
        "images_per_second": {name: options.images / median[name] for name in names},
    }
    show(result, last)
    options.output.write_text(json.dumps(result, indent=2) + "\n")


def available():
    """Return the packages that are compared, and the contestants that can run with them."""
    packages = ["tensorflow", "torch", "torchvision", "pillow", "simplejpeg"]
    for package in packages:
        if not is_installed(package):
            sys.exit(f"error: {package} is not installed: make benchmark-packages installs it")
    if is_installed(DALI):
        return [*packages, DALI], list(CONTESTANTS)
    print(f"without DALI, which is not installed: pip install {DALI}")
    return packages, [name for name in CONTESTANTS if not name.startswith("DALI")]


def is_installed(package):
    """Return whether a package is installed, by its name in the package index."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def serve(name, folder):
    """Run a contestant."""
    module_name, function, arguments = CONTESTANTS[name]
    module = importlib.import_module(module_name)
    facts = {}
    if module_name == "views_torchvision":
        facts["decoder"], _ = module.tensor_decoder()
    turns.serve(getattr(module, function)(folder, SIZE, BATCH, **arguments), **facts)


def show(result, last):
    """Print the rates, and the peak memory of the main process of each contestant."""
    rates = result["images_per_second"]
    print(
        f"{result['images']} JPEG files of {result['bytes_per_image'] / 1024:.0f} KiB, "
        f"{result['machine']['cores']} cores, medians of {result['rounds']} epochs in turns"
    )
    print(f"{'':32}{'images/s':>10}{'of ours':>9}{'GiB':>7}")
    ours = "ours, host"
    for name, rate in rates.items():
        ours = name if name.startswith("ours") else ours
        print(f"{name:32}{rate:10.0f}{rate / rates[ours]:9.2f}{last[name]['peak'] / 2**30:7.2f}")


if __name__ == "__main__":
    main()
