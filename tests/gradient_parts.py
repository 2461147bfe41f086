"""Prints the parts in which a worker reduces the gradients of ResNet-50, for test_multiworker.py.

For each part in the order of the reduction: its size in MB, and how many of the convolutions whose
gradients it waits for. The step is traced and not run.
"""

import json

import tensorflow as tf

from moco_tf import MoCo, encoders, strategies
from moco_tf.optimizers import SGD


def main():
    strategy = strategies.make_strategy("multiworker")
    with strategy.scope():
        model = MoCo(lambda: encoders.build("resnet50", "linear"))
        model.compile(SGD(0.03))
    views = tf.zeros([2, 4, 64, 64, 3])
    data = strategy.distribute_datasets_from_function(
        lambda context: tf.data.Dataset.from_tensors(tuple(views))
    )
    step = tf.function(lambda batch: strategy.run(model.train_step, args=(batch,)), autograph=False)
    operations = step.get_concrete_function(next(iter(data))).graph.get_operations()
    parts = []
    for operation in operations:
        if operation.type == "CollectiveReduceV2":
            part = operation.inputs[0]
            parts.append((4 * part.shape.num_elements() / 1e6, gradients_before(part.op)))
    print(json.dumps(parts))


def gradients_before(operation):
    """Return the number of gradients of convolution kernels that an operation depends on."""
    ancestors, queue = set(), [operation]
    while queue:
        operation = queue.pop()
        if operation not in ancestors:
            ancestors.add(operation)
            queue += [tensor.op for tensor in operation.inputs]
    return sum(operation.type == "Conv2DBackpropFilter" for operation in ancestors)


if __name__ == "__main__":
    main()
