"""Times `sidelight labels import` of a table of many studies into an index that has them.

usage: labels.py BINARY WORK [STUDIES [FINDINGS]]

The index is one that a node made, with rows for the studies written by this script; the table has a UID, a group and an
outcome of each finding on each line. Prints the preview, the import and the same import again: seconds, lines and
outcomes a second, the most memory that the process had, and the size of the index.
"""
import json
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import time

CARD = """name = "many"
version = "1.0"
manufacturer = "Example Imaging"
purpose = "clinical"
format = "result-csv"
device_uid = "2.25.31"
[result]
wait = "1m"
[output]
activation = "sigmoid"
{findings}
[scope]
modalities = ["CR", "DX"]
sop_classes = []
views = ["PA", "AP"]
body_parts = ["CHEST"]
rows_min = 128
columns_min = 128
[aggregation]
method = "mean"
[provenance]
training_data = "none"
intended_use = "a benchmark"
limits = "no model"
license = "none"
"""
FINDING = """[[output.findings]]
key = "finding-{n}"
code = {{ value = "{n}", scheme = "99BENCH", meaning = "Finding {n}" }}
threshold = 0.5
"""
CONFIG = """[node]
listen = "127.0.0.1:0"
[store]
data_dir = "{work}/data"
free_bytes_min = "1MiB"
free_percent_min = 0
[web]
listen = ""
[models]
dir = "{work}/models"
race = "demo-race"
clinical = ["many"]
device = "cpu"
[log]
json = true
"""


def scene(binary, work, studies, findings):
    (work / "models" / "many").mkdir(parents=True)
    (work / "models" / "demo-race").symlink_to(pathlib.Path("models/demo-race").resolve())
    cards = "".join(FINDING.format(n=n) for n in range(findings))
    (work / "models" / "many" / "model.toml").write_text(CARD.format(findings=cards))
    (work / "node.toml").write_text(CONFIG.format(work=work))
    node = subprocess.Popen([binary, "serve", "--config", work / "node.toml"], stderr=subprocess.PIPE, text=True)
    lines = []
    for line in node.stderr:
        lines.append(line)
        if '"ready"' in line:
            break
    else:
        sys.exit("the node did not start:\n" + "".join(lines[-10:]))
    node.send_signal(signal.SIGTERM)
    node.communicate()
    uid = [f"1.2.826.0.1.3680043.10.1234.{n:012d}.{n * 7919 % 1000003}" for n in range(studies)]
    index = sqlite3.connect(work / "data" / "index.sqlite")
    index.execute("PRAGMA synchronous = OFF")
    index.executemany(
        "INSERT INTO studies (study, kind, state, source, revision, version, first_at, last_at) "
        "VALUES (?, 'study', 'delivered', 'BENCH', 1, 1, 0, 0)", ((u,) for u in uid))
    index.executemany(
        "INSERT INTO identities VALUES (?, ?, NULL, ?, '20260301')", ((u, f"P{n}", f"A{n}") for n, u in enumerate(uid)))
    index.commit()
    index.close()
    dice = random.Random(8)
    dice.shuffle(uid)
    with open(work / "labels.csv", "w") as table:
        table.write("study,group," + ",".join(f"finding-{n}" for n in range(findings)) + "\n")
        for u in uid:
            bits = dice.getrandbits(findings)
            table.write(f"{u},{dice.choice(['Asian', 'Black', 'White'])},")
            table.write(",".join(str(bits >> n & 1) for n in range(findings)) + "\n")


def timed(binary, work, *options):
    command = [binary, "labels", "import", work / "labels.csv", "--json", "--config", work / "node.toml", *options]
    begun = time.monotonic()
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, status = 0, pathlib.Path(f"/proc/{run.pid}/status")
    while run.poll() is None:
        try:
            peak = next((int(l.split()[1]) for l in status.read_text().splitlines() if l.startswith("VmHWM")), peak)
        except OSError:
            pass
        time.sleep(0.05)
    seconds = time.monotonic() - begun
    answer = json.loads(run.stdout.read())
    if run.returncode != 0 or answer["rejected"]:
        sys.exit(f"{options}: exit code {run.returncode}, {answer['rejected'][:3]}")
    return seconds, peak / 1024, answer["imported"]


def main():
    binary, work = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    studies, findings = (int(a) for a in (sys.argv[3:] + ["1000000", "14"][len(sys.argv) - 3:]))
    begun = time.monotonic()
    scene(binary, work, studies, findings)
    print(f"{studies} studies × {findings} findings, made in {time.monotonic() - begun:.0f} s")
    print(f"{'':12}{'s':>8}{'lines/s':>12}{'outcomes/s':>12}{'peak MiB':>10}  new outcomes, known")
    for name, options in [("preview", ["--dry-run"]), ("import", []), ("again", [])]:
        seconds, peak, imported = timed(binary, work, *options)
        lines, outcomes = studies / seconds, studies * findings / seconds
        print(f"{name:12}{seconds:8.1f}{lines:12.0f}{outcomes:12.0f}{peak:10.0f}  {imported['outcomes']}, {imported['known']}")
    size = sum(f.stat().st_size for f in (work / "data").glob("index.sqlite*")) / 2**20
    print(f"index: {size:.0f} MiB")


main()
