# `make demo` and `make test` need Python 3.11 or newer, make, git and a package registry, and nothing before them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip
SOURCES := ranktower offline service model_export native tests benchmarks deploy

.PHONY: demo test test-compose lint format bench bench-peers experiments loadtest docs clean install system-packages

# One stamp a set of pinned versions: a changed constraints file or pyproject.toml installs anew.
$(VENV)/.installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --editable '.[dev]'
	touch $@

# The compiled scorer, which the service does without. Where it is not built the stamp stays away, so that the next make
# tries again, and nothing of an older build stays either: where there is a compiler, tests/native fails without it.
NATIVE := native/pyproject.toml native/CMakeLists.txt $(wildcard native/src/* native/python/ranktower_native/*.py)

$(VENV)/.native: $(VENV)/.installed $(NATIVE)
	@if ! { command -v c++ || command -v g++ || command -v clang++; } >/dev/null; then \
		$(BIN)/pip uninstall --quiet --yes ranktower-native 2>/dev/null; \
		echo "No C++ compiler (c++, g++, clang++): going on without the compiled scorer"; \
	elif $(PIP) install --quiet ./native >$(VENV)/native.log 2>&1; then touch $@; else \
		rm -f $@; $(BIN)/pip uninstall --yes ranktower-native >>$(VENV)/native.log 2>&1; \
		echo "Building native/ failed, $(VENV)/native.log says why: going on without the compiled scorer"; \
	fi

install: $(VENV)/.installed $(VENV)/.native

demo: install  ## prepare, train, export, precompute, publish and serve; DEMO_ONCE=1 stops after one request
	$(BIN)/ranktower demo

# What the tests run for real: Redis, a browser, Prometheus (and promtool, of its package), a proxy, older processors.
system-packages:
	@sh tests/install-packages.sh redis-server chromium prometheus nginx qemu-x86_64

# What listens to a clock has the machine to itself; the rest is run by two processes.
CLOCKED := tests/service tests/deploy tests/test_end_to_end.py

test: install system-packages
	$(BIN)/python -m pytest -n 2 --dist loadfile $(addprefix --ignore=,$(CLOCKED))
	$(BIN)/python -m pytest $(CLOCKED)

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
	$(BIN)/ranktower experiment --dataset $(DATASET) $(if $(DATA),--data $(DATA)) --table 1 2 3 4 \
		--extra heads learning_curve recipe cross_attention pairwise_distillation cost

URL ?= http://127.0.0.1:8000
REGISTRY ?= build/demo/kuairand/registry
MODEL ?= demo

loadtest: install  ## locust with its page on port 8089; LOCUST="--headless ..." for more of its options
	$(BIN)/locust -f benchmarks/locust/locustfile.py --host $(URL) --registry $(REGISTRY) --model $(MODEL) $(LOCUST)

docs: install  ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf $(VENV) build dist native/build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
