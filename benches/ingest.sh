#!/usr/bin/env bash
# The receiving role beside other servers, by ../shared/bench/ingest_bench.py (its README says what it measures).
#
#   benches/ingest.sh RECEIVE_BINARY WORK_FOLDER [ROUNDS [CELL…]]    called by benches/run
#
# Cells: ct (0.5 MB CT objects, 4 associations), cr (10 MB CR objects, 4 associations), file (one association per
# file), many (64 associations). The work folder is a copy of ../shared/bench with its data; it is kept, so that a
# second run does not make the data again.
set -euo pipefail
receive=$1 work=$2 rounds=${3:-5}
shift $(($# < 3 ? $# : 3))
cells=("$@")
[ ${#cells[@]} -gt 0 ] || cells=(ct cr file many)
shared=${SIDELIGHT_SHARED:-$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../shared}
mkdir -p "$work"
cp -rn "$shared/bench/." "$work/"
chmod -R u+w "$work"
cd "$work"
mkdir -p bin results
[ -x bin/floor_scp ] || gcc -O2 -pthread -o bin/floor_scp floor_scp.c
if [ ! -x venv/bin/python ]; then
  python3 -m venv venv
  venv/bin/pip install --quiet numpy pydicom==3.0.2 pynetdicom==3.0.4 psutil==7.2.2
fi
make_data() { [ -d "data/$1" ] || venv/bin/python make_dataset.py --out "data/$1" --kind "$2" --ts explicit --studies "$3" --seed 1; }
make_data ct_explicit ct 4
make_data cr_explicit cr 24

bench() {
  local name=$1
  shift
  venv/bin/python ingest_bench.py --server "node=$receive {port} {out},11190" --rounds "$rounds" --store disk \
    --quiet "${QUIET:-30}" --retries 1 --max-foreign 0.4 --json "results/$name.json" "$@" | tee "results/$name.txt"
}
for cell in "${cells[@]}"; do
  printf '\n== %s\n' "$cell"
  case $cell in
    ct) bench ct --data data/ct_explicit --assocs 4 --baseline floor_fsync \
      --peers floor_fsync,dcmtk,dcmtk_tuned,orthanc,orthanc_fast,pynet_tuned ;;
    cr) bench cr --data data/cr_explicit --assocs 4 --baseline floor_fsync --peers floor_fsync,dcmtk_tuned,orthanc ;;
    file) bench file --data data/ct_explicit --assocs 4 --assoc file --baseline dcmtk_tuned --peers dcmtk_tuned ;;
    many) bench many --data data/ct_explicit --repeat 2 --assocs 64 --assoc file --baseline floor_fsync \
      --peers floor_fsync ;;
    *) printf 'no cell %s: ct, cr, file, many\n' "$cell" >&2 && exit 1 ;;
  esac
done
