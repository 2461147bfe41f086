"""Checkpoints made, read and gone on with by PyTorch itself, against runs and backbones of ours."""

import contextlib
import functools
import itertools
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from export import pytorch
from moco_tf import encoders, load_backbone, run_directory, training
from moco_tf.augment import MEAN, STD
from moco_tf.config import default_config
from tests.command import TINY, run, start
from tests.images import crops, write_folder
from tests.pytorch import torch, torchvision

# An epoch of 40 images. The queue has come round then, and stands at 16.
DIM, KEYS, BATCH, STEPS, RATE = 12, 24, 8, 5, 0.03
SCRIPT = "export/pytorch.py"

PARTS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
HEADS = {
    "linear": {"projection": "fc"},
    "mlp": {"hidden": "fc.0", "projection": "fc.2"},
}
LAYERS = {"stem_conv": "conv1", "stem_bn": "bn1"}
for _stage, _block in itertools.product((1, 2, 3, 4), (1, 2)):
    for _ours, _theirs in {
        "1_conv": "conv1",
        "1_bn": "bn1",
        "2_conv": "conv2",
        "2_bn": "bn2",
        "shortcut_conv": "downsample.0",
        "shortcut_bn": "downsample.1",
    }.items():
        LAYERS[f"stage{_stage}_block{_block}_{_ours}"] = f"layer{_stage}.{_block - 1}.{_theirs}"


class Reference(torch.nn.Module):
    """What the reference trains, under its names: two torchvision ResNet-18 and a queue."""

    def __init__(self, head):
        super().__init__()
        self.encoder_q, self.encoder_k = (
            torchvision.models.resnet18(num_classes=DIM) for _ in range(2)
        )
        for encoder in (self.encoder_q, self.encoder_k):
            if head == "mlp":
                hidden = torch.nn.Linear(512, 512)
                encoder.fc = torch.nn.Sequential(hidden, torch.nn.ReLU(), encoder.fc)
            randomize(encoder)
        for parameter in self.encoder_k.parameters():
            parameter.requires_grad = False
        self.register_buffer("queue", torch.nn.functional.normalize(torch.randn(DIM, KEYS), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))


def reference(head):
    """A reference model as DistributedDataParallel holds it, with `module.` before every key, and
    its optimizer."""
    model = torch.nn.ModuleDict({"module": Reference(head)})
    return model, torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=1e-4)


def step(model, optimizer, seed):
    """A training step of MoCo on random images."""
    moco = model["module"].train()
    images_q, images_k = torch.randn(2, BATCH, 3, 32, 32, generator=generator(seed))
    pairs = zip(moco.encoder_q.parameters(), moco.encoder_k.parameters(), strict=True)
    with torch.no_grad():
        for parameter_q, parameter_k in pairs:
            parameter_k.lerp_(parameter_q, 0.01)
        k = torch.nn.functional.normalize(moco.encoder_k(images_k))
    q = torch.nn.functional.normalize(moco.encoder_q(images_q))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ moco.queue], 1) / 0.07
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(logits, torch.zeros(BATCH, dtype=torch.long)).backward()
    optimizer.step()
    first = int(moco.queue_ptr)
    moco.queue[:, first : first + BATCH] = k.T
    moco.queue_ptr[0] = (first + BATCH) % KEYS


def generator(seed):
    return torch.Generator().manual_seed(seed)


def randomize(network):
    """Takes every BatchNormalization away from the identity, so that none can be left out."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                tensor.data.normal_(0, 0.3)


def photographs():
    """A few images of 0 to 255."""
    return np.stack(crops(4, 64)).astype(np.float32)


def normalized(images):
    """Images of 0 to 255 as torch's networks take them."""
    images = (images / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))


def without_classifier(network, images):
    """The features of a torchvision network that images of 0 to 255 have, float32 `[N, D]`."""
    body = torch.nn.Sequential(*list(network.eval().children())[:-1], torch.nn.Flatten())
    with torch.no_grad():
        return body(normalized(images)).numpy()


def assert_close(found, expected):
    assert found.shape == expected.shape and expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def assert_identical(found, expected):
    """Two state dicts or optimizer states: keys in one order, types, shapes and bits."""
    assert list(found) == list(expected) and len(expected) > 0
    for key, tensor in expected.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key
        # As bytes: -0 is not 0 here, and a NaN is itself.
        assert found[key].numpy().tobytes() == tensor.numpy().tobytes(), key


def saved(checkpoint, folder, **kwargs):
    torch.save(checkpoint, folder / "checkpoint.pth.tar", **kwargs)
    return str(folder / "checkpoint.pth.tar")


def momentum(checkpoint):
    state = checkpoint["optimizer"]["state"]
    return {index: values["momentum_buffer"] for index, values in state.items()}


def assert_same_checkpoint(found, expected):
    assert list(found) == list(expected) == ["epoch", "arch", "state_dict", "optimizer"]
    assert (found["epoch"], found["arch"]) == (expected["epoch"], expected["arch"])
    assert_identical(found["state_dict"], expected["state_dict"])
    assert_identical(momentum(found), momentum(expected))
    [found], [expected] = (ckpt["optimizer"]["param_groups"] for ckpt in (found, expected))
    # Ours is the config's, as float32.
    assert found == expected | {"lr": pytest.approx(expected["lr"], rel=1e-6)}


def under_torchs_names(encoder, head, values=None):
    """`{key: array}` of an encoder's variables, or of what `values` has for their ids."""
    found = {}
    for layer in encoder.backbone.layers + encoder.head.layers:
        for variable in layer.variables:
            value = variable if values is None else values.get(id(variable))
            if value is not None:
                name = (LAYERS | HEADS[head])[layer.name]
                value = value.numpy()
                axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
                found[f"{name}.{PARTS[variable.name]}"] = value.transpose(axes)
    return found


def run_together(*commands):
    """Runs scripts side by side, on the second core too, and returns what each printed."""
    processes = [start(*command) for command in commands]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of 20 images: five steps of 8 an epoch."""
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=20, side=32)


def settings(photos):
    return (
        *TINY,
        f"--config.data.source=folder:{photos}",
        f"--config.batch_size={BATCH}",
        f"--config.queue_size={KEYS}",
        f"--config.dim={DIM}",
        "--config.epochs=2",
        "--config.knn_every=0",
    )


# Checkpoints of the reference.


class Imported:
    """A checkpoint of the reference, the run that was made of it, and what came of that."""

    def __init__(self, head, photos, folder):
        self.head = head
        self.model, self.optimizer = reference(head)
        for seed in range(STEPS):
            step(self.model, self.optimizer, seed)
        self.checkpoint = {
            "epoch": 1,
            "arch": "resnet18",
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        theirs = saved(self.checkpoint, folder)
        workdir, self.resumed, written = folder / "run", folder / "resumed", folder / "ours.pth.tar"
        overrides = (
            *settings(photos),
            "--config.encoder=resnet18",
            "--config.stem=imagenet",
            f"--config.head={head}",
            "--config.schedule=step",
            f"--config.learning_rate={RATE}",
            "--config.scale_learning_rate=False",
            "--config.checkpoint_every=100",
        )
        self.said = run(SCRIPT, f"--checkpoint={theirs}", f"--workdir={workdir}", *overrides)
        shutil.copytree(workdir, self.resumed)
        commands = [("train.py", f"--workdir={self.resumed}", *overrides)]
        self.moco, steps_per_epoch = training.load_model(str(workdir))
        self.backbone = load_backbone(str(workdir))
        if head == "linear":
            commands += [
                (SCRIPT, f"--workdir={workdir}", f"--out={written}"),
                ("evaluate.py", "--protocol=knn", f"--workdir={workdir}"),
            ]
        else:  # what the scripts do, without the seconds in which they start
            torch.save(pytorch.to_checkpoint(self.moco, "resnet18", steps_per_epoch), written)
        self.printed = run_together(*commands)
        # As the reference reads it, whose scripts give no other argument.
        self.written = torch.load(written, map_location="cpu")


@pytest.fixture(scope="module", params=["linear", "mlp"])
def imported(request, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)  # most of a gigabyte
        yield Imported(request.param, photos, folder)


def test_the_imported_run_holds_every_number_of_the_reference(imported):
    moco, wanted = imported.moco, imported.checkpoint["state_dict"]
    buffers = {
        id(variable): buffer
        for variable, buffer in zip(
            moco.query_encoder.trainable_variables, moco.optimizer.momentum_buffers, strict=True
        )
    }
    found = {
        "module.queue": moco.queue.keys.numpy().T,
        "module.queue_ptr": moco.queue.pointer.numpy()[np.newaxis],
    }
    for prefix, encoder in (("q", moco.query_encoder), ("k", moco.key_encoder)):
        arrays = under_torchs_names(encoder, imported.head)
        found |= {f"module.encoder_{prefix}.{key}": array for key, array in arrays.items()}
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    assert found.keys() == wanted.keys() - counters and len(counters) == 40
    for key, array in found.items():
        np.testing.assert_array_equal(array, wanted[key].numpy(), err_msg=key)

    theirs = {
        key.removeprefix("module.encoder_q."): imported.optimizer.state[parameter]
        for key, parameter in imported.model.named_parameters()
        if key.startswith("module.encoder_q.")
    }
    found = under_torchs_names(moco.query_encoder, imported.head, buffers)
    assert found.keys() == theirs.keys()
    for key, array in found.items():
        assert np.abs(array).max() > 0
        np.testing.assert_array_equal(array, theirs[key]["momentum_buffer"].numpy(), err_msg=key)

    assert moco.queue.pointer.numpy() == 16
    assert {int(wanted[key]) for key in counters} == {STEPS}
    assert moco.step.numpy() == moco.optimizer.iterations.numpy() == STEPS
    assert f"step {STEPS}" in imported.said and "note" not in imported.said


def test_the_imported_encoders_compute_what_torchs_do(imported):
    theirs, x = imported.model["module"].eval(), normalized(photographs())
    found = imported.backbone(photographs(), training=False).numpy()
    assert_close(found, without_classifier(theirs.encoder_q, photographs()))
    for ours, encoder in (
        (imported.moco.query_encoder, theirs.encoder_q),
        (imported.moco.key_encoder, theirs.encoder_k),
    ):
        with torch.no_grad():
            expected = encoder(x).numpy()
        assert_close(ours(x.permute(0, 2, 3, 1).numpy(), training=False).numpy(), expected)


def test_the_checkpoint_written_back_is_the_one_that_was_read(imported):
    assert_same_checkpoint(imported.written, imported.checkpoint)


def test_torch_goes_on_from_the_written_checkpoint_as_from_its_own(imported):
    after = []
    for checkpoint in (imported.checkpoint, imported.written):
        model, optimizer = reference(imported.head)
        model.load_state_dict(checkpoint["state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        optimizer.param_groups[0]["lr"] = RATE  # the reference sets it at the start of an epoch
        step(model, optimizer, seed=STEPS)
        after.append((model.state_dict(), momentum({"optimizer": optimizer.state_dict()})))
    for expected, found in zip(*after, strict=True):
        assert_identical(found, expected)
    moved = after[0][0]["module.encoder_q.conv1.weight"]
    assert (moved != imported.checkpoint["state_dict"]["module.encoder_q.conv1.weight"]).any()


def test_the_references_linear_evaluation_finds_every_key_that_it_expects(imported):
    # It takes what begins so, without the head, into a classifier of ImageNet.
    prefix = "module.encoder_q"
    state = {
        key[len(f"{prefix}.") :]: tensor
        for key, tensor in imported.written["state_dict"].items()
        if key.startswith(prefix) and not key.startswith(f"{prefix}.fc")
    }
    classifier = torchvision.models.resnet18()
    missing, unexpected = classifier.load_state_dict(state, strict=False)
    assert set(missing) == {"fc.weight", "fc.bias"} and unexpected == []
    expected = without_classifier(imported.model["module"].encoder_q, photographs())
    np.testing.assert_array_equal(without_classifier(classifier, photographs()), expected)


def test_an_imported_run_is_resumed_and_evaluated(imported):
    assert f"going on from step {STEPS}" in imported.printed[0]
    lines = run_directory.read_metrics(str(imported.resumed))
    assert [line["step"] for line in lines] == list(range(STEPS + 1, 11))
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert run_directory.latest_checkpoint(str(imported.resumed)).endswith("step-10")
    if imported.head == "linear":
        assert "knn of" in imported.printed[2]


# Runs of ours.


def state(workdir):
    """Every number of the newest checkpoint but the count of saves."""
    reader = tf.train.load_checkpoint(run_directory.latest_checkpoint(str(workdir)))
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, np.ndarray | np.number) and "save_counter" not in name
    }


def assert_same_state(found, expected):
    found, expected = state(found), state(expected)
    assert found.keys() == expected.keys() and len(expected) > 50
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


class ThereAndBack:
    """A run to step 10; the same when it stood at step 8, in the midst of its second epoch; that
    as a checkpoint, and a run that was made of the checkpoint."""

    def __init__(self, photos, folder):
        self.finished, self.before = folder / "finished", folder / "before"
        self.imported, self.resumed = folder / "imported", folder / "resumed"
        overrides = (*settings(photos), "--config.head=mlp")
        run("train.py", *overrides, f"--workdir={self.finished}")
        shutil.copytree(self.finished, self.before)
        newest = self.before / "checkpoints" / "checkpoint"
        newest.write_text('model_checkpoint_path: "step-8"\n')
        self.checkpoint = pytorch.read(saved(exported(self.before), folder))
        fill = functools.partial(pytorch.from_checkpoint, checkpoint=self.checkpoint)
        config = run_directory.read_config(str(self.before))
        training.start_from(fill, config, str(self.imported))
        shutil.copytree(self.imported, self.resumed)
        run("train.py", *overrides, f"--workdir={self.resumed}")


def exported(workdir):
    moco, steps_per_epoch = training.load_model(str(workdir))
    return pytorch.to_checkpoint(moco, "resnet8", steps_per_epoch)


@pytest.fixture(scope="module")
def ours(photos, tmp_path_factory):
    return ThereAndBack(photos, tmp_path_factory.mktemp("ours"))


def test_a_run_there_and_back_is_the_same_bit_for_bit(ours):
    assert_same_state(ours.imported, ours.before)
    assert_same_checkpoint(exported(ours.imported), ours.checkpoint)


def test_an_imported_run_ends_as_if_it_had_never_left(ours):
    """Though it was in the midst of an epoch: images, random draws and rates go on from there."""
    assert_same_state(ours.resumed, ours.finished)
    lines = [
        [(line["step"], line["loss"]) for line in run_directory.read_metrics(str(workdir))]
        for workdir in (ours.finished, ours.resumed)
    ]
    assert [step for step, _ in lines[0]] == list(range(1, 11))
    assert lines[0][8:] == lines[1]


def test_the_checkpoint_of_a_run_says_where_it_stands(ours):
    assert (ours.checkpoint["epoch"], ours.checkpoint["arch"]) == (1, "resnet8")
    tensors = ours.checkpoint["state_dict"]
    counters = {int(tensors[key]) for key in tensors if key.endswith("num_batches_tracked")}
    assert counters == {8}
    assert tensors["module.queue"].shape == (DIM, KEYS)
    assert tensors["module.queue_ptr"].tolist() == [8 * BATCH % KEYS]
    # A cosine over two epochs, in its second, of a rate for batches of 256.
    [group] = ours.checkpoint["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.24 * BATCH / 256 * 0.5, rel=1e-6)


# Checkpoints of other kinds, on a small model in this process.


def small_config():
    config = default_config()
    small = dict(encoder="resnet8", stem="small", dim=DIM, queue_size=KEYS, image_size=32)
    config.update({**small, "batch_size": BATCH, "bn_groups": 2, "data": {"source": "photos"}})
    return config


def small_model():
    """A model that stands at step 7, all of its numbers away from their start."""
    moco = training.build_model(small_config(), steps_per_epoch=5)
    numbers = np.random.default_rng(0)
    for variable in moco.variables + moco.optimizer.momentum_buffers:
        if variable.dtype == "float32":
            variable.assign(numbers.uniform(0.5, 1.5, variable.shape))
    moco.queue.pointer.assign(5)
    for counter in (moco.step, moco.optimizer.iterations):
        counter.assign(7)
    return moco


@pytest.fixture
def small():
    return small_model()


@pytest.mark.parametrize("optimizer", [None, {}, {"state": {}}], ids=["none", "empty", "no state"])
def test_without_an_optimizers_state_the_momentum_starts_at_0(small, tmp_path, optimizer):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    if optimizer is None:
        del checkpoint["optimizer"]
    else:
        checkpoint["optimizer"] = optimizer
    assert all(np.abs(buffer.numpy()).min() > 0 for buffer in small.optimizer.momentum_buffers)
    pytorch.from_checkpoint(small, pytorch.read(saved(checkpoint, tmp_path)))
    assert not any(buffer.numpy().any() for buffer in small.optimizer.momentum_buffers)
    assert small.step.numpy() == small.optimizer.iterations.numpy() == 7


def test_before_the_first_step_there_is_no_momentum_to_write(small):
    small.step.assign(0)
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    assert checkpoint["epoch"] == 0 and checkpoint["optimizer"]["state"] == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_taken_over_exactly(small, tmp_path, dtype):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    states = [checkpoint["state_dict"], *checkpoint["optimizer"]["state"].values()]
    for tensors in states:
        for key, tensor in tensors.items():
            tensors[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    path = saved(checkpoint, tmp_path)
    for tensors in states:
        for key, tensor in tensors.items():
            tensors[key] = tensor.float() if tensor.is_floating_point() else tensor
    pytorch.from_checkpoint(small, pytorch.read(path))
    written = pytorch.to_checkpoint(small, "resnet8", 5)
    assert_same_checkpoint(written, checkpoint)


def test_numbers_at_the_edges_of_float32_survive_a_run(small, tmp_path):
    """Bit for bit: -0, the smallest number, infinity, and a NaN with a message in it."""
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    bits = np.array([0x80000000, 0x00000001, 0xFF800000, 0x7FC00A0B], np.uint32)
    odd = torch.from_numpy(bits.view(np.float32))
    tensors = checkpoint["state_dict"]
    for tensor in (
        tensors["module.encoder_q.conv1.weight"],
        tensors["module.encoder_k.bn1.running_var"],
        tensors["module.queue"],
        checkpoint["optimizer"]["state"][0]["momentum_buffer"],
    ):
        tensor.view(-1)[:4] = odd
    workdir, content = str(tmp_path / "run"), pytorch.read(saved(checkpoint, tmp_path))
    fill = functools.partial(pytorch.from_checkpoint, checkpoint=content)
    training.start_from(fill, small_config(), workdir)
    written = pytorch.to_checkpoint(training.load_model(workdir)[0], "resnet8", 5)
    assert_same_checkpoint(written, checkpoint)


def test_torchs_older_format_holds_the_same(small, tmp_path):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    path = saved(checkpoint, tmp_path, _use_new_zipfile_serialization=False)
    assert_same_checkpoint(pytorch.read(path), checkpoint)


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def mixed(request):
    """A model of that precision, which Keras keeps for the whole process."""
    config = small_config()
    config.precision = request.param
    yield training.build_model(config, steps_per_epoch=5)
    keras.config.set_dtype_policy("float32")


def test_runs_of_mixed_precision_go_there_and_back(small, mixed, tmp_path):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    pytorch.from_checkpoint(mixed, pytorch.read(saved(checkpoint, tmp_path)))
    assert mixed.step.numpy() == mixed.optimizer.iterations.numpy() == 7
    written = pytorch.to_checkpoint(mixed, "resnet8", 5)
    assert_same_checkpoint(written, checkpoint)


def test_what_a_checkpoint_lacks_is_said(small, photos, tmp_path):
    """As of a file that somebody stripped for publication."""
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    path = saved({"epoch": 199, "state_dict": checkpoint["state_dict"]}, tmp_path)
    workdir = f"--workdir={tmp_path / 'run'}"
    output = run(SCRIPT, f"--checkpoint={path}", *settings(photos), workdir)
    notes = [line for line in output.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2 and all(path in note for note in notes)
    assert "no momentum buffers" in notes[0]
    assert "step 7" in notes[1] and "199 epochs" in notes[1] and "1.40" in notes[1]


# Backbones.


@pytest.fixture(params=["resnet18", "resnet50", "resnext50_32x8d", "timm", "reference"])
def network(request):
    """The name of an encoder, a network of torch's, and a checkpoint that holds it."""
    torch.manual_seed(0)
    name = request.param
    if name == "reference":
        moco, _ = reference("mlp")
        return "resnet18", moco["module"].encoder_q, {"state_dict": moco.state_dict()}
    if name == "timm":
        reason = "timm is not installed: make pytorch installs it"
        name, found = "resnet18", pytest.importorskip("timm", reason=reason).models.resnet18()
    elif name == "resnext50_32x8d":  # torchvision's own of 50 layers has 32 groups of 4
        bottleneck = torchvision.models.resnet.Bottleneck
        found = torchvision.models.ResNet(bottleneck, [3, 4, 6, 3], groups=32, width_per_group=8)
    else:
        found = getattr(torchvision.models, name)()
    randomize(found)
    return name, found, found.state_dict()


def test_a_backbone_has_the_features_of_torchs_network(network, tmp_path):
    name, theirs, checkpoint = network
    backbone = encoders.build(name)
    pytorch.backbone_from_checkpoint(backbone, pytorch.read(saved(checkpoint, tmp_path)))
    found = encoders.with_normalization(backbone)(photographs(), training=False).numpy()
    assert_close(found, without_classifier(theirs, photographs()))


def test_a_plain_network_becomes_a_saved_model(photos, tmp_path):
    torch.manual_seed(0)
    theirs, out = torchvision.models.resnet18(), tmp_path / "saved_model"
    randomize(theirs)
    checkpoint = f"--checkpoint={saved(theirs.state_dict(), tmp_path)}"
    assert f"wrote {out}" in run(SCRIPT, checkpoint, "--encoder=resnet18", f"--out={out}")
    layer = keras.layers.TFSMLayer(str(out), call_endpoint="serve")
    assert_close(layer(photographs()).numpy(), without_classifier(theirs, photographs()))
    data = (f"--saved_model={out}", f"--data=folder:{photos}", "--image_size=32")
    assert "knn of" in run("evaluate.py", "--protocol=knn", *data)
