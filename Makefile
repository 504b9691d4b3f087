# demo: the experiments that have a small form, on the embedded sample. lab: all, on real data (DATA=folder), for a day.
# FLAGS goes to scripts/lab.py, such as FLAGS="--only gan --seeds 3". test: the fast tests. gpu: ten minutes on a GPU.
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
	touch $@

.PHONY: demo lab test lint bench gpu clean
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

clean:
	rm -rf .venv runs build *.egg-info
