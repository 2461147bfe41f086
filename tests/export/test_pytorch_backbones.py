"""Networks of torchvision, timm and the reference implementation as backbones and SavedModels."""

import keras
import pytest

from moco_tf import encoders
from moco_tf.backbones import pytorch_files
from tests import in_process
from tests.export.backbones import assert_close, photographs
from tests.export.checkpoints import (
    SCRIPT,
    assert_identical,
    build_torch,
    randomize,
    reference,
    saved,
    torch_features,
)
from tests.pytorch import torch, torchvision

pytestmark = pytest.mark.torch


def torchvision_network(name):
    if name == "resnext50_32x8d":  # torchvision's own network of this depth has 32 groups of 4.
        bottleneck = torchvision.models.resnet.Bottleneck
        return torchvision.models.ResNet(bottleneck, [3, 4, 6, 3], groups=32, width_per_group=8)
    return getattr(torchvision.models, name)()


def assert_same_features(name, network, checkpoint, tmp_path, stem="imagenet"):
    """Compare a backbone that takes its weights from a checkpoint with a network of PyTorch."""
    backbone = encoders.build(name, stem=stem)
    content = pytorch_files.read(saved(checkpoint, tmp_path))
    pytorch_files.backbone_from_checkpoint(backbone, content)
    images = photographs(4, 64, 64)
    features = encoders.with_normalization(backbone)(images, training=False)
    assert_close(features, torch_features(network, images))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", pytest.param("resnext50_32x8d", marks=pytest.mark.nightly)],
)
def test_backbone_has_the_features_of_torchvision(name, tmp_path):
    torch.manual_seed(0)
    network = randomize(torchvision_network(name))
    assert_same_features(name, network, network.state_dict(), tmp_path)


@pytest.mark.slow
def test_backbone_has_the_features_of_timm(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed: make pytorch installs it")
    torch.manual_seed(0)
    network = randomize(timm.models.resnet18())
    assert_same_features("resnet18", network, network.state_dict(), tmp_path)


def test_backbone_has_the_features_of_the_reference(tmp_path):
    torch.manual_seed(0)
    model, _ = reference("resnet8", "mlp")
    checkpoint = {"state_dict": model.state_dict()}
    assert_same_features("resnet8", model["module"].encoder_q, checkpoint, tmp_path, stem="small")


@pytest.mark.nightly
def test_torchvision_network_becomes_a_saved_model_and_returns(tmp_path):
    torch.manual_seed(0)
    network, out = build_torch("resnet18", "linear", 1000), tmp_path / "saved_model"
    from_checkpoint = (
        f"--checkpoint={saved(network.state_dict(), tmp_path)}",
        "--encoder=resnet18",
    )
    printed = in_process.run("export/saved_model.py", *from_checkpoint, f"--out={out}")
    assert printed == f"wrote {out}\n"
    layer = keras.layers.TFSMLayer(str(out), call_endpoint="serve")
    images = photographs(4, 64, 64)
    assert_close(layer(images), torch_features(network, images))

    expected = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    for number, backbone in enumerate([from_checkpoint, (f"--saved_model={out}",)]):
        path = tmp_path / f"{number}.pth"
        in_process.run(SCRIPT, *backbone, f"--out={path}")
        content = torch.load(path, weights_only=True)
        assert_identical(content, expected)
        missing = torchvision.models.resnet18().load_state_dict(content, strict=False)
        assert missing == (["fc.weight", "fc.bias"], [])


@pytest.mark.slow
def test_network_of_one_channel_becomes_a_saved_model(tmp_path):
    torch.manual_seed(0)
    network, out = build_torch("resnet8", "linear", 9), tmp_path / "saved_model"
    network.conv1 = torch.nn.Conv2d(1, 16, 3, 1, 1, bias=False)
    checkpoint = f"--checkpoint={saved(network.state_dict(), tmp_path)}"
    flags = (checkpoint, "--encoder=resnet8", "--stem=small", f"--out={out}")
    in_process.run("export/saved_model.py", *flags)
    layer = keras.layers.TFSMLayer(str(out), call_endpoint="serve")
    images = photographs(2, 48, 64)[..., :1]
    mean, std = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3
    normalized = torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2).copy())
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = network.eval()(normalized.float()).numpy()
    assert_close(layer(images), expected)
