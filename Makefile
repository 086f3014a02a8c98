# make demo   train on real digits and sample, in minutes
# make test   the whole suite
# make quick  an answer within three minutes
# make test-nightly, make soak  faults many times over (40 minutes), and for an hour
# PYTHON=... chooses the interpreter; by default the newest that really runs and is supported.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:

PYTHON ?= $(shell for v in 3.13 3.12 3.11; do python$$v -c 'import venv, ensurepip' >/dev/null 2>&1 && { echo python$$v; exit; }; done; echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache

.PHONY: demo test quick test-nightly soak test-parity test-slurm test-launch-files lint format install clean

install: $(STAMP)

$(STAMP): pyproject.toml setup.cfg Makefile $(wildcard constraints/*.txt)
	@start=$$SECONDS
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	minor=$$($(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])')
	pins=constraints/py$$minor.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(test -f $$pins && echo "-c $$pins") -e '.[test]'
	echo "installed in $$((SECONDS - start)) s with $$($(BIN)/python --version)"
	touch $@

demo: $(STAMP)
	@start=$$SECONDS
	$(BIN)/gen-jax train --config configs/ddpm_digits.py --workdir runs/digits
	trained=$$SECONDS
	$(BIN)/gen-jax sample --workdir runs/digits --num 64 --solver ddim --steps 50 --out runs/digits/ddim.png
	$(BIN)/gen-jax sample --workdir runs/digits --num 16 --solver ddpm --out runs/digits/ddpm.png
	echo
	echo "trained in $$((trained - start)) s, sampled in $$((SECONDS - trained)) s; look at"
	echo "  $(CURDIR)/runs/digits/ddim.png   64 digits, DDIM, 50 steps"
	echo "  $(CURDIR)/runs/digits/ddpm.png   16 digits, DDPM, 1000 steps"

test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not parity and not slurm and not launchfiles" $(ARGS)

quick: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not parity and not slurm and not launchfiles and not slow" $(ARGS)

# The faults of tests/reliability, many times over, and an hour of them. RECORD=FILE keeps what was counted.
test-nightly: $(STAMP)
	GEN_JAX_TIER=nightly GEN_JAX_RECORD=$(abspath $(RECORD)) $(BIN)/python -m pytest -n 2 --dist load --timeout 3600 tests/reliability $(ARGS)

soak: $(STAMP)
	GEN_JAX_RECORD=$(abspath $(RECORD)) $(BIN)/python -m tests.reliability.soak $(ARGS)

# In a virtual environment of its own. Where pip's index offers only CUDA builds of torch, set
# PIP_EXTRA_INDEX_URL to the one with CPU builds.
test-parity:
	@$(MAKE) --no-print-directory install VENV=.venv-parity
	.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test,parity]'
	.venv-parity/bin/python -m pytest -m parity $(ARGS)

# Needs root, and Debian's slurm-wlm and munge; starts and stops daemons of its own on loopback.
test-slurm: $(STAMP)
	$(BIN)/python -m pytest -m slurm $(ARGS)

# In a virtual environment of its own: SkyPilot and Kubernetes' types bring much along.
test-launch-files:
	@test -x .venv-launch/bin/python || $(PYTHON) -m venv .venv-launch
	.venv-launch/bin/python -m pip install --quiet --disable-pip-version-check 'skypilot>=0.14' 'kubeflow-trainer-api>=2.3' pyyaml pytest pytest-timeout
	.venv-launch/bin/python -m pytest --noconftest -m launchfiles tests/cluster/test_launch_files.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-parity .jax_cache .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
