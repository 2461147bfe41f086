"""What the command line and the library share about preparation; it loads without TensorFlow."""

FORMATS = ("tfrecord", "arrayrecord", "webdataset")
MAX_SIDE = 512
QUALITY = 90
MAX_QUALITY = 95  # Pillow advises against more: the files grow, but hardly the quality.
# Images in a file. At the default size and quality, a file has about 150 MB.
IMAGES_PER_FILE = 2048
