"""The model, the data and the training of every client."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import CIFAR10

from fl_privacy import LocalTraining

COUNTS = (1, 2, 4, 8, 16, 32, 64, 100)
"""How many images the first clients hold; then it begins again."""
MEAN, DEVIATION = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
LOCAL = LocalTraining(learning_rate=0.01, momentum=0.9, epochs=1, batch_size=32, normalise=(MEAN, DEVIATION))
"""How clients train, for the audit; `train` is what they do."""


class Net(nn.Module):
    """Two convolutions and three linear layers, for images 3 x 32 x 32 and 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x))).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def all_images() -> tuple[Tensor, Tensor]:
    """CIFAR-10's training images below FL_PRIVACY_DATA, else scikit-learn's digits, in [0, 1], and their labels."""
    try:
        found = CIFAR10(Path(os.environ.get("FL_PRIVACY_DATA", "data")), train=True)
    except RuntimeError:  # it is not there
        digits = load_digits()
        images = torch.from_numpy(digits.images).float()[:, None] / 16
        return F.interpolate(images, 32, mode="bilinear").repeat(1, 3, 1, 1), torch.from_numpy(digits.target).long()
    return torch.from_numpy(found.data).permute(0, 3, 1, 2).float() / 255, torch.tensor(found.targets)


def load_data(partition_id: int) -> tuple[Tensor, Tensor]:
    """What one client holds: images (N, 3, 32, 32) in [0, 1], before they are normalised, and labels (N,)."""
    images, labels = all_images()
    count = COUNTS[partition_id % len(COUNTS)]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    mine = order[max(COUNTS) * partition_id :][:count]
    return images[mine], labels[mine]


def train(
    net: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, lr: float, momentum: float, batch_size: int
) -> float:
    """Train in place, and return the last loss."""
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, DEVIATION))
    loader = DataLoader(TensorDataset((images - mean) / deviation, labels), batch_size=batch_size, shuffle=True)
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
    net.train()
    loss = torch.zeros(())
    for _ in range(epochs):
        for x, y in loader:
            optimiser.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimiser.step()
    return float(loss.detach())
