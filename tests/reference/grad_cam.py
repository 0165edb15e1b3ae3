"""Grad-CAM by PyTorch's own gradients on torchvision's networks, for `src/infer/explain_tests.rs`.

    python grad_cam.py FOLDER

For each network FOLDER gets `NAME.safetensors` (weights), `NAME.pt` (the same network traced by PyTorch) and
`NAME.cases.safetensors`: one image, `map_C` for each column C for which something speaks, and `confidence` where the
network's outputs are log probabilities. The layer is the one that is taken for these networks everywhere: the last block
of a ResNet, the features of a DenseNet (rectified, as its forward does) and of an EfficientNet.
"""

import sys
import zlib
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torchvision import models

from torchvision_logits import last_layer, randomise, write

SIDE = 128
COLUMNS = 4


def networks():
    """Name, network, its layer, and what the network does with that layer's output: before it pools, and after."""
    pooled = lambda x: torch.flatten(functional.adaptive_avg_pool2d(x, (1, 1)), 1)  # noqa: E731
    resnet = models.resnet18(num_classes=COLUMNS)
    yield "resnet18", resnet, resnet.layer4, lambda x: x, lambda x: resnet.fc(pooled(x))
    dense = models.densenet121(num_classes=COLUMNS)
    yield "densenet121", dense, dense.features, functional.relu, lambda x: dense.classifier(pooled(x))
    efficient = models.efficientnet_b0(num_classes=COLUMNS)
    yield "efficientnet_b0", efficient, efficient.features, lambda x: x, lambda x: efficient.classifier(pooled(x))
    race = models.resnet34()
    race.fc = nn.Sequential(nn.Linear(512, 3), nn.LogSoftmax(dim=1))
    yield "xrv-race", race, race.layer4, lambda x: x, lambda x: race.fc(pooled(x))


def grad_cam(activation, scalar):
    gradient = torch.autograd.grad(scalar, activation, retain_graph=True)[0][0]
    weights = gradient.mean(dim=(1, 2))
    cam = torch.einsum("k,khw->hw", weights, activation.detach()[0]).clamp(min=0)
    cam = functional.interpolate(cam[None, None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0]
    return cam / cam.max() if cam.max() > 0 else None


def main(folder):
    for name, network, layer, before, after in networks():
        torch.manual_seed(zlib.crc32(name.encode()) + 1)
        with torch.no_grad():
            randomise(network, 3)
            image = torch.randn(1, 3, SIDE, SIDE)
            # What a network is sure of has no gradient.
            last_layer(network).weight /= network(image).abs().max() / 2.0
        with torch.no_grad():
            write(Path(folder) / f"{name}.safetensors", network.state_dict())
            torch.jit.trace(network, torch.randn(2, 3, SIDE, SIDE)).save(str(Path(folder) / f"{name}.pt"))
        seen = []
        hook = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
        expected = network(image)
        hook.remove()
        activation = before(seen[0]).detach().requires_grad_(True)
        outputs = after(activation)
        assert torch.allclose(outputs, expected, atol=1e-5)
        cases = {"image": image, "outputs": outputs.detach()}
        for column in range(outputs.shape[1]):
            cam = grad_cam(activation, outputs[0, column])
            if cam is not None:
                cases[f"map_{column}"] = cam
        if name == "xrv-race":
            # As probabilities: another way than the one under test.
            probabilities = outputs.exp()
            cases["confidence"] = grad_cam(activation, (probabilities * probabilities.log()).sum())
        write(Path(folder) / f"{name}.cases.safetensors", {k: v for k, v in cases.items() if v is not None})


if __name__ == "__main__":
    main(sys.argv[1])
