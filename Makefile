RECIPE ?= demo
STUDY ?= corroseg_table1
ARGS ?=
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup all prepare train predict ensemble submit study trial bench networks test chaos lint clean
.DEFAULT_GOAL := help
.NOTPARALLEL:

help: ## list what make can do
	@echo "make all                    the demo: generated wells, five stages, a score"
	@echo "make all RECIPE=corroseg_quick   the same on the challenge's files in data/raw/corroseg/"
	@echo "make train ARGS='--jobs 1'  one stage, with options; RECIPE is demo unless given"
	@echo
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "recipes: $(basename $(notdir $(wildcard recipes/*.toml)))"

setup: $(VENV)/ready ## make .venv from requirements.txt (about 6 GB)

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

all: prepare train predict ensemble submit ## all five stages

prepare: setup ## 00: raw patches -> data/prepared/
	$(BIN)/python 00_prepare_data.py $(RECIPE) $(ARGS)

train: setup ## 01: folds x seeds -> data/runs/
	$(BIN)/python 01_train_folds.py $(RECIPE) $(ARGS)

predict: setup ## 02: test predictions of every task
	$(BIN)/python 02_predict.py $(RECIPE) $(ARGS)

ensemble: setup ## 03: averages and threshold -> data/ensembles/
	$(BIN)/python 03_ensemble.py $(RECIPE) $(ARGS)

submit: setup ## 04: refined masks -> submissions/
	$(BIN)/python 04_postprocess.py $(RECIPE) $(ARGS)

study: setup ## compare variations of a recipe: make study STUDY=corroseg_table1 ARGS="--epochs 1 --patches 256"
	$(BIN)/python -m src.study $(STUDY) $(ARGS)

trial: setup ## does the forecast hold? many generated challenges: make trial ARGS="--challenges 24"
	$(BIN)/python -m src.trial $(RECIPE) $(ARGS)

bench: setup ## photographs a second, input pipeline and networks, after prepare: RECIPE=magnetic_tile
	$(BIN)/python -m benchmarks.photographs $(RECIPE) $(ARGS)

networks: setup ## every network with its parameters and operations
	$(BIN)/python -m src.networks

test: setup ## the tests (about 5 minutes)
	$(BIN)/python -m pytest -q tests

chaos: setup ## kill the stages at 50 random moments; the bytes must stay the same (about 5 minutes)
	$(BIN)/python -m tests.chaos $(ARGS)

lint: setup ## ruff: errors, imports, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean: ## remove everything that was made, but neither raw data nor submissions
	rm -rf data/prepared data/runs data/ensembles data/studies data/trials data/dense .pytest_cache .ruff_cache
