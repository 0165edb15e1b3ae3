#!/usr/bin/env bash
# Do probes find where a signal was planted? Worlds of phantoms whose groups differ in one place alone, a small network
# trained on each, and what is left of its AUC when parts of the images go. Writes the table of docs/probe.md.
#
#   benches/worlds.sh SIDELIGHT WORK_FOLDER [PATIENTS]    called by benches/run
set -euo pipefail
sidelight=$1 work=$2 patients=${3:-900}
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/..
worlds=(low-frequency high-frequency one-patch bone-bright habitus)
mkdir -p "$work"
work=$(cd "$work" && pwd)
cd "$root"

for world in "${worlds[@]}"; do
  folder=$work/$world
  rows=(detection filters bone-clip patches)
  # A small network sees waves of a few pixels: long ones in small images.
  case $world in
    high-frequency | one-patch) side=224 ;;
    habitus) side=64 rows+=(bmi bmi-strata) ;;
    *) side=64 ;;
  esac
  rm -rf "$folder"
  mkdir -p "$folder/models"
  "$sidelight" phantom --world "$world" --patients "$patients" --seed 11 --size 224 --out "$folder/phantoms"
  python3 - "$folder/phantoms" <<'PARTS'
import csv
import pathlib
import random
import sys

folder = pathlib.Path(sys.argv[1])
with open(folder / "labels.csv") as labels:
    rows = [row for row in csv.DictReader(labels) if row["view"] == "PA"]
random.seed(3)
parts = {}
with open(folder / "cohort.csv", "w") as cohort:
    writer = csv.DictWriter(cohort, [*rows[0], "split"])
    writer.writeheader()
    for row in rows:
        drawn = random.choice(["train"] * 11 + ["validation"] * 2 + ["test"] * 7)
        writer.writerow({**row, "split": parts.setdefault(row["patient"], drawn)})
PARTS
  sed -e "s/^name = .*/name = \"race-$world\"/" -e 's/^phantom = .*/manifest = "phantoms\/cohort.csv"/' -e '/^split = /d' \
    -e "s/^size = .*/size = $side/" -e 's/^width = .*/width = 8/' -e 's/^batch = .*/batch = 16/' -e 's/^epochs = .*/epochs = 14/' \
    -e 's/^plateau_patience.*/plateau_patience = 4/' -e 's/^early_stop.*/early_stop = 20/' \
    -e 's/^\(rotation\|zoom\|shift\) = .*/\1 = 0.0/' models/recipes/demo-race.toml >"$folder/recipe.toml"
  "$sidelight" train "$folder/recipe.toml" --out "$folder/models"
  cp -r models/demo-clinical "$folder/models/"
  "$sidelight" probe run "${rows[@]}" --cohort "$folder/phantoms/cohort.csv" --out "$folder/run" --config conf/demo.toml \
    --set "models.dir=$folder/models" --set "models.race=race-$world" >/dev/null
done

python3 - "$work" "${worlds[@]}" <<'TABLE'
import csv
import pathlib
import sys

CHANGES = ["original", "low-pass 25", "low-pass 50", "low-pass 100", "high-pass 25", "high-pass 50", "high-pass 100", "bone removed",
           "cell 0", "cell 4", "without cell 0", "without cell 4"]
work, worlds = pathlib.Path(sys.argv[1]), sys.argv[2:]
found = {}
for world in worlds:
    own = found.setdefault(world, {})
    with open(work / world / "run/metrics.csv") as metrics:
        for row in csv.DictReader(metrics):
            if row["quantity"] != "mean AUC" or not row["estimate"]:
                continue
            name = row["stratum"] or (row["model"] if row["row"] == "bmi" else row["variant"])
            own[name] = "%.3f (%.3f-%.3f)" % tuple(float(row[key]) for key in ("estimate", "lower", "upper"))
print("| mean AUC | " + " | ".join(worlds) + " |")
print("|---|" + "---|" * len(worlds))
others = sorted({name for own in found.values() for name in own if name.startswith("bmi")})
for name in CHANGES + others:
    print(f"| {name} | " + " | ".join(found[world].get(name, "") for world in worlds) + " |")
TABLE
