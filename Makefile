# `make` alone lists the targets. Everything here needs only Rust, Python 3 and make; what else a target needs, it
# fetches into .tools/.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# Passed on to the tool behind a target, as in: make test ARGS="-p tollgate-policy"
ARGS ?=
# For `make demo`: simulator or smollm2.
MODEL ?= simulator

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ## Start a broker, send it a sample, compare answers and ledger (MODEL=smollm2: with a real model)
	@MODEL=$(MODEL) python3 scripts/demo.py

.PHONY: test
test: ## Run all tests (ARGS goes to cargo test)
	@scripts/test.sh $(ARGS)

.PHONY: lint
lint: ## Check format, lints and documentation, as CI does
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --workspace

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: bench
bench: tools ## Measure against a bare program (ARGS="--bench backlog"; see docs/benchmarks.md)
	@[ -n "$${TOLLGATE_BIN:-}" ] || cargo build --release --package tollgate --bin tollgate
	@TOLLGATE_NATS_SERVER="$$(python3 scripts/nats_server.py | tail -n 1)" \
		TOLLGATE_BIN="$${TOLLGATE_BIN:-$$PWD/target/release/tollgate}" cargo bench --package tollgate-tests $(ARGS)

.PHONY: interop
interop: ## Drive the broker with another NATS client, in another language
	@python3 scripts/interop.py

# SEED=… or SEEDS="1 2 3", REQUESTS=… or MINUTES=…, RATE=… (per second), FAULTS=…
.PHONY: chaos
chaos: tools ## Draw faults from a seed under load, and check every promise (SEED=7 MINUTES=1; see docs/reliability.md)
	@cargo build --quiet --package tollgate --package tollgate-tests --bin tollgate --bin chaos
	@TOLLGATE_NATS_SERVER="$$(python3 scripts/nats_server.py | tail -n 1)" TOLLGATE_BIN="$$PWD/target/debug/tollgate" \
		SEED="$(SEED)" SEEDS="$(SEEDS)" REQUESTS="$(REQUESTS)" MINUTES="$(MINUTES)" RATE="$(RATE)" FAULTS="$(FAULTS)" \
		target/debug/chaos

# SEEDS=… or SEED=…, FIRST=…, THREADS=…, TRACE=1, BUG=…
.PHONY: sim
sim: ## Simulate the broker on a model of the bus, from many seeds (SEEDS=20000, or SEED=7 TRACE=1; see docs/simulation.md)
	@cargo build --quiet --package tollgate-sim
	@SEED="$(SEED)" SEEDS="$(SEEDS)" FIRST="$(FIRST)" THREADS="$(THREADS)" TRACE="$(TRACE)" BUG="$(BUG)" target/debug/sim

.PHONY: sim-mutants
sim-mutants: ## Break a rule at a time, and see that the simulation notices (ARGS: names)
	@SEEDS="$(SEEDS)" python3 scripts/sim_mutants.py $(ARGS)

.PHONY: mutants
mutants: tools ## Break the protocol, one rule at a time, and see that a test fails (ARGS: names of scripts/mutants/)
	@python3 scripts/mutants.py $(ARGS)

.PHONY: chaos-mutants
chaos-mutants: tools ## Break the protocol, one rule at a time, and see that a run of faults notices (ARGS: names)
	@SEEDS="$(SEEDS)" REQUESTS="$(REQUESTS)" RATE="$(RATE)" FAULTS="$(FAULTS)" python3 scripts/chaos_mutants.py $(ARGS)

.PHONY: mutants-random
mutants-random: tools ## The same at random places (ARGS="-p tollgate-policy"), with cargo-mutants
	@command -v cargo-mutants >/dev/null || { echo "cargo-mutants is missing: cargo install --locked cargo-mutants" >&2; exit 1; }
	@TOLLGATE_NATS_SERVER="$$(python3 scripts/nats_server.py | tail -n 1)" cargo mutants --workspace $(ARGS)

.PHONY: deny
deny: ## Check licences, advisories and sources of all dependencies
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny check $(ARGS)

.PHONY: tools
tools: ## Make a nats-server available, fetching the pinned one if there is none
	@python3 scripts/nats_server.py

.PHONY: clean-tools
clean-tools: ## Remove what was fetched and what the demo wrote
	rm -rf .tools .demo
