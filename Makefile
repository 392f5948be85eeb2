# `make reproduce` and `make test` each build their own environment in .venv; neither needs the other.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# A file of versions, such as constraints.txt, that the environments are built with.
CONSTRAINTS ?=
PIP = $(BIN)/pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
# Of `make soundness`; an instance of `make proofs` takes 0.1 s instead of a millisecond.
INSTANCES ?= 1000000
proofs: INSTANCES := $(if $(filter file,$(origin INSTANCES)),10000,$(INSTANCES))
optimizers: INSTANCES := $(if $(filter file,$(origin INSTANCES)),100000,$(INSTANCES))
SEED ?= 0
# Parallelism is over tests and runs; threads inside BLAS only get in the way of small matrices.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
# Without kept bytecode, each test process compiles every module and every test anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help reproduce test test-slow newest floors package soundness relu-soundness optimizers losses attack kills proofs proof-tables mutants bench examples explorer-times docs check format setup-test clean

help:
	@echo "make reproduce   compute every figure and its claims into report/index.html"
	@echo "make test        run the test suite"
	@echo "make test-slow   run the tests marked slow as well"
	@echo "make newest      the test suite on the newest Python found, with the newest packages (SUITE=core: the core's tests)"
	@echo "make floors      the test suite with the oldest packages that pyproject.toml allows (SUITE=core)"
	@echo "make package     wheel and sdist in dist/, checked, and each tried in an empty environment"
	@echo "make soundness   every bound against lambda_min(T) on a million random networks (INSTANCES=, SEED=)"
	@echo "make relu-soundness   flows of ReLU networks against every statement on them (COUNT=, SEED=)"
	@echo "make optimizers  laws and bounds of momentum, weight decay and layer rates on random instances (INSTANCES=, SEED=)"
	@echo "make losses      constants, guarantees and proofs of every other loss on random instances (COUNT=, SEED=)"
	@echo "make attack      damaged files, odd command lines and extreme numbers (COUNT=, SEED=)"
	@echo "make kills       sweeps whose processes are killed, stopped and short of room (COUNT=, SEED=)"
	@echo "make proofs      verified runs against flows and descents of 28 or 60 digits (INSTANCES=, SEED=)"
	@echo "make proof-tables how sharp verified runs are (TABLE=gaussian, real, ...; FIRST=, COUNT=)"
	@echo "make mutants     errors of one place in the formulas, and whether a test sees them (MODULES=, EVERY=)"
	@echo "make bench       time the flow against other solvers at equal error (QUICK=1: two minutes; TASKS=, SOLVERS=, ERROR=)"
	@echo "make examples    run the examples, with their figures in figures/"
	@echo "make explorer-times   from a pointer's move to new curves, in Chromium (MOVES=)"
	@echo "make docs        the site in build/site: every page runs, every link leads somewhere"
	@echo "make check       lint, formatting and types"
	@echo "make format      let ruff format the code"
	@echo "make clean       remove the environment, the caches and the report"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "linflow needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another with: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-reproduce: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[reproduce]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed-reproduce

setup-test: $(VENV)/.installed-dev

reproduce: $(VENV)/.installed-reproduce
	$(BIN)/linflow reproduce --out report

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

# What `make newest` and `make floors` run: everything that `make test` runs, or the core, which is what every user has.
SUITE ?= all
TESTS_all = tests src
TESTS_core = tests/_support tests/model tests/geometry tests/bounds tests/certificates tests/exact tests/cli src
TESTS = $(or $(TESTS_$(SUITE)),$(error SUITE is all or core, not $(SUITE)))
# On the path, or installed by pyenv.
NEWEST ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14 python3.15 \
  $(HOME)/.pyenv/versions/3.1[1-9].*/bin/python3; do \
  $$python -c 'import sys; print(*sys.version_info[:2], sys.executable)' 2>/dev/null; done | sort -n -k1,1 -k2,2 | tail -1 | cut -d" " -f3)

$(VENV)-newest/.installed: pyproject.toml
	$(NEWEST) -m venv $(VENV)-newest
	$(VENV)-newest/bin/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

newest: $(VENV)-newest/.installed
	$(VENV)-newest/bin/python -m pytest -n $(WORKERS) -m "not slow" $(TESTS)

# pip has no resolution to the lowest versions; uv has.
$(VENV)-floors/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-floors
	$(VENV)-floors/bin/pip install --quiet --disable-pip-version-check uv
	$(VENV)-floors/bin/uv pip install --quiet --python $(VENV)-floors/bin/python --resolution lowest-direct -e '.[test]'
	@touch $@

floors: $(VENV)-floors/.installed
	$(VENV)-floors/bin/python -m pytest -n $(WORKERS) -m "not slow" $(TESTS)

# Tried outside this folder, where only the installed package can be imported.
TRIED = import numpy as np, linflow as lf; assert lf.certify(lf.MatrixFactorization(np.eye(2)), [np.eye(2)] * 2).rate > 1.9

package:
	rm -rf dist $(VENV)-package
	$(PYTHON) -m venv $(VENV)-package/tools
	$(VENV)-package/tools/bin/pip install --quiet --disable-pip-version-check build twine check-wheel-contents
	$(VENV)-package/tools/bin/pyproject-build
	$(VENV)-package/tools/bin/twine check --strict dist/*
	$(VENV)-package/tools/bin/check-wheel-contents dist/*.whl
	for kind in whl tar.gz; do \
	  $(PYTHON) -m venv $(VENV)-package/$$kind && \
	  $(VENV)-package/$$kind/bin/pip install --quiet --disable-pip-version-check dist/*.$$kind && \
	  (cd / && $(CURDIR)/$(VENV)-package/$$kind/bin/python -c "$(TRIED)" && \
	  $(CURDIR)/$(VENV)-package/$$kind/bin/linflow --version) || exit 1; done

soundness: $(VENV)/.installed-dev
	$(BIN)/python -m tests.soundness --instances $(INSTANCES) --seed $(SEED) --workers $(WORKERS)

relu-soundness: $(VENV)/.installed-dev
	$(BIN)/python -m tests.relu_soundness --instances $(or $(COUNT),3000) --seed $(SEED) --workers $(WORKERS)

optimizers: $(VENV)/.installed-dev
	$(BIN)/python -m tests.optimizer_campaign --instances $(INSTANCES) --seed $(SEED) --workers $(WORKERS)

losses: $(VENV)/.installed-dev
	$(BIN)/python -m tests.losses_campaign --instances $(or $(COUNT),5000) --seed $(SEED) --workers $(WORKERS)

attack: $(VENV)/.installed-dev
	$(BIN)/python -m tests.attack --instances $(or $(COUNT),20000) --seed $(SEED) --workers $(WORKERS)

kills: $(VENV)/.installed-dev
	$(BIN)/python -m tests.kills --kills $(or $(COUNT),100) --seed $(SEED)

proofs: $(VENV)/.installed-dev
	$(BIN)/python -m tests.proofs --instances $(INSTANCES) --seed $(SEED) --workers $(WORKERS)

proof-tables: $(VENV)/.installed-dev
	$(BIN)/python -m tests.proof_tables $(or $(TABLE),gaussian) --first $(or $(FIRST),0) --count $(or $(COUNT),1)

mutants: $(VENV)/.installed-dev
	$(BIN)/python -m tests.mutants $(MODULES) --workers $(WORKERS) --every $(or $(EVERY),1)

# Its environment is apart: the other solvers are large, and nothing else needs them.
$(VENV)-bench/.installed: pyproject.toml benchmarks/requirements.txt
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/pip install --quiet --disable-pip-version-check -e '.[fast,files]' -r benchmarks/requirements.txt
	@touch $@

bench: $(VENV)-bench/.installed
	$(VENV)-bench/bin/python -m benchmarks $(if $(QUICK),--quick) $(if $(TASKS),--tasks $(TASKS)) \
	  $(if $(SOLVERS),--solvers $(SOLVERS)) $(if $(ERROR),--error $(ERROR))

examples: $(VENV)/.installed-reproduce
	mkdir -p figures
	for script in examples/*.py; do $(BIN)/python $$script figures || exit 1; done

explorer-times: $(VENV)/.installed-dev
	$(BIN)/python -m tests.explorer_times --moves $(or $(MOVES),120)

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[docs]'
	@touch $@

# Warnings are errors. Pages that did not change are not run again; `make clean` forgets them.
docs: $(VENV)/.installed-docs
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/sphinx-build -W --keep-going -q -j $(WORKERS) -d build/doctrees docs build/site
	$(BIN)/python docs/_ext/check_links.py build/site
	$(BIN)/codespell docs README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md src
	@echo "the site is build/site/index.html"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-bench report figures .pytest_cache .ruff_cache .hypothesis build dist
