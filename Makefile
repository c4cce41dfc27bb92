# On a fresh machine with Python 3.11 or newer: `make demo` (pictures), `make demo-text` (texts), `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo

.PHONY: demo demo-text test lint clean-demo
.DELETE_ON_ERROR:

demo: $(VENV)/installed  ## real data, both stages, grid, loss plot, metrics, model folder
	$(BIN)/latentia train demo --out $(DEMO) --resume
	$(BIN)/latentia sample $(DEMO)/model --count 100 --out $(DEMO)/grid.png
	$(BIN)/latentia evaluate $(DEMO)/model --out $(DEMO)/report
	@echo "The pictures are in $(DEMO)/grid.png, the losses in $(DEMO)/loss.png, the figures in $(DEMO)/report/report.md,"
	@echo "the model in $(DEMO)/model. Draw more: $(BIN)/latentia sample $(DEMO)/model --class 9 --out boots.png"

demo-text: $(VENV)/installed  ## texts: WordNet's glosses, both stages, twenty new ones
	$(BIN)/latentia data fetch wordnet
	$(BIN)/latentia train demo-text --out $(DEMO)-text --resume
	$(BIN)/latentia sample $(DEMO)-text/model --count 20

test: $(VENV)/installed-dev  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadscope --durations=25

lint: $(VENV)/installed-dev  ## style, types, and imports that go one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean-demo:
	rm -rf $(DEMO) $(DEMO)-text

$(VENV)/installed: pyproject.toml tools/install_torch.sh
	$(PYTHON) -m venv $(VENV)
	sh tools/install_torch.sh $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
