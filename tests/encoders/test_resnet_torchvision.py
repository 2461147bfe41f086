"""Residual networks and heads against torchvision and timm with the same weights."""

import gc
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import encoders
from moco_tf.encoders import state_dict
from moco_tf.encoders.heads import head
from moco_tf.encoders.resnet import resnet
from tests.pytorch import torch, torchvision

pytestmark = pytest.mark.torch

TOLERANCE = 1e-4  # relative to the largest value
SIZES = {"224x224": (2, 224, 224, 3), "97x75": (4, 97, 75, 3)}
MARKS = {True: pytest.mark.slow, False: pytest.mark.nightly}
BOTH_SIZES = ("resnet18", "resnet50")


class Wide(torchvision.models.ResNet):
    """A ResNet-50 with `width` times the channels in every convolution, including the stem.

    torchvision's wide_resnet50_2 widens only the inside of the bottlenecks.
    """

    def __init__(self, width):
        self.width = width
        super().__init__(torchvision.models.resnet.Bottleneck, [3, 4, 6, 3])

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        if planes == 64:
            self.inplanes = 64 * self.width
            self.conv1 = torch.nn.Conv2d(3, self.inplanes, 7, 2, 3, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(self.inplanes)
        return super()._make_layer(block, planes * self.width, blocks, stride, dilate)


def resnext50_32x8d():
    bottleneck = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(bottleneck, [3, 4, 6, 3], groups=32, width_per_group=8)


def small_resnet18(channels=3):
    """Build the network of the reference implementation's notebook for CIFAR-10."""
    model = torchvision.models.resnet18()
    model.conv1 = torch.nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
    model.maxpool = torch.nn.Identity()
    return model


TORCHVISION = {
    "resnet18": torchvision.models.resnet18,
    "resnet34": torchvision.models.resnet34,
    "resnet50": torchvision.models.resnet50,
    "resnet101": torchvision.models.resnet101,
    "resnext50_32x8d": resnext50_32x8d,
    "resnet50w2": lambda: Wide(2),
    "resnet18 small": small_resnet18,
}


class Pair(typing.NamedTuple):
    ours: keras.Model
    theirs: torch.nn.Module
    shapes: list  # of the state dict of our network
    statistics: dict
    image_shapes: list

    def reset(self):
        """Restore the moving statistics from before training."""
        self.theirs.load_state_dict(
            {key: torch.tensor(array) for key, array in self.statistics.items()}, strict=False
        )
        for entry in state_dict.entries(self.ours):
            if entry.key in self.statistics:
                entry.write(self.statistics[entry.key])


@pytest.fixture(
    scope="module",
    params=[
        name if name.startswith("resnet18") else pytest.param(name, marks=MARKS[name == "resnet50"])
        for name in TORCHVISION
    ],
)
def pair(request):
    """Return one architecture of both libraries, with random weights and realistic statistics.

    pytest runs all tests of one architecture before it builds the next.
    """
    # Keras' models are reference cycles, which hold their weights.
    gc.collect()
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    name, _, stem = request.param.partition(" ")
    ours = resnet(name, stem or "imagenet")
    arrays = state_dict.read(ours)
    # On the meta device, torch computes no initial values.
    with torch.device("meta"):
        theirs = TORCHVISION[request.param]()
        theirs.fc = torch.nn.Identity()
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    theirs.load_state_dict(tensors, assign=True)
    randomize_normalizations(theirs)
    normalizations = {k: array for k, array in numpy_state(theirs).items() if array.ndim == 1}
    for entry in state_dict.entries(ours):
        if entry.key in normalizations:  # The weights of the convolutions are equal already.
            entry.write(normalizations[entry.key])
    shapes = [(key, array.shape) for key, array in arrays.items()]
    statistics = {
        key: array.copy() for key, array in numpy_state(theirs).items() if "running" in key
    }
    # The size matters for the padding, which does not depend on depth and width.
    sizes = list(SIZES) if request.param in BOTH_SIZES else ["97x75"]
    return Pair(ours, theirs, shapes, statistics, [SIZES[size] for size in sizes])


def randomize_normalizations(model):
    """Assign random parameters and statistics to the BatchNormalization of a torch model.

    The statistics are similar to those of the activations, as in a trained network. With unrelated
    statistics the influence of the image would shrink or grow from block to block, and after 16
    blocks the features would depend almost only on the betas.
    """
    normalizations = [
        module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)
    ]
    # The last one is bn3 in a bottleneck and bn2 in a basic block. Batch statistics amplify
    # rounding errors from block to block. If the residuals are small compared to the shortcut, the
    # error after 101 layers is a tenth of the tolerance; with all gammas near 1 it would reach it.
    last = [getattr(module, "bn3", getattr(module, "bn2", None)) for module in model.modules()]
    for normalization in normalizations:
        is_last = any(normalization is module for module in last)
        torch.nn.init.uniform_(normalization.weight, *((0.2, 0.4) if is_last else (0.8, 1.2)))
        torch.nn.init.normal_(normalization.bias, 0, 0.3)
        normalization.momentum = 1.0
    torch_features(model, random_images(SIZES["97x75"], seed=1), training=True)
    for normalization in normalizations:
        mean, variance = normalization.running_mean, normalization.running_var
        mean += 0.3 * variance.sqrt() * torch.randn(len(mean))
        variance *= torch.empty(len(variance)).uniform_(0.5, 1.5)
        normalization.momentum = 0.1


def random_images(shape, seed=0):
    """Return noise with a different mean and contrast for each image and channel."""
    generator = np.random.default_rng(seed)
    scale, mean = generator.uniform(0.3, 2, (2, shape[0], 1, 1, 3))
    return np.float32(scale * generator.normal(size=shape) + mean - 1)


def torch_features(model, images, training):
    model.train(training)
    with torch.inference_mode():
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def numpy_state(model):
    return {key: tensor.numpy() for key, tensor in model.state_dict().items()}


def relative_difference(actual, expected):
    """Return the largest difference relative to the largest value."""
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() / np.abs(expected).max()


def assert_same_features(actual, expected):
    # The differences between images must be far above the tolerance.
    assert expected.std(axis=0).mean() > 100 * TOLERANCE * np.abs(expected).max()
    assert relative_difference(actual, expected) < TOLERANCE


# Parameters.


def test_parameter_counts_equal_those_of_torchvision(pair):
    count = sum(int(np.prod(variable.shape)) for variable in pair.ours.trainable_variables)
    assert count == sum(parameter.numel() for parameter in pair.theirs.parameters())


def test_state_dict_has_the_keys_order_and_shapes_of_torchvision(pair):
    expected = [(key, tuple(tensor.shape)) for key, tensor in pair.theirs.state_dict().items()]
    assert pair.shapes == expected


@pytest.mark.nightly
def test_network_of_width_four_has_the_keys_order_and_shapes_of_torchvision():
    # No weights are created, which would take 1.5 GB in each library.
    with keras.StatelessScope():
        ours = state_dict.entries(resnet("resnet50w4"))
    with torch.device("meta"):
        theirs = Wide(4).state_dict()
    ignored = ("fc.weight", "fc.bias")
    expected = {
        key: tuple(tensor.shape)
        for key, tensor in theirs.items()
        if key not in ignored and not key.endswith("num_batches_tracked")
    }
    assert {entry.key: entry.shape for entry in ours} == expected
    assert [entry.key for entry in ours] == list(expected)


# Values.


def test_features_equal_those_of_torchvision(pair):
    pair.reset()
    for shape in pair.image_shapes:
        images = random_images(shape)
        expected = torch_features(pair.theirs, images, training=False)
        assert_same_features(pair.ours(tf.constant(images), training=False).numpy(), expected)


def test_features_and_moving_statistics_in_training_equal_those_of_torchvision(pair):
    pair.reset()
    images = random_images(pair.image_shapes[-1])
    expected = torch_features(pair.theirs, images, training=True)
    assert_same_features(pair.ours(tf.constant(images), training=True).numpy(), expected)
    after = numpy_state(pair.theirs)
    entries = {entry.key: entry for entry in state_dict.entries(pair.ours)}
    for key, before in pair.statistics.items():
        assert relative_difference(before, after[key]) > 10 * TOLERANCE
        assert relative_difference(entries[key].read(), after[key]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_projections_equal_those_of_the_reference_encoder(name):
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=128)
    if name == "mlp":
        theirs.fc = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), theirs.fc)
    randomize_normalizations(theirs)
    ours = encoders.build("resnet18", head=name)
    arrays = numpy_state(theirs)
    state_dict.write(ours, arrays)
    assert list(state_dict.read(ours)) == list(arrays)
    images = random_images(SIZES["97x75"])
    expected = torch_features(theirs, images, training=False)
    assert_same_features(ours(tf.constant(images), training=False).numpy(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_equal_those_of_timm(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=0)
    randomize_normalizations(theirs)
    ours = resnet(name)
    arrays = numpy_state(theirs)
    state_dict.write(ours, arrays)
    assert list(state_dict.read(ours)) == list(arrays)
    images = random_images(SIZES["97x75"])
    expected = torch_features(theirs, images, training=False)
    assert_same_features(ours(tf.constant(images), training=False).numpy(), expected)


# Initial weights.


def assert_same_moments(actual, expected, kurtosis):
    """Compare mean and standard deviation of two samples with 5 standard errors of tolerance."""
    assert actual.shape == expected.shape
    spread = expected.std()
    assert abs(actual.mean() - expected.mean()) < 5 * spread * (2 / actual.size) ** 0.5
    error = ((kurtosis - 1) / 4 * 2 / actual.size) ** 0.5
    assert abs(actual.std() / spread - 1) < 5 * error


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("resnext50_32x8d", marks=pytest.mark.nightly)]
)
def test_initial_values_have_the_moments_of_torchvision(name):
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    theirs = TORCHVISION[name]()
    theirs.fc = torch.nn.Identity()
    expected = numpy_state(theirs)
    arrays = state_dict.read(resnet(name))
    assert list(arrays) == list(expected)
    for key, array in expected.items():
        if array.ndim == 4:
            assert_same_moments(arrays[key], array, kurtosis=3)
        else:
            np.testing.assert_array_equal(arrays[key], array)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_initial_heads_have_the_moments_of_torch(name):
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    expected = [torch.nn.Linear(512, 512)] if name == "mlp" else []
    expected.append(torch.nn.Linear(512, 128))
    layers = [layer for layer in head(name, 512, 128).layers if layer.weights]
    for ours, theirs in zip(layers, expected, strict=True):
        assert_same_moments(ours.kernel.numpy().T, theirs.weight.detach().numpy(), kurtosis=1.8)
        assert_same_moments(ours.bias.numpy(), theirs.bias.detach().numpy(), kurtosis=1.8)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 5])
def test_features_of_other_channels_equal_those_of_torchvision(channels):
    keras.utils.set_random_seed(0)
    ours = encoders.build("resnet18", stem="small", channels=channels)
    theirs = small_resnet18(channels).eval()
    theirs.fc = torch.nn.Identity()
    tensors = {k: torch.from_numpy(array) for k, array in state_dict.read(ours).items()}
    theirs.load_state_dict(tensors)
    x = np.random.default_rng(0).normal(size=(2, 17, 20, channels)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    assert relative_difference(ours(x, training=False).numpy(), expected) <= TOLERANCE
