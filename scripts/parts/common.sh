# Shared by the scripts of this folder: each installs, starts and stops one real part (a broker, a database, a store) for tests and for trying.
#   PART.sh install            fetch it into the user's cache, pinned; nothing to do the second time
#   PART.sh start DIR [OFFSET] start it with its data in DIR/PART and OFFSET added to every port; returns when it answers
#   PART.sh stop DIR           stop it by the pid that start wrote
#   PART.sh env DIR            print its addresses as KEY=VALUE lines
# Everything listens on 127.0.0.1 only.
set -euo pipefail

cache="${XDG_CACHE_HOME:-$HOME/.cache}/chainalytics/parts"
mkdir -p "$cache"

say() { echo "parts: $*" >&2; }
die() { say "$*"; exit 1; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# Java 17 or newer and Maven, from the distribution.
need_java() {
  local packages=()
  command -v javac >/dev/null 2>&1 || packages+=(default-jdk-headless)
  command -v mvn >/dev/null 2>&1 || packages+=(maven)
  if ((${#packages[@]})); then
    say "installing ${packages[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
  fi
}

# Fills $cache/NAME by a function, completely or not at all; two installers at once wait for each other.
#   install_once NAME FUNCTION    FUNCTION is called with a folder to fill
install_once() {
  local name="$1" fill="$2" folder="$cache/$1"
  [ -d "$folder" ] && return 0
  exec 9>"$cache/.$name.lock"
  flock -w 900 9 || die "another installation of $name takes too long"
  if [ ! -d "$folder" ]; then
    say "fetching $name"
    rm -rf "$folder.part"
    mkdir -p "$folder.part"
    "$fill" "$folder.part"
    mv "$folder.part" "$folder"
  fi
  exec 9>&-
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

need_free_ports() {
  local port
  for port in "$@"; do
    ! port_open "$port" || die "port $port is taken"
  done
}

# Killed processes that nobody has reaped yet still have their pid; they are not alive.
alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null && ! grep -q '^State:[[:space:]]*Z' "/proc/$(cat "$1")/status" 2>/dev/null; }

# launch FOLDER COMMAND...: runs it in the background with its output in FOLDER/log and its pid in FOLDER/pid.
launch() {
  local folder="$1"
  shift
  setsid "$@" </dev/null >>"$folder/log" 2>&1 9>&- &
  echo $! >"$folder/pid"
}

# wait_ready FOLDER SECONDS WHAT PROBE...: until the probe succeeds; fails at once if the process ends.
wait_ready() {
  local folder="$1" seconds="$2" what="$3" end
  shift 3
  end=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    alive "$folder/pid" || { tail -n 30 "$folder/log" >&2; die "$what ended while starting"; }
    ((SECONDS < end)) || { tail -n 30 "$folder/log" >&2; die "$what does not answer after $seconds seconds"; }
    sleep 0.1
  done
}

# stop_pid FOLDER [SIGNAL]: asks the process to end, waits, kills it at last.
stop_pid() {
  local folder="$1" signal="${2:-TERM}" pid end
  [ -s "$folder/pid" ] || return 0
  pid="$(cat "$folder/pid")"
  if kill -0 "$pid" 2>/dev/null; then
    kill "-$signal" "$pid"
    end=$((SECONDS + 30))
    while kill -0 "$pid" 2>/dev/null; do
      if ((SECONDS >= end)); then
        say "process $pid does not end, killing it"
        kill -KILL "$pid" 2>/dev/null || true
        break
      fi
      sleep 0.05
    done
  fi
  rm -f "$folder/pid"
}

# Reads "COMMAND [DIR] [OFFSET]" and calls install_part, start_part FOLDER OFFSET, stop_part FOLDER, env_part FOLDER.
main() {
  local part="$1" command="${2:-}" dir="${3:-}" offset="${4:-}" folder
  case "$command" in
  install) install_part; return ;;
  start | stop | env) [ -n "$dir" ] || die "usage: $part.sh $command DIR" ;;
  *) die "usage: $part.sh install | start DIR [OFFSET] | stop DIR | env DIR" ;;
  esac
  folder="$dir/$part"
  case "$command" in
  start)
    install_part
    mkdir -p "$folder"
    folder="$(cd "$folder" && pwd)"
    alive "$folder/pid" && return 0
    # A second start in the same place takes the same ports, so that clients find it again.
    [ -n "$offset" ] || offset="$(cat "$folder/offset" 2>/dev/null || echo 0)"
    echo "$offset" >"$folder/offset"
    start_part "$folder" "$offset"
    ;;
  stop) stop_part "$folder" ;;
  env) [ -f "$folder/env" ] || die "$part was never started in $dir"; cat "$folder/env" ;;
  esac
}
