# Every target sets itself up, in .venv or .venv-tpu, with Python 3.11 or newer and a package index.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo study test test-ci test-all storm check results pytorch benchmark-packages docs package gpu-check tpu-check clean

demo: .venv/installed
	$(BIN)/moco-demo --workdir=runs/demo

# Takes nearly two hours, and continues where it was stopped.
study: .venv/installed
	$(BIN)/python -m studies

# The fast tests, in about six minutes on two cores.
test: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow"

# All checks, and all tests but the nightly ones, in about 20 minutes on two cores.
test-ci: check
	$(BIN)/python -m pytest -m "not nightly"

# All checks and all tests, in about half an hour on two cores.
test-all: check
	$(BIN)/python -m pytest

# Kills runs 30 times, on one device, on two and with two workers; takes about ten minutes.
storm: .venv/installed-dev
	STORM=1 $(BIN)/python -m pytest tests/training/test_storm.py

# Style, types, and whether the pages show the results that are committed.
check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/python docs/result_tables.py --check

# Writes the tables of measured results into the README and the documentation.
results: .venv/installed-dev
	PYTHONPATH=. $(BIN)/python docs/result_tables.py

define new_environment
@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14)' 2>/dev/null || \
	{ echo "error: $(PYTHON) is not Python 3.11 to 3.13: make PYTHON=/path/to/python3.11"; exit 2; }
$(PYTHON) -m venv $(@D)
endef

.venv/installed: pyproject.toml setup.py
	$(new_environment)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# Adds PyTorch. Without it, the tests that compare with PyTorch are skipped.
pytorch: .venv/installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,parity]'

# Adds the libraries that benchmarks/ compares with.
benchmark-packages: pytorch
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,benchmarks]'

# The documentation site: build/docs/index.html.
docs: .venv/installed-dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky docs build/docs

# Builds the source distribution and the wheel in dist/, installs the wheel into a new environment,
# and trains, evaluates and exports from an empty directory there.
package: .venv/installed-dev
	rm -rf dist build/package
	$(BIN)/python -m build
	mkdir -p build/package/empty
	$(PYTHON) -m venv build/package/environment
	build/package/environment/bin/pip install --quiet --disable-pip-version-check dist/*.whl
	cd build/package/empty && \
		../environment/bin/moco-train --config=configs/photos.py --workdir=run \
			--config.steps=10 --config.knn_every=0 && \
		../environment/bin/moco-evaluate --protocol=knn --workdir=run && \
		../environment/bin/moco-export saved_model --workdir=run --out=backbone

# Whether the operations of the training step have GPU kernels; see tests/gpu_check.py. It needs no
# GPU.
gpu-check: .venv/installed-dev
	$(BIN)/python -m tests.gpu_check

# Whether the training step can be lowered for a TPU; see tests/tpu_check.py. It needs no TPU.
tpu-check: .venv-tpu/installed
	.venv-tpu/bin/python -m tests.tpu_check

# The installation that docs/distributed.md describes, with TensorFlow's build for TPUs.
.venv-tpu/installed: pyproject.toml setup.py requirements/tpu/pyproject.toml
	$(new_environment)
	$(@D)/bin/pip install --quiet --disable-pip-version-check ./requirements/tpu --editable .
	$(@D)/bin/pip check
	touch $@

clean:
	rm -rf .venv .venv-tpu runs build dist docs/api/*.rst *.egg-info \
		requirements/tpu/build requirements/tpu/*.egg-info
