# Everything starts from a Python 3.11 or newer with pip; `make install` builds the rest in .venv.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p) 2>/dev/null)))
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo fit test test-slow check format docs bench clean

help:  ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY)  ## create .venv and install cifarkit with everything it needs

$(READY): pyproject.toml .constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python found: install 3.11 or newer, or pass PYTHON=/path/to/python"; exit 1; }
	@echo "installing into $(VENV); this takes some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c .constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## train on the embedded digits, evaluate, draw; under two minutes
	$(BIN)/cifarkit fit --dataset digits
	$(BIN)/cifarkit eval
	$(BIN)/cifarkit misclassified
	$(BIN)/cifarkit gradcam
	@echo
	@echo "Next: open the figures in figures/, or see the whole run with"
	@echo "    $(BIN)/mlflow ui        (then http://127.0.0.1:5000)"
	@echo "and train on CIFAR-10 with 'make fit'."

fit: $(READY)  ## train on CIFAR-10 to 90% (downloads it, or finds it through CIFARKIT_DATA_DIR)
	$(BIN)/cifarkit data download cifar10
	$(BIN)/cifarkit fit --target-acc 0.9

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(READY)  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: $(READY)  ## lint, format check, types, and whether the README's reference is current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m cifarkit.cli.reference --check README.md

format: $(READY)  ## format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)  ## write the command reference into README.md
	$(BIN)/python -m cifarkit.cli.reference README.md

bench: $(READY)  ## measure augmentation and model speed on this machine
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/models.py
	$(BIN)/python benchmarks/convolutions.py

clean:  ## remove the environment and caches; runs and figures stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
