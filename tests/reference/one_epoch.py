"""One epoch of training in PyTorch, for `src/train/reference_tests.rs`.

    python one_epoch.py FOLDER

FOLDER has `case.json` (side, classes, batch, learning rate, channel means and deviations), `images.f32` (one channel, row
by row), `labels.i64` and `order.i64` (positions in the order of training). A ResNet18 with random weights is written to
`start.safetensors`; `losses.json` gets the loss of each batch before its step of Adam.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torchvision import models

from torchvision_logits import write


def main(folder):
    folder = Path(folder)
    case = json.loads((folder / "case.json").read_text())
    side, batch = case["side"], case["batch"]
    images = torch.from_numpy(np.fromfile(folder / "images.f32", "<f4").reshape(-1, 1, side, side))
    labels = torch.from_numpy(np.fromfile(folder / "labels.i64", "<i8"))
    order = torch.from_numpy(np.fromfile(folder / "order.i64", "<i8"))
    mean, std = (torch.tensor(case[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    torch.manual_seed(11)
    torch.set_num_threads(1)
    network = models.resnet18(num_classes=case["classes"])
    write(folder / "start.safetensors", network.state_dict())
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=case["learning_rate"])
    losses = []
    for positions in order.split(batch):
        logits = network((images[positions] - mean) / std)
        loss = torch.nn.functional.cross_entropy(logits, labels[positions])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    (folder / "losses.json").write_text(json.dumps(losses))


main(sys.argv[1])
