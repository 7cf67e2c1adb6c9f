# SPDX-License-Identifier: Apache-2.0
# What a newcomer types. Needs python3 (3.11 or newer, with venv) and make; nothing else for `make serve`.
#   make serve      an S3 endpoint over a demo volume in ./.sluice/demo    (PORT=9000 to choose the port)
#   make test       lint, types and every test that finishes in minutes    (PYTEST="-k name" to choose, JOBS=3 at once)
#   make test-all   the heavy ones too
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?=
PYTEST ?=
JOBS ?= $(shell echo $$(($$(nproc) + 1)))  # a test often waits for a server or a process
IMAGE ?= sluicefs:dev

.DEFAULT_GOAL := help
.PHONY: help serve test test-all test-needs test-all-needs lint bench clean image install install-dev

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# A virtual environment that broke (another Python, a moved folder) is made anew; a good one is left alone.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: SluiceFS needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) \
	  || { echo "error: python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed  ## the package in .venv
install-dev: $(VENV)/.installed-dev  ## the package and what its tests import

serve: $(VENV)/.installed  ## an S3 endpoint over a demo volume (PORT= to choose the port)
	@exec $(BIN)/sluice serve --demo .sluice/demo $(if $(PORT),--s3 127.0.0.1:$(PORT))

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy core

test-needs: $(VENV)/.installed-dev  ## servers and clients that the tests run against
	@tests/tools/install-needs.sh $(BIN)/python

test: lint test-needs  ## everything that finishes in minutes
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST)

test-all-needs: test-needs  ## the large servers of the heavy tests: MinIO, Ceph, Swift, HDFS
	@tests/tools/install-heavy.sh $(BIN)/python

test-all: lint test-all-needs  ## the heavy tests too
	$(BIN)/python -m pytest -m 'heavy or not heavy' $(PYTEST)

bench: $(VENV)/.installed-dev  ## the figures of the documents, measured here
	@test -f bench/__main__.py || { echo "error: bench/ has no command yet" >&2; exit 1; }
	$(BIN)/python -m bench

image:  ## a container image with the gateway (IMAGE= to name it)
	docker build --tag $(IMAGE) .

clean:  ## what was built; the demo volume and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
