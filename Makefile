# `make demo` and `make test` do all of their own set-up: a machine with Python 3.11 or newer and make is enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check quick test-soak test-vllm test-llama-cpp-python bench llama-server clean

help:
	@echo "make demo          see it work: a tiny model, a real backend, a streamed answer"
	@echo "make test          the whole suite, against a real llama-server and mlx_lm.server"
	@echo "make check         format, lint, types, layers, and the whole suite"
	@echo "make quick         the suite without real backends"
	@echo "make test-soak     long repetitions (about 10 minutes)"
	@echo "make test-vllm     a real vLLM on the CPU (installs 3 GB once; then about 10 minutes)"
	@echo "make test-llama-cpp-python   a real llama-cpp-python server (compiled once, 4 minutes)"
	@echo "make bench         figures beside peers (half an hour; BENCH_FLAGS, see benchmarks/README.md)"
	@echo "make llama-server  a llama-server of your own (compiled once, 5 minutes); prints where it is"
	@echo "make clean         remove $(VENV) and caches"

demo: $(VENV)/demo
	$(BIN)/llamactl demo $(DEMO_FLAGS)

test: $(VENV)/test llama-server
	LLAMACTL_TEST_LLAMA_SERVER="$$($(BIN)/python scripts/llama_server.py)" $(BIN)/python -m pytest

check: $(VENV)/test llama-server
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

quick: $(VENV)/test
	$(BIN)/python -m pytest -m "not real and not soak and not vllm and not llama_cpp_python"

test-soak: $(VENV)/test llama-server
	LLAMACTL_TEST_LLAMA_SERVER="$$($(BIN)/python scripts/llama_server.py)" $(BIN)/python -m pytest -m soak

test-vllm: $(VENV)/test
	LLAMACTL_TEST_VLLM="$$($(BIN)/python scripts/model_servers.py vllm)" $(BIN)/python -m pytest -m vllm

test-llama-cpp-python: $(VENV)/test
	LLAMACTL_TEST_LLAMA_CPP_PYTHON="$$($(BIN)/python scripts/model_servers.py llama-cpp-python)" $(BIN)/python -m pytest -m llama_cpp_python

bench: $(VENV)/test llama-server
	LLAMACTL_TEST_LLAMA_SERVER="$$($(BIN)/python scripts/llama_server.py)" $(BIN)/python -m benchmarks $(BENCH_FLAGS)

llama-server: $(VENV)/test
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/llama_server.py

# Wheels only: the demo must answer within minutes, and a compiler is not to be asked for.
$(VENV)/demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --prefer-binary --only-binary=:all: hatchling editables
	$(BIN)/python -m pip install --quiet --prefer-binary --no-build-isolation --only-binary=:all: --editable '.[mlx,demo]'
	@touch $@

$(VENV)/test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --prefer-binary --editable '.[mlx,demo,test]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "no virtual environment could be made; install venv with: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
