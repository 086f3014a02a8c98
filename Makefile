# make demo   train on real digits and sample, in minutes
# make test   the suite of every day, linted: at most 15 minutes on two cores
# make quick  an answer within two minutes
# make docs   the site, in build/site
# make bench  our speed beside torch's on this machine
# make test-nightly, make soak  what does not fit into these 15 minutes, and an hour of faults
# make test-core   the mathematics alone, with the oldest jax that it runs on
# make test-floor  the suite with the oldest Python that is supported
# PYTHON=... chooses the interpreter; by default the newest that really runs and is supported, on the
# PATH or among the versions of pyenv and uv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:

# Of some versions, the first whose interpreter runs and can make virtual environments.
interpreter = $(shell for v in $(1); do \
	for p in python$$v $$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$v.*/bin/python$$v "$${UV_PYTHON_INSTALL_DIR:-$$HOME/.local/share/uv/python}"/cpython-$$v.*/bin/python$$v 2>/dev/null | sort -rV); do \
	"$$p" -c 'import venv, ensurepip' >/dev/null 2>&1 && { echo "$$p"; exit; }; done; done)
PYTHON ?= $(or $(call interpreter,3.13 3.12 3.11),python3)
FLOOR ?= $(or $(call interpreter,3.11),python3.11)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
APART := not parity and not slurm and not launchfiles and not browser

.PHONY: bench demo docs test quick test-core test-nightly test-floor soak test-browser test-parity test-slurm test-launch-files lint format install clean

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
	$(BIN)/gen-jax train --config configs/demo_digits.py --workdir runs/demo
	trained=$$SECONDS
	$(BIN)/gen-jax sample --workdir runs/demo --num 100 --solver ddim --steps 50 --out runs/demo/ddim.png --trace runs/demo/film.gif
	$(BIN)/gen-jax sample --workdir runs/demo --num 20 --solver ddpm --out runs/demo/ddpm.png
	echo
	echo "trained in $$((trained - start)) s, sampled in $$((SECONDS - trained)) s; look at"
	echo "  $(CURDIR)/runs/demo/ddim.png     100 digits, a column a class, DDIM, 50 steps"
	echo "  $(CURDIR)/runs/demo/film.gif     how they came about"
	echo "  $(CURDIR)/runs/demo/ddpm.png     20 digits, DDPM, 1000 steps"
	echo "  $(CURDIR)/runs/demo/report.html  curves and samples of the run, in a browser"

test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "$(APART) and not nightly" $(ARGS)

quick: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "$(APART) and not nightly and not slow" $(ARGS)

# Our speed beside torch's, in one run of some ten minutes; TORCH=PYTHON names an interpreter that
# has torch and diffusers, else one is installed into .venv-parity. ARGS='--only unet_train'.
TORCH ?= .venv-parity/bin/python
bench: $(STAMP)
	@test -x "$(TORCH)" || { $(MAKE) --no-print-directory install VENV=.venv-parity PYTHON=$(FLOOR); \
		.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test,parity]'; }
	$(BIN)/python bench/paired --torch "$(TORCH)" $(ARGS)

# What is marked nightly, what tries more in this tier (the faults of tests/reliability many times
# over), and the suite of every day with the oldest Python. RECORD=FILE keeps what was counted.
test-nightly: $(STAMP)
	GEN_JAX_TIER=nightly GEN_JAX_RECORD=$(abspath $(RECORD)) $(BIN)/python -m pytest -n 2 --dist worksteal --timeout 3600 -m "$(APART) and (nightly or tiered)" $(ARGS)
	$(MAKE) --no-print-directory test-floor

test-floor:
	@$(MAKE) --no-print-directory install VENV=.venv-floor PYTHON=$(FLOOR)
	.venv-floor/bin/python -m pytest -n 2 --dist worksteal -m "$(APART) and not nightly" $(ARGS)

soak: $(STAMP)
	GEN_JAX_RECORD=$(abspath $(RECORD)) $(BIN)/python -m tests.reliability.soak $(ARGS)

# The core's own tests with the oldest jax that they pass on, beside what they are compared with;
# those of test_rules.py ask configs, which are of [train], and one mean of mixtures is equal to the
# last bit with newer versions alone.
CORE_JAX ?= 0.7.2
test-core:
	@test -x .venv-core/bin/python || $(PYTHON) -m venv .venv-core
	.venv-core/bin/python -m pip install --quiet --disable-pip-version-check -e . 'jax==$(CORE_JAX)' absl-py beartype chex diffrax equinox flax hypothesis optax psutil pytest pytest-timeout pytest-xdist scipy
	.venv-core/bin/python -m pytest -n 2 --dist worksteal -m "$(APART) and not nightly" --ignore tests/diffusion/test_rules.py --deselect tests/ops/test_distributions.py::test_a_channel_s_mean_follows_the_channels_before_it tests/diffusion tests/ops tests/test_core.py $(ARGS)

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

# The site, in build/site: guides, records, and the reference from docstrings; a warning is an error.
docs:
	@test -x .venv-docs/bin/mkdocs || { $(PYTHON) -m venv .venv-docs; \
		.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check 'mkdocs-material>=9.6' 'mkdocstrings[python]>=0.29' ruff; }
	.venv-docs/bin/python docs/build.py
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet
	@echo "build/site/index.html: a browser opens it"

# Needs chromium and chromedriver, as Debian's chromium and chromium-driver bring them.
test-browser: $(STAMP)
	$(BIN)/python -m pytest -m browser $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-core .venv-docs .venv-parity .venv-floor .venv-launch .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
