#!/usr/bin/env bash
# PostgreSQL with the databases `iceberg` (catalog) and `registry`. Port: 5432.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/common.sh"
version=13.22.0
user=chainalytics
password=lakehouse

fill() {
  local arch=amd64
  [ "$(uname -m)" = x86_64 ] || arch=arm64v8
  local artifact="embedded-postgres-binaries-linux-$arch"
  mvn -q -B -Dstyle.color=never dependency:copy -Dartifact="io.zonky.test.postgres:$artifact:$version" -DoutputDirectory="$1" >&2
  (cd "$1" && python3 -m zipfile -e "$artifact-$version.jar" . && tar -xJf postgres-linux-*.txz && rm -rf ./*.jar ./*.txz META-INF)
}

install_part() {
  need_java
  command -v xz >/dev/null 2>&1 || as_root apt-get install -y -qq --no-install-recommends xz-utils >&2
  install_once "postgres-$version" fill
}

# The server refuses to run as root: then it runs as `nobody`, who cannot look into root's cache. So it gets its programs beside its data.
if [ "$(id -u)" = 0 ]; then drop=(setpriv --reuid=65534 --regid=65534 --clear-groups); else drop=(); fi

# A server that was killed leaves its file behind, so the pid in it must be that of the new one.
ready() { [ "$(head -n 1 "$1/data/postmaster.pid")" = "$(cat "$1/pid")" ] && grep -q '^ready' "$1/data/postmaster.pid"; }

start_part() {
  local folder="$1" port=$((5432 + $2)) bin="$1/programs/bin" data="$1/data"
  need_free_ports "$port"
  [ -d "$folder/programs" ] || cp -a "$cache/postgres-$version" "$folder/programs"
  [ "$(id -u)" != 0 ] || chmod o+x "$folder/.." "$folder"
  if [ ! -f "$data/ready" ]; then
    rm -rf "$data"
    mkdir -m 700 "$data"
    [ "$(id -u)" != 0 ] || chown 65534:65534 "$data"
    echo "$password" >"$folder/password"
    "${drop[@]}" "$bin/initdb" -D "$data" -U "$user" --pwfile="$folder/password" --auth=scram-sha-256 --encoding=UTF8 --locale=C --no-sync >>"$folder/log" 2>&1
    printf '%s\n' 'CREATE DATABASE iceberg;' '' 'CREATE DATABASE registry;' '' | "${drop[@]}" "$bin/postgres" --single -j -D "$data" postgres >>"$folder/log" 2>&1
    "${drop[@]}" touch "$data/ready"
  fi
  launch "$folder" "${drop[@]}" "$bin/postgres" -D "$data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c max_connections=200 -c shared_buffers=32MB
  wait_ready "$folder" 30 PostgreSQL ready "$folder"
  printf '%s\n' "POSTGRES_URI=postgresql://$user:$password@127.0.0.1:$port/iceberg" \
    "POSTGRES_JDBC=jdbc:postgresql://127.0.0.1:$port" "POSTGRES_USER=$user" "POSTGRES_PASSWORD=$password" >"$folder/env"
}

# INT ends sessions and shuts down in order.
stop_part() { stop_pid "$1" INT; }

main postgres "$@"
