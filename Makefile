# Everything a newcomer needs: Python 3.11 or newer and make. All of it stays inside this folder: the virtual
# environment .venv, the caches of the tools, and temporary folders that are removed.

.DEFAULT_GOAL := help
.PHONY: help demo shop install dev test lint format unit integration acceptance browser screenshots lowest long longest services chaos promises bench clean
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
# Where it is set, each of the many processes of a test run compiles all that it imports, and pytest rewrites
# the assertions of every file in each of its processes.
unexport PYTHONDONTWRITEBYTECODE

# The first Python that is new enough; `make demo PYTHON=/path/to/python` names another.
PYTHON ?= $(firstword $(foreach python,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(python))))
# pip would keep downloads in the home directory.
PIP_INSTALL := bin/python -m pip install -qq --no-input --no-cache-dir --disable-pip-version-check
INSTALL := .venv/$(PIP_INSTALL)
# pytest would leave the folders of its last runs in /tmp. Four files at a time, each with servers of its own,
# because tests wait for others more than they work: where they have the cores, two of them are half idle.
TESTS := bin/python -m pytest --basetemp=.venv/tmp --numprocesses=4 --dist=loadfile
PYTEST := .venv/$(TESTS)
CHROMIUM := command -v chromium >/dev/null && command -v chromedriver >/dev/null
# Neither needs a server.
UNIT := tests/unit tests/simulation

help:  ## show this list
	@echo "make demo         200 orders through a workflow on real workers (ARGS=--once: end by itself)"
	@echo "make shop         a Django shop whose worker is killed (ARGS=--durable: with the engine): docs/from-celery.md"
	@echo "make dev          servers, a worker and Flower for your own nodes (ARGS=MODULE): docs/first-node.md"
	@echo "make install      the engine, Postgres, Redis and Flower into .venv, and nothing else"
	@echo "make test         the tests: unit, integration (servers), acceptance (worker processes)"
	@echo "make unit         one tier of them; also make integration, make acceptance (ARGS='-k lock')"
	@echo "make browser      the pages inside Flower, in a headless Chromium; make screenshots: those of the documents"
	@echo "make lowest       unit and integration with the lowest releases of all dependencies that are allowed"
	@echo "make long         the rest: every fault and every benchmark in its short form, in ten minutes"
	@echo "make longest      10,000 items, 10,000 polls and a race of five minutes, in half an hour"
	@echo "make services     the faults on a Redis Cluster, behind Sentinel and over RabbitMQ (ARGS='-k failed-over')"
	@echo "make chaos        break everything, in 25 minutes: docs/faults.md (ARGS=--inline, --parallel: other walks)"
	@echo "make bench        the figures of docs/performance.md, docs/scaling.md (ARGS=waiting: some; ARGS=--quick)"
	@echo "make promises     what the tests promise, file by file: docs/promises.md"
	@echo "make lint         ruff, mypy and the layers of the modules"
	@echo "make format       let ruff format the code"
	@echo "make clean        remove the virtual environment and all caches"
	@echo
	@echo "PYTHON=python3.12 chooses the Python of a new virtual environment."

demo: .venv/.demo
	@.venv/bin/workflow-engine demo $(ARGS)

dev: .venv/.demo
	@.venv/bin/workflow-engine dev $(ARGS)

shop: .venv/.dev
	@.venv/bin/python examples/django_shop/run.py $(ARGS)

install: .venv/.demo

# In this order, because the last files to begin have to be short ones.
test: .venv/.dev
	@$(PYTEST) -m "not long and not longest" --no-loadscope-reorder tests/acceptance tests/simulation tests/integration tests/unit $(ARGS)
	@if $(CHROMIUM); then echo "The pages in a browser were left out: make browser"; else \
		echo "The pages in a browser were left out; there is no Chromium: apt install chromium chromium-driver"; fi

# The pages as a browser shows them. `make test` leaves them out.
browser: .venv/.browser
	@$(PYTEST) --numprocesses=0 -m browser tests/browser $(ARGS)

screenshots: .venv/.browser
	@KEEP_SCREENSHOTS=yes $(PYTEST) --numprocesses=0 tests/browser/test_four_searches.py $(ARGS)

unit: .venv/.dev
	@$(PYTEST) -m "not long and not longest" $(UNIT) $(ARGS)

integration acceptance: .venv/.dev
	@$(PYTEST) -m "not long and not longest" tests/$@ $(ARGS)

# With the lowest releases of all dependencies that pyproject.toml allows, in an environment of their own.
lowest: .venv/.lowest
	@.venv/lowest/$(TESTS) -m "not long and not longest" $(UNIT) tests/integration $(ARGS)

# One at a time: each keeps the machine busy by itself.
long: .venv/.dev
	@$(PYTEST) --numprocesses=0 -m long tests/acceptance tests/integration $(ARGS)

# The largest forms of what the other targets test in small.
longest: .venv/.dev
	@$(PYTEST) --numprocesses=0 --timeout=3000 -m longest tests/acceptance $(ARGS)

# One at a time, too. RabbitMQ is the one program that no wheel has: apt install rabbitmq-server
services: .venv/.dev
	@$(PYTEST) --numprocesses=0 --timeout=600 -m services tests/services $(ARGS)

chaos: .venv/.dev
	@PYTHONPATH=tests .venv/bin/python -m faults $(ARGS)

# What the tests promise; a test holds it against the files.
promises: .venv/.dev
	@PYTHONPATH=tests .venv/bin/python -m support.promises > .venv/promises.md
	@mv .venv/promises.md docs/promises.md

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
.venv/.demo: pyproject.toml .venv/.made
	@echo "Installing the engine, Postgres, Redis and Flower into .venv (a minute, the first time)"
	@$(INSTALL) --editable '.[demo]'
	@touch $@

.venv/.dev: pyproject.toml .venv/.made
	@echo "Installing the engine, Postgres, Redis, Flower and the tools into .venv (two minutes, the first time)"
	@$(INSTALL) --editable '.[dev]'
	@touch .venv/.demo $@

.venv/.browser: pyproject.toml .venv/.dev
	@echo "Installing selenium and axe-core into .venv"
	@$(INSTALL) --editable '.[browser]'
	@touch $@

.venv/.lowest: pyproject.toml .ci/lowest_versions.py .venv/.dev
	@echo "Installing the engine with the lowest releases that it allows into .venv/lowest (two minutes)"
	@'$(PYTHON)' -m venv --clear .venv/lowest
	@.venv/bin/python .ci/lowest_versions.py > .venv/lowest/constraints.txt
	@.venv/lowest/$(PIP_INSTALL) --constraint .venv/lowest/constraints.txt --editable '.[test]'
	@touch $@

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
