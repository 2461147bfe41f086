"""Fine-tuning against the same training in PyTorch, and which values of a backbone change."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf import encoders
from moco_tf.data.evaluation_views import labeled_views
from moco_tf.encoders import preprocessing
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError
from moco_tf.evaluation import finetune, protocols, supervised, unreadable
from moco_tf.evaluation.few_shot import choose
from moco_tf.evaluation.settings import FinetuneSettings
from moco_tf.evaluation.supervised import new_classifier
from moco_tf.export.saved_model import to_archive
from tests.memory import lost_after, source_of

CLASSES, SIDE, SIZE, COUNT = 3, 24, 8, 26
TRAIN, TEST = range(18), range(18, COUNT)  # Two batches of eight and one of two.
UNREADABLE = (3, 22)
WIDTHS = (4, 5)  # Channels of the two convolutions.
SETTINGS = FinetuneSettings(
    learning_rate=0.05,
    head_learning_rate=0.3,
    batch_size=8,
    epochs=3,
    sgd_momentum=0.8,
    weight_decay=0.02,
    crop_scale=(0.2, 0.9),
    seed=1,
)


def example(unreadable=UNREADABLE):
    """Return noise around one color per class, so that accuracies are well between 0 and 1."""
    generator = np.random.default_rng(0)
    labels = np.arange(COUNT) % CLASSES
    colors = generator.integers(90, 160, (CLASSES, 1, 1, 3))
    images = colors[labels] + generator.normal(0, 60, (COUNT, 3, 3, 3)).repeat(8, 1).repeat(8, 2)
    images = np.clip(images, 0, 255).astype(np.uint8)
    return source_of(images, labels, TRAIN, TEST, unreadable)


def build(bn_groups=1):
    """Build two convolutions with BatchNormalization, with none of the usual initial values."""
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


def fit(backbone, source, **changes):
    return finetune.fit(backbone, source, SIZE, dataclasses.replace(SETTINGS, **changes))


def torch_network(backbone, layer):
    """Build the same network in PyTorch in float64: two convolutions with BatchNorm, a layer."""
    from tests.pytorch import torch

    modules = [
        torch.nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(WIDTHS[0]),
        torch.nn.Conv2d(*WIDTHS, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(WIDTHS[1]),
        torch.nn.Linear(WIDTHS[1], CLASSES),
    ]
    arrays = arrays_of(backbone, layer)
    network = torch.nn.ModuleList(modules).double()
    with torch.no_grad():
        for tensor, array in zip(tensors_of(modules), arrays, strict=True):
            tensor.copy_(torch.from_numpy(np.array(array)))
    return network


def arrays_of(backbone, layer):
    """Return all values of a backbone and its layer, in the order of `tensors_of`."""
    arrays = []
    for number in range(2):
        normalization = backbone.get_layer(f"n{number}")
        arrays.append(backbone.get_layer(f"c{number}").kernel.numpy().transpose(3, 2, 0, 1))
        arrays += [normalization.gamma.numpy(), normalization.beta.numpy()]
        arrays += [normalization.moving_mean.numpy(), normalization.moving_variance.numpy()]
    return [*arrays, layer.kernel.numpy().T, layer.bias.numpy()]


def tensors_of(modules):
    tensors = []
    for convolution, normalization in (modules[:2], modules[2:4]):
        tensors += [convolution.weight, normalization.weight, normalization.bias]
        tensors += [normalization.running_mean, normalization.running_var]
    return [*tensors, modules[4].weight, modules[4].bias]


class Reference:
    """Fine-tuning in PyTorch, on the views of `labeled_views`."""

    def __init__(self, backbone, source, settings):
        from tests.pytorch import torch

        self.network = torch_network(backbone, new_classifier(WIDTHS[1], CLASSES, settings.seed))
        *layers, classifier = self.network
        convolutions, normalizations = layers[::2], layers[1::2]
        tunes_statistics = settings.layers == "all" and settings.batch_norm == "tuned"
        trained = [*convolutions, *(normalizations if settings.batch_norm == "tuned" else [])]
        groups = [dict(params=list(classifier.parameters()), lr=settings.head_learning_rate)]
        if settings.layers == "all":
            parameters = [p for module in trained for p in module.parameters()]
            groups.append(dict(params=parameters, lr=settings.learning_rate))
        optimizer = torch.optim.SGD(
            groups, momentum=settings.sgd_momentum, weight_decay=settings.weight_decay
        )
        rates = [group["lr"] for group in optimizer.param_groups]
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
        views = labeled_views(
            source,
            source.train,
            SIZE,
            settings.crop_scale,
            settings.batch_size,
            settings.seed,
            settings.epochs,
        )
        self.losses, self.top1 = [], []
        views = list(views.as_numpy_iterator())
        steps = len(views) // settings.epochs
        for epoch in range(settings.epochs):
            factor = 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
            assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(
                [factor * rate for rate in rates]
            )
            total = count = 0
            self.network.train(tunes_statistics)
            for _, labels, images in views[epoch * steps : (epoch + 1) * steps]:
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
        for convolution, normalization in (self.network[:2], self.network[2:4]):
            x = torch.relu(normalization(convolution(x)))
        return self.network[4](x.mean(dim=(2, 3)))

    def accuracy(self, source):
        """Return top-1 on central views: 24 pixels become 9, of which the middle 8 are cropped."""
        test = [i for i in TEST if i not in UNREADABLE]
        images = [Image.fromarray(source.read(tf.constant(i, tf.int64)).numpy()) for i in test]
        views = [
            np.asarray(image.resize((9, 9), Image.Resampling.BILINEAR))[:8, :8] for image in images
        ]
        self.network.eval()
        predictions = self.scores(np.stack(views)).argmax(dim=1).numpy()
        return (predictions == np.array(test) % CLASSES).mean()

    def arrays(self):
        return [tensor.detach().numpy() for tensor in tensors_of(self.network)]


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize(
    "changes",
    [
        {},
        # Batches of one image, one of which cannot be read, and every other setting changed.
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
        dict(batch_norm="frozen"),
        dict(layers="head"),
    ],
)
def test_every_number_equals_that_of_pytorch(float64, changes):
    source, backbone = example(), build()
    expected = Reference(backbone, source, dataclasses.replace(SETTINGS, **changes))
    before = backbone.get_weights()
    *tuned, result = fit(backbone, source, **changes)
    for value, expected_value in zip(arrays_of(*tuned), expected.arrays(), strict=True):
        np.testing.assert_allclose(value, expected_value, rtol=0, atol=1e-9)
    curve = result["curve"]
    assert [point["epoch"] for point in curve] == list(range(1, len(curve) + 1))
    assert [point["loss"] for point in curve] == pytest.approx(expected.losses, abs=1e-9)
    assert [point["top1"] for point in curve] == pytest.approx(expected.top1)
    assert [point["top5"] for point in curve] == [1.0] * len(curve)  # There are three classes.
    assert (result["top1"], result["top5"]) == (curve[-1]["top1"], 1.0)
    assert (result["num_train"], result["num_test"]) == (17, 7)  # One of each cannot be read.
    assert (result["num_unreadable_train"], result["num_unreadable_test"]) == (1, 1)
    assert result["unreadable"] == [
        str(i) for part in (TRAIN, TEST) for i in part if i in UNREADABLE
    ]
    assert result["unreadable_classes"] == []
    for weight, value in zip(backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.fixture(scope="module")
def backbone():
    return build()


@pytest.fixture(scope="module")
def one_epoch(backbone):
    """The backbone, layer and result after an epoch in float32, by `batch_norm`."""
    return {
        batch_norm: fit(backbone, example(), batch_norm=batch_norm, epochs=1)
        for batch_norm in ("tuned", "frozen")
    }


@pytest.mark.torch
@pytest.mark.parametrize("batch_norm", ["tuned", "frozen"])
def test_float32_differs_by_rounding_only(backbone, one_epoch, batch_norm):
    # In float32, BatchNormalization is the fused kernel.
    settings = dataclasses.replace(SETTINGS, batch_norm=batch_norm, epochs=1)
    expected = Reference(backbone, example(), settings).arrays()
    for value, array in zip(arrays_of(*one_epoch[batch_norm][:2]), expected, strict=True):
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, array, rtol=0, atol=1e-5)


def test_frozen_normalization_stays_and_all_else_changes(backbone, one_epoch):
    tuned = one_epoch["frozen"][0]
    for weight, before in zip(tuned.weights, backbone.weights, strict=True):
        same = weight.numpy() == before.numpy()
        assert same.all() if len(weight.shape) == 1 else not same.any(), weight.path
    assert sum(len(weight.shape) == 1 for weight in tuned.weights) == 8


def test_groups_of_pretraining_have_no_effect(one_epoch):
    tuned = fit(build(bn_groups=2), example(), epochs=1)[0]
    for weight, value in zip(tuned.get_weights(), one_epoch["tuned"][0].get_weights(), strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.distributed
def test_two_replicas_give_numbers_of_one(float64, two_replicas):
    # The last batch of an epoch has two images, which both go to the first replica.
    *expected, one = fit(build(), example(), epochs=2)
    with two_replicas.scope():
        *tuned, two = fit(build(), example(), epochs=2)
        values = arrays_of(*tuned)
    for value, array in zip(values, arrays_of(*expected), strict=True):
        np.testing.assert_allclose(value, array, rtol=0, atol=1e-10)
    for name in ("top1", "top5", "num_train", "num_test"):
        assert two[name] == one[name]
    losses = [[point["loss"] for point in result["curve"]] for result in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-10)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_replicas_train_the_head_alone(two_replicas):
    expected = fit(build(), example(), layers="head", epochs=1)[1].kernel.numpy()
    with two_replicas.scope():
        _, layer, result = fit(build(), example(), layers="head", epochs=1)
    np.testing.assert_allclose(layer.kernel.numpy(), expected, rtol=0, atol=1e-5)
    assert result["num_train"] == 17


def test_label_fractions_are_nested_and_balanced():
    generator = np.random.default_rng(3)
    labels = generator.permutation(np.repeat([0, 1, 2, 4], [130, 40, 7, 1]))
    labels[:5] = -1  # Records that cannot be read.
    fractions = (1e-9, 0.01, 0.03, 0.1, 0.25, 0.5, 0.77, 1.0)
    for seed in range(3):
        smaller = set()
        for fraction in fractions:
            chosen = choose(labels, fraction, seed)
            assert chosen.tolist() == sorted(set(chosen.tolist()))
            for label in range(-1, 5):
                members = int((labels == label).sum())
                expected = max(1, round(fraction * members)) if label >= 0 and members else 0
                assert (labels[chosen] == label).sum() == expected, (fraction, label)
            assert smaller <= set(chosen.tolist())
            smaller = set(chosen.tolist())
        assert smaller == set(np.flatnonzero(labels >= 0).tolist())
    choices = {tuple(choose(labels, 0.1, seed)) for seed in range(20)}
    assert len(choices) == 20


def test_training_uses_the_chosen_fraction_alone(backbone):
    source = example(unreadable=())
    labels = source.labels[source.train]
    chosen = source.train[choose(labels, 0.34, SETTINGS.seed)]
    assert len(chosen) == 6  # Two of each class.
    head = dict(layers="head", epochs=1)
    _, layer, result = fit(backbone, source, label_fraction=0.34, **head)
    assert result["num_train"] == 6
    chosen_only = source_of(
        np.stack([source.read(tf.constant(i, tf.int64)).numpy() for i in range(COUNT)]),
        source.labels,
        chosen,
        TEST,
    )
    _, expected, _ = fit(backbone, chosen_only, **head)
    np.testing.assert_array_equal(layer.kernel.numpy(), expected.kernel.numpy())


@pytest.fixture(scope="module")
def saved_model(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "saved_model"
    to_archive(backbone).write_out(str(path), verbose=False)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", ["tuned", "frozen"])
def test_saved_model_is_tuned_like_its_backbone(one_epoch, saved_model, batch_norm):
    files = {path: path.read_bytes() for path in saved_model.rglob("*") if path.is_file()}
    frozen = keras.layers.TFSMLayer(str(saved_model), call_endpoint="serve", trainable=False)
    *tuned, result = fit(frozen, example(), batch_norm=batch_norm, epochs=1)
    *expected, expected_result = one_epoch[batch_norm]
    images = np.random.default_rng(0).uniform(0, 255, (4, SIZE, SIZE, 3)).astype(np.float32)
    scores = [layer(network(images)).numpy() for network, layer in (tuned, expected)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)
    assert np.ptp(scores[0], axis=0).min() > 1e-4
    losses = [run_result["curve"][-1]["loss"] for run_result in (result, expected_result)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.distributed
def test_saved_model_on_two_replicas_is_refused(saved_model, two_replicas):
    with two_replicas.scope():
        layer = keras.layers.TFSMLayer(str(saved_model), call_endpoint="serve", trainable=False)
        with pytest.raises(UserError, match="saved_model can be fine-tuned on one device only"):
            fit(layer, example())


def test_saved_model_for_inference_alone_is_refused(backbone, tmp_path):
    backbone.export(str(tmp_path / "plain"), verbose=False)
    layer = keras.layers.TFSMLayer(str(tmp_path / "plain"), trainable=False)
    with pytest.raises(UserError, match="plain cannot be fine-tuned.* has no endpoint 'train'"):
        fit(layer, example())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(learning_rate=1e30),
            "^learning_rate=1e.30 and head_learning_rate=0.3: .*diverged in epoch 1; use smaller",
        ),
        (
            dict(layers="head", head_learning_rate=1e38),
            "^head_learning_rate=1e.38: .*diverged in epoch 1; use smaller",
        ),
    ],
)
def test_divergence_is_refused(backbone, changes, message):
    with pytest.raises(UserError, match=message):
        fit(backbone, example(), **changes)


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({}, "learning_rate=0.01 and head_learning_rate=1000: too large"),
        ({"layers": "head"}, "head_learning_rate=1000: too large"),
    ],
)
def test_large_rates_are_reported(backbone, changes, start):
    *_, result = fit(backbone, example(), learning_rate=0.01, **changes)
    assert "warnings" not in result
    settings = {**changes, "learning_rate": 0.01, "head_learning_rate": 1000.0}
    *_, result = fit(backbone, example(), **settings)
    [warning] = result["warnings"]
    assert warning.startswith(start)
    loss = result["curve"][0]["loss"]
    numbers = (
        f"first epoch was {loss:.3g}, while guessing has ln({CLASSES}) = {math.log(CLASSES):.3g}"
    )
    assert numbers in warning


@pytest.mark.distributed
def test_batch_that_replicas_cannot_share_is_refused(backbone, two_replicas):
    message = "^batch_size=7 cannot be split equally among 2 replicas: use a multiple of 2"
    with two_replicas.scope(), pytest.raises(UserError, match=message):
        fit(backbone, example(), batch_size=7)


@pytest.mark.parametrize(
    ("unreadable", "message"),
    [(TRAIN, "none of the training images can be read"), (TEST, "none of the images can be read")],
)
def test_source_without_readable_images_is_refused(backbone, unreadable, message):
    with pytest.raises(UserError, match=f"'memory': {message}"):
        fit(backbone, example(unreadable))


@pytest.mark.parametrize("layers", ["head", "all"])
def test_training_whose_images_are_lost_later_is_refused(backbone, monkeypatch, layers):
    monkeypatch.setattr(supervised, "labeled_views", lost_after(3, labeled_views))
    message = "'memory': none of the training images can be read any more in epoch 2: check"
    with pytest.raises(UserError, match=message):
        fit(backbone, example(), layers=layers)


class Standardize(keras.layers.Layer):
    """Standardizes each image; with `guard`, a blank image does not become NaN."""

    def __init__(self, guard, **kwargs):
        super().__init__(**kwargs)
        self.guard = guard

    def call(self, images):
        std = keras.ops.std(images, axis=(1, 2, 3), keepdims=True)
        if self.guard:
            std = keras.ops.where(std == 0, 1.0, std)
        return (images - keras.ops.mean(images, axis=(1, 2, 3), keepdims=True)) / std

    def get_config(self):
        return {**super().get_config(), "guard": self.guard}


def standardizing(guard):
    images = keras.Input((None, None, 3))
    return keras.Model(images, build()(256 * Standardize(guard)(images)))


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": "head"},
        {"batch_norm": "frozen"},
        {"batch_norm": "tuned"},
        pytest.param({"batch_norm": "tuned"}, marks=[pytest.mark.distributed, pytest.mark.slow]),
    ],
    ids=["head", "frozen", "tuned", "two replicas"],
)
def test_rows_without_an_image_have_no_effect_where_they_become_nan(changes, request):
    expected = fit(standardizing(guard=True), example(), epochs=1, **changes)
    strategy = tf.distribute.get_strategy()
    if "two replicas" in request.node.name:
        strategy = request.getfixturevalue("two_replicas")
    with strategy.scope():
        tuned, layer, result = fit(standardizing(guard=False), example(), epochs=1, **changes)
        values = [*tuned.get_weights(), *layer.get_weights()]
    arrays = [*expected[0].get_weights(), *expected[1].get_weights()]
    for value, array in zip(values, arrays, strict=True):
        np.testing.assert_allclose(value, array, rtol=0, atol=1e-5)
    assert result["curve"][0]["loss"] == pytest.approx(expected[2]["curve"][0]["loss"], abs=1e-5)


def test_test_features_that_are_nan_are_refused():
    with pytest.raises(UserError, match="the features of 7 of 7 images hold NaN or infinity"):
        fit(lambda images: np.nan * images[:, 0, 0], example(), layers="head")


def test_training_images_of_one_class_are_refused(backbone):
    images = np.zeros((5, SIDE, SIDE, 3), np.uint8)
    source = source_of(images, [1, 1, 1, 1, 0], range(4), [4])
    with pytest.raises(UserError, match="training images of two or more classes"):
        fit(backbone, source)


def test_backbone_that_changes_under_a_new_head_is_refused():
    with pytest.raises(UserError, match="not frozen: its variable '.*moving_mean' changed"):
        fit(NetworkInTrainingMode(), example(), layers="head", epochs=1)


class NetworkInTrainingMode(keras.Model):
    """A backbone that runs in training mode by mistake."""

    def __init__(self):
        super().__init__()
        self.network = build()

    def call(self, images):
        return self.network(images, training=True)


def test_result_has_the_settings_that_were_used(backbone):
    settings = FinetuneSettings(layers="head", epochs=1, label_fraction=0.5)
    _, result = protocols.evaluate_finetune(backbone, example(), SIZE, settings)
    results = {"protocol", "top1", "top5", "num_train", "num_test", "curve", "seconds"}
    results |= {"top1_interval", "mean_per_class", "per_class"}
    assert result.keys() == settings.used().keys() | results | {*unreadable.KEYS}
    assert settings.used().items() <= result.items()
    assert result["protocol"] == "finetune"
    assert result["seconds"] > 0


@pytest.mark.parametrize("layers", ["head", "all"])
def test_fewer_evaluations_change_only_the_curve(backbone, layers):
    settings = dict(layers=layers, epochs=5)
    *_, every = fit(backbone, example(), **settings)
    *_, second = fit(backbone, example(), **settings, evaluate_every=2)
    *_, last = fit(backbone, example(), **settings, evaluate_every=9)
    curve = every.pop("curve")
    assert second.pop("curve") == [curve[1], curve[3], curve[4]]
    assert last.pop("curve") == [curve[4]]
    assert every == second == last


def test_divergence_is_noticed_before_the_next_evaluation(backbone):
    with pytest.raises(UserError, match="diverged in epoch [12]; use smaller rates"):
        fit(backbone, example(), epochs=5, evaluate_every=5, head_learning_rate=1e30)


@pytest.mark.parametrize("layers", ["head", "all"])
def test_network_of_build_gets_its_normalization(layers):
    network, source = encoders.random_network("resnet8", stem="small"), example()
    _, _, expected = fit(encoders.with_normalization(network), source, layers=layers, epochs=1)
    tuned, _, result = fit(network, source, layers=layers, epochs=1)
    assert result == expected
    assert preprocessing.has_normalization(tuned)


@pytest.mark.parametrize("changes", [{}, {"batch_norm": "frozen"}])
def test_layers_that_were_frozen_before_are_trained(backbone, changes):
    """People freeze a backbone while they train a new layer."""
    frozen = keras.models.clone_model(backbone)
    frozen.set_weights(backbone.get_weights())
    frozen.trainable = False
    results = [fit(model, example(), epochs=1, **changes) for model in (frozen, backbone)]
    for weight, expected in zip(*(tuned.get_weights() for tuned, *_ in results), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert not frozen.trainable
    assert np.any(results[0][0].get_layer("c0").kernel != backbone.get_layer("c0").kernel)


def test_backbone_without_weights_is_refused_with_all_layers():
    images = keras.Input((None, None, 3))
    network = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))
    with pytest.raises(UserError, match="has no weights that layers=all could train: use layers="):
        fit(network, example(), epochs=1)
