"""Fine-tuning against the same in PyTorch, and what of a backbone may change."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.data.pipeline import labelled_views
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError
from moco_tf.evaluation import finetune, protocols
from moco_tf.evaluation.linear import new_layer
from moco_tf.export.saved_model import to_archive
from tests.memory import source_of

CLASSES, SIDE, SIZE, COUNT = 3, 24, 8, 26
TRAIN, TEST = range(18), range(18, COUNT)  # two batches of eight and one of two
BROKEN = (3, 22)
WIDTHS = (4, 5)  # channels of the two convolutions
SETTINGS = dict(
    learning_rate=0.05,
    head_learning_rate=0.3,
    batch_size=8,
    epochs=3,
    sgd_momentum=0.8,
    weight_decay=0.02,
    crop_scale=(0.2, 0.9),
    seed=1,
)


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def example(unreadable=BROKEN):
    """Noise around one colour a class, so that accuracies lie well between 0 and 1."""
    generator = np.random.default_rng(0)
    labels = np.arange(COUNT) % CLASSES
    colours = generator.integers(90, 160, (CLASSES, 1, 1, 3))
    images = colours[labels] + generator.normal(0, 60, (COUNT, 3, 3, 3)).repeat(8, 1).repeat(8, 2)
    images = np.clip(images, 0, 255).astype(np.uint8)
    return source_of(images, labels, TRAIN, TEST, unreadable)


def build(bn_groups=1):
    """Two normalised convolutions, every number of which is away from its usual start."""
    images = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 256)(images)
    for number, channels in enumerate(WIDTHS):
        x = keras.layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"c{number}")(x)
        x = keras.layers.ReLU()(BatchNormalization(bn_groups, name=f"n{number}")(x))
    network = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
    generator = np.random.default_rng(5)
    for weight in network.weights:
        low, high = (-0.5, 0.5) if len(weight.shape) > 1 else (0.3, 0.8)
        weight.assign(generator.uniform(low, high, weight.shape))
    return network


def fit(backbone, source, **changed):
    return finetune.fit(backbone, source, SIZE, CLASSES, **{**SETTINGS, **changed})


def torchs(backbone, layer):
    """The same network in PyTorch, float64: two convolutions, their normalisations, a layer."""
    from tests.pytorch import torch

    parts = [
        torch.nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(WIDTHS[0]),
        torch.nn.Conv2d(*WIDTHS, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(WIDTHS[1]),
        torch.nn.Linear(WIDTHS[1], CLASSES),
    ]
    arrays = arrays_of(backbone, layer)
    found = torch.nn.ModuleList(parts).double()
    with torch.no_grad():
        for tensor, array in zip(tensors_of(parts), arrays, strict=True):
            tensor.copy_(torch.from_numpy(np.array(array)))
    return found


def arrays_of(backbone, layer):
    """Every number of a backbone and its layer, as `tensors_of` has them."""
    found = []
    for number in range(2):
        normalization = backbone.get_layer(f"n{number}")
        found.append(backbone.get_layer(f"c{number}").kernel.numpy().transpose(3, 2, 0, 1))
        found += [normalization.gamma.numpy(), normalization.beta.numpy()]
        found += [normalization.moving_mean.numpy(), normalization.moving_variance.numpy()]
    return [*found, layer.kernel.numpy().T, layer.bias.numpy()]


def tensors_of(parts):
    found = []
    for convolution, normalization in (parts[:2], parts[2:4]):
        found += [convolution.weight, normalization.weight, normalization.bias]
        found += [normalization.running_mean, normalization.running_var]
    return [*found, parts[4].weight, parts[4].bias]


class Reference:
    """Fine-tuning in PyTorch, on the views of `labelled_views`."""

    def __init__(self, backbone, source, layers, batch_norm, settings):
        from tests.pytorch import torch

        self.parts = torchs(backbone, new_layer(WIDTHS[1], CLASSES, settings["seed"]))
        *network, layer = self.parts
        convolutions, normalizations = network[::2], network[1::2]
        trained = [*convolutions, *(normalizations if batch_norm == "tuned" else [])]
        groups = [dict(params=list(layer.parameters()), lr=settings["head_learning_rate"])]
        if layers == "all":
            parameters = [p for part in trained for p in part.parameters()]
            groups.append(dict(params=parameters, lr=settings["learning_rate"]))
        optimizer = torch.optim.SGD(
            groups, momentum=settings["sgd_momentum"], weight_decay=settings["weight_decay"]
        )
        rates = [group["lr"] for group in optimizer.param_groups]
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings["epochs"])
        views = labelled_views(
            source,
            source.train,
            SIZE,
            settings["crop_scale"],
            settings["batch_size"],
            settings["seed"],
            settings["epochs"],
        )
        self.losses, self.top1 = [], []
        views = list(views.as_numpy_iterator())
        steps = len(views) // settings["epochs"]
        for epoch in range(settings["epochs"]):
            half = 0.5 * (1 + math.cos(math.pi * epoch / settings["epochs"]))
            assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(
                [half * rate for rate in rates]
            )
            total = count = 0
            self.parts.train(layers == "all" and batch_norm == "tuned")
            for labels, images in views[epoch * steps : (epoch + 1) * steps]:
                images, labels = images[labels >= 0], labels[labels >= 0]
                if len(labels):
                    labels = torch.from_numpy(labels).long()
                    loss = torch.nn.functional.cross_entropy(self.scores(images), labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    total, count = total + len(labels) * loss.item(), count + len(labels)
            schedule.step()
            self.losses.append(total / count)
            self.top1.append(self.accuracy(source))

    def scores(self, images):
        from tests.pytorch import torch

        x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float64)) / 256
        for convolution, normalization in (self.parts[:2], self.parts[2:4]):
            x = torch.relu(normalization(convolution(x)))
        return self.parts[4](x.mean(dim=(2, 3)))

    def accuracy(self, source):
        """Top-1 on central views: of 24 pixels nine, of which the middle eight."""
        test = [i for i in TEST if i not in BROKEN]
        images = [Image.fromarray(source.read(tf.constant(i, tf.int64)).numpy()) for i in test]
        views = [
            np.asarray(image.resize((9, 9), Image.Resampling.BILINEAR))[:8, :8] for image in images
        ]
        self.parts.eval()
        found = self.scores(np.stack(views)).argmax(dim=1).numpy()
        return (found == np.array(test) % CLASSES).mean()

    def arrays(self):
        return [tensor.detach().numpy() for tensor in tensors_of(self.parts)]


@pytest.mark.parametrize(
    ("layers", "batch_norm", "changed"),
    [
        ("all", "tuned", {}),
        (
            "all",
            "tuned",
            # One image at a time, of which one cannot be read, and every other setting another.
            dict(
                batch_size=1,
                epochs=2,
                learning_rate=0.003,
                head_learning_rate=0.05,
                sgd_momentum=0.5,
                weight_decay=0.0,
                crop_scale=(0.5, 1.0),
                seed=2,
            ),
        ),
        ("all", "frozen", {}),
        ("head", "tuned", {}),
    ],
)
def test_every_number_is_that_of_pytorch(float64, layers, batch_norm, changed):
    source, backbone = example(), build()
    expected = Reference(backbone, source, layers, batch_norm, {**SETTINGS, **changed})
    before = backbone.get_weights()
    *tuned, result = fit(backbone, source, layers=layers, batch_norm=batch_norm, **changed)
    for found, array in zip(arrays_of(*tuned), expected.arrays(), strict=True):
        np.testing.assert_allclose(found, array, rtol=0, atol=1e-9)
    curve = result["curve"]
    assert [point["epoch"] for point in curve] == list(range(1, len(curve) + 1))
    assert [point["loss"] for point in curve] == pytest.approx(expected.losses, abs=1e-9)
    assert [point["top1"] for point in curve] == pytest.approx(expected.top1)
    assert [point["top5"] for point in curve] == [1.0] * len(curve)  # of three classes
    assert (result["top1"], result["top5"]) == (curve[-1]["top1"], 1.0)
    assert (result["num_train"], result["num_test"]) == (17, 7)  # one of each cannot be read
    for weight, value in zip(backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.fixture(scope="module")
def backbone():
    return build()


@pytest.fixture(scope="module")
def once(backbone):
    """What an epoch in float32 makes of it, by `batch_norm`: backbone, layer and result."""
    return {
        name: fit(backbone, example(), batch_norm=name, epochs=1) for name in ("tuned", "frozen")
    }


@pytest.mark.parametrize("batch_norm", ["tuned", "frozen"])
def test_in_float32_they_are_so_to_the_rounding(backbone, once, batch_norm):
    # There BatchNormalization is the fused kernel.
    expected = Reference(backbone, example(), "all", batch_norm, {**SETTINGS, "epochs": 1})
    for found, array in zip(arrays_of(*once[batch_norm][:2]), expected.arrays(), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, array, rtol=0, atol=1e-5)


def test_frozen_normalisation_stays_bit_for_bit_and_all_else_changes(backbone, once):
    tuned = once["frozen"][0]
    for weight, before in zip(tuned.weights, backbone.weights, strict=True):
        same = weight.numpy() == before.numpy()
        assert same.all() if len(weight.shape) == 1 else not same.any(), weight.path
    assert sum(len(weight.shape) == 1 for weight in tuned.weights) == 8


def test_groups_of_pretraining_play_no_part(once):
    found = fit(build(bn_groups=2), example(), epochs=1)[0]
    for weight, value in zip(found.get_weights(), once["tuned"][0].get_weights(), strict=True):
        np.testing.assert_array_equal(weight, value)


def test_two_replicas_end_where_one_does(float64, two_replicas):
    # The last batch of an epoch is of two images, which the first replica gets alone.
    *expected, one = fit(build(), example(), epochs=2)
    with two_replicas.scope():
        *found, two = fit(build(), example(), epochs=2)
        found = arrays_of(*found)
    for array, value in zip(found, arrays_of(*expected), strict=True):
        np.testing.assert_allclose(array, value, rtol=0, atol=1e-10)
    for name in ("top1", "top5", "num_train", "num_test"):
        assert two[name] == one[name]
    losses = [[point["loss"] for point in result["curve"]] for result in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-10)


def test_two_replicas_train_the_head_of_a_backbone_that_stays(two_replicas):
    expected = fit(build(), example(), layers="head", epochs=1)[1].kernel.numpy()
    with two_replicas.scope():
        _, layer, result = fit(build(), example(), layers="head", epochs=1)
    np.testing.assert_allclose(layer.kernel.numpy(), expected, rtol=0, atol=1e-5)
    assert result["num_train"] == 17


# The choice of labels.


def test_the_shares_of_classes_are_nested_and_balanced():
    generator = np.random.default_rng(3)
    labels = generator.permutation(np.repeat([0, 1, 2, 4], [130, 40, 7, 1]))
    labels[:5] = -1  # records that cannot be read
    shares = (1e-9, 0.01, 0.03, 0.1, 0.25, 0.5, 0.77, 1.0)
    for seed in range(3):
        smaller = set()
        for share in shares:
            chosen = finetune.choose(labels, share, seed)
            assert chosen.tolist() == sorted(set(chosen.tolist()))
            for label in range(-1, 5):
                members = int((labels == label).sum())
                wanted = max(1, round(share * members)) if label >= 0 and members else 0
                assert (labels[chosen] == label).sum() == wanted, (share, label)
            assert smaller <= set(chosen.tolist())
            smaller = set(chosen.tolist())
        assert smaller == set(np.flatnonzero(labels >= 0).tolist())
    some = {tuple(finetune.choose(labels, 0.1, seed)) for seed in range(20)}
    assert len(some) == 20


def test_training_sees_the_share_of_its_seed_alone(backbone):
    source = example(unreadable=())
    labels = source.labels[source.train]
    chosen = source.train[finetune.choose(labels, 0.34, SETTINGS["seed"])]
    assert len(chosen) == 6  # two of each class
    head = dict(layers="head", epochs=1)
    _, found, result = fit(backbone, source, label_fraction=0.34, **head)
    assert result["num_train"] == 6
    alone = source_of(
        np.stack([source.read(tf.constant(i, tf.int64)).numpy() for i in range(COUNT)]),
        source.labels,
        chosen,
        TEST,
    )
    _, expected, _ = fit(backbone, alone, **head)
    np.testing.assert_array_equal(found.kernel.numpy(), expected.kernel.numpy())


# A SavedModel.


@pytest.fixture(scope="module")
def saved_model(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "saved_model"
    to_archive(backbone).write_out(str(path), verbose=False)
    return path


@pytest.mark.parametrize("batch_norm", ["tuned", "frozen"])
def test_a_saved_model_is_tuned_as_the_backbone_in_it(once, saved_model, batch_norm):
    before = {path: path.read_bytes() for path in saved_model.rglob("*") if path.is_file()}
    frozen = keras.layers.TFSMLayer(str(saved_model), call_endpoint="serve", trainable=False)
    *found, result = fit(frozen, example(), batch_norm=batch_norm, epochs=1)
    *expected, other = once[batch_norm]
    images = np.random.default_rng(0).uniform(0, 255, (4, SIZE, SIZE, 3)).astype(np.float32)
    scores = [layer(network(images)).numpy() for network, layer in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)
    assert np.ptp(scores[0], axis=0).min() > 1e-4
    assert result["curve"][-1]["loss"] == pytest.approx(other["curve"][-1]["loss"], abs=1e-5)
    assert {path: path.read_bytes() for path in before} == before


def test_a_saved_model_that_cannot_be_tuned(backbone, saved_model, two_replicas, tmp_path):
    with two_replicas.scope():
        layer = keras.layers.TFSMLayer(str(saved_model), call_endpoint="serve", trainable=False)
        with pytest.raises(UserError, match="--layers=all works on one device, and there are 2"):
            fit(layer, example())
    backbone.export(str(tmp_path / "plain"), verbose=False)  # Keras' own: inference alone
    layer = keras.layers.TFSMLayer(str(tmp_path / "plain"), trainable=False)
    with pytest.raises(UserError, match="plain cannot be trained, having no endpoint 'train'"):
        fit(layer, example())


# Mistakes.


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (dict(layers="last"), "--layers=last: choose head or all"),
        (dict(batch_norm="off"), "--batch_norm=off: choose tuned or frozen"),
        (dict(crop_scale=(0.5, 0.2)), "--crop_scale=0.5,0.2"),
        (
            dict(learning_rate=1e30),
            "diverged in epoch 1 at --learning_rate=1e.30 and --head_learning_rate=0.3: give less",
        ),
        (
            dict(layers="head", head_learning_rate=1e38),
            "diverged in epoch 1 at --head_learning_rate=1e.38: give less",
        ),
    ],
)
def test_settings_that_cannot_work(backbone, changed, words):
    with pytest.raises(UserError, match=words):
        fit(backbone, example(), **changed)


def test_a_batch_that_replicas_cannot_share(backbone, two_replicas):
    words = "--batch_size=7 cannot be shared equally by 2 replicas: give a multiple of 2"
    with two_replicas.scope(), pytest.raises(UserError, match=words):
        fit(backbone, example(), batch_size=7)


def test_images_of_one_class_or_none_that_can_be_read(backbone):
    with pytest.raises(UserError, match="'memory': no training image can be read"):
        fit(backbone, example(unreadable=TRAIN))
    with pytest.raises(UserError, match="'memory': no image to evaluate on can be read"):
        fit(backbone, example(unreadable=TEST))
    images = np.zeros((5, SIDE, SIDE, 3), np.uint8)
    one = source_of(images, [1, 1, 1, 1, 0], range(4), [4])
    with pytest.raises(UserError, match="training images of two or more classes"):
        fit(backbone, one)


def test_a_backbone_that_changes_while_only_the_head_is_trained_is_refused(backbone):
    with pytest.raises(UserError, match="not frozen: its '.*moving_mean' has changed"):
        fit(Restless(), example(), layers="head", epochs=1)


class Restless(keras.Model):
    """A backbone that runs in training mode, where it ought not to."""

    def __init__(self):
        super().__init__()
        self.network = build()

    def call(self, images):
        return self.network(images, training=True)


def test_the_result_has_all_settings_that_were_read(backbone):
    head = {
        "layers": "head",
        "label_fraction": 0.5,
        "head_learning_rate": 0.2,
        "batch_size": 256,
        "epochs": 1,
        "sgd_momentum": 0.9,
        "weight_decay": 0.0,
        "crop_scale": (0.08, 1.0),
        "seed": 0,
    }
    given = dict(layers="head", epochs=1, label_fraction=0.5)
    result = protocols.evaluate_finetune(backbone, example(), SIZE, **given)
    assert {name: result[name] for name in head} == head
    others = {"protocol", "top1", "top5", "num_train", "num_test", "curve", "seconds"}
    assert result.keys() == head.keys() | others and result["seconds"] > 0
    defaults = {**head, "epochs": 20, "label_fraction": 1.0, "layers": "all"}
    defaults |= {"batch_norm": "tuned", "learning_rate": 0.01}
    assert protocols.finetune_settings() == defaults
