# Every target also has a plain command, named in README.md.
export DAGSTER_HOME ?= $(CURDIR)/dagster_home
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help demo test test-fast lint bench constant-time portable-only sanitize ui clean

help:
	@echo "make demo       the whole graph over the bundled observations"
	@echo "make ui         Dagster's web UI and daemon on http://localhost:3000"
	@echo "make test       every test"
	@echo "make test-fast  without the slow ones"
	@echo "make lint       ruff, mypy, dagster definitions validate"
	@echo "make bench      every benchmark; the counterfactual one, with five seeds, takes by far the longest"
	@echo "make constant-time  no branch, address or time depends on a secret (minutes)"
	@echo "make portable-only  native/ without its x86-64 parts, as other processors get it"
	@echo "make sanitize   native/ under AddressSanitizer and Memcheck (needs nightly Rust and Valgrind)"

demo:
	@.ci/setup
	@acie demo

ui:
	@.ci/setup
	@acie keys generate --if-missing
	@dagster dev -w workspace.yaml

# Two test processes fill two cores; more threads in each only get in the way.
test test-fast: export OMP_NUM_THREADS = 1

test:
	@.ci/setup dev
	@pytest -n 2 --dist worksteal

test-fast:
	@.ci/setup dev
	@pytest -n 2 --dist worksteal -m "not slow"

lint:
	@.ci/setup dev
	@ruff check .
	@ruff format --check .
	@mypy
	@dagster definitions validate -w workspace.yaml

bench:
	@.ci/setup dev
	@acie bench all

# Memcheck runs what Valgrind can (no AVX-512), the other two the processor's own best path.
constant-time:
	@cd native && cargo build --release --offline --locked --features memcheck --target-dir target/memcheck --example constant_time
	@valgrind --quiet native/target/memcheck/release/examples/constant_time memcheck
	@cd native && cargo run --release --offline --locked --target-dir target --example constant_time -- trace avx512ifma
	@cd native && cargo run --release --offline --locked --target-dir target --example constant_time -- timing avx512ifma 2000

portable-only:
	@cd native && cargo test --offline --locked --features portable-only

# AddressSanitizer: every path, the tests of acie_native. Memcheck: portable and adx, fixed calls.
sanitize:
	@.ci/setup dev
	@python tests/sanitize/run.py address
	@python tests/sanitize/run.py memcheck

clean:
	rm -rf .venv native/target build *.egg-info
