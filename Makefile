# The commands of this repository. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCH_VENV ?= .venv-bench
BENCH_BIN := $(BENCH_VENV)/bin
EXAMPLES ?= 200000
KILLS ?= 2000
ROUNDS ?= 100000
SEED ?= 0
TESTS ?= tests
WATCHED ?= -m pytest -p no:cacheprovider $(TESTS)
SANITIZED := $(CURDIR)/target/sanitize
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
SANITIZER = RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(SANITIZED)/$(1) RUSTFLAGS="-Zsanitizer=$(1) -Cforce-frame-pointers=yes"
DEEPSPEED := deepspeed==0.19.8
SOURCES := $(shell find rust python -name '*.rs' -o -name '*.py' -o -name '*.pyi')

.DEFAULT_GOAL := help
.PHONY: help build fmt lint test vectorised bench-env bench scale means peers docs fuzz kill attack sanitize address thread

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

build: $(BIN)/pip ## make .venv; compile and install the package in it, editable, with the tools
	$(BIN)/pip install -e ".[dev]"

fmt: ## format Rust and Python
	cargo fmt
	rustfmt --edition 2024 rust/rules/*.rs # declared in a macro, where cargo fmt does not look
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: ## clippy, rustfmt, ruff, mypy and stubtest, changing nothing (after `make build`)
	cargo fmt --check
	rustfmt --edition 2024 --check rust/rules/*.rs
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --features python -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest optirs._core

test: ## the tests of the crate and of the package (after `make build`)
	cargo test --locked
	$(BIN)/pytest

vectorised: ## fail where a loop over elements has lost its vector instructions (x86-64; needs objdump)
	$(PYTHON) benches/vectorised.py

$(BENCH_BIN)/pip:
	$(PYTHON) -m venv $(BENCH_VENV)

$(BENCH_VENV)/peers: benches/requirements.txt | $(BENCH_BIN)/pip
	$(BENCH_BIN)/pip install -r benches/requirements.txt
	$(BENCH_BIN)/pip install --no-build-isolation $(DEEPSPEED) || echo "$(DEEPSPEED) is left out: it cannot be installed"
	touch $@

$(BENCH_VENV)/package: Cargo.toml Cargo.lock pyproject.toml $(SOURCES) | $(BENCH_BIN)/pip
	$(BENCH_BIN)/pip install ".[test]"
	touch $@

bench-env: $(BENCH_VENV)/peers $(BENCH_VENV)/package ## make .venv-bench: the package as it is now and its peers (some 5 GB)

bench: bench-env ## time every rule against the limit of memory and the peers: make bench QUICK=1 ONLY=a2,b
	$(BENCH_BIN)/python -m benches $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

scale: bench-env ## time and peak memory from 10^5 to 10^9 parameters
	$(BENCH_BIN)/python -m benches --scale

means: bench-env ## time the package beside itself without each of its means of being fast
	$(BENCH_BIN)/python -m benches --means

peers: ## the tests that need PyTorch, JAX or optax (after `make bench-env`)
	$(BENCH_BIN)/python -m pytest -m peers

fuzz: ## the fuzz test of trees for longer: make fuzz EXAMPLES=1000000
	OPTIRS_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/pytest tests/trees/test_tree_fuzz.py

kill: ## the test of killed processes for longer: make kill KILLS=10000
	OPTIRS_KILLS=$(KILLS) $(BIN)/pytest tests/files/test_checkpoint_damage.py -k killed

attack: ## the fuzzer of hostile worlds for longer: make attack ROUNDS=1000000 SEED=7 ONLY="--acts memory"
	PYTHONPATH=tests $(BIN)/python -m attack --rounds $(ROUNDS) --seed $(SEED) $(ONLY)

sanitize: address thread ## the tests under AddressSanitizer, and those of the crate under ThreadSanitizer

address: ## the tests of the package under AddressSanitizer, with debug assertions: make address TESTS=tests/update
	$(call SANITIZER,address) PYO3_PYTHON=$(abspath $(BIN)/python) \
		cargo build --locked --profile sanitize --features python --lib --target $(HOST)
	rm -rf $(SANITIZED)/python
	mkdir -p $(SANITIZED)/python
	cp -r python/optirs $(SANITIZED)/python
	rm -f $(SANITIZED)/python/optirs/_core.*so
	cp $(SANITIZED)/address/$(HOST)/sanitize/liboptirs.so $(SANITIZED)/python/optirs/_core.abi3.so
	OPTIRS_SANITIZER=address PYTHONPATH=$(SANITIZED)/python:$(CURDIR)/tests PYTHONMALLOC=malloc \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
		$(BIN)/python $(WATCHED)

thread: ## the tests of the crate under ThreadSanitizer, the standard library too
	$(call SANITIZER,thread) TSAN_OPTIONS=die_after_fork=0:allocator_may_return_null=1 \
		cargo test --locked --profile sanitize --target $(HOST) -Zbuild-std --lib --tests

docs: $(BIN)/pip ## build the site into site/
	$(BIN)/pip install ".[docs]"
	$(BIN)/mkdocs build --strict
