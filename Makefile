# `make` alone says what there is.

PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
export PYTHON
unexport PYTHONDONTWRITEBYTECODE # the program is started a thousand times; compiling it anew each time takes longer than all else

.PHONY: help demo test bench torture fuzz proto data clean prepare prepare-demo

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: prepare-demo ## load three small logs into four memcached and look at what is there
	@$(VENV_PYTHON) -m tools.demo

test: prepare ## check style and types, run the tests against real memcached servers
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy
	.venv/bin/lint-imports --no-logo
	$(VENV_PYTHON) -m pytest --numprocesses 4 --dist worksteal

bench: prepare ## measure the loader side by side with its limit and its rivals (about 10 minutes)
	$(VENV_PYTHON) -m benchmarks

torture: prepare ## load with N random faults of SEED, then check that nothing is lost (2 s each); MODE=cluster: on Dask
	$(VENV_PYTHON) -m tests.torture $(or $(MODE),faults) --trials $(or $(N),200) --seed $(or $(SEED),1)

fuzz: prepare ## load LINES random lines of SEED against the specification (about 5 minutes)
	$(VENV_PYTHON) -m tests.torture lines --lines $(or $(LINES),2000000) --seed $(or $(SEED),1)

proto: prepare ## generate appsinstalled_pb2.py from appsinstalled.proto
	$(VENV_PYTHON) -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. appsinstalled.proto

data: ## make the small logs in data/sample again
	$(PYTHON) tools/make_logs.py --directory data/sample --files 3 --lines 1000 --seed 2017 \
		--malformed 0.008 --repeat-keys 0.05

clean: ## remove the virtual environment and every cache
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info benchmarks/.data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

prepare:
	@tools/prepare.sh

prepare-demo:
	@tools/prepare.sh demo
