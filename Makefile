# Needs only Python 3.10+ and make. README.md and CONTRIBUTING.md have the same commands for plain pip and python.
PYTHON ?= python3
BIN := .venv/bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: help quickstart test pytest coverage test-long test-gpu lint types docs gate clean

quickstart: .venv/run ## pretrain on procedural images, then the linear-probe table
	$(BIN)/python -m simmim_pl fit --config configs/quickstart.yaml
	$(BIN)/python -m simmim_pl validate --config configs/evaluate/linear.yaml --data configs/data/shapes.yaml \
		--model.checkpoint "$$(ls -td runs/quickstart/*/ | head -n 1)checkpoints/last.ckpt"

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder
test: lint ## lint, types, tests
	$(MAKE) --jobs=2 types pytest

pytest: .venv/dev
	$(PYTEST)

coverage: .venv/dev ## tests with line coverage; takes half as long again
	$(PYTEST) --cov --cov-report=term

test-long: .venv/dev ## slow tests: more ranks, a stop at every batch, twenty kills; half an hour
	LONG=1 $(BIN)/python -m pytest tests/test_parity.py tests/runtime/test_resume.py tests/test_nodes.py tests/test_failures.py \
		tests/runtime/test_precision.py tests/runtime/test_atomic.py tests/runtime/test_lost_ranks.py \
		tests/callbacks/test_collapse_monitor.py tests/test_benchmarks.py

test-gpu: .venv/dev ## tests that need a GPU; about a minute
	GPU=1 $(BIN)/python -m pytest -m cuda tests

lint: .venv/dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev ## mypy
	$(BIN)/mypy

docs: .venv/docs ## the site, in build/docs; runs the notebooks; five minutes
	$(BIN)/python -m sphinx -W --builder html --conf-dir docs . build/docs

.venv/run: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/dev: .venv/run
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

.venv/docs: .venv/run
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

gate: .venv/run ## accuracy of both quickstarts
	$(BIN)/python benchmarks/accuracy_gate.py
	$(BIN)/python benchmarks/accuracy_gate.py --masked --seeds 0

clean: ## remove .venv; runs are kept
	rm -rf .venv
