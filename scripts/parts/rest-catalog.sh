#!/usr/bin/env bash
# Iceberg's own REST catalog servlet over PostgreSQL and S3 of this folder, which must be started in the same DIR. Port: 8282.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/common.sh"
version=1.9.2

fill() {
  mkdir "$1/libs"
  cp "$here/rest-catalog.pom.xml" "$1/pom.xml"
  (cd "$1" && mvn -q -B -Dstyle.color=never dependency:copy-dependencies -DoutputDirectory="$1/libs" -DincludeScope=runtime >&2)
}

install_part() { need_java; install_once "rest-catalog-$version" fill; }

# Answers strangers with 401, so anything but silence will do.
answers() { python3 -c 'import sys, urllib.request as u, urllib.error as e
try: u.urlopen(sys.argv[1], timeout=2)
except e.HTTPError as answer: sys.exit(answer.code != 401)' "$1"; }

start_part() {
  local folder="$1" port=$((8282 + $2)) home="$cache/rest-catalog-$version"
  need_free_ports "$port"
  local POSTGRES_JDBC POSTGRES_USER POSTGRES_PASSWORD S3_ENDPOINT S3_BUCKET S3_ACCESS_KEY_ID S3_SECRET_ACCESS_KEY
  . "$folder/../postgres/env"
  . "$folder/../seaweedfs/env"
  mkdir -p "$folder/faults" "$folder/classes"
  javac -cp "$home/libs/*" -d "$folder/classes" "$here/RestCatalog.java" "$here/LendingCatalogAdapter.java"
  AWS_REGION=us-east-1 launch "$folder" java -Xmx512m -XX:TieredStopAtLevel=1 -cp "$folder/classes:$home/libs/*" RestCatalog "$port" "$folder/faults" \
    name=rest uri="$POSTGRES_JDBC/iceberg" jdbc.user="$POSTGRES_USER" jdbc.password="$POSTGRES_PASSWORD" jdbc.schema-version=V1 \
    warehouse="s3://$S3_BUCKET/rest" io-impl=org.apache.iceberg.aws.s3.S3FileIO s3.endpoint="$S3_ENDPOINT" s3.path-style-access=true \
    s3.access-key-id="$S3_ACCESS_KEY_ID" s3.secret-access-key="$S3_SECRET_ACCESS_KEY"
  wait_ready "$folder" 60 "the REST catalog" answers "http://127.0.0.1:$port/v1/config"
  printf '%s\n' "REST_URI=http://127.0.0.1:$port" "REST_CREDENTIAL=chainalytics:secret" "REST_FAULTS=$folder/faults" >"$folder/env"
}

stop_part() { stop_pid "$1"; }

main rest-catalog "$@"
