"""What torchvision's networks make of given weights and images, for `src/infer/nets_tests.rs`.

    python torchvision_logits.py FOLDER [NAME…]

For each network FOLDER gets `NAME.safetensors` (weights under the names of its state dict, every parameter and buffer
random) and `NAME.cases.safetensors` (images, features before the last layer, and what the network says). The networks
are torchvision's own; `xrv-densenet121` has one input channel as torchvision's DenseNet in torchxrayvision has, and
`xrv-race` the last layer and the wrapper of torchxrayvision's race model. Where networks are named, only those are made, and
instead of cases there is what a supplier gives: `NAME.pt` (TorchScript), `NAME.golden.safetensors` (grey images as the network
is given them, and its outputs) and `NAME.wrong.safetensors` (the outputs in another order).
"""

import json
import struct
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision import models

SIZES = [(2, 320), (3, 97)]
DTYPES = {"float32": "F32", "int64": "I64"}


def write(path, tensors):
    """The safetensors format: length of the header, header, bytes."""
    header, parts, at = {}, [], 0
    for name, tensor in tensors.items():
        array = np.ascontiguousarray(tensor.detach().numpy())
        data = array.tobytes()
        header[name] = {"dtype": DTYPES[str(array.dtype)], "shape": list(array.shape), "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def randomise(network, channels):
    """Random parameters, and statistics of the batch norms that keep the signal of deep networks in range, but are not
    those of any batch."""
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            parameter.uniform_(-0.5, 0.5)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.6, 1.4)
        norm.momentum = 1.0
    network.train()
    network(torch.randn(4, channels, 128, 128))
    network.eval()
    for norm in norms:
        norm.running_mean += 0.1 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)


def last_layer(network):
    return [m for m in network.modules() if isinstance(m, nn.Linear)][-1]


def networks():
    for name in ["resnet18", "resnet34", "resnet50", "densenet121", "efficientnet_b0", "efficientnet_b2"]:
        yield name, 3, partial(getattr(models, name), num_classes=5)
    yield "xrv-densenet121", 1, chest
    yield "xrv-race", 3, race


def chest():
    network = models.densenet121(num_classes=18)
    network.features.conv0 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return network


def race():
    network = models.resnet34()
    network.fc = nn.Sequential(nn.Linear(512, 3), nn.LogSoftmax(dim=1))
    return nn.DataParallel(network)


def supply(folder, name, channels, network):
    """Grey images by the contract of the template: 0 to 1 with ImageNet's mean and deviation, or -1024 to 1024."""
    size = 320 if channels == 3 else 224
    grey = nn.functional.interpolate(torch.rand(6, 1, 7, 7), size=(size, size), mode="bilinear")
    images = 2048 * grey - 1024
    if channels == 3:
        normal = zip([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        images = torch.cat([(grey - mean) / std for mean, std in normal], 1)
    last_layer(network).weight /= network(images).std() / 1.5
    outputs = network(images)
    write(folder / f"{name}.safetensors", network.state_dict())
    write(folder / f"{name}.golden.safetensors", {"images": images, "outputs": outputs})
    write(folder / f"{name}.wrong.safetensors", {"images": images, "outputs": outputs.flip(1)})
    torch.jit.trace(getattr(network, "module", network), images[:2]).save(folder / f"{name}.pt")


def main(folder, *names):
    folder = Path(folder)
    torch.set_grad_enabled(False)
    for name, channels, make in networks():
        if names and name not in names:
            continue
        network = make()
        torch.manual_seed(zlib.crc32(name.encode()))
        randomise(network, channels)
        if names:
            supply(folder, name, channels, network)
            continue
        batches = [torch.randn(count, channels, size, size) for count, size in SIZES]
        # Logits of the size that trained networks have.
        last_layer(network).weight /= max(network(images).std() for images in batches) / 3.0
        seen = []
        last_layer(network).register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
        cases = {}
        for i, images in enumerate(batches):
            cases[f"images_{i}"] = images
            cases[f"outputs_{i}"] = network(images)
            cases[f"features_{i}"] = seen[-1]
        write(folder / f"{name}.safetensors", network.state_dict())
        write(folder / f"{name}.cases.safetensors", cases)


if __name__ == "__main__":
    main(*sys.argv[1:])
