#!/usr/bin/env bash
# Spark 4.1.1 with Iceberg's own runtime, as another reader of our tables and as the side to be measured against.
#   spark.sh install    fetch them into the user's cache, pinned
#   spark.sh env        print TEST_SPARK_PYTHON and TEST_SPARK_JARS
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

item() { echo "<artifactItem><groupId>$1</groupId><artifactId>$2</artifactId><version>$3</version></artifactItem>"; }

fill() {
  python3 -m venv "$1/venv"
  "$1/venv/bin/pip" install -q pyspark==4.1.1
  mkdir "$1/jars"
  cat > "$1/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>parts</groupId><artifactId>spark-jars</artifactId><version>1</version><packaging>pom</packaging>
<build><plugins><plugin><groupId>org.apache.maven.plugins</groupId><artifactId>maven-dependency-plugin</artifactId>
<configuration><artifactItems>
$(item org.apache.iceberg iceberg-spark-runtime-4.1_2.13 1.12.0)
$(item org.xerial sqlite-jdbc 3.53.4.0)
</artifactItems><outputDirectory>$1/jars</outputDirectory></configuration></plugin></plugins></build></project>
POM
  mvn -q -B -f "$1/pom.xml" dependency:copy
}

case "${1:-}" in
  install)
    need_java
    install_once spark-4.1.1-iceberg-1.12.0 fill
    ;;
  env)
    # A virtual environment knows the folder it was made in, not the one it was moved to: its Python is named by path and works from there.
    echo "TEST_SPARK_PYTHON=$cache/spark-4.1.1-iceberg-1.12.0/venv/bin/python"
    echo "TEST_SPARK_JARS=$cache/spark-4.1.1-iceberg-1.12.0/jars"
    ;;
  *) die "usage: spark.sh install|env" ;;
esac
