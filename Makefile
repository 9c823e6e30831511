# One command builds the book, one proves it. `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BOOK   := $(BIN)/jupyter-book build book --config _config.yml --toc "$(CURDIR)/_toc.yml" --path-output . -W --keep-going
# Tests side by side, one process a core; tests/_support/parallel.py says which of them stay together.
PYTEST := $(BIN)/pytest -n auto --dist loadgroup --no-loadscope-reorder
CH     ?= 02
PORT   ?= 8000

# The site is built with the profile that fits any machine; unset or change it for the notebooks.
export DIFFUSION_BOOK_PROFILE ?= cpu
export PYTHONUTF8 := 1
# What is in .venv counts, and asserts do: nothing of another folder, no optimising away.
unexport PYTHONPATH PYTHONHOME PYTHONOPTIMIZE

# $(call timed,NAME,COMMAND) runs a command and says what it took.
timed = @start=$$(date +%s); $(2); status=$$?; echo "== $(1): $$(($$(date +%s) - start)) s"; exit $$status

.DEFAULT_GOAL := help
.PHONY: help install book twice notebooks test lint bench serve lab chapter clean

help: ## list the commands
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

install: $(VENV)/installed ## make .venv with everything, at the pinned versions

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[book,lab,test]'
	@touch $@

book: install ## check the equations and exercises, execute every page, build _build/html
	$(call timed,equations and exercises,$(PYTEST) tests/equations tests/book/test_exercises.py)
	$(call timed,book,$(BOOK))
	@echo "The book is built: open _build/html/index.html"

twice: book ## execute every page again: it must print and draw the same
	$(BIN)/python book/_ext/twice.py

notebooks: book ## export every chapter to _build/notebooks/*.ipynb
	$(call timed,notebooks,$(BOOK) --builder custom --custom-builder notebooks)

lint: install ## format, lint and types
	$(call timed,lint,$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy)

test: lint notebooks ## everything: lint, types, the book and its notebooks built, all tests, the site in a browser
	$(call timed,tests,$(PYTEST) --durations 10 tests)

chapter: install ## execute and build one page: make chapter CH=03
	$(BIN)/python book/_ext/one_chapter.py $(CH)

bench: install ## time the library beside its peers and measure orders; writes benchmarks/results
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	@for script in imports samplers orders nfe unet profile_unet training_overhead; do \
	  echo "== $$script"; $(BIN)/python benchmarks/$$script.py || exit 1; done
	$(BIN)/python benchmarks/plots.py

serve: ## show the built site at http://localhost:8000 (PORT=…)
	$(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lab: notebooks ## open the chapters as notebooks
	$(BIN)/jupyter lab --notebook-dir _build/notebooks

clean: ## remove what was built (not .venv)
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
