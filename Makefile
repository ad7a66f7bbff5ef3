# Everything needs only Python 3.11-3.13, pip and venv; `make demo` on a fresh clone does the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
GL_PACKAGES := libegl1 libgl1 libgles2

.PHONY: help demo test check smoke tables peers gl clean

help:
	@echo "make demo    install, then walk to the red ball: leaves out/run.mp4"
	@echo "make test    all tests"
	@echo "make check   format, lint, types and fast tests"
	@echo "make smoke   collect, train, export, serve, evaluate and walk in miniature"
	@echo "make peers   fetch the walkers of others, for hitogata bench walker"
	@echo "make tables  renew the figures in README.md and the map in ARCHITECTURE.md"

demo: $(STAMP)
	$(BIN)/hitogata run "walk to the red ball"

# One thread a worker: the workers already fill the cores.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

smoke: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/smoke.sh

tables: $(STAMP)
	$(BIN)/python docs/tables.py
	$(BIN)/python docs/map.py

# torch goes first and alone: its pinned release keeps CUDA off machines without a GPU.
$(STAMP): pyproject.toml | gl
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11-3.13 is needed: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "venv is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[test]'
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
peers: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps holosoma-inference

clean:
	rm -rf out build dist *.egg-info .pytest_cache .ruff_cache
