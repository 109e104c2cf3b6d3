# Every target works as the first command in a fresh clone: it makes the environment it needs.
#
#   make test PYTHON=python3.12                 another interpreter; the environment is made anew for it
#   make test PYTHON=python3.12 VENV=.venv312   the same, in an environment of its own

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# The environment belongs to one interpreter; a different one forces a new environment.
WANTED := $(shell $(PYTHON) -c 'import sys; print(sys.executable, sys.version.split()[0])' 2>&1)
FOUND := $(shell cat $(VENV)/interpreter 2>/dev/null)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo examples test test-all test-oldest lint quick-lint html docs bench package clean FORCE

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: $(VENV)/demo.stamp  ## Tune a multiclass SVM by differentiating its solution (about a minute)
	$(BIN)/python examples/ridge.py
	$(BIN)/python examples/multiclass_svm.py

examples: $(VENV)/examples.stamp  ## Run every example as it is printed (about half an hour)
	@set -e; for example in examples/*.py; do \
	    echo "== $$example"; MPLBACKEND=Agg $(BIN)/python $$example; \
	done

test: lint html  ## Lint, build the docs, run all tests in float32 and float64
	JAXSOLVE_TEST_X64=0 $(BIN)/python -m pytest -q -n 2 -m "float32 and not slow" $(PYTEST_ARGS)
	$(BIN)/python -m pytest -q -n 2 -m "not slow" $(PYTEST_ARGS)

test-all: test  ## The tests, and those that take long
	JAXSOLVE_TEST_X64=0 $(BIN)/python -m pytest -q -n 2 -m "float32 and slow" $(PYTEST_ARGS)
	$(BIN)/python -m pytest -q -n 2 -m slow $(PYTEST_ARGS)

test-oldest:  ## Contract tests with the oldest versions that pyproject.toml allows (Python 3.11)
	rm -rf .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --editable . -r tests/oldest.txt
	.venv-oldest/bin/python -m pytest -q -n 2 -m "not slow" tests/contract tests/test_compat.py tests/test_closure.py \
	    tests/test_loop.py tests/implicit_diff tests/base $(PYTEST_ARGS)

lint: quick-lint  ## Format, spelling, style, types, and the layers of the package
	$(BIN)/pyright --pythonpath $(BIN)/python

quick-lint: $(VENV)/test.stamp  ## The same without types, before every commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports

html: $(VENV)/docs.stamp  ## Build the documentation, warnings as errors; examples are shown, not run
	$(BIN)/python -m sphinx -q -W --keep-going -b html -D plot_gallery=0 docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs: $(VENV)/docs.stamp  ## The same, with the output and figures of every example (about half an hour)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/benchmarks.stamp  ## Compare speed, imports and evaluations with other libraries
	$(BIN)/python benchmarks/imports.py
	$(BIN)/python benchmarks/counts.py
	$(BIN)/python benchmarks/logreg.py
	$(BIN)/python benchmarks/leaves.py
	$(BIN)/python benchmarks/first_order.py
	$(BIN)/python benchmarks/everyday.py
	$(BIN)/python benchmarks/smooth_zoo.py
	$(BIN)/python benchmarks/isotonic.py
	$(BIN)/python benchmarks/coordinate_descent.py
	$(BIN)/python benchmarks/projections.py
	$(BIN)/python benchmarks/quadratic.py

package: $(VENV)/package.stamp  ## Build sdist and wheel; run tests of the sdist against the wheel, outside of the checkout
	rm -rf dist build/outside
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	mkdir -p build/outside
	tar -xzf dist/*.tar.gz --strip-components=1 -C build/outside
	rm -rf build/outside/jaxsolve
	$(PYTHON) -m venv build/outside/.venv
	build/outside/.venv/bin/python -m pip install --quiet --disable-pip-version-check "$$(echo dist/*.whl)[test]"
	cd build/outside && .venv/bin/python -m pytest -q -n 2 -m "not slow" $(OUTSIDE) $(PYTEST_ARGS)

# Files of tests that try every part of the package, and what is in the source distribution.
OUTSIDE := tests/test_package.py tests/test_capture.py tests/test_loss.py tests/contract/test_solutions.py tests/examples/test_curve_fitting.py

clean:  ## Remove the environment and everything that was built
	rm -rf $(VENV) .venv-oldest build dist *.egg-info docs/_build docs/_static/made docs/api/generated docs/gallery
	rm -rf examples/output benchmarks/output
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras, so that a demo does not install a documentation generator.
$(VENV)/%.stamp: pyproject.toml $(VENV)/interpreter
	$(PIP) --editable '.[$*]'
	@touch $@

$(VENV)/interpreter: $(if $(filter-out $(FOUND),$(WANTED))$(filter-out $(WANTED),$(FOUND)),FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'jaxsolve needs Python 3.11 or newer: make ... PYTHON=/path/to/python' >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@echo '$(WANTED)' > $@

FORCE:
