"""The base class of the three mechanisms of the paper's Figure 2."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, ParamSpec, TypeVar

import keras
import tensorflow as tf

from moco_tf.distribution import num_replicas, replica_rows
from moco_tf.errors import UserError
from moco_tf.keras_internals import DistributedModel, all_layers
from moco_tf.mechanisms import batches
from moco_tf.mechanisms.losses import contrastive_accuracy, l2_normalize
from moco_tf.mechanisms.shuffling import permutation, shuffle, unshuffle
from moco_tf.optimizers import LossScaling
from moco_tf.ranges import COUNT, POSITIVE, Range, checked
from moco_tf.seeds import seed_for

P = ParamSpec("P")
T = TypeVar("T")

# Called as `augment(images, rows, count, seed)`, such as a `moco_tf.data.augment.Augment`.
Augmentation = Callable[[tf.Tensor, tf.Tensor, int, tf.Tensor], tf.Tensor]


class View(NamedTuple):
    """One view of the images of a replica.

    Attributes:
        images: `[n, H, W, channels]`, before the augmentation on the device.
        seed: int64 `[2]`, the seed of this augmentation.
    """

    images: tf.Tensor
    seed: tf.Tensor


class Mechanism(DistributedModel):
    """Base class for a contrastive model that trains under any `tf.distribute` strategy.

    A subclass sets `query_encoder`, a model from images to projections `[N, C]`. It defines
    `train_step`, which increments `step` and returns the result of `logs`. If an encoder computes
    the keys, the subclass also sets `key_encoder`, a model of the same architecture, and
    `shuffle_bn`, a bool.

    Args:
        temperature: The temperature tau of equation 1, greater than 0.
        augment: Photometric part of the augmentation, which runs on the device; called as
            `augment(images, rows, count, seed)`, see `moco_tf.data.augment.Augment`. `None` if
            the views are already augmented and normalized.
        seed: Random seed. With the number of the step, it determines every random draw.
        **kwargs: Arguments of `keras.Model`.

    Attributes:
        step: Non-trainable int64 scalar, the number of steps taken so far.
        seconds_waiting: Seconds that `fit` has spent waiting for data so far.
    """

    query_encoder: keras.Model
    key_encoder: keras.Model
    shuffle_bn: bool

    def __init__(
        self, temperature: float, augment: Augmentation | None, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature
        if augment is not None and not callable(augment):
            raise UserError(
                f"augment={augment!r:.100}: pass a function of views, such as "
                'moco_tf.Augment(moco_tf.RECIPES["v2"]), or None'
            )
        self.augment = augment
        self.seed = checked("seed", seed, Range(minimum=0, is_whole=True))
        self.step = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step"
        )
        self.loss_metric = keras.metrics.Mean("loss")
        self.top1_metric = keras.metrics.Mean("contrastive_top1")
        self.top5_metric = keras.metrics.Mean("contrastive_top5")
        self.built = True
        self._compiled_variables: tuple[int, ...] | None = None

    @property
    def temperature(self) -> float:
        """The temperature tau of equation 1.

        The step of `fit` is compiled again for a new value. A `tf.function` of your own keeps the
        value that it was traced with.
        """
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        if value != getattr(self, "_temperature", None):
            self._temperature = checked("temperature", value, POSITIVE)
            self._compile_again()

    def _compile_again(self) -> None:
        """Let the next step use a new value of a number that the compiled step holds."""
        if getattr(self, "train_function", None) is not None:
            self.make_train_function(force=True)

    @property
    def learned_variables(self) -> list[keras.Variable]:
        """The variables that back-propagation updates."""
        return self.query_encoder.trainable_variables

    def _local(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return a part of the step that needs no other replica, compiled if that is useful.

        With one replica, `jit_compile` compiles the whole step. With several, XLA cannot compile
        the communication between them, so the parts in between are compiled. A TPU compiles
        everything with or without this setting.

        Args:
            function: Function that takes and returns tensors. Gradients can flow through it.

        Returns:
            The function itself, or a compiled one that computes the same.
        """
        strategy = tf.distribute.get_strategy()
        if not self.jit_compile or strategy.num_replicas_in_sync == 1:
            return function
        if isinstance(strategy, tf.distribute.TPUStrategy):
            return function
        return tf.function(function, jit_compile=True, autograph=False)

    def _elements(self, data: Any, count: int) -> tuple[tf.Tensor, ...]:
        """Return the elements of a batch, as `batches.elements` does.

        Raises:
            UserError: As there, or if layers were frozen or unfrozen after `compile`.
        """
        self._require_compiled_variables()
        return batches.elements(data, count, type(self).__name__, self.augment)

    def _ids_of_learned_variables(self) -> tuple[int, ...]:
        return tuple(id(variable) for variable in self.learned_variables)

    def _require_compiled_variables(self) -> None:
        """Raise a `UserError` if layers were frozen or unfrozen since the model was compiled."""
        if self._compiled_variables not in (None, self._ids_of_learned_variables()):
            raise UserError(
                "layers of the encoder were frozen or unfrozen after compile, which has no effect "
                "or fails: call compile again"
            )

    def _views(
        self, x_q: tf.Tensor, x_k: tf.Tensor, symmetric: bool
    ) -> tuple[list[View], list[View]]:
        """Return the views to encode as queries and the views to encode as keys, in pairs.

        Args:
            x_q: `[n, H, W, channels]`, the first view.
            x_k: `[n, H, W, channels]`, the second view of the same images.
            symmetric: Whether to add the pair with the two views exchanged.
        """
        step = self.step.value
        query_view = View(x_q, seed_for("query_view", self.seed, step))
        key_view = View(x_k, seed_for("key_view", self.seed, step))
        if symmetric:
            return [query_view, key_view], [key_view, query_view]
        return [query_view], [key_view]

    def _encode_queries(self, view: View) -> tf.Tensor:
        """Return the queries of this replica's n images, L2-normalized `[n, C]`."""
        n = view.images.shape[0]
        images = self._augment(view, replica_rows(n), n * num_replicas())
        return self._encode(self.query_encoder, images)

    def _encode_keys(self, view: View) -> tf.Tensor:
        """Return the keys of the N images of the global batch, L2-normalized `[N, C]`.

        Each replica encodes n of them. With Shuffling BN these are not the images of its queries.
        """
        N = view.images.shape[0] * num_replicas()
        order = None
        if self.shuffle_bn:
            self._warn_of_one_group()
            order = permutation(N, seed_for("permutation", self.seed, self.step.value))
        images, rows = shuffle(view.images, order)
        images = self._augment(View(images, view.seed), rows, N)
        return unshuffle(self._encode(self.key_encoder, images), order)

    def _warn_of_one_group(self) -> None:
        """Warn if Shuffling BN has no effect, because all keys are normalized together."""
        layers = [layer for layer in all_layers(self.key_encoder) if hasattr(layer, "moving_mean")]
        groups = [
            1
            if getattr(layer, "synchronized", False)
            else num_replicas() * getattr(layer, "groups", 1)
            for layer in layers
        ]
        if groups and max(groups) == 1:
            warnings.warn(
                "shuffle_bn=True has no effect, because BatchNormalization has one group, all "
                "images of the batch: build the encoder with bn_groups=2 or more (section 3.3 of "
                "the paper), or set shuffle_bn=False",
                stacklevel=2,
            )

    def _encode(self, encoder: keras.Model, images: tf.Tensor) -> tf.Tensor:
        """Apply an encoder in training mode to `[n, H, W, channels]` and L2-normalize: `[n, C]`."""

        def encode(images: tf.Tensor) -> tf.Tensor:
            # Similarities, loss and dictionary are float32 even if the encoder computes in float16
            # or bfloat16.
            return l2_normalize(tf.cast(encoder(images, training=True), self.variable_dtype))

        return self._local(encode)(images)

    def _augment(self, view: View, rows: tf.Tensor, count: int) -> tf.Tensor:
        """Augment the images at `rows` of a global batch of `count` images."""
        if self.augment is None:
            return view.images
        return self.augment(view.images, rows, count, view.seed)

    def logs(self, losses: tf.Tensor, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Update the metrics, and return the values that `fit` reports.

        Call it before the step of the optimizer, after which the learning rate is that of the next
        step.

        Args:
            losses: `[n]`, the losses of this replica's queries.
            logits: `[n, 1 + K]`, with the positive in column 0.

        Returns:
            The means of the loss and of the contrastive top-1 and top-5 accuracy over the epoch so
            far, and the learning rate, as scalars by name.
        """
        self.loss_metric.update_state(losses)
        self.top1_metric.update_state(contrastive_accuracy(logits, 1))
        self.top5_metric.update_state(contrastive_accuracy(logits, 5))
        logs = {metric.name: metric.result() for metric in self.metrics}
        return {**logs, "learning_rate": self.optimizer.learning_rate}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that `fit` resets at the start of each epoch."""
        return [self.loss_metric, self.top1_metric, self.top5_metric]

    def compile(self, optimizer: keras.optimizers.Optimizer | str, **kwargs: Any) -> None:
        """Configure the training.

        Args:
            optimizer: Optimizer of the learned variables, such as `moco_tf.optimizers.SGD`. If the
                encoder computes in float16, the optimizer is wrapped in
                `moco_tf.optimizers.LossScaling`, which also replaces a
                `keras.optimizers.LossScaleOptimizer`.
            **kwargs: `jit_compile`, `run_eagerly` and `steps_per_execution`, as in
                `keras.Model.compile`. Unlike there, `jit_compile` is False by default, because XLA
                leaves out the checks of the views. The last one is the number of steps between the
                calls of callbacks; it does not make a step faster.

        Raises:
            UserError: If another argument is given, such as a loss, or no layer of the encoder is
                trainable.
        """
        for name, value in kwargs.items():
            is_given = value is not None and value is not False and value != []
            if name not in ("jit_compile", "run_eagerly", "steps_per_execution") and is_given:
                raise UserError(
                    f"compile({name}=...) has no effect, because {type(self).__name__} has its own "
                    "loss and metrics: leave it out"
                )
        optimizer = keras.optimizers.get(optimizer)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            scale, steps = optimizer.initial_scale, optimizer.dynamic_growth_steps
            optimizer = LossScaling(optimizer.inner_optimizer, scale, steps)
        elif any(layer.compute_dtype == "float16" for layer in all_layers(self.query_encoder)):
            optimizer = LossScaling(optimizer)
        if not self.learned_variables:
            raise UserError(
                "the encoder has no weights to train: set trainable to True for some of its layers"
            )
        if self.query_encoder.losses:
            warnings.warn(
                "the regularizers of the encoder have no effect: use the weight_decay of the "
                "optimizer",
                stacklevel=2,
            )
        if "steps_per_execution" in kwargs:
            checked("steps_per_execution", kwargs["steps_per_execution"], COUNT)
        given = {"jit_compile": False, **kwargs, "auto_scale_loss": False}
        super().compile(optimizer=optimizer, **given)
        self.optimizer.build(self.learned_variables)
        self._compiled_variables = self._ids_of_learned_variables()

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train the model, as `keras.Model.fit` does.

        Raises:
            UserError: If there are validation data, because a loss on other images says little
                about the features: evaluate those of the backbone. If there are weights of classes,
                or layers were frozen after `compile`. Or if views hold NaN or infinity, or are
                clearly not in the range [0, 255] that `augment` expects. With `jit_compile`,
                neither is detected.
        """
        if kwargs.get("validation_data") is not None or kwargs.get("validation_split"):
            self.evaluate()
        for name in ("class_weight", "sample_weight"):
            if kwargs.get(name) is not None:
                raise UserError(f"fit({name}=...) has no effect, because no labels are used")
        self._require_compiled_variables()
        try:
            return super().fit(*args, **kwargs)
        except tf.errors.InvalidArgumentError as error:
            problem = batches.problem_of(error, self.distribute_strategy.num_replicas_in_sync)
            if not problem:
                raise
            raise UserError(problem) from error

    def evaluate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise a `UserError`, because the contrastive loss is no measure of the features."""
        raise UserError(
            f"{type(self).__name__} has no validation: evaluate the features of "
            f"{self._backbone_code()}, for example with moco_tf.extract_features and moco_tf.knn"
        )

    def test_on_batch(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise a `UserError`, as `evaluate` does."""
        self.evaluate()

    def get_config(self) -> NoReturn:
        """Raise a `UserError`, because the function that builds the encoders cannot be saved."""
        raise UserError(
            f"{type(self).__name__} cannot be saved as a whole: use model.save_weights for the "
            f"training, and {self._backbone_code()}.save for the backbone"
        )

    def _backbone_code(self) -> str:
        """Return the expression for the backbone, which an encoder of the user's may not have."""
        if hasattr(self.query_encoder, "backbone"):
            return "moco_tf.encoders.with_normalization(model.query_encoder.backbone)"
        return "keras.Model(model.query_encoder.input, FEATURES)"

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the projections of the query encoder, not L2-normalized.

        Args:
            images: `[N, H, W, channels]`, normalized as the encoder takes them.
            training: Whether BatchNormalization uses the statistics of the batch.
        """
        return self.query_encoder(images, training=training)
