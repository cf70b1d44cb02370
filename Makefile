# Two commands on a fresh machine: `make repro` runs the pipeline to the report, `make test` passes the tests.
# They need Python 3.11 with venv, make, git and network access to the package index; no account, no GPU.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
# A file of tests stays in one process: what its tests share is computed once. Files run in the order of tests/conftest.py.
WORKERS := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# On Linux the index's default torch is the CUDA build; TORCH="torch==VERSION --index-url ..." chooses another.
TORCH ?= $(shell grep '^torch==' requirements.txt)
# Installs the other pins in seconds where pip takes minutes. UV= (empty) leaves all of it to pip.
UV ?= uv==0.13.9
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Recipes that need no shell name their program by its path: make 3.81 (macOS) looks it up in the PATH of before.
# An environment's programs name the interpreter by its path; where a folder was moved or renamed it is no longer there.
ifneq ($(wildcard $(BIN)/dvc),)
ifneq ($(shell test -x "$$(sed -n '1s/^..//p' $(BIN)/dvc)" || echo gone),)
$(error The environment $(CURDIR)/$(VENV) was made in another folder, which is gone: rm -rf $(VENV), and make makes it anew)
endif
endif

.PHONY: needs repro test test-numeric test-slow campaign check ui vllm docker-smoke clean

repro: $(VENV)/.ready
	@$(BIN)/python -m epsilon_dpo.check.params_file
	$(BIN)/dvc repro
	@$(BIN)/python -m epsilon_dpo.report.page.tracked # marks the report's rows also when DVC restored it from its cache
	@echo
	@echo "Report:   out/report/report.html (open it in a browser)"
	@echo "Compare:  make ui  (MLflow on http://127.0.0.1:5000, experiment epsilon-dpo)"

test: $(VENV)/.ready-dev
	python -m pytest -m "not slow and not campaign" $(WORKERS)

# Processors without AVX-512, and without AVX2, add up in another order and so round otherwise; torch, MKL and oneDNN each
# have a switch that makes this processor do as they do. Files without such a test are not even collected.
NUMERIC = $$(grep -rlE --include='*.py' 'mark\.numeric' tests | sort) -m "numeric and not slow and not campaign"
test-numeric: $(VENV)/.ready-dev
	ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 python -m pytest $(NUMERIC) $(WORKERS)
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 python -m pytest $(NUMERIC) $(WORKERS)

test-slow: $(VENV)/.ready-dev
	python -m pytest -m "slow and not campaign" $(WORKERS)

campaign: $(VENV)/.ready-dev # what takes longest and breaks least: by hand, once per larger change; -rP prints the counts of what was done
	$(BIN)/python -m pytest -m campaign -rP $(WORKERS)

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	.ci/lint

ui: $(VENV)/.ready # without MLflow's background jobs, which score traces of language models: eight more processes, 1.4 GB
	@$(BIN)/python -m epsilon_dpo.report.page.tracked
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db --workers 1

vllm: # for `backend: vllm` in params.yaml: an environment of its own, because vLLM pins another torch
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --disable-pip-version-check --quiet vllm==0.33.0

docker-smoke:
	bash docker/smoke.sh

# What is missing is said before minutes of installing, not after. The CPU build of torch makes .venv 2.2 GB, CUDA's 8.
FREE_GB := $(if $(findstring cpu,$(TORCH))$(filter-out Linux,$(shell uname)),4,8)
GPUS := $(wildcard /dev/nvidia[0-9]*)
needs:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "Python 3.11 is needed (the pins are for it), $(PYTHON) is %d.%d: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@$(PYTHON) -c 'import platform, sys; sys.exit("On a Mac torch needs Apple silicon, and a Python for arm64." if (sys.platform, platform.machine()) == ("darwin", "x86_64") else 0)'
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian and Ubuntu: apt install python3.11-venv)."; exit 1; }
	@if [ -n "$(GPUS)" ]; then { command -v gcc || command -v cc; } > /dev/null && $(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { echo "On a GPU Triton needs a C compiler and the headers of $(PYTHON), and one of them is not installed (Debian and Ubuntu: apt install gcc python3.11-dev)."; exit 1; }; fi
	@command -v git > /dev/null || { echo "git is not installed, and DVC needs it: install git."; exit 1; }
	@! LC_ALL=C git rev-parse --git-dir 2>&1 | grep -q 'safe\.directory' || { echo "$(CURDIR) belongs to another user, so git does not read it: git config --global --add safe.directory '$(CURDIR)', or make a clone of your own."; exit 1; }
	@git rev-parse --git-dir > /dev/null 2>&1 || grep -qs 'no_scm *= *true' .dvc/config .dvc/config.local || { echo "$(CURDIR) is not a git repository, and DVC needs one: clone the project, or run \`git init && git add -A && git commit -m start\` here (without git: add a line \"no_scm = true\" to .dvc/config)."; exit 1; }
	@free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}'); [ "$$free" -ge $(FREE_GB) ] || { echo "Only $$free GB of disk are free here, and $(FREE_GB) are needed$(if $(filter 8,$(FREE_GB)), (4 with the CPU build of torch: docs/howto.md))."; exit 1; }

$(VENV)/bin/python:
	@$(MAKE) --no-print-directory needs
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# torch goes first and by pip, so that a local CPU build satisfies the pin before anything can ask the index for the CUDA
# one; uv, which does not read pip's settings, never hears of torch. The pins are complete: nothing is left to resolve.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Some systems' pip.conf says --user, which an environment refuses. (A comment behind the 0 would add a space to it.)
export PIP_USER := 0
define install
	@echo "Installing the pins of $(1) ($$(grep -c == $(1)) packages)"
	@grep -v -e '^torch==' -e '^-r ' $(1) > $(VENV)/pins.txt
	@index="$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2> /dev/null)}"; \
	{ [ -n "$(UV)" ] && $(PIP) install $(UV) && \
	uv pip install --quiet --python $(BIN)/python --no-deps $${index:+--index-url "$$index"} -r $(VENV)/pins.txt; } || \
	{ echo "uv cannot be used here: pip installs them, in minutes"; $(PIP) install --no-deps -r $(VENV)/pins.txt; }
endef

$(VENV)/.ready: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on $(TORCH)
	$(call install,requirements.txt)
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt docker/requirements-server.txt $(VENV)/.ready
	$(call install,docker/requirements-server.txt)
	$(call install,requirements-dev.txt)
	$(PIP) check
	@touch $@

clean: # what the pipelines computed; what was paid for (cache, external/verdicts, jobs' copies in scratch/jobs), what no cache has (scratch/removed) and DVC's cache stay
	rm -rf out external/out
	[ ! -d scratch ] || find scratch -mindepth 1 -maxdepth 1 ! -name jobs ! -name removed -exec rm -rf {} +
