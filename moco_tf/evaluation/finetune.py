"""Fine-tuning: a pre-trained backbone and a new linear layer, trained on labelled images.

The paper fine-tunes detectors and segmenters (section 4.2); classification, and with 1 % or 10 %
of the labels, came after it. Its two rules for a fair comparison hold here: BatchNormalization is
trained too, by the statistics of the global batch, since features that were learned without labels
are scaled otherwise ("Normalization"), and every initialisation gets the same schedule
("Schedules").

What the paper leaves open is as in the code of two later ones, for 10 % of ImageNet's labels:
rates of 0.01 for the backbone and 0.2 for the new layer, 20 epochs in batches of 256, momentum
0.9, no weight decay and random resized crops with flips are facebookresearch/swav's
eval_semisup.py; half a cosine over the epochs is facebookresearch/barlowtwins' evaluate.py, and is
taken instead of milestones since it fits any number of epochs. Ours are that a batch without its
unreadable images is normalised by what it has, and that the last batch of an epoch may be smaller.
"""

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf.data.pipeline import labelled_views
from moco_tf.distribution import is_chief, num_replicas
from moco_tf.encoders.synchronized import statistics_of, synchronized
from moco_tf.errors import UserError
from moco_tf.evaluation import few_shot
from moco_tf.evaluation.features import extract
from moco_tf.evaluation.linear import check, checksums, new_layer, require_unchanged
from moco_tf.evaluation.metrics import accuracies
from moco_tf.optimizers import SGD
from moco_tf.schedules import Cosine

LAYERS = ("head", "all")
BATCH_NORM = ("tuned", "frozen")
OF_BACKBONE = ("batch_norm", "learning_rate")  # the settings that "head" does not read


def fit(
    backbone,
    source,
    image_size,
    num_classes,
    layers="all",
    label_fraction=1.0,
    batch_norm="tuned",
    learning_rate=0.01,
    head_learning_rate=0.2,
    batch_size=256,
    epochs=20,
    sgd_momentum=0.9,
    weight_decay=0.0,
    crop_scale=(0.08, 1.0),
    seed=0,
    progress="fine-tuning",
):
    """Trains a new linear layer on a backbone's features, and with "all" a copy of the backbone.

    The backbone that is given never changes. It computes on the replicas of the current
    `tf.distribute` strategy, whose number changes no more than the rounding; an epoch is a
    function of `seed` and its number.

    Args:
        backbone: images `[N, size, size, channels]` in 0 to 255 to features `[N, D]`: a functional
            `keras.Model` such as `moco_tf.load_backbone` returns, or a `keras.layers.TFSMLayer` of
            a SavedModel of export/saved_model.py; with "head", any callable.
        source: a `moco_tf.data.source.Source` with labels.
        image_size: int, side of the views in pixels.
        num_classes: int.
        layers: "head", the new layer alone, on a backbone in inference mode; or "all".
        label_fraction: float in (0, 1], of `choose`.
        batch_norm: with "all", "tuned", or "frozen", which leaves its statistics and parameters as
            they are.
        learning_rate: float > 0, the backbone's in the first epoch.
        head_learning_rate: float > 0, the new layer's.
        batch_size: int, of the global batch.
        epochs: int, over which both rates fall along half a cosine, epoch by epoch.
        sgd_momentum: float in [0, 1).
        weight_decay: float >= 0, coupled, of all that is trained.
        crop_scale: smallest and largest share of an image's area in a crop.
        seed: int, of the labels, the first weights of the layer, the order and the crops.
        progress: str, words for the progress bar.

    Returns:
        tuned: the backbone after its training; with "head", the one that was given.
        layer: a `keras.layers.Dense`, features `[N, D]` to scores `[N, classes]`.
        result: a dict with `top1` and `top5`, shares in 0 to 1 of the test images, each by its
            central view, after the last epoch; `num_train` and `num_test`, images that could be
            read; and `curve`, a dict for each epoch: `epoch`, counted from 1, `top1`, `top5` and
            `loss`, the mean over its training images in nats.

    Raises:
        UserError: settings or a backbone that cannot work, training images of fewer than two
            classes, none that can be read, or numbers that are no longer finite.
    """
    check(source, batch_size, crop_scale)
    _check_choice("layers", layers, LAYERS)
    _check_choice("batch_norm", batch_norm, BATCH_NORM)
    chosen = source.train[choose(np.asarray(source.labels)[source.train], label_fraction, seed)]
    before = checksums(backbone)
    tuned = backbone if layers == "head" else _copy(backbone)
    # A function of its own, so that it is traced once; `extract` is called after every epoch.
    forward = tf.function(lambda images: tuned(images))
    # First, since nobody wants to hear after an epoch that none of them can be read.
    test = extract(forward, source, source.test, image_size, "test features")
    layer = new_layer(test.features.shape[1], num_classes, seed)

    trained = [(layer.trainable_variables, head_learning_rate)]
    if layers == "all":
        variables = tuned.trainable_variables
        if batch_norm == "frozen":
            # The backbone's vectors are BatchNormalization's: its convolutions have no biases.
            variables = [variable for variable in variables if len(variable.shape) > 1]
        trained.append((variables, learning_rate))
    optimizers = []
    for variables, rate in trained:
        optimizers.append(SGD(rate, sgd_momentum, weight_decay))
        optimizers[-1].build(variables)
    by_batch = layers == "all" and batch_norm == "tuned"
    mode = {"training": True} if by_batch else {}
    count_images, take_step = _functions(
        lambda images: layer(tf.cast(tuned(images, **mode), layer.dtype)),
        by_batch,
        [variables for variables, _ in trained],
        optimizers,
    )

    strategy = tf.distribute.get_strategy()
    batches = iter(
        strategy.distribute_datasets_from_function(
            lambda context: labelled_views(
                source, chosen, image_size, crop_scale, batch_size, seed, epochs, context
            )
        )
    )
    steps_per_epoch = -(-len(chosen) // batch_size)
    curve, seen = [], 0
    # tqdm's None: no bar where there is no terminal. Its estimate is by the mean of all that was
    # done (smoothing 0), since every epoch ends with a look at the test images.
    options = dict(unit="step", smoothing=0, disable=None if is_chief() else True)
    with tqdm(total=epochs * steps_per_epoch, desc=progress, **options) as bar:
        for epoch in range(epochs):
            for optimizer, (_, rate) in zip(optimizers, trained, strict=True):
                optimizer.learning_rate = Cosine(rate, 1, epochs)(epoch)
            losses, counts = [], []
            for _ in range(steps_per_epoch):
                batch = next(batches)
                counts.append(int(count_images(batch)))
                # Of a batch without a readable image there are no statistics.
                losses.append(float(take_step(batch)) if counts[-1] else 0.0)
                bar.update()
            seen += sum(counts)
            if not seen:
                raise UserError(f"data source '{source.name}': no training image can be read")
            if layers == "all":
                test = extract(forward, source, test.indices, image_size)
            scores = test.features @ layer.kernel.numpy() + layer.bias.numpy()
            if not (np.isfinite(losses).all() and np.isfinite(scores).all()):
                rates = f"--head_learning_rate={head_learning_rate:g}"
                if layers == "all":
                    rates = f"--learning_rate={learning_rate:g} and {rates}"
                raise UserError(f"fine-tuning diverged in epoch {epoch + 1} at {rates}: give less")
            accuracy = accuracies(scores, test.labels)
            loss = float(np.average(losses, weights=counts))
            curve.append({"epoch": epoch + 1, **accuracy, "loss": loss})
            bar.set_postfix(top1=f"{accuracy['top1']:.3f}", loss=f"{loss:.3f}", refresh=False)
    require_unchanged(backbone, before)
    num_train, num_test = seen // epochs, len(test.labels)
    result = {**accuracy, "num_train": num_train, "num_test": num_test, "curve": curve}
    return tuned, layer, result


def _functions(scores_of, by_batch, variables, optimizers):
    """What a step takes, on all replicas.

    Args:
        scores_of: images, float32 `[n, size, size, channels]`, to scores `[n, classes]`.
        by_batch: bool, whether the scores of an image depend on the others.
        variables: a list of variables for each of the optimizers.
        optimizers: SGD.

    Returns:
        Two functions of a distributed batch of `labelled_views`: how many of its images could be
        read; and the step, which returns the mean loss over these.
    """
    strategy = tf.distribute.get_strategy()

    def replica_count(labels, _):
        present = tf.reduce_sum(tf.cast(labels >= 0, tf.int32))
        return tf.distribute.get_replica_context().all_reduce("SUM", present)

    def replica_step(labels, images):
        # Rows that stand for nothing would count in BatchNormalization. On one replica they go; of
        # several one may have no others, and its convolutions would fail.
        present = labels >= 0
        if by_batch and num_replicas() == 1:
            labels, images = (tf.boolean_mask(values, present) for values in (labels, images))
            present = labels >= 0
        weights = tf.cast(present, keras.config.floatx())
        replicas = tf.distribute.get_replica_context()
        count = replicas.all_reduce("SUM", tf.reduce_sum(weights))
        values = [[variable.value for variable in own] for own in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            with statistics_of(present):
                scores = scores_of(tf.cast(images, tf.float32))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), scores)
            # Gradients are summed over the replicas: the mean is over the global batch.
            loss = tf.reduce_sum(weights * losses) / count
        gradients = tape.gradient(loss, values)
        for optimizer, gradient, own in zip(optimizers, gradients, variables, strict=True):
            optimizer.apply(gradient, own)
        return replicas.all_reduce("SUM", loss)

    def on_all(replica_function):
        def run(batch):
            returned = strategy.run(replica_function, args=batch)
            return strategy.experimental_local_results(returned)[0]

        return tf.function(run)

    return on_all(replica_count), on_all(replica_step)


def choose(labels, fraction, seed):
    """Chooses training images at random, the same share of each class.

    Those of a smaller share are among those of a larger.

    Args:
        labels: int `[M]`; below 0 where a record cannot be read, which is never chosen.
        fraction: float in (0, 1]; of each class it is rounded to whole images, at least one.
        seed: int, 0 or more.

    Returns:
        int64 `[m]`, indices into `labels`, in ascending order.
    """
    chosen = []
    for label in np.unique(labels[labels >= 0]):
        [members] = np.nonzero(labels == label)
        count = max(1, round(fraction * len(members)))
        chosen.append(members[few_shot.draw(labels[members], count, seed, 0)])
    return np.sort(np.concatenate(chosen))


def _check_choice(name, value, known):
    if value not in known:
        raise UserError(f"--{name}={value}: choose {' or '.join(known)}")


def _copy(backbone):
    """A backbone of the same numbers in variables of its own, all of which can be trained."""
    if not isinstance(backbone, keras.layers.TFSMLayer):
        return synchronized(backbone)
    path = backbone.filepath
    if num_replicas() > 1:
        raise UserError(
            f"--saved_model={path} with --layers=all works on one device, and there are "
            f"{num_replicas()}: BatchNormalization in a SavedModel knows one alone"
        )
    try:
        return keras.layers.TFSMLayer(
            path, call_endpoint="serve", call_training_endpoint="train", trainable=True
        )
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"--saved_model={path} cannot be trained, having no endpoint 'train': export it again "
            "by export/saved_model.py"
        ) from error
