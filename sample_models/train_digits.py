"""Train, export and illustrate the sample model: a small residual net on scikit-learn's handwritten digits.

Needs `pip install -e '.[sample]'`. Writes `digits.onnx` and the class folders `digits/calib` and
`digits/val` beside this file; the validation images take no part in training. Seeded, about two minutes on
two cores.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
SEED = 0
SIDE = 16
VAL_IMAGES = 600
CALIB_IMAGES = 600
EPOCHS = 40
BATCH_SIZE = 64

# The preset `imagenet`, so that the automatic detection of the preprocessing has something to find.
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, H, W]` to `[N, out_channels, H / stride, W / stride]`."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """Residual net of 16, 32 and 64 channels for RGB images `[N, 3, 16, 16]`; returns logits `[N, 10]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stages = nn.Sequential(
            ResidualBlock(16, 16, 1),
            ResidualBlock(16, 32, 2),
            ResidualBlock(32, 32, 1),
            ResidualBlock(32, 64, 2),
            ResidualBlock(64, 64, 1),
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return cast("Tensor", self.classifier(self.stages(self.stem(x)).mean(dim=(2, 3))))


def load_images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the digits as uint8 `[1797, 16, 16]` (bicubic from 8x8) and their labels."""
    digits = load_digits()
    small = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in small]
    return np.stack(large), digits.target.astype(np.int64)


def normalise(images: NDArray[np.uint8]) -> Tensor:
    """Return the model's input, float32 `[N, 3, 16, 16]`, of grey pixels `[N, 16, 16]`."""
    pixels = torch.from_numpy(images.astype(np.float32) / np.float32(255.0))
    return (pixels[:, None].expand(-1, 3, -1, -1) - MEAN) / STD


def shift_images(x: Tensor, padding: int = 2) -> Tensor:
    """Shift a batch by up to `padding` pixels each way, the border repeated."""
    top, left = (int(torch.randint(0, 2 * padding + 1, ())) for _ in range(2))
    padded = functional.pad(x, (padding,) * 4, mode="replicate")
    return padded[:, :, top : top + SIDE, left : left + SIDE]


def train(x: Tensor, y: Tensor) -> DigitsNet:
    """Train the net on `x` `[N, 3, 16, 16]` with labels `y` `[N]`."""
    model = DigitsNet()
    steps = EPOCHS * -(-len(x) // BATCH_SIZE)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=steps)
    model.train()
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH_SIZE):
            loss = functional.cross_entropy(model(shift_images(x[batch])), y[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    return model.eval()


def export(model: DigitsNet, path: Path) -> None:
    """Write the net as one ONNX file, opset 17, with a dynamic batch axis."""
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, SIDE, SIDE),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def write_images(
    folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], numbers: NDArray[np.int64]
) -> None:
    """Write images as `<folder>/<digit>/<number>.png`, replacing the folder; the number is scikit-learn's."""
    shutil.rmtree(folder, ignore_errors=True)
    for number in numbers:
        target = folder / str(labels[number]) / f"{number:04d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(target, optimize=True)


def main() -> None:
    """Train, export, write the images, and print the accuracy on those held out."""
    torch.manual_seed(SEED)
    images, labels = load_images()
    everything = np.arange(len(images))
    fit, val = train_test_split(everything, test_size=VAL_IMAGES, stratify=labels, random_state=SEED)
    _, calib = train_test_split(fit, test_size=CALIB_IMAGES, stratify=labels[fit], random_state=SEED)
    model = train(normalise(images[fit]), torch.from_numpy(labels[fit]))
    with torch.no_grad():
        right = model(normalise(images[val])).argmax(1).numpy() == labels[val]
    print(f"top-1 on {len(val)} held-out images: {right.mean():.4f}")
    export(model, HERE / "digits.onnx")
    write_images(HERE / "digits" / "calib", images, labels, np.sort(calib))
    write_images(HERE / "digits" / "val", images, labels, np.sort(val))


if __name__ == "__main__":
    main()
