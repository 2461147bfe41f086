"""Compare a training step of MoCo with the same step in plain PyTorch and with its lower bound.

    python benchmarks/train_step.py                        (both sizes; a quarter of an hour)
    python benchmarks/train_step.py --size=small --rounds=20

The contestants take turns of one step each, and their medians are compared. The results are also
written to benchmarks/train_step.json. `make pytorch` installs PyTorch.

    ours            MoCo, through the function that `fit` calls
    plain PyTorch   the arithmetic of the reference implementation on one device
    floor           only the forward passes of the two encoders and the query encoder's backward
    small queue     ours, with a queue of a sixteenth of the size
    eight groups    ours, with eight BatchNormalization groups instead of one
    matrix product  3072 x 3072 in float32, the upper limit of the machine

Memory is the peak of each process, shown beside its peak after the imports.
"""

import argparse
import importlib.util
import json
import math
import os
import pathlib
import sys

import turns

HERE = pathlib.Path(__file__).parent

SIZES = {
    "large": dict(encoder="resnet50", stem="imagenet", image_size=224, batch=8, queue=65536),
    "small": dict(encoder="resnet18", stem="small", image_size=32, batch=64, queue=4096),
}
CONTESTANTS = ("ours", "plain PyTorch", "floor", "small queue", "eight groups", "matrix product")
SIDE = 3072  # Number of rows and columns of the matrices.


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", choices=SIZES, help="large: ResNet-50; small: ResNet-18; by default both"
    )
    parser.add_argument("--rounds", type=int, default=15, help="number of steps per contestant")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)  # In a child.
    options = parser.parse_args()
    if options.contestant:
        serve(options.contestant, **SIZES[options.size])
        return
    if importlib.util.find_spec("torch") is None:
        sys.exit("error: PyTorch is not installed: make pytorch installs it")
    path = HERE / "train_step.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for size in [options.size] if options.size else SIZES:
        results[size] = compare(size, options.rounds)
        path.write_text(json.dumps(results, indent=2) + "\n")


def compare(size, rounds):
    """Run all contestants in turns; print and return the results."""

    def command(name):
        return [__file__, f"--size={size}", f"--contestant={name}"]

    median, last = turns.compare(CONTESTANTS, command, rounds)
    settings = SIZES[size]
    flops = last["ours"]["flops"]
    rate = 2 * SIDE**3 / median["matrix product"]
    print(f"\n{size}: {settings}, medians of {rounds} steps in turns")
    print(
        f"{'':16}{'ms/step':>10}{'images/s':>10}{'of ours':>9}{'of the matrix rate':>20}"
        f"{'GiB':>7}{'imports':>9}"
    )
    for name in CONTESTANTS[:-1]:
        fraction = flops / median[name] / rate
        peak, imports = (last[name][key] / 2**30 for key in ("peak", "imports"))
        print(
            f"{name:16}{1e3 * median[name]:10.0f}{settings['batch'] / median[name]:10.1f}"
            f"{median[name] / median['ours']:9.3f}{fraction:20.2f}{peak:7.2f}{imports:9.2f}"
        )
    print(f"matrix product: {rate / 1e9:.0f} GFLOP/s")
    return {
        "settings": settings,
        "rounds": rounds,
        "seconds": median,
        "peak_bytes": {name: last[name]["peak"] for name in CONTESTANTS[:-1]},
        "bytes_after_imports": {name: last[name]["imports"] for name in CONTESTANTS[:-1]},
        "step_flops": flops,
        "matrix_flops_per_second": rate,
    }


def serve(name, encoder, stem, image_size, batch, queue):
    """Run a contestant of the given name and size."""
    if name == "plain PyTorch":
        import pytorch  # noqa: F401
    else:
        import moco_tf.mechanisms.moco  # noqa: F401
    facts = {"imports": turns.peak_memory()}
    if name == "plain PyTorch":
        step = make_pytorch_step(encoder, stem, image_size, batch, queue)
    elif name == "matrix product":
        step = make_matrix_step()
    elif name == "floor":
        step = make_floor_step(encoder, stem, image_size, batch)
    else:
        queue //= 16 if name == "small queue" else 1
        groups = 8 if name == "eight groups" else 1
        step, facts["flops"] = make_our_step(encoder, stem, image_size, batch, queue, groups)
    turns.serve(step, **facts)


def make_our_step(encoder, stem, image_size, batch, queue, groups):
    """Return a function that runs a step, and the number of floating-point operations in it."""
    import tensorflow as tf

    from moco_tf import MoCo, encoders
    from moco_tf.optimizers import SGD

    def build():
        return encoders.build(encoder, "linear", stem=stem, bn_groups=groups)

    model = MoCo(build, queue_size=queue)
    model.compile(SGD(0.03))
    model.make_train_function()
    views = tf.random.normal([2, batch, image_size, image_size, 3])
    batches = iter(tf.data.Dataset.from_tensors(tuple(views)).repeat())

    def step():
        float(model.train_function(batches)["loss"])

    return step, 4 * batch * forward_flops(model.query_encoder.backbone, image_size)


def forward_flops(backbone, image_size):
    """Return the number of floating-point operations of the convolutions for one image.

    The rest of the network has less than a thousandth of the operations. A step has four times as
    many per image: one forward pass for the key, one for the query, and a backward pass for the
    query, which costs as much as two forward passes.
    """
    import keras

    convolutions = [layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    # Only shapes, because images would count as memory of the step.
    outputs = keras.Model(backbone.input, [layer.output for layer in convolutions])(
        keras.KerasTensor([1, image_size, image_size, 3])
    )
    return sum(
        2 * output.shape[1] * output.shape[2] * math.prod(layer.kernel.shape)
        for layer, output in zip(convolutions, outputs, strict=True)
    )


def make_floor_step(encoder, stem, image_size, batch):
    """Return a function that runs only the forward and backward passes, and updates nothing."""
    import tensorflow as tf

    from moco_tf import encoders

    f_q, f_k = (encoders.build(encoder, "linear", stem=stem) for _ in range(2))
    x_q, x_k = tf.random.normal([2, batch, image_size, image_size, 3])
    theta = [variable.value for variable in f_q.trainable_variables]

    @tf.function
    def run():
        k = f_k(x_k, training=True)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(theta)
            loss = tf.reduce_sum(f_q(x_q, training=True) * k)
        gradients = tape.gradient(loss, theta)
        # One number of each gradient, so that none is optimized away.
        return tf.add_n([tf.reshape(gradient, [-1])[0] for gradient in gradients])

    return lambda: float(run())


def make_pytorch_step(encoder, stem, image_size, batch, queue):
    """Return a function that runs the paper's pseudo-code as its authors wrote it."""
    from pytorch import torch, torchvision

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def build():
        model = getattr(torchvision.models, encoder)(num_classes=128)
        if stem == "small":
            model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            model.maxpool = torch.nn.Identity()
        return model

    f_q, f_k = build(), build()
    f_k.load_state_dict(f_q.state_dict())
    optimizer = torch.optim.SGD(f_q.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    normalize = torch.nn.functional.normalize
    keys = normalize(torch.randn(128, queue), dim=0)  # C x K
    x_q, x_k = torch.randn(2, batch, 3, image_size, image_size)
    pointer = 0

    def step():
        nonlocal pointer
        q = normalize(f_q(x_q), dim=1)
        with torch.no_grad():
            for p_q, p_k in zip(f_q.parameters(), f_k.parameters(), strict=True):
                p_k.data = p_k.data * 0.999 + p_q.data * (1 - 0.999)
            order = torch.randperm(batch)
            k = normalize(f_k(x_k[order]), dim=1)[torch.argsort(order)]
        l_pos = torch.einsum("nc,nc->n", q, k)[:, None]
        l_neg = torch.einsum("nc,ck->nk", q, keys)
        logits = torch.cat([l_pos, l_neg], dim=1) / 0.07
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(batch, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keys[:, pointer : pointer + batch] = k.T
        pointer = (pointer + batch) % queue
        loss.item()

    return step


def make_matrix_step():
    """Return a function that computes a product of two matrices."""
    import tensorflow as tf

    first, second = tf.random.normal([2, SIDE, SIDE])
    return lambda: tf.matmul(first, second).numpy()[0, 0]


if __name__ == "__main__":
    main()
