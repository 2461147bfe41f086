"""Networks of torchvision's, timm's and the reference's: as backbones, as a SavedModel, back."""

import keras
import pytest

from moco_tf import encoders
from moco_tf.backbones import pytorch_files
from tests import in_process
from tests.command import run
from tests.export.checkpoints import (
    SCRIPT,
    assert_close,
    assert_identical,
    photographs,
    randomize,
    reference,
    saved,
    without_classifier,
)
from tests.images import write_folder
from tests.pytorch import torch, torchvision


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
    backbone, content = encoders.build(name), pytorch_files.read(saved(checkpoint, tmp_path))
    pytorch_files.backbone_from_checkpoint(backbone, content)
    found = encoders.with_normalization(backbone)(photographs(), training=False).numpy()
    assert_close(found, without_classifier(theirs, photographs()))


def test_a_plain_network_becomes_a_saved_model_and_comes_back(tmp_path):
    photos = write_folder(tmp_path / "photos", each=20, side=32)
    torch.manual_seed(0)
    theirs, out = torchvision.models.resnet18(), tmp_path / "saved_model"
    randomize(theirs)
    checkpoint = f"--checkpoint={saved(theirs.state_dict(), tmp_path)}"
    arguments = (checkpoint, "--encoder=resnet18")
    assert f"wrote {out}" in run("export/saved_model.py", *arguments, f"--out={out}")
    layer = keras.layers.TFSMLayer(str(out), call_endpoint="serve")
    assert_close(layer(photographs()).numpy(), without_classifier(theirs, photographs()))
    data = (f"--saved_model={out}", f"--data=folder:{photos}", "--image_size=32")
    assert "knn of" in in_process.run("evaluate.py", "--protocol=knn", *data)

    expected = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    for backbone in ((f"--saved_model={out}",), arguments):
        back = tmp_path / f"{len(backbone)}.pth"
        in_process.run(SCRIPT, *backbone, f"--out={back}")
        content = torch.load(back, weights_only=True)
        assert_identical(content, expected)
        missing = torchvision.models.resnet18().load_state_dict(content, strict=False)
        assert missing == (["fc.weight", "fc.bias"], [])
