"""Occlusion maps computed patch by patch with PyTorch, for `src/infer/occlusion_tests.rs`.

    python occlusion.py FOLDER

FOLDER gets `network.pt` (TorchScript, one channel, two logits) and `cases.json`: an image of 24 × 24 and, for some patches,
strides and fills, the mean loss of the second output's probability over the patches that cover each pixel.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

SIDE = 24


def starts(patch, stride):
    """A patch at each step, and one that ends with the image."""
    return sorted({*range(0, SIDE - patch + 1, stride), SIDE - patch})


def main(folder):
    torch.manual_seed(5)
    torch.set_grad_enabled(False)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 2)
    ).eval()
    network[6].weight *= 40.0
    torch.jit.trace(network, torch.rand(2, 1, SIDE, SIDE)).save(str(Path(folder) / "network.pt"))
    image = torch.rand(SIDE, SIDE)
    score = lambda x: torch.sigmoid(network(x[None, None]).double())[0, 1].item()  # noqa: E731
    maps = []
    for patch, stride, fill in [(6, 3, None), (5, 4, 0.0), (7, 2, 1.0)]:
        total, count = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
        for row in starts(patch, stride):
            for column in starts(patch, stride):
                covered = image.clone()
                part = np.s_[row : row + patch, column : column + patch]
                covered[part] = image.mean() if fill is None else fill
                total[part] += score(image) - score(covered)
                count[part] += 1
        maps.append({"patch": patch, "stride": stride, "fill": fill, "map": (total / count).ravel().tolist()})
    (Path(folder) / "cases.json").write_text(json.dumps({"image": image.ravel().tolist(), "maps": maps}))


if __name__ == "__main__":
    main(sys.argv[1])
