#!/usr/bin/env bash
# Spark 4.1.1 with Iceberg's own runtime, its Kafka source and its Avro, as another reader of our tables and as the side to be measured against.
#   spark.sh install    fetch them into the user's cache, pinned
#   spark.sh env        print TEST_SPARK_PYTHON, TEST_SPARK_JARS and TEST_SPARK_KAFKA_JARS
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

item() { echo "<artifactItem><groupId>$1</groupId><artifactId>$2</artifactId><version>$3</version></artifactItem>"; }

# copy_jars FOLDER ITEMS: the jars one by one. Spark's parent POM names another repository before Central, so nothing is resolved through it.
copy_jars() {
  mkdir -p "$1"
  cat > "$1/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>parts</groupId><artifactId>spark-jars</artifactId><version>1</version><packaging>pom</packaging>
<build><plugins><plugin><groupId>org.apache.maven.plugins</groupId><artifactId>maven-dependency-plugin</artifactId>
<configuration><artifactItems>$2</artifactItems><outputDirectory>$1</outputDirectory></configuration></plugin></plugins></build></project>
POM
  mvn -q -B -f "$1/pom.xml" dependency:copy
}

fill() {
  python3 -m venv "$1/venv"
  "$1/venv/bin/pip" install -q pyspark==4.1.1
  copy_jars "$1/jars" "$(item org.apache.iceberg iceberg-spark-runtime-4.1_2.13 1.12.0)$(item org.xerial sqlite-jdbc 3.53.4.0)"
}

# What Structured Streaming needs beside pyspark's own jars; lz4, snappy, zstd and slf4j come with it.
fill_kafka() {
  copy_jars "$1" "$(item org.apache.spark spark-sql-kafka-0-10_2.13 4.1.1)$(item org.apache.spark spark-token-provider-kafka-0-10_2.13 4.1.1)$(
    item org.apache.kafka kafka-clients 3.9.1)$(item org.apache.commons commons-pool2 2.12.1)$(item org.apache.spark spark-avro_2.13 4.1.1)"
}

case "${1:-}" in
  install)
    need_java
    install_once spark-4.1.1-iceberg-1.12.0 fill
    install_once spark-4.1.1-kafka-3.9.1 fill_kafka
    ;;
  env)
    # A virtual environment knows the folder it was made in, not the one it was moved to: its Python is named by path and works from there.
    echo "TEST_SPARK_PYTHON=$cache/spark-4.1.1-iceberg-1.12.0/venv/bin/python"
    echo "TEST_SPARK_JARS=$cache/spark-4.1.1-iceberg-1.12.0/jars"
    echo "TEST_SPARK_KAFKA_JARS=$cache/spark-4.1.1-kafka-3.9.1"
    ;;
  *) die "usage: spark.sh install|env" ;;
esac
