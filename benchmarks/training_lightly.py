"""The training of lightly's MoCo for the benchmark of a whole training.

It follows the example of MoCo in lightly's documentation. The channels_last format is added because
it makes the training faster.
"""

import copy
import math
import os
import time
from typing import Any

import numpy as np
from pytorch import torch, torchvision  # Before lightly, which imports torchvision.

from lightly.data import LightlyDataset  # isort: skip
from lightly.loss import NTXentLoss  # isort: skip
from lightly.models.modules import MoCoProjectionHead  # isort: skip
from lightly.models.utils import deactivate_requires_grad, update_momentum  # isort: skip
from lightly.transforms import MoCoV2Transform  # isort: skip

nn = torch.nn
CHANNELS = (16, 32, 64)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MoCo(nn.Module):
    """The query encoder and the momentum encoder."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.backbone = build_backbone()
        self.projection_head = MoCoProjectionHead(CHANNELS[-1], CHANNELS[-1], dim)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the queries."""
        return self.projection_head(self.backbone(images))

    def forward_momentum(self, images: torch.Tensor) -> torch.Tensor:
        """Return the keys."""
        return self.projection_head_momentum(self.backbone_momentum(images)).detach()


def build_backbone() -> nn.Module:
    """Return the network that moco-tf calls resnet8 with the small stem."""
    block = torchvision.models.resnet.BasicBlock
    layers = [nn.Conv2d(3, CHANNELS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(CHANNELS[0])]
    layers += [nn.ReLU(inplace=True), block(CHANNELS[0], CHANNELS[0])]
    for before, after in zip(CHANNELS, CHANNELS[1:], strict=False):
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))
        layers.append(block(before, after, stride=2, downsample=shortcut))
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):  # As torchvision's ResNet does.
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone


def train(
    folder: str, settings: dict[str, Any], epochs: int, seed: int, jitter_probability: float
) -> dict[str, Any]:
    """Train for some epochs; see `training_ours.train` for the arguments and the result.

    Args:
        folder: Folder with the subfolders train and test.
        settings: The settings that both contestants share.
        epochs: Number of epochs.
        seed: Seed of the run.
        jitter_probability: Probability of the color jitter.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = MoCo(settings["dim"]).to(memory_format=torch.channels_last)
    loader = _loader(f"{folder}/train", settings, jitter_probability)
    criterion = NTXentLoss(settings["temperature"], (settings["queue_size"], settings["dim"]))
    rate = settings["learning_rate"] * settings["batch_size"] / 256
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=rate,
        momentum=settings["sgd_momentum"],
        weight_decay=settings["weight_decay"],
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: (1 + math.cos(math.pi * epoch / epochs)) / 2
    )
    times, weights = [], []
    for _ in range(epochs):
        train_epoch(model, loader, criterion, optimizer, settings["momentum"])
        schedule.step()
        weights.append(copy.deepcopy(model.backbone.state_dict()))
        times.append(time.time())
    result = {
        "times": times,
        "end": time.time(),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    return result | _features(model.backbone, weights, folder)


def train_epoch(model, loader, criterion, optimizer, momentum):
    """Train for one epoch."""
    for views, *_ in loader:
        x_query, x_key = (view.contiguous(memory_format=torch.channels_last) for view in views)
        update_momentum(model.backbone, model.backbone_momentum, m=momentum)
        update_momentum(model.projection_head, model.projection_head_momentum, m=momentum)
        query = model(x_query)
        key = model.forward_momentum(x_key)
        loss = criterion(query, key)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _loader(folder, settings, jitter_probability):
    """Return the batches of two views."""
    transform = MoCoV2Transform(
        input_size=settings["image_size"],
        cj_prob=jitter_probability,
        cj_hue=0.4,
        gaussian_blur=0.0,
    )
    return torch.utils.data.DataLoader(
        LightlyDataset(folder, transform=transform),
        batch_size=settings["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
    )


def _features(backbone, weights, folder):
    """Return the features with the weights of each epoch, and the labels, of both parts."""
    transforms = torchvision.transforms
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    backbone.eval()
    result = {}
    for part in ("train", "test"):
        dataset = LightlyDataset(f"{folder}/{part}", transform=transform)
        batches = list(torch.utils.data.DataLoader(dataset, batch_size=256))
        features = []
        for epoch_weights in weights:
            backbone.load_state_dict(epoch_weights)
            with torch.no_grad():
                features.append(torch.cat([backbone(images) for images, *_ in batches]).numpy())
        result[f"{part}_features"] = np.stack(features)
        # The folders have the numbers of the classes as names.
        names = [name for *_, names in batches for name in names]
        result[f"{part}_labels"] = np.array([int(name.split("/")[0]) for name in names])
    return result
