# Everything installs itself into .venv; PYTHON and TORCH may name another interpreter or another build of torch:
#   make test TORCH="torch==2.13.0 --index-url https://…"
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
DATA ?= data

.PHONY: quickstart test lint nightly bench acceptance clean

quickstart: $(VENV)/.quickstart
	$(BIN)/idiolect quickstart

test: $(VENV)/.test
	OMP_NUM_THREADS=1 IDIOLECT_CACHE=$(VENV)/cache $(BIN)/python -m pytest -m "not nightly" -n $(CORES) --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

nightly: $(VENV)/.test
	OMP_NUM_THREADS=1 IDIOLECT_CACHE=$(VENV)/cache $(BIN)/python -m pytest -m "nightly or not nightly" --timeout 3600

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.batch_curve

acceptance: $(VENV)/.test
	$(BIN)/python -m benchmarks.acceptance --data $(DATA)

# torch goes first: asked for by another package, pip would take the newest build with its GPU libraries
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt $(TORCH)
	touch $@

$(VENV)/.quickstart: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[data]'
	touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[dev,parity,hf,data,eval,plot,track]'
	touch $@ $(VENV)/.quickstart

clean:
	rm -rf $(VENV)
