"""MoCo in plain PyTorch, written from the paper's pseudo-code, as a reference for the tests."""

import copy

from tests.pytorch import torch

nn, F = torch.nn, torch.nn.functional


class MoCo:
    """Algorithm 1 on one machine that simulates GPUs, each with its own BatchNormalization.

    Args:
        f_q: The query encoder, a `torch.nn.Module`.
        queue: Keys, `[K, C]`.
        groups: Number of GPUs, each of which has a block of the batch.
        m: Momentum.
        t: Temperature.
        symmetric: Whether to add the loss with the views exchanged, as the notebook of the
            reference implementation does.
    """

    def __init__(self, f_q, queue, groups, m, t, symmetric=False):
        self.f_q, self.f_k = f_q, copy.deepcopy(f_q)
        self.queue, self.pointer = queue.clone(), 0
        self.groups, self.m, self.t, self.symmetric = groups, m, t, symmetric
        # Every GPU has its own moving statistics.
        self.statistics_q, self.statistics_k = (
            [{name: b.clone() for name, b in f.named_buffers()} for _ in range(groups)]
            for f in (self.f_q, self.f_k)
        )
        self.optimizer = torch.optim.SGD(f_q.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4)

    def encode(self, f, statistics, x):
        blocks = x.chunk(self.groups)
        outputs = [
            torch.func.functional_call(f, buffers, (block,))
            for buffers, block in zip(statistics, blocks, strict=True)
        ]
        return F.normalize(torch.cat(outputs), dim=1)

    def contrast(self, x_q, x_k, order):
        q = self.encode(self.f_q, self.statistics_q, x_q)
        with torch.no_grad():
            shuffled = self.encode(self.f_k, self.statistics_k, x_k[order])
            k = torch.empty_like(shuffled)
            k[order] = shuffled
        l_pos = torch.einsum("nc,nc->n", q, k)[:, None]
        l_neg = torch.einsum("nc,kc->nk", q, self.queue)
        logits = torch.cat([l_pos, l_neg], dim=1) / self.t
        labels = torch.zeros(len(logits), dtype=torch.long)
        return F.cross_entropy(logits, labels), logits.detach(), k

    def step(self, x_q, x_k, order, learning_rate):
        """Take one step with `order` as the permutation, and return the loss and the logits."""
        loss, logits, k = self.contrast(x_q, x_k, order)
        if self.symmetric:
            other_loss, other_logits, other_k = self.contrast(x_k, x_q, order)
            loss = loss + other_loss
            logits, k = torch.cat([logits, other_logits]), torch.cat([k, other_k])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        with torch.no_grad():
            for p_k, p_q in zip(self.f_k.parameters(), self.f_q.parameters(), strict=True):
                p_k.copy_(self.m * p_k + (1 - self.m) * p_q)
            for key in k:
                self.queue[self.pointer] = key
                self.pointer = (self.pointer + 1) % len(self.queue)
        return loss.detach(), logits

    def state(self):
        """Return all parameters, statistics and buffers by name."""
        arrays = {"queue": self.queue, "pointer": torch.tensor(self.pointer)}
        for name, f, statistics in (
            ("q", self.f_q, self.statistics_q),
            ("k", self.f_k, self.statistics_k),
        ):
            arrays |= {f"{name}.{key}": p.detach() for key, p in f.named_parameters()}
            for key in statistics[0]:
                if not key.endswith("num_batches_tracked"):
                    arrays[f"{name}.{key}"] = torch.stack([gpu[key] for gpu in statistics]).mean(0)
        for key, parameter in self.f_q.named_parameters():
            arrays[f"momentum.{key}"] = self.optimizer.state[parameter]["momentum_buffer"]
        return {name: tensor.numpy() for name, tensor in arrays.items()}


class Block(nn.Module):
    """A basic residual block."""

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential()
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet8(nn.Module):
    """The network of He et al. (2016), section 4.2, with one block in each stage."""

    def __init__(self, head, dim):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2))
        self.layer3 = nn.Sequential(Block(32, 64, 2))
        self.fc = build_head(head, 64, dim)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3)))


def build_head(name, features, dim):
    """Build the projection head of MoCo v1, "linear", or of MoCo v2, "mlp"."""
    if name == "linear":
        return nn.Linear(features, dim)
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, dim))
