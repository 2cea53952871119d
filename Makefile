# `make` alone prints what there is. GNU make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

CARGO ?= cargo
# The repository whose history `make demo` tells; one that has none has built-in messages instead.
GIT ?= .
# More arguments for the program behind a goal: make run ARGS='--listen 127.0.0.1:8081'
ARGS ?=

.PHONY: help
help:
	@echo 'make demo    build, and show everything in a few seconds   (GIT=path: another repository)'
	@echo 'make run     keep an instance running, until Ctrl-C        (ARGS=...: see context-sync dev --help)'
	@echo 'make test    all tests, against real PostgreSQL and Apache Kafka (Java 17, Maven, pip)'
	@echo 'make bench   measure, optimised'
	@echo 'make lint    formatting, and clippy without warnings'
	@echo 'make ci      what must pass: lint and test, with times'

# One line for each thing that is missing: what it is, and how to get it.
define require
	@command -v $(1) > /dev/null || { echo 'make: $(1) is missing: $(2)' >&2; exit 1; }
endef

.PHONY: tools
tools:
	$(call require,$(CARGO),install Rust from https://rustup.rs)
	$(call require,cc,the C parts need a C compiler (Debian: apt install build-essential))
	$(call require,c++,librdkafka needs a C++ compiler (Debian: apt install build-essential))
	$(call require,make,the vendored OpenSSL is built by it (Debian: apt install build-essential))
	$(call require,perl,the vendored OpenSSL is built by it (Debian: apt install perl))

.PHONY: services
services:
	$(call require,java,Apache Kafka needs Java 17 (Debian: apt install openjdk-17-jre-headless))
	$(call require,mvn,Apache Kafka is fetched by Maven (Debian: apt install maven))
	$(call require,python3,pip fetches the stand-in for Cloud Storage and readers of files (Debian: apt install python3-pip))

# --bin, not -p: the features are then those of the whole workspace, so that all goals share what is
# compiled, and OpenSSL is the vendored one even where the system has none.
.PHONY: demo
demo: tools
	@$(CARGO) build --bin context-sync
	@$(CARGO) run --quiet --bin context-sync -- demo --git '$(GIT)' $(ARGS)

.PHONY: run
run: tools
	@$(CARGO) run --bin context-sync -- dev $(ARGS)

# Tests wait for hours of seconds, disks and servers more than they compute: one more at a time than there are cores.
.PHONY: test
test: tools services
	@RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$(($$(nproc) + 1))} $(CARGO) run --bin dev -- run -- $(CARGO) test --workspace --no-fail-fast $(ARGS)

.PHONY: bench
bench: tools
	@$(CARGO) build --release --bin context-sync --bin bench
	@$(CARGO) run --quiet --release --bin bench -- $(ARGS)

.PHONY: lint
lint: tools
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: ci
ci:
	@.ci/run
