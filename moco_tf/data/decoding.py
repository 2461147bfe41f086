"""From an image file's bytes to pixels."""

import struct

import numpy as np
import tensorflow as tf

# What Pillow too refuses to decode: half a gigabyte in RGB. TensorFlow allocates what the header
# says, which in a damaged or malicious file may be anything.
MOST_PIXELS = 178_956_970

# What a file can hold at the most, which is a picture of a single colour.
PIXELS_IN_A_BYTE = {
    "JPEG": 512,  # Huffman codes: a bit for 8 x 8 pixels
    "PNG": 8256,  # deflate makes 1,032 bytes of one, of 8 pixels each where a pixel is a bit
    "GIF": 2731,  # LZW: 12 bits for 4,096 pixels
    "BMP": 8,
    "WebP": 30_000,  # its codes know no bound; libwebp writes 26,000 of one colour
}
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def decode(contents):
    """An image file's bytes to uint8 `[H, W, 3]`, whatever the file is called.

    Reads JPEG, PNG, GIF, BMP (uncompressed, not of 16 bits a pixel) and WebP; of an animation,
    the first picture. Grey becomes RGB, CMYK and YCCK are converted as Pillow converts them, of 16
    bits a channel the upper 8 are kept. Transparency is dropped: a transparent pixel has the
    colour that the file holds for it. The orientation that a camera notes in EXIF is not applied,
    as in torchvision's `ImageFolder`.

    Args:
        contents: scalar string tensor.

    Raises:
        tf.errors.OpError: where the operation runs, if this is no image, a damaged one, one of more
            than `MOST_PIXELS`, or one whose header promises more than its bytes can hold.
    """
    contents = tf.cond(
        tf.io.is_jpeg(contents), lambda: possible_jpeg(contents), lambda: readable(contents)
    )
    # Of JPEG it computes the fast integer DCT, which differs by a grey level or so from the slow
    # one and saves a third of the decoding.
    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def possible_jpeg(contents):
    """The bytes of a JPEG file, or none where it cannot be as large as its header says.

    Every image comes this way, so it is TensorFlow's operations alone, and few of them. Nothing
    can be decoded from no bytes; an assertion says more, and takes longer than all of this.
    """
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(contents, output_type=tf.int64))
    most = PIXELS_IN_A_BYTE["JPEG"] * tf.cast(tf.strings.length(contents), tf.int64)
    return tf.where(height * width <= tf.minimum(most, MOST_PIXELS), contents, "")


def possible_png(contents):
    """The bytes of a PNG file, or none where it is not one or cannot be as large as it says: as
    `as_readable`, in TensorFlow's operations alone."""
    start = tf.strings.substr(tf.strings.join([contents, b"\0" * 24]), 0, 24)
    sides = tf.io.decode_raw(tf.strings.substr(start, 16, 8), tf.int32, little_endian=False)
    width, height = tf.unstack(tf.cast(sides, tf.int64), 2)
    most = PIXELS_IN_A_BYTE["PNG"] * tf.cast(tf.strings.length(contents), tf.int64)
    possible = (tf.strings.substr(start, 0, 8) == PNG_MAGIC) & (
        height * width <= tf.minimum(most, MOST_PIXELS)
    )
    return tf.where(possible, contents, "")


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def readable(contents):
    """`as_readable` as an operation, whose errors are TensorFlow's outside of a graph too."""
    contents = tf.numpy_function(as_readable, [contents], tf.string, stateful=False)
    return tf.ensure_shape(contents, [])


def as_readable(contents):
    """The same picture in bytes that TensorFlow reads, and reads rightly.

    Args:
        contents: bytes of a PNG, GIF, BMP or WebP file.

    Raises:
        ValueError: it is none of these, is damaged, or cannot be as large as it says.
    """
    try:
        if contents[:8] == PNG_MAGIC:
            _check_size("PNG", len(contents), *struct.unpack_from(">II", contents, 16))
            return contents
        if contents[:6] in (b"GIF87a", b"GIF89a"):
            return first_gif_picture(contents)
        if contents[:2] == b"BM":
            return plain_bmp(contents)
        if contents[:4] == b"RIFF" and contents[8:12] == b"WEBP":
            return first_webp_picture(contents)
    except (struct.error, IndexError) as error:
        raise ValueError("the file ends before the picture does") from error
    raise ValueError("not a JPEG, PNG, GIF, BMP or WebP file")


def first_gif_picture(contents):
    """A GIF's first picture alone, without transparency.

    TensorFlow unpacks all pictures to return the first, and paints what is transparent black.
    """
    width, height, packed = struct.unpack_from("<HHB", contents, 6)
    _check_size("GIF", len(contents), width, height)
    start = 13 + _colour_table(packed)
    position = start
    while contents[position] == ord("!"):  # an extension: the transparent colour, a comment, ...
        position = _after_blocks(contents, position + 2)
    if contents[position] != ord(","):
        raise ValueError("a GIF file without a picture")
    width, height, packed = struct.unpack_from("<HHB", contents, position + 5)
    _check_size("GIF", len(contents), width, height)
    end = _after_blocks(contents, position + 10 + _colour_table(packed) + 1)
    return contents[:start] + contents[position:end] + b";"


def _colour_table(packed):
    """The bytes that a GIF's colour table takes, from the flags before it."""
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _after_blocks(contents, position):
    """Where a GIF's sequence of data blocks that begins here ends."""
    while contents[position]:
        position += 1 + contents[position]
    return position + 1


def plain_bmp(contents):
    """A BMP of 24 bits a pixel; TensorFlow takes palette indices for grey levels."""
    offset, header = struct.unpack_from("<II", contents, 10)
    if header == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", contents, 18)
        compression, colours, entry = 0, 0, 3
    else:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", contents, 18)
        [colours], entry = struct.unpack_from("<I", contents, 46), 4
    # Pillow writes RGBA with masks, which name the places that the bytes have anyway.
    masked = compression == 3 and struct.unpack_from("<III", contents, 54) == (
        0xFF0000,
        0xFF00,
        0xFF,
    )
    if depth not in (1, 4, 8, 24, 32) or compression and not (masked and depth == 32):
        raise ValueError(f"a BMP file of {depth} bits, compression {compression}: not read")
    _check_size("BMP", len(contents), width, abs(height))
    stride = (width * depth + 31) // 32 * 4  # of a row in bytes
    # As it was, or frombuffer raises a ValueError.
    rows = np.frombuffer(contents, np.uint8, abs(height) * stride, offset)
    rows = rows.reshape(abs(height), stride)
    if depth <= 8:
        colours = np.frombuffer(contents, np.uint8, entry * (colours or 2**depth), 14 + header)
        shifts = np.arange(8 - depth, -1, -depth, dtype=np.uint8)
        indices = (rows[:, :, np.newaxis] >> shifts & (2**depth - 1)).reshape(abs(height), -1)
        pixels = colours.reshape(-1, entry)[indices[:, :width], :3]
    else:
        pixels = rows[:, : width * depth // 8].reshape(abs(height), width, -1)[..., :3]
    plain = np.zeros([abs(height), (3 * width + 3) // 4 * 4], np.uint8)
    plain[:, : 3 * width] = pixels.reshape(abs(height), -1)
    sizes = 40, width, height, 1, 24, 0, plain.size, 0, 0, 0, 0
    return struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54 + plain.size, 0, 54, *sizes) + plain.tobytes()


def first_webp_picture(contents):
    """A WebP file's first picture alone, without transparency, which TensorFlow refuses here."""
    position = 12
    while (kind := contents[position : position + 4]) not in (b"VP8 ", b"VP8L"):
        [size] = struct.unpack_from("<I", contents, position + 4)
        # A picture of an animation is a chunk that holds chunks, after 16 bytes of its own.
        position += 8 + (16 if kind == b"ANMF" else size + size % 2)
    [size] = struct.unpack_from("<I", contents, position + 4)
    picture = bytearray(contents[position + 8 : position + 8 + size + size % 2])
    if kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", picture, 6))
    else:
        [bits] = struct.unpack_from("<I", picture, 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        picture[4] &= 0xEF  # the bit that says whether the fourth channel counts
    _check_size("WebP", len(contents), width, height)
    riff = struct.pack("<4sI4s4sI", b"RIFF", 12 + len(picture), b"WEBP", kind, size)
    return riff + bytes(picture)


def _check_size(kind, num_bytes, width, height):
    """Raises a ValueError where a file cannot be as large as its header says."""
    if not (width > 0 and height > 0):
        raise ValueError(f"a {kind} file of {width} x {height} pixels")
    if width * height > min(MOST_PIXELS, PIXELS_IN_A_BYTE[kind] * num_bytes):
        raise ValueError(f"a {kind} file's header asks for more pixels than it can hold")
