SHELL := bash
BIN := .venv/bin

.PHONY: help setup demo test check bench lock

help:            ## what there is to make
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup:           ## install everything the project needs (again: a second)
	@cluster/setup.sh

demo: setup      ## the main job in small: R-MAE on two Ray workers, probed and registered
	@$(BIN)/mim-ray demo

test: setup      ## all tests
	@$(BIN)/python -m pytest

check: setup     ## formatting, lint and strict types
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

bench: setup     ## the speed contract, recorded in benchmarks/records/
	@$(BIN)/mim-ray bench --record benchmarks/records

lock: setup      ## resolve the dependencies anew
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements.lock
