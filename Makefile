# Everything installs itself into .venv; PYTHON and TORCH may name another interpreter or another build of torch:
#   make test TORCH="torch==2.13.0 --index-url https://…"
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
DATA ?= data
# of `make nightly`: how much of the long fault tests is done, and how often the short ones are repeated
SHARE ?= 1
REPEATS ?= 20
# what `make bench` compares with: a folder of checkouts (see benchmarks/suite.py), and an environment of packages
PEERS ?= peers
PEERS_VENV ?= .venv-peers

.PHONY: quickstart test lint nightly bench acceptance clean

quickstart: $(VENV)/.quickstart
	$(BIN)/idiolect quickstart

test: $(VENV)/.test
	OMP_NUM_THREADS=1 IDIOLECT_CACHE=$(VENV)/cache $(BIN)/python -m pytest -m "not nightly" -n $(CORES) --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

nightly: test
	OMP_NUM_THREADS=1 IDIOLECT_CACHE=$(VENV)/cache IDIOLECT_FAULT_SHARE=$(SHARE) \
		$(BIN)/python -m pytest -m nightly -n $(CORES) --dist worksteal
	for i in $$(seq $(REPEATS)); do OMP_NUM_THREADS=1 IDIOLECT_CACHE=$(VENV)/cache IDIOLECT_FAULT_SHARE=0.05 \
		$(BIN)/python -m pytest tests/faults -m "not nightly" -n $(CORES) --dist worksteal || exit 1; done

bench: $(VENV)/.test $(PEERS_VENV)/bin/python
	$(BIN)/python -m benchmarks.suite --data $(DATA) --peers $(PEERS) --peers-venv $(PEERS_VENV) \
		$(if $(ONLY),--only $(ONLY)); code=$$?; $(BIN)/python -m benchmarks.page && exit $$code

acceptance: $(VENV)/.test
	$(BIN)/python -m benchmarks.acceptance --data $(DATA) $(if $(ONLY),--only $(ONLY))

# torch goes first: asked for by another package, pip would take the newest build with its GPU libraries
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt $(TORCH)
	touch $@

$(VENV)/.quickstart: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[data]'
	touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[dev,parity,hf,data,cluster,eval,plot,track]'
	touch $@ $(VENV)/.quickstart

$(PEERS_VENV)/bin/python:
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	CMAKE_ARGS=-DGGML_NATIVE=ON $(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -r benchmarks/peers.txt

clean:
	rm -rf $(VENV) .venv-peers
