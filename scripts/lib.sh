# Shared by the scripts in this folder: places, messages, the build. Sourced, not run.
# shellcheck shell=bash
#
# Everything that is downloaded or built lies outside the checkout, in $SIDELIGHT_CACHE
# (default ~/.cache/sidelight), and is shared by all checkouts of one user.

# shellcheck disable=SC2034  # used by the scripts that source this file
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${SIDELIGHT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sidelight}
export SIDELIGHT_CACHE=$cache
# The environment of the tests, benches and seeds; scripts/setup makes it.
test_python=$cache/python-6/bin/python
# A model server that the tests ask.
test_mlserver=$cache/mlserver-1.7.1/bin/mlserver
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# The toolchain of rustup, also where the login shell has not picked it up yet.
need_cargo() {
  if ! command -v cargo >/dev/null && [ -f "$HOME/.cargo/env" ]; then
    # shellcheck disable=SC1091
    . "$HOME/.cargo/env"
  fi
  command -v cargo >/dev/null || die "cargo is missing: install Rust with rustup (https://rustup.rs), then try again"
  cargo --version >/dev/null 2>&1 || die "cargo does not run: choose a toolchain with \`rustup default stable\`, then try again"
  # Cargo goes by dates: what another checkout built later than this one's files it would take for this one's.
  if [ "$(cat "$CARGO_TARGET_DIR/checkout" 2>/dev/null)" != "$root" ]; then
    mkdir -p "$CARGO_TARGET_DIR"
    [ ! -d "$CARGO_TARGET_DIR/release" ] || (cd "$root" && cargo clean --quiet --release --locked -p sidelight)
    printf '%s\n' "$root" >"$CARGO_TARGET_DIR/checkout"
  fi
}

# Sets LIBTORCH to a folder with include/ and lib/, downloading it the first time.
need_libtorch() {
  LIBTORCH=$("$root/scripts/libtorch")
  export LIBTORCH
}

# Builds the release binary if anything it is made of has changed, and sets $sidelight to it. Each checkout keeps
# its own copy, so that checkouts that share the build folder do not swap binaries under a running node.
need_sidelight() {
  local own stamp newer
  own=$cache/bin/$(printf '%s' "$root" | sha256sum | cut -c1-16)
  sidelight=$own/sidelight
  need_libtorch
  stamp="$root $LIBTORCH"
  if [ -x "$sidelight" ] && [ "$(cat "$own/stamp" 2>/dev/null)" = "$stamp" ]; then
    newer=$(cd "$root" && find src templates conf build.rs Cargo.toml Cargo.lock -newer "$own/stamp" -print -quit)
    [ -n "$newer" ] || return 0
  fi
  need_cargo
  mkdir -p "$own"
  # Dated before the build: what is edited meanwhile is newer, and built next time.
  printf '%s\n' "$stamp" >"$own/stamp.new"
  say "sidelight: building (a few minutes the first time)"
  (cd "$root" && cargo build --release --locked --bin sidelight >&2)
  # A node that runs from the old copy keeps its file.
  cp "$CARGO_TARGET_DIR/release/sidelight" "$own/sidelight.new"
  mv "$own/sidelight.new" "$sidelight"
  mv "$own/stamp.new" "$own/stamp"
}

# Runs a command that says nothing for a while, and tells every few seconds that it still runs and how much lies in
# a folder by now. Usage: with_pulse WHAT FOLDER COMMAND…
with_pulse() {
  local what=$1 folder=$2 alive status=0
  shift 2
  # The teller reads from a pipe that only this shell holds: it ends when the command does, or when this shell dies.
  exec {alive}> >(
    exec >&2
    while true; do
      read -r -t 5 _ && continue
      [ $? -gt 128 ] || exit 0
      say "  … $what ($(du -sh "$folder" 2>/dev/null | cut -f1))"
    done
  )
  "$@" {alive}>&- || status=$?
  exec {alive}>&-
  return "$status"
}
