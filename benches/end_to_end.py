#!/usr/bin/env python3
"""A node for ../shared/bench/e2e_bench.py: packages and a configuration for its two networks, then `sidelight serve`.

usage: end_to_end.py SIDELIGHT PRECISION PORT SINK_PORT OUT MODELS QUIET

OUT is a fresh folder for the configuration and the node's data. PRECISION is fp32 or bf16, in which the cards permit the
node to compute, on SIDELIGHT_BENCH_DEVICE (cpu). The input contract is that of the peers (prep.py): range of the image, 320 x 320, ImageNet's deviations.
"""
import hashlib
import json
import os
import pathlib
import sys
import uuid

GROUPS = {"Asian": "2028-9", "Black": "2054-5", "White": "2106-3"}
CARD = """
name = "{name}"
version = "1.0.0"
manufacturer = "bench"
purpose = "{purpose}"
format = "torchscript"
file = "weights.pt"
sha256 = "{sha256}"
device_uid = "2.25.{uid}"
[input]
contract = "imagenet-rgb"
size = 320
name = "bench-minmax"
range = {{ policy = "observed" }}
[output]
activation = "{activation}"
{outputs}
[[precision]]
kind = "bf16"
score_tolerance = 0.1
[scope]
[provenance]
training_data = "none: random weights"
intended_use = "to be measured"
limits = "says nothing of any image"
license = "none"
"""
CONFIG = """
[node]
listen = "127.0.0.1:{port}"
[store]
data_dir = "{out}/data"
[web]
listen = "127.0.0.1:0"
[study]
quiet_period = "{quiet}s"
[[sources]]
ae_title = "MODALITY"
hosts = ["127.0.0.1"]
[[sources]]
ae_title = "RAWSEND"
hosts = ["127.0.0.1"]
[[destinations]]
name = "sink"
kind = "dimse"
ae_title = "SINK"
host = "127.0.0.1"
port = {sink_port}
audit = true
[models]
dir = "{out}/models"
race = "race"
clinical = ["clinical"]
device = "{device}"
precision = "{precision}"
"""


def package(folder, name, purpose, weights, activation, outputs):
    folder = folder / name
    folder.mkdir(parents=True)
    data = weights.read_bytes()
    (folder / "weights.pt").write_bytes(data)
    card = CARD.format(name=name, purpose=purpose, sha256=hashlib.sha256(data).hexdigest(), uid=uuid.uuid4().int,
                       activation=activation, outputs=outputs)
    (folder / "model.toml").write_text(card)


def main():
    sidelight, precision, port, sink_port, out, models, quiet = sys.argv[1:]
    out, models = pathlib.Path(out), pathlib.Path(models)
    findings = json.loads((models / "models.json").read_text())["densenet121_clin14"]["labels"]
    groups = "\n".join(f'[[output.groups]]\nkey = "{key}"\ncode = "{code}"' for key, code in GROUPS.items())
    found = "\n".join(
        f'[[output.findings]]\nkey = "{label.lower().replace(" ", "_")}"\nthreshold = 0.5\n'
        f'code = {{ value = "F{i}", scheme = "99BENCH", meaning = "{label}" }}\n'
        'site = { value = "816094009", scheme = "SCT", meaning = "Chest" }'
        for i, label in enumerate(findings)
    )
    package(out / "models", "race", "race", models / "resnet34_race3.pt", "softmax", groups)
    package(out / "models", "clinical", "clinical", models / "densenet121_clin14.pt", "sigmoid", found)
    config = out / "node.toml"
    config.write_text(CONFIG.format(port=port, sink_port=sink_port, out=out, quiet=quiet, precision=precision,
                                    device=os.environ.get("SIDELIGHT_BENCH_DEVICE", "cpu")))
    os.execv(sidelight, [sidelight, "serve", "--config", str(config)])


if __name__ == "__main__":
    main()
