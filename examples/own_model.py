"""Prune a module of your own, train it on in your own loop, export it for ONNX Runtime.

python own_model.py [FOLDER]
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mvp_deploy as mvp


class Net(nn.Module):
    """A small classifier; yours may be any module from images to logits."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def stripes(count: int, seed: int) -> TensorDataset:
    """Images of stripes in four directions, with noise: stands in for your data."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    waves = torch.stack([torch.sin(line) for line in (rows, columns, rows + columns, rows - columns)])
    noise = torch.randn(count, 3, 16, 16, generator=generator)
    return TensorDataset(waves[labels][:, None] + 0.5 * noise, labels)


def train(model: nn.Module, loader: DataLoader, epochs: int, lr: float) -> None:
    """Your own loop, as it was before."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    model.eval()


def main(folder: Path) -> None:
    torch.manual_seed(0)
    training, held_out = DataLoader(stripes(256, 0), 32, shuffle=True), DataLoader(stripes(64, 1), 32)
    net = Net()
    train(net, training, epochs=4, lr=0.05)

    result = mvp.prune(net, training, macs=0.4, validation=held_out)  # cut, and made up for in closed form
    print("pruned:  ", result.report)

    train(result.model, training, epochs=2, lr=0.01)  # an ordinary module: the loop does not know
    mvp.save(result, folder / "small.safetensors")  # as it is now; mvp.load(…, Net()) reads it

    names = ["rows", "columns", "falling", "rising"]
    bundle = mvp.export(result, folder / "bundle", data=training, validation=held_out, classes=names)
    print("exported:", *bundle.models, sep="\n  ")
    print(bundle.evaluate(held_out))

    image, label = held_out.dataset[0]
    print("one image:", bundle.predict(image.numpy()).best(2), "is", names[label])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "own-model"))
