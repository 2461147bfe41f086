"""The encoders of a mechanism, built by a function of the user."""

from collections.abc import Callable

import keras

from moco_tf.errors import UserError


def build(build_encoder: Callable[[], keras.Model]) -> keras.Model:
    """Return a new encoder.

    Args:
        build_encoder: Function without arguments that returns it.

    Raises:
        UserError: If it is no function, or if it does not return a model from images to
            projections.
    """
    remedy = (
        "pass a function that builds a functional model from images to projections [N, C], such as "
        'lambda: moco_tf.encoders.build("resnet50", head="mlp", bn_groups=8)'
    )
    if isinstance(build_encoder, keras.Model):
        raise UserError(
            f"build_encoder is a model, but the mechanism builds its encoders: {remedy}"
        )
    if not callable(build_encoder):
        raise UserError(f"build_encoder={build_encoder!r:.100} is not a function: {remedy}")
    encoder = build_encoder()
    shape = getattr(encoder, "output_shape", None)
    if not isinstance(encoder, keras.Model) or not isinstance(shape, tuple) or len(shape) != 2:
        what = f"{type(encoder).__name__} with the output shape {shape}"
        raise UserError(f"build_encoder returned a {what}: {remedy}")
    return encoder


def build_two(build_encoder: Callable[[], keras.Model]) -> tuple[keras.Model, keras.Model]:
    """Return two new encoders with the same weights, as `build`.

    Raises:
        UserError: As `build`, and if both share weights or are of different architectures.
    """
    first, second = build(build_encoder), build(build_encoder)
    # Frozen weights may be shared, because neither of the two updates changes them.
    trained = [{id(w) for w in encoder.trainable_weights} for encoder in (first, second)]
    shared = trained[0] & trained[1]
    if first is second or shared:
        paths = [weight.path for weight in first.weights if id(weight) in shared]
        what = f"{len(paths)} weights, such as {paths[0]}" if paths else "the model"
        raise UserError(
            f"build_encoder returned two encoders that share {what}, but the query encoder and the "
            "key encoder need weights of their own: create all layers in each call"
        )
    shapes = [[tuple(weight.shape) for weight in encoder.weights] for encoder in (first, second)]
    if shapes[0] != shapes[1]:
        raise UserError(
            "build_encoder returned two encoders of different architectures: return the same in "
            "each call"
        )
    copy_weights(first, second)
    return first, second


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Assign the weights of one model to another model of the same architecture."""
    for source_weight, target_weight in zip(source.weights, target.weights, strict=True):
        target_weight.assign(source_weight.value)
