# One line each; every target sets up what it needs in .venv.
#     make run ARGS="--duration 10"      make test PYTHON=python3.13 VENV=.venv-3.13

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# The ipykernels that readers may have, beside the one in requirements.txt.
IPYKERNELS ?= 6.31.0 7.0.1 7.3.0
# Exact versions; the weekly check passes "--upgrade -e .[lab]", the newest ones.
INSTALL ?= -r requirements.txt

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
READER := $(VENV)/.reader
DEVELOPER := $(VENV)/.developer
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=120 --nbval-sanitize-with tests/nbval.cfg

.PHONY: help run lab test long lint types bench verdicts notebooks compare kernels browser book clean

help:  ## This list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

run: $(READER)  ## The pump, on this machine: make run ARGS="--duration 10"
	$(BIN)/python -m quants run $(ARGS)

lab: $(READER)  ## The notebooks, copies of them, in JupyterLab: make lab ARGS=05
	$(BIN)/python -m quants lab $(ARGS)

test: $(DEVELOPER)  ## The tests, a few minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

long: $(DEVELOPER)  ## All tests, also under the interpreters in QUANTS_PYTHONS
	$(BIN)/python -m pytest -m "not browser" --faults=benchmarks/faults.md $(ARGS)
	@set -e; for python in $(QUANTS_PYTHONS); do \
	    tag=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2] + sys.abiflags)'); \
	    $(MAKE) test compare PYTHON=$$python VENV=.venv-$$tag; \
	done
	@test -n "$(QUANTS_PYTHONS)" || echo "QUANTS_PYTHONS names no interpreter: no other ran tests and notebooks"
	$(MAKE) kernels
	$(BIN)/python -m pytest -m "browser and long" tests/browser

lint: $(DEVELOPER)  ## Rules and layout, by ruff
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(DEVELOPER)  ## Types, by mypy --strict
	$(BIN)/python -m mypy

bench: $(DEVELOPER)  ## The claims about speed, measured here
	$(BIN)/python -m benchmarks $(ARGS)

verdicts: $(READER)  ## The verdicts on threads and processes, 20 times, some 4 minutes
	$(BIN)/python -m benchmarks.verdicts $(ARGS)

notebooks: compare  ## Every notebook runs, also twice, and shows what is committed
	$(BIN)/python -m pytest -m notebooks -n 2 tests/test_notebooks.py

compare: $(DEVELOPER)  ## Every notebook shows what is committed: strict nbval alone
	$(BIN)/python -m pytest $(NBVAL) -p no:cacheprovider notebooks/ $(ARGS)

kernels: $(DEVELOPER)  ## What a page does to a widget, on the kernels in IPYKERNELS
	@set -e; kernels=; for version in $(IPYKERNELS); do \
	    venv=$(CURDIR)/.venv-ipykernel-$$version; \
	    test -f $$venv/.ready || { \
	        $(PYTHON) -m venv $$venv; \
	        $$venv/bin/python -m pip install --quiet -r requirements.txt; \
	        $$venv/bin/python -m pip install --quiet ipykernel==$$version; \
	        touch $$venv/.ready; \
	    }; \
	    kernels="$$kernels $$venv/bin/python"; \
	done; \
	QUANTS_KERNELS="$$kernels" $(BIN)/python -m pytest -rs tests/test_kernels.py $(ARGS)

browser: $(DEVELOPER)  ## The notebooks and the live page in a real Chromium
	$(BIN)/python -m pytest -m "browser and not long" tests/browser $(ARGS)

book:  ## The notebooks and documents as a site, in build/book
	test -f .venv-book/.ready || $(PYTHON) -m venv .venv-book
	$(BIN:$(VENV)%=.venv-book%)/python -m pip install --quiet -e ".[book]"
	@touch .venv-book/.ready
	$(BIN:$(VENV)%=.venv-book%)/python -m tools.book $(ARGS)

clean:  ## Remove the environment and what the tools left
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(READER): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and sys.executable + " is Python %d.%d; 3.11 or newer is needed: make PYTHON=python3.13" % sys.version_info[:2])'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(INSTALL)
	@touch $@

$(DEVELOPER): $(READER)
	$(BIN)/python -m pip install --quiet $(INSTALL) -e ".[lab,dev]"
	@touch $@
