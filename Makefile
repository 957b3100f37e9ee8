# Everything works from a fresh clone with Python 3.11+ and make: each target sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup packages demo test test-all bench bench-gpu docs lint format stats clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

setup: $(STAMP)  ## make .venv with everything that training, tests and linting need

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "edgesea needs Python 3.11 or newer; call: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,openvino,umap,cluster,track,hub,codecs,compat,export,docs,dev]'
	@touch $@

packages:  ## install SLURM, Chromium, and compiler and emulator of a Cortex-M, for their tests (Debian; root or sudo)
	tools/debian.sh

demo: $(STAMP)  ## run the whole pipeline on a synthetic city, offline, in a few minutes
	$(BIN)/edgesea demo --out runs/demo

test: $(STAMP) $(if $(CI),packages)  ## run what CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(STAMP) $(if $(CI),packages)  ## also the tests that take minutes, or need large libraries
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mteb]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "slow or not slow"

bench: $(STAMP)  ## measure everything against peers and limits (half an hour); SOURCES=folder of clones, if offline
	$(BIN)/python benchmarks/bench.py $(if $(SOURCES),--sources $(SOURCES))

bench-gpu: $(STAMP)  ## measure networks, extraction and training on a GPU
	$(BIN)/python benchmarks/gpu.py > gpu.json && mv gpu.json benchmarks/results/gpu.json

docs: $(STAMP)  ## build the documentation site into site/, without a network; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

lint: $(STAMP) docs  ## ruff, mypy, and the links of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

stats: $(STAMP)  ## size of the source, room by room
	$(BIN)/python benchmarks/stats.py

format: $(STAMP)  ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and caches, but no runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
