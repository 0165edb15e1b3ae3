#!/usr/bin/env python3
"""The scoring stage beside bare forward passes of the same two networks, in one run.

usage: scoring.py BINARY FOLDER [ROUNDS [THREADS [DEVICE [BATCH,…]]]]

FOLDER holds resnet34_race3 and densenet121_clin14 as TorchScript for images of 3 x 320 x 320: NAME.pt as traced in fp32,
NAME.frozen_cl.pt frozen in channels last, NAME.bf16.pt that in bf16. The engine gets the first and makes the others itself.
Bare is the forward pass on tensors that are ready, at its best batch size: called from Rust (libtorch), and in
PyTorch (inference mode) where SIDELIGHT_BENCH_PYTHON names a Python that has it. Rounds are interleaved; printed are
medians in ms per image, both networks together, and the median of the ratios within a round.

DEVICE is cpu or cuda:0, where fp16 is measured too, and PyTorch alone is beside the engine, with the network as traced
converted and frozen there. With batch sizes the engine and PyTorch are held to each of them in turn; 0 is their own choice.
"""
import os
import statistics
import subprocess
import sys

PEER = r"""
import sys, time, torch
folder, precision, threads, device, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
torch.set_num_threads(threads)
torch.backends.cudnn.benchmark = True
kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
def load(name):
    if device == "cpu" and precision != "fp16":
        return torch.jit.load(f"{folder}/{name}{'.bf16.pt' if precision == 'bf16' else '.frozen_cl.pt'}")
    net = torch.jit.load(f"{folder}/{name}.pt", map_location=device).eval().to(kind)
    return torch.jit.freeze(net.to(memory_format=torch.channels_last))
nets = [load(name) for name in ("resnet34_race3", "densenet121_clin14")]
ready = torch.cuda.synchronize if device != "cpu" else (lambda: None)
@torch.inference_mode()
def run(net, n, runs):
    x = torch.sin(torch.arange(n * 3 * 320 * 320) % 1973 * .003).view(n, 3, 320, 320)
    x = x.to(device, kind).contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        net(x)
    ready()
    start = time.perf_counter()
    for _ in range(runs):
        net(x)
    ready()
    return (time.perf_counter() - start) / runs / n
sizes = [batch] if batch else [1, 2, 4, 8, 16] if device == "cpu" else [16, 32, 64, 128, 256]
best = [min((run(net, n, 2), n) for n in sizes)[1] for net in nets]
print({"batches": best}, flush=True)
images = 48 if device == "cpu" else 16 * max(best)
for _ in sys.stdin:
    print(sum(run(net, n, -(-images // n)) for net, n in zip(nets, best)), flush=True)
"""


class Child:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.says = self.process.stdout.readline().strip()

    def ask(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    binary, folder = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    threads = sys.argv[4] if len(sys.argv) > 4 else str(len(os.sched_getaffinity(0)))
    device = sys.argv[5] if len(sys.argv) > 5 else "cpu"
    batches = sys.argv[6].split(",") if len(sys.argv) > 6 else ["0"]
    python = os.environ.get("SIDELIGHT_BENCH_PYTHON")
    precisions = ("fp32", "bf16") if device == "cpu" else ("fp32", "bf16", "fp16")
    for precision, batch in [(p, b) for p in precisions for b in batches]:
        at = [folder, precision, threads]
        children = {"engine": Child([binary, *at, "engine", device, batch])}
        if device == "cpu" and batch == "0":
            children["bare"] = Child([binary, *at, "bare"])
        if python:
            children["PyTorch"] = Child([python, "-c", PEER, *at, device, batch])
        print(f"{precision}, {device}, {threads} threads: " + ", ".join(f"{what} {c.says}" for what, c in children.items()), flush=True)
        times = {what: [] for what in children}
        children["engine"].ask()
        for i in range(rounds):
            for what in list(children)[:: 1 if i % 2 == 0 else -1]:
                times[what].append(children[what].ask())
        for child in children.values():
            child.end()
        for what, found in times.items():
            share = statistics.median(t / e for t, e in zip(found, times["engine"]))
            print(f"  {what:8s} {1e3 * statistics.median(found):7.1f} ms/image ({1e3 * min(found):.1f} to {1e3 * max(found):.1f})"
                  + ("" if what == "engine" else f"; the engine keeps {share:.3f} of it"), flush=True)


if __name__ == "__main__":
    main()
