# Everything sets itself up in .venv on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test test-slow fuzz lint bench clean

help:  ## What there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: .venv/ready  ## A virtual environment with fedaudio and its tools in it

# torch comes first and by itself: pip then keeps the CPU build where one is offered.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/ready  ## A coordinator and four devices on this machine, with a synthetic corpus
	$(BIN)/fedaudio demo

test: .venv/ready  ## The test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-slow: .venv/ready  ## The tests that take minutes
	$(BIN)/python -m pytest -m slow --timeout 1800

fuzz: .venv/ready  ## A million spoiled messages: none may be believed, crash or keep anybody busy
	$(BIN)/python -m tests.fuzz --mutants 1000000

lint: .venv/ready  ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready  ## All benchmarks; see benchmarks/RESULTS.md
	for name in features listener swap soak streaming_accuracy aggregation_memory envelope ingest enrolment round_overhead simulation_speed simulation_scale robustness keywords dp_step noise ledger private_accuracy; do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:  ## Remove what was built
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
