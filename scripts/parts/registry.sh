#!/usr/bin/env bash
# Apicurio Registry with the API of Confluent's (at /apis/ccompat/v7), kept in memory. Port: 8085.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/common.sh"
version=3.0.9

fill() {
  mvn -q -B -Dstyle.color=never dependency:copy -Dartifact="io.apicurio:apicurio-registry-app:$version:tar.gz:all" -DoutputDirectory="$1" >&2
  (cd "$1" && tar -xzf ./*.tar.gz && rm -f ./*.tar.gz)
}

install_part() { need_java; install_once "apicurio-$version" fill; }

answers() { python3 -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=2)' "$1"; }

start_part() {
  local folder="$1" port=$((8085 + $2)) home="$cache/apicurio-$version" jar
  need_free_ports "$port"
  jar="$(find "$home" -maxdepth 2 -name '*-runner.jar' | head -1)"
  [ -n "$jar" ] || die "no runner in $home"
  launch "$folder" env QUARKUS_HTTP_HOST=127.0.0.1 QUARKUS_HTTP_PORT="$port" java -Xmx512m -XX:TieredStopAtLevel=1 -jar "$jar"
  wait_ready "$folder" 120 "the registry" answers "http://127.0.0.1:$port/apis/ccompat/v7/subjects"
  # Its own default lets every change pass.
  python3 -c 'import sys, urllib.request as u
u.urlopen(u.Request(sys.argv[1], b"{\"compatibility\":\"BACKWARD\"}", {"Content-Type": "application/json"}, method="PUT"), timeout=10)' \
    "http://127.0.0.1:$port/apis/ccompat/v7/config"
  echo "SCHEMA_REGISTRY_URL=http://127.0.0.1:$port/apis/ccompat/v7" >"$folder/env"
}

stop_part() { stop_pid "$1"; }

main registry "$@"
