"""The training step of MoCo in PyTorch, as the reference implementation writes it, and tuned."""

import os
from collections.abc import Callable

from pytorch import torch, torchvision


def make_step(
    encoder: str,
    stem: str,
    image_size: int,
    batch: int,
    queue: int,
    channels_last: bool = False,
    compiled: bool = False,
    bfloat16: bool = False,
) -> Callable[[], None]:
    """Return a function that runs the paper's pseudo-code.

    Args:
        encoder: Name of a network in torchvision.
        stem: `"imagenet"` or `"small"`.
        image_size: Side of the images in pixels.
        batch: Batch size.
        queue: Number of keys in the queue.
        channels_last: Whether images and weights are stored with the channels last.
        compiled: Whether the encoders go through `torch.compile`.
        bfloat16: Whether the encoders run under `torch.autocast` to bfloat16.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    f_q, f_k = (_build(encoder, stem).to(memory_format=memory_format) for _ in range(2))
    f_k.load_state_dict(f_q.state_dict())
    is_tuned = channels_last or compiled
    optimizer = torch.optim.SGD(
        f_q.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, fused=is_tuned
    )
    update = _update_in_place if is_tuned else _update
    theta_q, theta_k = list(f_q.parameters()), list(f_k.parameters())
    if compiled:
        f_q, f_k = torch.compile(f_q), torch.compile(f_k)
    normalize = torch.nn.functional.normalize
    keys = normalize(torch.randn(128, queue), dim=0)  # C x K
    x_q, x_k = (
        images.to(memory_format=memory_format)
        for images in torch.randn(2, batch, 3, image_size, image_size)
    )
    pointer = 0

    def encode(network, images):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return normalize(network(images.contiguous(memory_format=memory_format)).float(), dim=1)

    def step():
        nonlocal pointer
        q = encode(f_q, x_q)
        with torch.no_grad():
            update(theta_q, theta_k)
            order = torch.randperm(batch)
            k = encode(f_k, x_k[order])[torch.argsort(order)]
        l_pos = torch.einsum("nc,nc->n", q, k)[:, None]
        l_neg = torch.einsum("nc,ck->nk", q, keys)
        logits = torch.cat([l_pos, l_neg], dim=1) / 0.07
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(batch, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keys[:, pointer : pointer + batch] = k.T
        pointer = (pointer + batch) % queue
        loss.item()

    return step


def _build(encoder, stem):
    model = getattr(torchvision.models, encoder)(num_classes=128)
    if stem == "small":
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
    return model


def _update(theta_q, theta_k):
    """Move the key encoder towards the query encoder, as the reference implementation does."""
    for p_q, p_k in zip(theta_q, theta_k, strict=True):
        p_k.data = p_k.data * 0.999 + p_q.data * (1 - 0.999)


def _update_in_place(theta_q, theta_k):
    """Move the key encoder towards the query encoder without new tensors."""
    torch._foreach_lerp_(theta_k, theta_q, 1 - 0.999)
