"""A node in a folder of its own, for the benches: started on free ports, sent to by storescu, asked by `studies`."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = """
[node]
listen = "127.0.0.1:{dicom}"
[store]
data_dir = "{data}"
[web]
listen = "127.0.0.1:{web}"
[study]
quiet_period = "{quiet_period}"
[[sources]]
ae_title = "STORESCU"
hosts = ["127.0.0.1"]
[models]
dir = "{models}"
race = "demo-race"
clinical = ["demo-clinical"]
device = "cpu"
{more}
"""


def demo_models(folder, contract="minmax-unit"):
    """The demo models with another contract and a scope that takes every image: their work is the same."""
    for name in ("demo-race", "demo-clinical"):
        shutil.copytree(ROOT / "models" / name, folder / name)
        card = folder / name / "model.toml"
        text = re.sub(r"(?m)^contract = .*$", f'contract = "{contract}"', card.read_text())
        card.write_text(re.sub(r"(?m)^(modalities|views|body_parts|rows_min|columns_min) = .*\n", "", text))
    return folder


class Node:
    """`with Node(…) as node:` is ready inside the block and gone, with its folder, after it."""

    def __init__(self, folder, binary, models, quiet_period, more=""):
        self.folder, self.binary = pathlib.Path(folder), binary
        self.folder.mkdir()
        free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.port, self.web = (s.getsockname()[1] for s in free)
        for s in free:
            s.close()
        self.config = self.folder / "node.toml"
        self.config.write_text(
            CONFIG.format(
                dicom=self.port, web=self.web, data=self.folder / "data", models=models, quiet_period=quiet_period, more=more
            )
        )

    def __enter__(self):
        with open(self.folder / "log", "w") as log:
            command = [self.binary, "serve", "--config", self.config]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        self.pid = self.process.pid
        deadline = time.monotonic() + 60
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the node does not start:\n" + (self.folder / "log").read_text())
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder)

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.web}/ready", timeout=5).status == 200
        except OSError:
            return False

    def processes(self):
        """The node and its workers."""
        found = [self.pid]
        for children in pathlib.Path(f"/proc/{self.pid}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                continue  # the thread has ended
        return found

    def processor_seconds(self):
        """Spent by the node, its workers, and those of them that have ended."""
        ticks = 0
        for pid in self.processes():
            try:
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile; the node has inherited its time by the next call
            ticks += sum(map(int, fields[11:15] if pid == self.pid else fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def storescu(self, files, *options):
        """Sends the files over one association; they must all be taken."""
        command = ["storescu", *options, "-aec", "SIDELIGHT", "127.0.0.1", str(self.port), *files]
        sent = subprocess.run(command, capture_output=True, text=True)
        if sent.returncode:
            raise SystemExit(f"storescu: {sent.stdout[-2000:]}{sent.stderr[-2000:]}\n{(self.folder / 'log').read_text()[-2000:]}")

    def study(self, uid):
        """The study's row; `None` while none of its objects has been read."""
        command = [self.binary, "studies", "list", "--json", "--config", self.config]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        return next((row for row in json.loads(listed.stdout) if row["study"] == uid), None)

    def counts(self):
        """Objects and studies by state, as `sidelight_studies{state="open"}`, from the node's metrics."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.web}/metrics", timeout=60).read().decode()
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("sidelight_") and "{state=" in line]
        return {name: int(value) for name, value in lines}

    def wait_for_end(self, uid, seconds=1800):
        """The study's row once it, the only one, is reported, refused or failed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            counts = self.counts()
            unread, still_open = (counts[f'sidelight_{what}'] for what in ('instances{state="received"}', 'studies{state="open"}'))
            if unread == still_open == 0 and self.study(uid):
                return self.study(uid)
            time.sleep(0.5)
        raise SystemExit(f"study {uid}: no end within {seconds} s\n{(self.folder / 'log').read_text()[-2000:]}")
