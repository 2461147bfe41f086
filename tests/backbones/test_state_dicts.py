"""Networks are found in checkpoints of many projects, and never guessed where several fit."""

import numpy as np
import pytest

from moco_tf import encoders
from moco_tf.backbones import loading, pytorch_files
from moco_tf.errors import UserError
from tests.export.checkpoints import Reference, refusal, saved
from tests.pytorch import torch
from tests.reference import ResNet8

pytestmark = pytest.mark.torch


def network(seed=0):
    """Return the state dict of a ResNet-8, without its counters, which are optional."""
    torch.manual_seed(seed)
    tensors = ResNet8("linear", 10).state_dict()
    return {key: torch.rand_like(t) for key, t in tensors.items() if t.is_floating_point()}


@pytest.fixture(scope="module")
def tensors():
    return network()


def prefixed(prefix, tensors):
    return {prefix + key: tensor for key, tensor in tensors.items()}


def loaded(content, folder, encoder="resnet8"):
    return loading.load_checkpoint(saved(content, folder), encoder, "small")


def assert_holds(backbone, tensors):
    kernel = backbone.get_layer("stage2_block1_shortcut_conv").kernel.numpy()
    expected = tensors["layer2.0.downsample.0.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)
    beta = backbone.get_layer("stage3_block1_2_bn").beta.numpy()
    np.testing.assert_array_equal(beta, tensors["layer3.0.bn2.bias"].numpy())


HEAD = torch.zeros(2, 2)
# How projects save a network.
WRAPPINGS = {
    "plain": lambda tensors: tensors,
    "moco without ddp": lambda tensors: prefixed("encoder_q.", tensors),
    "published moco": lambda tensors: {
        "epoch": 200,
        "arch": "resnet8",
        "state_dict": prefixed("module.encoder_q.", tensors),
    },
    "model": lambda tensors: {"model": tensors, "epoch": 3},
    "model_state_dict": lambda tensors: {"model_state_dict": prefixed("net.", tensors)},
    "teacher": lambda tensors: {"teacher": prefixed("module.backbone.", tensors)},
    "compiled": lambda tensors: prefixed("_orig_mod.", tensors),
    "compiled in ddp": lambda tensors: {"state_dict": prefixed("module._orig_mod.", tensors)},
    "lightning": lambda tensors: {
        "state_dict": prefixed("model.backbone.", tensors) | {"model.head.weight": HEAD},
        "pytorch-lightning_version": "2.5.0",
        "optimizer_states": [{"state": {0: {"momentum_buffer": HEAD}}}],
        "hyper_parameters": {"arch": "resnet8"},
    },
    "encoder and projector": lambda tensors: (
        prefixed("encoder.", tensors) | {"projector.0.weight": HEAD}
    ),
    "swav": lambda tensors: prefixed(
        "module.", tensors | {"projection_head.0.weight": HEAD, "prototypes.weight": HEAD}
    ),
    "deep": lambda tensors: {"a": {"b": {"c": prefixed("x.y.z.", tensors)}}},
    "unknown prefix": lambda tensors: prefixed("clip_model.visual.", tensors),
    "with an incomplete copy": lambda tensors: {
        "model": tensors,
        "ema": {"conv1.weight": tensors["conv1.weight"], "bn1.weight": tensors["bn1.weight"]},
    },
    "with another network": lambda tensors: {
        "student": tensors,
        "teacher": {key: t for key, t in tensors.items() if not key.startswith("layer3")},
    },
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS.keys())
def test_network_is_found(tensors, tmp_path, wrap):
    assert_holds(loaded(wrap(tensors), tmp_path), tensors)


def test_query_encoder_is_chosen_beside_the_key_encoder(tmp_path):
    torch.manual_seed(0)
    moco = Reference("resnet8", "mlp")
    for prefix in ("", "module."):
        content = {"state_dict": prefixed(prefix, moco.state_dict())}
        assert_holds(loaded(content, tmp_path), moco.encoder_q.state_dict())


@pytest.mark.parametrize("channels", [1, 5])
def test_number_of_channels_is_that_of_the_network_found(tensors, tmp_path, channels):
    kernel = torch.rand(16, channels, 3, 3)
    content = {"teacher": {"backbone.conv2.weight": HEAD}}
    content["student"] = prefixed("backbone.", tensors | {"conv1.weight": kernel})
    backbone = loaded(content, tmp_path)
    assert backbone.input_shape[-1] == channels
    assert_holds(backbone, tensors)


AMBIGUOUS = {
    "two dicts": (
        lambda a, b: {"student": prefixed("module.", a), "teacher": prefixed("module.", b)},
        ["module.* in ['student']", "module.* in ['teacher']"],
    ),
    "two prefixes": (
        lambda a, b: {"state_dict": prefixed("online.", a) | prefixed("target.", b)},
        ["online.* in ['state_dict']", "target.* in ['state_dict']"],
    ),
    "a dict in the other": (
        lambda a, b: {**a, "ema": b},
        ["conv1.weight, ...", "conv1.weight, ... in ['ema']"],
    ),
    "two in other channels": (
        lambda a, b: {"a": a, "b": b | {"conv1.weight": torch.zeros(16, 1, 3, 3)}},
        ["in ['a']", "in ['b']"],
    ),
    "two key encoders": (
        lambda a, b: prefixed("a.encoder_k.", a) | prefixed("b.encoder_k.", b),
        ["a.encoder_k.*", "b.encoder_k.*"],
    ),
}


@pytest.mark.parametrize(("wrap", "names"), AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_two_networks_that_fit_are_refused_by_name(tensors, tmp_path, wrap, names):
    message = refusal(loaded, wrap(tensors, network(1)), tmp_path)
    assert "holds 2 networks that fit" in message
    assert "save a state dict with one of them alone" in message
    for name in names:
        assert name in message


def without(tensors, key):
    return {other: tensor for other, tensor in tensors.items() if other != key}


UNFIT = {
    "missing key": (
        lambda t: {"model": prefixed("net.", without(t, "layer2.0.bn1.bias"))},
        "the key 'net.layer2.0.bn1.bias' is missing",
    ),
    "missing first kernel": (
        lambda t: prefixed("net.", without(t, "conv1.weight")),
        "the key 'net.conv1.weight' is missing",
    ),
    "another shape": (
        lambda t: {"teacher": t | {"layer1.0.conv1.weight": torch.zeros(8, 16, 3, 3)}},
        "the key 'layer1.0.conv1.weight' has shape (8, 16, 3, 3), expected (16, 16, 3, 3)",
    ),
    "another block": (
        lambda t: prefixed("net.", t | {"layer1.1.conv1.weight": HEAD}),
        "the key 'net.layer1.1.conv1.weight' does not belong to this encoder",
    ),
    "a module that may precede the network": (
        lambda t: t | {"stem.weight": HEAD},
        "the key 'stem.weight' does not belong to this encoder",
    ),
    "no network": (
        lambda t: {"state_dict": {"blocks.0.attn.weight": HEAD, "cls_token": HEAD, "a": HEAD}},
        "no keys with torchvision's names of a ResNet, such as 'layer1.0.conv1.weight', with any "
        "prefix; its keys are 'blocks.0.attn.weight', 'cls_token', 'a'",
    ),
    "no prefix that ends with a dot": (
        lambda t: prefixed("visual_", t),
        "no keys with torchvision's names of a ResNet, such as 'layer1.0.conv1.weight', with any "
        "prefix; its keys are 'visual_conv1.weight', 'visual_bn1.weight', 'visual_bn1.bias', ...",
    ),
    "nothing": (lambda t: {}, "its keys are none"),
    "no state dict": (lambda t: {"state_dict": [1]}, "'state_dict' holds no state dict"),
    "NaN": (
        lambda t: t | {"bn1.running_var": torch.full([16], float("nan"))},
        "the key 'bn1.running_var' holds NaN or infinity: use another file",
    ),
    "too large for float32": (
        lambda t: t | {"bn1.running_var": torch.full([16], 1e300, dtype=torch.float64)},
        "the key 'bn1.running_var' holds NaN or infinity: use another file",
    ),
}


@pytest.mark.parametrize(("wrap", "fact"), UNFIT.values(), ids=UNFIT.keys())
def test_what_does_not_fit_is_named(tensors, tmp_path, wrap, fact):
    message = refusal(loaded, wrap(tensors), tmp_path)
    assert message.startswith(
        f"the checkpoint {tmp_path}/checkpoint.pth.tar cannot be loaded as a "
    )
    assert fact in message
    assert message.isprintable()


def test_file_of_safetensors_is_a_backbone(tensors, tmp_path):
    files = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path = tmp_path / "model.safetensors"
    files.save_file(prefixed("backbone.", tensors), path)
    assert_holds(loading.load_checkpoint(str(path), "resnet8", "small"), tensors)


def test_backbone_that_does_not_fit_stays_unchanged(tensors):
    backbone = encoders.build("resnet8", stem="small")
    before = backbone.get_weights()
    with pytest.raises(UserError, match="fc2"):
        pytorch_files.backbone_from_checkpoint(backbone, tensors | {"fc2x": HEAD})
    for weight, expected in zip(backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)
