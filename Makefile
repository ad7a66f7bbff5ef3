# Everything needs only Python 3.11-3.13, pip and venv; `make demo` on a fresh clone does the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
GL_PACKAGES := libegl1 libgl1 libgles2

ROOMS := assets bench bridge console hitogata policy robots sim tasks

.PHONY: help demo test lint check smoke tables docs baselines gl clean

help:
	@echo "make demo    install, then walk to the red ball: leaves out/run.mp4"
	@echo "make test    all tests"
	@echo "make lint    format, lint and types"
	@echo "make check   the same, and fast tests"
	@echo "make smoke   collect, train, export, serve, evaluate and walk in miniature"
	@echo "make baselines  fetch the walkers of others, for hitogata bench walker"
	@echo "make tables  renew the figures in README.md and the map in ARCHITECTURE.md"
	@echo "make docs    pages of every module and function: build/docs/index.html"

demo: $(STAMP)
	$(BIN)/hitogata run "walk to the red ball"

# One thread a worker: the workers already fill the cores. Files go in the order of tests/conftest.py.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGUMENTS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

smoke: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/smoke.sh

tables: $(STAMP)
	$(BIN)/python docs/tables.py
	$(BIN)/python docs/map.py

# Some libraries look for others by a process of their own, which pdoc else suppresses.
docs: $(STAMP)
	PDOC_ALLOW_EXEC=1 $(BIN)/python -m pdoc --docformat google --output-directory build/docs $(ROOMS)

# torch goes first and alone: its pinned release keeps CUDA off machines without a GPU.
$(STAMP): pyproject.toml | gl
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11-3.13 is needed: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "venv is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[all,test]'
	touch $@

# The head camera needs EGL; Mesa's renders in software where there is no GPU.
gl:
	@if [ "$$(uname)" != Linux ] || /sbin/ldconfig -p | grep -q 'libEGL\.so\.1'; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends $(GL_PACKAGES); \
	else \
	  echo "OpenGL is missing: sudo apt-get install $(GL_PACKAGES)"; exit 1; \
	fi

# Without its dependencies: they would overwrite onnxruntime-gpu, and the walkers need none of them.
baselines: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps holosoma-inference

clean:
	rm -rf out build dist *.egg-info .pytest_cache .ruff_cache
