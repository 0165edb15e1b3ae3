"""Calibration and out-of-distribution scores by PyTorch and numpy, for the unit tests of `calibration` and `ood`.

    python study_level.py FOLDER

writes FOLDER/cases.json and FOLDER/features.safetensors.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import torch

random = np.random.default_rng(20260115)


def calibrations():
    posteriors = random.dirichlet([0.7, 0.7, 0.7], 40)
    logits = torch.tensor(np.log(posteriors))
    weights = random.normal(0, 0.6, (3, 3)) + np.eye(3)
    intercept = random.normal(0, 0.5, 3)
    scores = random.beta(0.5, 0.5, (40, 2))
    lines = [[1.7, -0.4], [0.6, 0.9]]
    platt = [[torch.sigmoid(a * torch.logit(torch.tensor(p)) + b).item() for p, (a, b) in zip(row, lines)] for row in scores]
    return {
        "posteriors": posteriors.tolist(),
        "temperature": 1.8,
        "of_temperature": torch.softmax(logits / 1.8, dim=1).tolist(),
        "weights": weights.tolist(),
        "intercept": intercept.tolist(),
        "of_dirichlet": torch.softmax(logits @ torch.tensor(weights).T + torch.tensor(intercept), dim=1).tolist(),
        "scores": scores.tolist(),
        "lines": lines,
        "of_platt": platt,
        "of_findings_temperature": torch.sigmoid(torch.logit(torch.tensor(scores)) / 1.8).tolist(),
    }


def energies():
    logits = torch.tensor(np.concatenate([random.normal(0, 4, (30, 3)), random.normal(0, 300, (10, 3))]))
    return {
        "logits": logits.tolist(),
        "energy": (-torch.logsumexp(logits, dim=1)).tolist(),
        "energy_at_2": (-2 * torch.logsumexp(logits / 2, dim=1)).tolist(),
        "joint_energy": (-torch.nn.functional.softplus(logits).sum(dim=1)).tolist(),
    }


def distances(folder):
    """Means by class and the tied covariance of Lee et al. 2018, as their estimate is written there."""
    mixing = random.normal(0, 1, (6, 6))
    classes = random.integers(0, 3, 400)
    centres = random.normal(0, 5, (3, 6))
    features = centres[classes] + random.normal(0, 1, (400, 6)) @ mixing
    means = np.stack([features[classes == c].mean(axis=0) for c in range(3)])
    off = features - means[classes]
    precision = np.linalg.inv(off.T @ off / len(off))
    # As float32, which is what the file holds.
    means, precision = means.astype(np.float32), precision.astype(np.float32)
    write(folder / "features.safetensors", {"means": means, "precision": precision})
    probes = np.concatenate([features[:40], random.normal(0, 20, (40, 6))])
    apart = probes[:, None, :] - means[None].astype(float)
    return {
        "features": probes.tolist(),
        "mahalanobis": np.einsum("ncd,de,nce->nc", apart, precision.astype(float), apart).min(axis=1).tolist(),
        "reference": features.tolist(),
        "classes": classes.tolist(),
    }


def ledoit_wolf():
    """Covariance shrunk toward its mean variance, by the definitions of Ledoit and Wolf 2004: 25 images, 40 features."""
    features = random.normal(0, 1, (25, 8)) @ random.normal(0, 1, (8, 40)) + random.normal(0, 0.5, (25, 40)) + 3.0
    mean = features.mean(axis=0)
    off = features - mean
    n, d = off.shape
    covariance = off.T @ off / n
    inner = lambda a, b: np.trace(a @ b.T) / d
    level = inner(covariance, np.eye(d))
    apart = inner(covariance - level * np.eye(d), covariance - level * np.eye(d))
    error = sum(inner(np.outer(x, x) - covariance, np.outer(x, x) - covariance) for x in off) / n**2
    shrinkage = min(error, apart) / apart
    precision = np.linalg.inv(shrinkage * level * np.eye(d) + (1 - shrinkage) * covariance)
    return {
        "features": features.tolist(),
        "mean": mean.tolist(),
        "shrinkage": shrinkage,
        "precision": precision.tolist(),
    }


def write(path, tensors):
    header, parts, at = {}, [], 0
    for name, array in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


folder = Path(sys.argv[1])
cases = {"calibration": calibrations(), "energy": energies(), "distance": distances(folder), "ledoit_wolf": ledoit_wolf()}
(folder / "cases.json").write_text(json.dumps(cases))
