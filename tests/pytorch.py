"""PyTorch and torchvision as the independent reference; who imports this skips without them."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make pytorch installs it")

# Its threads and TensorFlow's would wait for each other on the same cores.
torch.set_num_threads(1)

try:
    import torchvision
except RuntimeError:
    # torchvision's wheels are built for CUDA. Beside the CPU build of torch its compiled operators
    # do not load; two of them have to be known by name, for as long as the library lives. Models
    # and transforms use none.
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torch", "torchvision"]
