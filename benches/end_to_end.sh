#!/usr/bin/env bash
# Studies in, reports out, beside a Python node with the same two networks, by ../shared/bench/e2e_bench.py (its README
# says what it measures).
#
#   benches/end_to_end.sh SIDELIGHT WORK_FOLDER [ROUNDS [CELL…]]    called by benches/run
#
# Cells: fp32, bf16 (saturated and one study at a time), tiny (networks without arithmetic, saturated). The work folder
# is a copy of ../shared/bench with its networks and data; it is kept, so that a second run does not make them again.
set -euo pipefail
sidelight=$1 work=$2 rounds=${3:-3}
shift $(($# < 3 ? $# : 3))
cells=("$@")
[ ${#cells[@]} -gt 0 ] || cells=(fp32 bf16 tiny)
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
shared=${SIDELIGHT_SHARED:-$here/../../shared}
mkdir -p "$work"
cp -rn "$shared/bench/." "$work/"
chmod -R u+w "$work"
cd "$work"
mkdir -p results
if [ ! -x venv/bin/python ]; then
  python3 -m venv venv
  venv/bin/pip install --quiet -r requirements.txt
fi
[ -d models_tiny ] || venv/bin/python make_models.py
[ -d data/cr_mix ] || venv/bin/python make_dataset.py --out data/cr_mix --kind cr --ts mix --studies 50 --seed 1

bench() {
  local name=$1 precision=$2
  shift 2
  venv/bin/python e2e_bench.py --called SIDELIGHT --data data/cr_mix --studies 24 --rounds "$rounds" --json "results/$name.json" \
    --node "node=$(command -v python3) $here/end_to_end.py $sidelight $precision {port} {sink_port} {out} {models} {quiet},11310" \
    "$@" | tee "results/$name.txt"
}
for cell in "${cells[@]}"; do
  printf '\n== %s\n' "$cell"
  case $cell in
    fp32) bench fp32 fp32 --peers ref_fp32_w2,ref_ic_fp32_w2 --modes latency,saturate ;;
    bf16) bench bf16 bf16 --peers ref_bf16_w2,ref_ic_bf16_w2 --modes latency,saturate ;;
    tiny) bench tiny fp32 --peers ref_fp32_w2,ref_ic_fp32_w2 --modes saturate --models models_tiny ;;
    *) printf 'no cell %s: fp32, bf16, tiny\n' "$cell" >&2 && exit 1 ;;
  esac
done
