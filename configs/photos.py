from moco_tf.config import default_config


def get_config():
    config = default_config()
    config.data.source = "photos"
    config.encoder = "resnet8w2"
    config.stem = "small"
    config.image_size = 32
    config.queue_size = 4096
    config.momentum = 0.99
    config.temperature = 0.1
    config.learning_rate = 0.12
    config.schedule = "cosine"
    config.epochs = 12
    config.knn_every = 3
    config.checkpoint_every = 200
    return config
