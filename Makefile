# demo: train a DCGAN on the embedded digits. test: the fast tests. Both make .venv first.
PYTHON ?= python3
EPOCHS ?= 20
BIN := .venv/bin

.venv/.demo: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c requirements.lock -e .
	touch $@

.venv/.test: .venv/.demo
	$(BIN)/pip install -q -c requirements.lock -e ".[test]"
	$(BIN)/pip install -q --no-deps torchattacks==3.5.1 # it asks for an old requests
	touch $@

.PHONY: demo test lint bench clean
demo: .venv/.demo
	$(BIN)/python scripts/train_gan.py --data-dir sample --name demo-gan --max-epochs $(EPOCHS)

test: .venv/.test
	$(BIN)/python -m pytest

lint: .venv/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: .venv/.test
	$(BIN)/python scripts/benchmark.py data

clean:
	rm -rf .venv runs build *.egg-info
