"""PyTorch and torchvision as an independent reference. Tests that import this need both."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make pytorch installs it")

# PyTorch's threads and TensorFlow's would wait for each other on the same cores.
torch.set_num_threads(1)

try:
    import torchvision
except RuntimeError:
    # The wheels of torchvision are built for CUDA. Beside the CPU build of torch, its compiled
    # operators do not load, and the names of two of them must be defined for as long as the library
    # lives. Models and transforms do not use them.
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torch", "torchvision"]
