# Needs GNU make, Python 3.11 or newer, and pip. Everything else is installed into .venv.
# To choose a Python: make test PYTHON=python3.13

.DEFAULT_GOAL := help
# All targets use the same .venv and the same ports.
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Tests start hundreds of processes. Without bytecode each of them would compile every module again.
export PYTHONDONTWRITEBYTECODE :=
ARGS ?=
BIN := .venv/bin
UV ?= $(shell command -v uv || echo $(BIN)/uv)
SOAKED := $(addprefix tests/e2e/test_,kills.py zombies.py rebalances.py brokers.py network.py store_faults.py \
	outage.py recovery.py big_models.py mutants.py security.py mixes.py late_labels.py serve.py serve_load.py formats.py) \
	$(addprefix tests/contracts/test_,codec_fuzz.py seal_fuzz.py store_garbage.py hardening_mutants.py model_mutants.py \
	format_fuzz.py) \
	tests/pipeline/serve/http/test_http_connection.py
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" $(ARGS)

.PHONY: help demo test soak check fmt docs pictures bench lock clean setup

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## the whole story on a real Kafka and Valkey, in about a minute
	@$(BIN)/headrace demo $(ARGS)

test: setup ## all tests, or some: make test ARGS="-k takeover"
	@# Compile once here, the machine beside the rest, and not in each test process.
	@$(BIN)/python -c "from headrace.state.compiled import program_runner; program_runner.warm()" & machine=$$!; \
	$(BIN)/python -c "from headrace.consumers.fastjson import scan; from headrace.producers.fastjson import encoder; scan.warm(); encoder.warm()" && \
	$(BIN)/python -c "from headrace.consumers.formats.binary import scan; scan.warm('AVRO', 'PROTOBUF')" && \
	wait $$machine
	@$(BIN)/python tests/browser.py
	@$(BIN)/python tests/prometheus.py
	@$(BIN)/python tests/nginx.py
	@$(BIN)/python tests/clients.py
	@# More processes than cores: many tests wait for a session to end, or a server to answer. With four, some wait too long.
	@$(BIN)/pytest -n 3 --dist loadgroup --no-loadscope-reorder $(ARGS)

soak: setup ## the long forms of the fault and damage tests, for hours
	@HEADRACE_SOAK=1 $(BIN)/pytest -n 2 --dist loadgroup -p no:randomly --timeout=7200 $(SOAKED) $(ARGS)

check: setup ## lint, format, types and the rules of the house; needs no server
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@# Each of the two takes one core.
	@$(BIN)/mypy & types=$$!; $(BIN)/pytest --quiet tests/house; rules=$$?; wait $$types && exit $$rules

fmt: setup ## format, and fix what can be fixed
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

docs: setup ## write the tables of docs/ and deploy/headrace.toml anew from the code
	@$(BIN)/python tests/contracts/census.py
	@$(BIN)/python docs/generate.py

pictures: setup ## take the pictures of the page for the README; all states: make pictures ARGS="--all FOLDER"
	@$(BIN)/python docs/pictures.py $(ARGS)

bench: setup ## measure Headrace beside the alternatives
	@$(BIN)/python tests/bench/run.py $(ARGS)

lock: setup ## write the locks from pyproject.toml; for newer versions: make lock ARGS=--upgrade
	@command -v $(UV) >/dev/null || $(BIN)/python -m pip install --quiet uv
	@$(COMPILE) $(addprefix --extra ,embedded avro json-schema parquet plot protobuf tune) --group dev --output-file requirements.lock pyproject.toml
	@$(COMPILE) --constraint requirements.lock --output-file deploy/requirements.lock pyproject.toml
	@$(COMPILE) --group bench --output-file tests/bench/requirements.lock
	@$(COMPILE) --group clients --output-file tests/clients.lock
	@echo hatchling | $(COMPILE) --constraint requirements.lock --output-file deploy/build.lock -

clean: ## remove .venv, caches and builds
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Usually all is ready, and this costs one start of Python. Otherwise the first Python that is new enough sets up .venv.
setup:
	@if [ -z "$(PYTHON)" ] && $(BIN)/python -I -S deploy/bootstrap.py --check 2>/dev/null; then exit 0; fi; \
	for python in $(PYTHON) $(BIN)/python python3 python3.14 python3.13 python3.12 python3.11 python; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    exec "$$python" deploy/bootstrap.py; \
	  elif [ "$$python" = "$(PYTHON)" ]; then \
	    echo "headrace: $(PYTHON) is no Python 3.11 or newer, looking for another" >&2; \
	  fi; \
	done; \
	echo "headrace: no Python 3.11 or newer was found: install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	exit 1
