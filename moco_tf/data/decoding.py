"""From an image file's bytes to pixels."""

import tensorflow as tf


def decode(contents):
    """An image file's bytes to uint8 `[H, W, 3]`, whatever the file is called.

    Of PNG and what else TensorFlow reads (BMP, GIF, WebP), it takes the first picture.
    """

    def jpeg():
        # The fast integer DCT differs by a grey level or so and saves a third of the decoding.
        return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_FAST")

    def other():
        image = tf.io.decode_image(contents, channels=3, expand_animations=False)
        return tf.ensure_shape(image, [None, None, 3])

    return tf.cond(tf.io.is_jpeg(contents), jpeg, other)
