"""Exports a backbone as a SavedModel that fine-tunes in plain Keras.

    python export/saved_model.py --workdir=runs/photos --out=runs/photos/export/saved_model

What reads it needs TensorFlow and Keras, and nothing of this project:

    keras.layers.TFSMLayer(
        PATH, call_endpoint="serve", call_training_endpoint="train", trainable=True)

To freeze it, leave `call_training_endpoint` out and say `trainable=False`: with a training endpoint
the moving statistics of BatchNormalization would still move.
"""

from absl import flags

from moco_tf import backbone_flags, command_line


def export_saved_model(backbone, path):
    """Writes a backbone as a SavedModel with two endpoints.

    `serve` runs it in inference mode; `train` normalises by the batch and moves the moving
    statistics. Both take images, float32 `[N, H, W, C]` of 0 to 255, of any size and of the
    backbone's channels, and return features, float32 `[N, D]`.

    Args:
        backbone: a `keras.Model` such as `moco_tf.load_backbone` returns.
        path: str, a directory that does not exist.

    Raises:
        UserError: it exists, or cannot be written.
    """
    import json
    import os

    import keras
    import tensorflow as tf

    from moco_tf import encoders, loading, run_directory

    if tf.io.gfile.exists(path):
        raise command_line.UserError(f"--out={path} exists: give a path that does not")
    channels = backbone.input_shape[-1]
    images = tf.TensorSpec([None, None, None, channels], tf.float32, name="images")
    archive = keras.export.ExportArchive()
    archive.track(backbone)
    archive.add_endpoint("serve", lambda images: backbone(images, training=False), [images])
    archive.add_endpoint("train", lambda images: backbone(images, training=True), [images])
    try:
        with run_directory.whole_or_not_at_all(path) as unfinished:
            archive.write_out(unfinished, verbose=False)
            # The loader leaves it alone, and load_network builds the network again by it.
            network = json.dumps(encoders.network_of(backbone)._asdict())
            path_of_network = os.path.join(unfinished, loading.NETWORK_FILE)
            run_directory.write_atomically(path_of_network, network + "\n")
    except (tf.errors.OpError, OSError) as error:
        raise command_line.UserError(f"--out={path} cannot be written: {error}") from error


def main(_):
    from moco_tf import encoders

    command_line.require("out")
    backbone = backbone_flags.load(backbone_flags.require_one())
    export_saved_model(encoders.with_normalization(backbone), flags.FLAGS.out)
    print(f"wrote {flags.FLAGS.out}")


if __name__ == "__main__":
    # Here, so that who imports the conversion does not get its flags.
    backbone_flags.define()
    flags.DEFINE_string("out", None, "The directory to write, which must not exist.")
    command_line.run(main)
