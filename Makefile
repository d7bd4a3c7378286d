# `make demo` and `make test` need Python 3.11 or newer, make, git and a package registry, and nothing before them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := ranktower offline service model_export tests benchmarks deploy

.PHONY: demo test test-compose lint format bench bench-peers experiments loadtest docs clean install system-packages

# One stamp a set of pinned versions: a changed constraints file or pyproject.toml installs anew.
$(VENV)/.installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

install: $(VENV)/.installed

demo: install  ## prepare, train, export, precompute, publish and serve; DEMO_ONCE=1 stops after one request
	$(BIN)/ranktower demo

# What the tests run for real: Redis, a browser, Prometheus (and promtool, of the same package), a proxy.
system-packages:
	@sh tests/install-packages.sh redis-server chromium prometheus nginx

# What computes is run by two processes; what listens to a clock, as the service's tests do, has the machine to itself.
COMPUTES := tests/ranktower tests/offline tests/model_export tests/benchmarks

test: install system-packages
	$(BIN)/python -m pytest -n 2 --dist loadfile $(COMPUTES)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(COMPUTES))

test-compose: install  ## builds the images and runs the stack of docker-compose.yml, where a container engine is reachable
	RANKTOWER_TEST_STACK=1 $(BIN)/python -m pytest tests/docker

lint: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# Those that can be run; figures.py comes last, because it writes the others' results into the pages.
BENCHMARKS = $(filter-out benchmarks/figures.py,$(sort $(shell grep -l __main__ benchmarks/*.py))) benchmarks/figures.py

bench: install  ## measures the claims of the README and docs; writes dated files to benchmarks/results
	for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# The peers get environments of their own below build/peers.
bench-peers: install  ## the same job on FastAPI, BentoML, LitServe and Ray Serve, and on ours; needs wrk and redis-server
	@command -v wrk >/dev/null || { echo "needs wrk: apt-get install wrk"; exit 1; }
	$(BIN)/python benchmarks/peers/run.py

DATASET ?= kuairand
DATA ?= $(RANKTOWER_DATA_DIR)

experiments: install  ## the paper's tables on DATASET from its files in DATA: tuning, all runs, page; goes on where it stopped
	$(BIN)/ranktower experiment --dataset $(DATASET) $(if $(DATA),--data $(DATA)) --tune
	$(BIN)/ranktower experiment --dataset $(DATASET) $(if $(DATA),--data $(DATA)) --table 1 2 3 4 --extra heads learning_curve cost

URL ?= http://127.0.0.1:8000
REGISTRY ?= build/demo/kuairand/registry
MODEL ?= demo

loadtest: install  ## locust with its page on port 8089; LOCUST="--headless ..." for more of its options
	$(BIN)/locust -f benchmarks/locust/locustfile.py --host $(URL) --registry $(REGISTRY) --model $(MODEL) $(LOCUST)

docs: install  ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
