# Everything sets itself up: a virtual environment in .venv, with torch pinned by constraints.txt.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test lint host-test demo-quality clean

demo: $(READY)
	$(BIN)/dreamfactory demo --out out/demo

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Inside a real ComfyUI: found by COMFYUI_PATH and COMFYUI_PYTHON, else where comfy-cli puts it.
host-test: $(READY)
	$(BIN)/python -m pytest tests/host -rs

# Measures the demo model on held-out clips; one JSON object comes last.
demo-quality: $(READY)
	$(BIN)/dreamfactory demo-quality

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
