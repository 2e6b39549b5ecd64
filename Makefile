# One environment in .venv, made from constraints.txt; every command below installs it first if it is not there.
PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test soak lint unar browser slurm clean

demo: $(READY)
	$(VENV)/bin/python benchmarks/run.py --suite ucf101 --tier demo

# A file of tests a process, one thread each: two cores are enough for the time that CI has.
test: unar
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --ignore tests/browser --ignore tests/soak

# The long tests, and those that need more than Python; what is skipped, and why, is said at the end. Two files at once,
# the two longest begun first; one of them takes 17 GB.
soak: unar browser slurm
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -rs --durations=20 tests/soak/test_full_size.py tests/soak/test_kills.py tests/browser tests/soak

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# What tests/data/test_unpack_rar.py needs beside: a program that decompresses rar, Debian's unar where root may install it.
# Without one its tests of real programs skip and say so.
unar: $(READY)
	command -v unar || command -v unrar || test "$$(id -u)" != 0 || \
	  { apt-get update --quiet && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends unar; } || \
	  echo "unar could not be installed: the tests of programs that unpack rar will be skipped"

# What tests/browser needs beside: Playwright, which downloads no browser, and Debian's chromium where root may install it.
# Without them those tests skip and say so.
browser: $(READY)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --no-build-isolation --editable '.[test,browser]'
	command -v chromium || command -v chromium-browser || test -n "$$LAVITA_CHROMIUM" || test "$$(id -u)" != 0 || \
	  { apt-get update --quiet && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends chromium; } || \
	  echo "chromium could not be installed: the tests in a browser will be skipped"

# What tests/soak/test_slurm.py needs beside: submitit, and Debian's Slurm and munge where root may install them (the tests
# start daemons of their own). Without them those tests skip and say so.
slurm: $(READY)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --no-build-isolation --editable '.[test,slurm]'
	{ command -v slurmctld && command -v munged; } || test "$$(id -u)" != 0 || \
	  { apt-get update --quiet && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends slurm-wlm munge; } || \
	  echo "Slurm could not be installed: the tests on a cluster will be skipped"

# torch first and alone: a version that the rest can't replace by a build with gigabytes of CUDA libraries.
$(READY): constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt torch setuptools
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --no-build-isolation --editable '.[test]'
	touch $(READY)

clean:
	rm -rf $(VENV)
