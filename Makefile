# Everything goes through .venv, which scripts/setup.sh creates and repairs.
# ARGS is passed on: make demo ARGS=--once, make test ARGS="-k sampler -x".
# JOBS is how many tests run at once: they wait for processes more than they compute.
SHELL := /bin/sh
BIN := .venv/bin
ARGS ?=
# The tests start a hundred interpreters: they share compiled bytecode.
export PYTHONDONTWRITEBYTECODE :=
JOBS ?= 4
# Percent of lines and branches of contract, transport, engine and workers.
COVERAGE_FLOOR ?= 85
SOURCES := src workers api tests benchmarks scripts demo_model hatch_build.py
# FastChat's library without its dependencies, and the tests that need it or its programs.
FSCHAT := $(CURDIR)/.venv-fastchat-api/fschat-0.2.36
FASTCHAT_TESTS := tests/fastchat tests/unit/models/test_fastchat_templates.py \
	tests/integration/api/fastchat/test_fastchat_peers.py::test_a_chat_needs_fastchats_library \
	tests/integration/api/fastchat/test_fastchat_peers.py::test_a_chat_with_an_image \
	tests/integration/cli/test_fastchat_model_worker.py::test_a_conversation_template_by_name

# Triton for machines whose torch has none, as torch 2.13 for GPUs has it.
TRITON := $(CURDIR)/.venv-kernels/triton-3.7.1

# Tests that a new release of Transformers may break, and the packages that it brings.
NEWEST := $(CURDIR)/.venv-newest
NEWEST_PACKAGES := transformers tokenizers huggingface_hub safetensors accelerate
MODEL_TESTS = tests/architectures tests/unit/models tests/integration/models tests/integration/engine/test_oracle.py
# Texts of 32,768 tokens as Transformers computes them.
LONG_TEXTS = tests/integration/models/native/test_native_long.py

# Libraries that write and read quantised checkpoints, and what they import that is not there yet.
REFERENCES := $(CURDIR)/.venv-references
REFERENCE_PACKAGES := torchao==0.18.0 compressed-tensors==0.20.1 loguru==0.7.3 auto-round==0.16.1 \
	auto-round-lib==0.16.0 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 pandas==3.1.1 \
	pyarrow==26.0.1 python-dateutil==4.0.0 tzdata==2026.6 xxhash==4.1.0 optimum==2.3.0 threadpoolctl==3.8.0
# These are published as source only.
REFERENCE_SOURCES := gptqmodel==7.7.0 device-smi==0.5.7 tokenicer==0.0.14 logbar==0.4.15 pypcre==0.6.4 defuser==0.0.28

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev lock wheel demo test test-pythons test-unlocked test-install test-images test-systems test-systemd coverage test-kernels test-models test-newest test-references test-fastchat test-fastchat-api test-foreign fastchat-ui chaos fuzz sbom audit check format clean clean-all

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 19

setup: ## make .venv with everything for serving on this machine
	@scripts/setup.sh demo

setup-dev: ## make .venv with the tests and linters too
	@scripts/setup.sh dev

lock: setup-dev ## write scripts/locks again after a change of pyproject.toml (ARGS=--upgrade takes newer releases)
	@$(BIN)/python scripts/lock.py $(ARGS)

wheel: setup-dev ## make dist/: the source distribution, and from it a wheel for any Linux on x86-64
	@rm -rf dist && $(BIN)/python -m hatchling build -t sdist -d dist
	@PENSTOCK_BUILD_NATIVE=zig ZIG_GLOBAL_CACHE_DIR=$(CURDIR)/build/zig $(BIN)/python -m pip wheel --quiet \
		--disable-pip-version-check --no-deps --wheel-dir dist dist/*.tar.gz
	@ls -l dist

demo: setup ## install, start Redis, a worker and the API, and ask the demo model (ARGS=--once ends after it)
	@$(BIN)/penstock up $(ARGS)

test: setup-dev ## install and run the tests (JOBS=4 at once)
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal --durations 12 $(ARGS)

test-pythons: setup-dev ## run the unit tests that need no torch on each other Python that is here (NEWEST=1: one; WHOLE=1: all unit tests, gigabytes)
	@$(BIN)/python scripts/pythons.py --jobs $(JOBS) $(if $(NEWEST),--newest) $(if $(WHOLE),--whole) -- $(ARGS)

test-unlocked: ## run the tests with the newest releases that pyproject.toml allows, in .venv-unlocked
	@PENSTOCK_VENV=.venv-unlocked PENSTOCK_LOCK=off scripts/setup.sh dev
	@.venv-unlocked/bin/python -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

test-install: setup-dev ## build wheel and sdist, install each extra on each Python; needs a package index (ARGS="-k wheel")
	@PENSTOCK_TEST_INSTALL=1 $(BIN)/python -m pytest --timeout 1800 tests/install $(ARGS)

test-images: setup-dev ## build the images, run compose.yaml with them, kill and scale: Docker, 12 GB, half an hour
	@PENSTOCK_TEST_IMAGES=1 $(BIN)/python -m pytest --timeout 3600 tests/images $(ARGS)

test-systems: setup-dev ## README's first lines in fresh chroots (ARGS="trixie noble"): root, debootstrap, 8 GB
	@$(BIN)/python -m tests.install.systems $(ARGS)

test-systemd: setup-dev ## the steps for systemd in a fresh Debian that is booted: root, debootstrap, systemd-nspawn
	@$(BIN)/python -m tests.install.services $(ARGS)

coverage: setup-dev ## measure the test coverage of contract, transport, engine and workers; fail below the floor
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal --cov --cov-report term \
		--cov-fail-under $(COVERAGE_FLOOR) tests/unit/engine tests/unit/transport tests/unit/workers \
		tests/integration/engine tests/integration/transport tests/integration/workers $(ARGS)

test-kernels: setup-dev $(TRITON) ## run the GPU kernels by Triton's interpreter and compile them for NVIDIA's: no GPU, 200 MB
	@TRITON_INTERPRET=1 PYTHONPATH=$(TRITON) $(BIN)/python -m pytest --numprocesses $(JOBS) \
		tests/integration/models/lean/test_lean_kernels.py tests/integration/models/lean/test_code_kernels.py \
		tests/integration/models/lean/test_triton_attention.py \
		tests/integration/models/lean/test_exchange.py $(ARGS)
	@PYTHONPATH=$(TRITON) $(BIN)/python -m pytest --numprocesses $(JOBS) \
		tests/integration/models/lean/test_kernels_compile.py $(ARGS)

$(TRITON): | setup-dev
	@rm -rf $@.part && mkdir -p $(dir $@)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--only-binary=:all: --target $@.part $(subst -,==,$(notdir $@))
	@mv $@.part $@

test-models: setup-dev ## build every architecture of Transformers tiny, serve it, compare with generate: an hour on two cores
	@PENSTOCK_TEST_MODELS=all $(BIN)/python -m pytest --numprocesses $(JOBS) \
		--timeout 600 tests/architectures $(LONG_TEXTS) $(ARGS)

test-newest: setup-dev ## run the tests of models against the newest Transformers: 100 MB (docs/adr/0013)
	@rm -rf $(NEWEST) && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--only-binary=:all: --upgrade --target $(NEWEST) $(NEWEST_PACKAGES)
	@PENSTOCK_TEST_NEWEST=1 PYTHONPATH=$(NEWEST) $(BIN)/python -m pytest --numprocesses $(JOBS) \
		$(MODEL_TESTS) $(ARGS)

test-references: setup-dev $(REFERENCES) ## read what torchao, compressed-tensors and auto-round write, and let auto-round and gptqmodel read ours: 170 MB
	@PENSTOCK_TEST_REFERENCES=1 PYTHONPATH=$(REFERENCES) $(BIN)/python -m pytest tests/references $(ARGS)

$(REFERENCES): | setup-dev
	@rm -rf $@.part && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--only-binary=:all: --target $@.part $(REFERENCE_PACKAGES)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $@.part $(REFERENCE_SOURCES)
	@mv $@.part $@

test-fastchat: setup-dev ## run FastChat's own programs against a fleet, in separate environments
	@scripts/fastchat/setup.sh api webui
	@PENSTOCK_TEST_FASTCHAT=all PYTHONPATH=$(FSCHAT) \
		$(BIN)/python -m pytest --timeout 300 $(FASTCHAT_TESTS) $(ARGS)

test-fastchat-api: setup-dev ## the part of test-fastchat without browser and gradio: two minutes, 150 MB
	@scripts/fastchat/setup.sh api
	@PENSTOCK_TEST_FASTCHAT=api PYTHONPATH=$(FSCHAT) \
		$(BIN)/python -m pytest --timeout 300 $(FASTCHAT_TESTS) \
		--ignore tests/fastchat/test_web_ui.py \
		--deselect tests/fastchat/test_fastchat_images.py::test_an_upload_in_the_web_ui $(ARGS)

test-foreign: setup-dev ## run other projects' SDKs and suites against a fleet, in separate environments
	@scripts/foreign/setup.sh langchain litellm lm-eval node agents
	@PENSTOCK_TEST_FOREIGN=1 $(BIN)/python -m pytest --timeout 600 tests/foreign $(ARGS)

fastchat-ui: ## install FastChat's web UI in .venv-fastchat and open it on the running fleet
	@scripts/fastchat/setup.sh webui
	@.venv-fastchat/bin/python scripts/fastchat_ui.py $(ARGS)

chaos: setup-dev ## kill processes, network and Redis under load, check every answer (MINUTES=20 SEED=1)
	@$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),20) --seed $(or $(SEED),1) $(ARGS)

fuzz: setup-dev ## much invalid input, and random lives of jobs (EXAMPLES=200)
	@PENSTOCK_FUZZ_EXAMPLES=$(or $(EXAMPLES),200) $(BIN)/python -m pytest tests/fuzz tests/integration/transport/test_machine.py --timeout 7200 $(ARGS)

sbom: setup-dev ## list the packages in .venv, in CycloneDX: build/penstock.cdx.json
	@mkdir -p build && $(BIN)/python scripts/audit sbom build/penstock.cdx.json

audit: setup-dev ## look for known vulnerabilities in the packages in .venv (reports if it cannot)
	@$(BIN)/python scripts/audit vulnerabilities

check: setup-dev ## linters, types, import rules, compose.yaml
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright
	$(BIN)/lint-imports
	@if docker compose version >/dev/null 2>&1; then \
		echo "docker compose config -q"; docker compose config -q; \
	else echo "docker compose is not here: compose.yaml is checked by the tests alone"; fi

format: setup-dev ## format and fix what can be fixed
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean: ## remove caches, logs and the development Redis's files
	@mkdir -p .penstock && touch .penstock/up.lock
	@flock --nonblock .penstock/up.lock true || { echo "penstock up runs here; stop it first"; exit 1; }
	rm -rf .penstock .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist htmlcov .coverage
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean ## as clean, and the virtual environment
	rm -rf .venv
