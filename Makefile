# Both targets set themselves up in .venv; they need Python 3.11 or newer and a package index.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test pytorch clean

demo: .venv/installed
	$(BIN)/python demo.py --workdir=runs/demo

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

.venv/installed: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null || \
		{ echo "error: $(PYTHON) is not Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# With it, `make test` compares with PyTorch as well; without it, those tests are skipped.
pytorch: .venv/installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,parity]'

clean:
	rm -rf .venv runs build *.egg-info
