# One environment in .venv, made from constraints.txt; every command below installs it first if it is not there.
PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test lint clean

demo: $(READY)
	$(VENV)/bin/python benchmarks/run.py --suite ucf101 --tier demo

test: $(READY)
	$(VENV)/bin/python -m pytest

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# torch first and alone: a version that the rest can't replace by a build with gigabytes of CUDA libraries.
$(READY): constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt torch setuptools
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --no-build-isolation --editable '.[test]'
	touch $(READY)

clean:
	rm -rf $(VENV)
