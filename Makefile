# demo: the experiments that have a small form, on the embedded sample. lab: all, on real data (DATA=folder), for a day.
# FLAGS goes to scripts/lab.py, such as FLAGS="--only gan --seeds 3". test: the fast tests. gpu: ten minutes on a GPU.
# docs: the site, with the notebooks run, in build/site.
# All make .venv first.
PYTHON ?= python3
DATA ?= data
FLAGS ?=
BIN := .venv/bin

.venv/.demo: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c requirements.lock -e .
	touch $@

.venv/.test: .venv/.demo
	$(BIN)/pip install -q -c requirements.lock -e ".[test]"
	$(BIN)/pip install -q --no-deps torchattacks==3.5.1 # it asks for an old requests
	$(BIN)/pip install -q --no-deps axe-playwright-python==0.1.8 # for its axe-core alone; needs no playwright
	touch $@

.PHONY: demo lab test lint bench gpu docs clean
demo: .venv/.demo
	$(BIN)/python scripts/lab.py --data-dir sample --scale demo $(FLAGS)

lab: .venv/.demo
	$(BIN)/python scripts/lab.py --data-dir $(DATA) $(FLAGS)

test: .venv/.test
	$(BIN)/python -m pytest

lint: .venv/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/codespell -D - -D scripts/terms.txt

bench: .venv/.test
	$(BIN)/python scripts/benchmark.py data --data-dir $(DATA)

gpu: .venv/.test
	$(BIN)/python scripts/gpu_check.py $(FLAGS)

docs: .venv/.test
	$(BIN)/sphinx-build -q -W --keep-going docs build/site
	@echo "open build/site/index.html"

clean:
	rm -rf .venv runs build docs/reference *.egg-info
