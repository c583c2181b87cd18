#!/usr/bin/env bash
# Apache Kafka, one broker in KRaft mode. Ports: 9292 clients, 9293 controller.
# With KAFKA_PROXY_PORT in the environment of `start`, it listens on 9294 as well, for a proxy on that port: its clients are sent back to the proxy.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/common.sh"
version=3.9.1

fill() {
  mkdir "$1/libs"
  cp "$here/kafka.pom.xml" "$1/pom.xml"
  (cd "$1" && mvn -q -B -Dstyle.color=never dependency:copy-dependencies -DoutputDirectory="$1/libs" -DincludeScope=runtime >&2)
  printf '%s\n' 'log4j.rootLogger=WARN, out' 'log4j.appender.out=org.apache.log4j.ConsoleAppender' \
    'log4j.appender.out.layout=org.apache.log4j.PatternLayout' 'log4j.appender.out.layout.ConversionPattern=%d %p %m (%c)%n' >"$1/log4j.properties"
}

install_part() { need_java; install_once "kafka-$version" fill; }

run_java() { java "-Dlog4j.configuration=file:$cache/kafka-$version/log4j.properties" -cp "$cache/kafka-$version/libs/*" "$@"; }

# Asks for the cluster's metadata (version 1, no topics): answered once the broker is registered, which is after the port opened.
takes_topics() { python3 - "$1" <<'PYTHON'
import socket, struct, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2) as s:
    body = struct.pack(">hhih", 3, 1, 7, 1) + b"p" + struct.pack(">i", 0)
    s.sendall(struct.pack(">i", len(body)) + body)
    size = struct.unpack(">i", s.recv(4, socket.MSG_WAITALL))[0]
    answer = s.recv(size, socket.MSG_WAITALL)
brokers = struct.unpack(">i", answer[4:8])[0]
sys.exit(brokers != 1)
PYTHON
}

start_part() {
  local folder="$1" port=$((9292 + $2)) controller=$((9293 + $2))
  need_free_ports "$port" "$controller"
  local more='' advertised='' map=''
  if [ -n "${KAFKA_PROXY_PORT:-}" ]; then
    more=",PROXIED://127.0.0.1:$((9294 + $2))" advertised=",PROXIED://127.0.0.1:$KAFKA_PROXY_PORT" map=,PROXIED:PLAINTEXT
  fi
  cat >"$folder/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller$more
advertised.listeners=PLAINTEXT://127.0.0.1:$port$advertised
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT$map
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$folder/data
num.partitions=3
offsets.topic.num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES
  if [ ! -f "$folder/data/meta.properties" ]; then
    # Any 16 bytes in base64 are an id.
    local id
    id="$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c1-22)"
    run_java kafka.tools.StorageTool format -t "${id/#-/a}" -c "$folder/server.properties" >>"$folder/log" 2>&1
  fi
  launch "$folder" java -Xmx512m -XX:TieredStopAtLevel=1 "-Dlog4j.configuration=file:$cache/kafka-$version/log4j.properties" \
    -cp "$cache/kafka-$version/libs/*" kafka.Kafka "$folder/server.properties"
  wait_ready "$folder" 60 Kafka takes_topics "$port"
  printf '%s\n' "KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$port" "KAFKA_LIBS=$cache/kafka-$version/libs" >"$folder/env"
}

stop_part() { stop_pid "$1"; }

main kafka "$@"
