# `make help` lists what there is. bin/install makes the environments, and is quick when nothing changed.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
COMPILE = .venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.12 --no-annotate \
	--custom-compile-command "make lock"

.PHONY: help install demo up stop status test test-all bench lint docs lock clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## make .venv and .venv-tom from the locks (every other target does it first)
	@bin/install

demo: install ## the whole chain on simulated nights, or on DATA=<folder> [REFCAT=<folder>]
	@$(PYTHON) -m tololo.services demo $(if $(DATA),--data "$$DATA") $(if $(REFCAT),--refcat "$$REFCAT")

up: install ## start PostgreSQL, Airflow and the TOM; print addresses and logins
	@$(PYTHON) -m tololo.services up

stop: ## stop them
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m tololo.services stop; fi

status: ## say what runs
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m tololo.services status; else echo "nothing is installed"; fi

test: install ## all tests but the long ones
	.venv/bin/pytest -m "not long" -n 2 --dist loadfile --durations=15

test-all: install ## all tests
	.venv/bin/pytest

bench: install ## measure against peers: NAME=engine|night|ingest|...
	@if [ ! -f "bench/$$NAME.py" ]; then echo "make bench: give NAME=, one of:" bench/*.py >&2; exit 2; fi
	$(PYTHON) "bench/$$NAME.py"

lint: install ## ruff, mypy and the import contract
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: install ## build the documentation
	$(PYTHON) docs/build.py

lock: install ## renew requirements.txt and requirements-tom.txt from their .in files
	$(COMPILE) requirements.in -o requirements.txt
	$(COMPILE) requirements-tom.in -o requirements-tom.txt

clean: ## stop everything and remove its state (var, or TOLOLO_HOME); the environments stay
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m tololo.services clean; else rm -rf var; fi

distclean: clean ## remove the environments too
	rm -rf .venv .venv-tom
