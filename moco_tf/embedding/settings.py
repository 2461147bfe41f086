"""What the command line and the library share about embeddings; it loads without TensorFlow."""

FORMATS = ("parquet", "npy", "csv")
DTYPES = ("float32", "float16")
# Rows of a file. With the 2,048 features of a ResNet-50 in float32 a file has 64 MiB.
ROWS_PER_FILE = 8192
