"""The ResNet for CIFAR as one writes it in plain torch modules: what classification is compared with.

torchvision has none. The block is its BasicBlock; the shortcut is the ResNet paper's option A, which the public CIFAR
weights have (new channels on both sides). Parameter names are those of these weights.
Shapes: N images of 32 x 32, K classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class PlainBlock(nn.Module):
    """Two 3x3 convolutions with batch norms and a shortcut without parameters."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.stride, self.new_channels = stride, channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map -> map."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))
        out += x
        return self.relu(out)


class PlainCifarResNet(nn.Module):
    """6n + 2 layers (He et al., 2016, section 4.2), from normalised pixels (N, 3, 32, 32) to logits (N, K)."""

    def __init__(self, depth: int = 20, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        blocks = (depth - 2) // 6
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)))


def _stage(in_channels: int, channels: int, stride: int, blocks: int) -> nn.Sequential:
    others = [PlainBlock(channels, channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(PlainBlock(in_channels, channels, stride), *others)
