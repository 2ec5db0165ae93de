RECIPE ?= demo
STUDY ?= corroseg_table1
ARGS ?=
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
export STARTED_BY := make

# A command that Ctrl-C has ended says so itself, with exit code 130: make ends too, without a line.
quietly = @trap : INT; $(1) || { code=$$?; [ $$code -eq 130 ] || exit $$code; kill -INT $$PPID; }

.PHONY: help doctor setup all prepare train predict ensemble submit bundle apply study trial runs compare bench networks test chaos fuzz lint clean
.DEFAULT_GOAL := help
.NOTPARALLEL:

##@ First steps

help: ## this page
	@echo "From raw inspection images of steel to a leaderboard submission."
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Examples"
	@echo "  make all                                    the demo, on wells that are generated"
	@echo "  make all RECIPE=corroseg_quick              on the challenge's files in data/raw/corroseg/"
	@echo "  make train RECIPE=corroseg ARGS='--jobs 1'  one stage, with options"
	@echo "  make all ARGS='--quiet'                     one line a stage; all lines: data/runs/demo/log.txt"
	@echo "  make study STUDY=losses ARGS='--epochs 1 --patches 256 --seeds 1'"
	@echo
	@echo "Recipes (RECIPE=name; the file recipes/<name>.toml)"
	@awk 'FNR == 1 { name = FILENAME; gsub(/.*\/|\.toml/, "", name); sub(/^# */, ""); line = sprintf("  %-21s %s", name, $$0); \
		print (length(line) > 100 ? substr(line, 1, 97) "..." : line) }' recipes/*.toml
	@echo
	@echo "Studies (STUDY=name): $(basename $(notdir $(wildcard recipes/studies/*.toml)))" | fold -s -w 98 | sed '2,$$s/^/  /'
	@echo
	@echo "README.md says how it works, docs/ what was measured, CONTRIBUTING.md how to add to it,"
	@echo "data/README.md where raw files go; python 01_train_folds.py --help lists the options in ARGS."

doctor: ## what is here and what is missing: Python, packages, GPU, disk, raw files
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m src.cli.doctor $(RECIPE) $(ARGS)

setup: $(VENV)/ready ## make .venv from requirements.txt (about 6 GB)

$(VENV)/ready: requirements.txt
	@echo "setting up $(VENV) from requirements.txt: about 6 GB, a few minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

##@ Stages (RECIPE=demo unless given)

all: export STARTED_BY := make all
all: prepare train predict ensemble submit ## all five, one after the other; what is up to date stays

prepare: setup ## 00: raw images -> data/prepared/
	$(call quietly,$(BIN)/python 00_prepare_data.py $(RECIPE) $(ARGS))

train: setup ## 01: folds x seeds -> data/runs/
	$(call quietly,$(BIN)/python 01_train_folds.py $(RECIPE) $(ARGS))

predict: setup ## 02: test predictions of every task
	$(call quietly,$(BIN)/python 02_predict.py $(RECIPE) $(ARGS))

ensemble: setup ## 03: averages and threshold -> data/ensembles/
	$(call quietly,$(BIN)/python 03_ensemble.py $(RECIPE) $(ARGS))

submit: setup ## 04: refined masks -> submissions/
	$(call quietly,$(BIN)/python 04_postprocess.py $(RECIPE) $(ARGS))

##@ A trained run by itself

MODEL ?= models/$(RECIPE)
OUTPUT ?= out

bundle: setup ## pack a finished run into models/: RECIPE=name
	$(call quietly,$(BIN)/python -m src.cli.bundle $(RECIPE) $(ARGS))

apply: setup ## predict new data with a model: MODEL=models/demo INPUT=folder OUTPUT=out
	$(call quietly,$(BIN)/python -m src.cli.apply $(MODEL) $(INPUT) $(OUTPUT) $(ARGS))

##@ Studies

study: setup ## compare variations of a recipe, with a table and a plot: STUDY=name
	$(call quietly,$(BIN)/python -m src.studies.study $(STUDY) $(ARGS))

trial: setup ## does the forecast hold? many generated challenges: ARGS="--challenges 24"
	$(call quietly,$(BIN)/python -m src.studies.trial $(RECIPE) $(ARGS))

runs: setup ## a table of all runs, studies and models here; ARGS=--json
	$(call quietly,$(BIN)/python -m src.cli.runs $(ARGS))

compare: setup ## recipes, scores by group and masks side by side: RUNS="demo trial"
	$(call quietly,$(BIN)/python -m src.cli.compare $(RUNS) $(ARGS))

bench: setup ## how fast it is, beside named baselines: ARGS="--only training", --quick or gpu
	$(call quietly,$(BIN)/python -m benchmarks $(ARGS))

networks: setup ## every network with its parameters and operations
	@$(BIN)/python -m src.cli.networks

##@ Quality

test: setup ## the tests (5 minutes on two cores); a part: ARGS="-k wells"
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal tests $(ARGS)

fuzz: setup ## 1,200 damaged inputs and recipes: each is prepared, or refused in one line
	@PYTHONPATH=. $(BIN)/python tests/fuzz.py $(ARGS)

chaos: setup ## kill the stages at 50 random moments: the bytes stay the same
	@$(BIN)/python -m tests.chaos $(ARGS)

lint: setup ## ruff: errors, imports, formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

clean: ## remove everything that was made, but neither raw data nor submissions
	rm -rf data/prepared data/runs data/ensembles data/studies data/trials data/dense .pytest_cache .ruff_cache
