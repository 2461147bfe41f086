"""PyTorch and torchvision, for the benchmarks that compare with them (`make pytorch`)."""

import torch

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
