# make demo      its own environment, data, a pretrained ResNet, a detector from it, its mAP and pictures
# make test      the test suite without its slow tests
# make test-all  all of it: long runs that are killed, many processes, memory over 2,000 steps, 20,000 damaged files
# make lint      ruff, mypy, the import contract
# make venv      only the environment: .venv, installed from setup.py

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The stamps lie inside the environment: who deletes it deletes them too.
RUN_STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test

.PHONY: demo test test-all lint venv clean
.DELETE_ON_ERROR:

# --resume: a demo that was stopped goes on, one that is finished shows its results again.
demo: $(RUN_STAMP)
	$(BIN)/python tools/make_digits.py
	$(BIN)/python tools/pretrain.py --config demo_pretrain.yaml --resume
	$(BIN)/python tools/train_net.py --config demo.yaml --resume
	$(BIN)/python tools/predict.py --weights runs/demo/best.pt "$${DETRES_DATASETS:-datasets}/digits/test/*0.jpg" --output runs/demo/predictions
	$(BIN)/python tools/eval_net.py --config demo.yaml --weights runs/demo/best.pt

test: $(TEST_STAMP)
	$(BIN)/python -m pytest -q --durations=15 -m "not slow"

test-all: $(TEST_STAMP)
	$(BIN)/python -m pytest -q --durations=15

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

venv: $(RUN_STAMP)

$(RUN_STAMP): setup.py | $(BIN)/python
	@echo "Installing detres and what it needs into $(VENV): minutes, once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e . || { \
		echo "make: the installation into $(VENV) failed (pip's message is above)."; \
		echo "make: it needs a package index (or PIP_INDEX_URL) and about 6 GB of disk; then run make again."; \
		exit 1; }
	@touch $@

$(TEST_STAMP): $(RUN_STAMP) tests/mmdetection.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]" || { \
		echo "make: installing the test extras of setup.py failed (pip's message is above)."; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/mmdetection.txt || \
		echo "make: mmdetection could not be installed (pip's message is above); its tests will be skipped."
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "make: detres needs Python 3.10 or newer as $(PYTHON); try: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

clean:
	rm -rf $(VENV) runs/demo runs/demo_pretrain build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
