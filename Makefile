# make setup | demo | test | test-all | lab        (needs Python 3.11 and make; the rest is installed into .venv)
# make test-deep SHARD=0..7 | coverage | mutants   what CI does not wait for
# make figures MOROCCO_DATA=DIR                     the numbers that README and quick start show, made anew
# make setup-torch | demo-torch                   transformers; TORCH_VARIANT=cpu or cu126 takes another build of torch
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin/python -m
LAB_PORT ?= 8888
TORCH_VARIANT ?= default
TORCH_INDEX := $(if $(filter-out default,$(TORCH_VARIANT)),--index-url https://download.pytorch.org/whl/$(TORCH_VARIANT))

# A person's own pip settings name where packages come from; where they go is .venv.
export PIP_USER := 0
unexport PIP_TARGET PIP_PREFIX PIP_ROOT

.PHONY: setup setup-torch demo demo-torch test test-all test-deep coverage mutants figures lint lab lock

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	"$(PYTHON)" -c 'import sys; sys.exit("Python 3.11 or newer is needed; say make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	"$(PYTHON)" -m venv .venv
	$(RUN) pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(RUN) pip install --quiet --disable-pip-version-check --no-deps -e .
	mkdir -p .venv/etc/jupyter/labconfig
	printf '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}\n' > .venv/etc/jupyter/labconfig/page_config.json
	printf '{"ContentsManager": {"pre_save_hook": "morocco_lib.pipeline.saved_notebooks.scrub"}}\n' > .venv/etc/jupyter/jupyter_server_config.json
	touch $@

setup-torch: .venv/.torch-$(TORCH_VARIANT)

.venv/.torch-$(TORCH_VARIANT): .venv/.ready requirements-torch.lock
	rm -f .venv/.torch-*
	$(RUN) pip install --quiet --disable-pip-version-check $(TORCH_INDEX) "$$(sed -n 's/^ *"\(torch==.*\)",$$/\1/p' pyproject.toml)"
	$(RUN) pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-torch.lock
	touch $@

demo-torch: setup-torch  ## the demo with a tiny transformer beside the two models
	$(RUN) morocco_lib run params/plans/demo-torch.yaml --fresh

demo: setup  ## both models on synthetic TERRa records, every step anew; MOROCCO_DATA=DIR takes real ones
	$(RUN) morocco_lib run params/plans/demo.yaml --fresh --disturbed-ok

# Two workers; what shares an engine or is timed runs in one. Compiled modules are kept: the suite starts Python often.
TEST := $(RUN) pytest -n 2 --dist loadgroup
test test-all test-deep coverage mutants: export PYTHONDONTWRITEBYTECODE :=

test: setup lint
	$(TEST) -m "not slow and not gpu"

test-all: test  ## the slow ones too
	$(TEST) -m "slow or gpu"

test-deep: export MOROCCO_FUZZ_S ?= $(if $(SHARD),5,300)
test-deep: setup  ## statistics, fuzzing, wide lists; SHARD=0 to 7 runs one of eight parts
	SHARD=$(SHARD) $(TEST) -m "not timed" tests/deep
	SHARD=$(SHARD) $(RUN) pytest -m timed tests/deep

coverage: setup  ## which lines the fast and the slow tests reach, 90 % at least
	$(TEST) --cov --cov-report=term:skip-covered --cov-fail-under=90 -m ""

mutants: setup  ## which of N random one-line faults the fast tests find; SEED=2 draws others, PACKAGES="tasks analysis"
	.venv/bin/python benchmarks/mutants.py -n $(or $(N),200) --seed $(or $(SEED),1) $(addprefix --package ,$(PACKAGES))

figures: setup  ## the numbers that README and quick start show, and docs/terra.svg
	.venv/bin/python benchmarks/figures.py

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .

lab: setup  ## JupyterLab for you alone: loopback address, with its token
	@echo "from your own machine: ssh -N -L 127.0.0.1:$(LAB_PORT):127.0.0.1:$(LAB_PORT) $$(id -un)@$$(hostname)"
	@echo "then open the address with the token that is printed below"
	@[ -w "$${JUPYTER_CONFIG_DIR:-$${HOME:-}}" ] \
	  || { echo "HOME ($${HOME:-not set}) cannot be written, and JupyterLab keeps its settings there; say make lab HOME=/some/folder" >&2; exit 3; }
	@.venv/bin/python -c 'import socket; socket.create_server(("127.0.0.1", $(LAB_PORT))).close()' 2>/dev/null \
	  || { echo "port $(LAB_PORT) is taken; say make lab LAB_PORT=8890" >&2; exit 3; }
	umask 077; JUPYTER_PATH="$(CURDIR)/.venv/share/jupyter$${JUPYTER_PATH:+:$$JUPYTER_PATH}" $(RUN) jupyter lab --no-browser --ip=127.0.0.1 --port=$(LAB_PORT) --ServerApp.port_retries=0 --ServerApp.root_dir=. $$([ "$$(id -u)" != 0 ] || echo --allow-root)

lock:  ## after a change of pyproject.toml
	$(RUN) uv pip compile pyproject.toml --extra infer --extra kit --extra dev --no-strip-extras --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --quiet --custom-compile-command "make lock" -o requirements.lock
	$(RUN) uv pip compile pyproject.toml --extra torch --extra hub --extra openvino --extra contenders --extra search --extra collaborative --extra ray --universal --python-version 3.11 \
	  --constraints requirements.lock --no-emit-package torch --generate-hashes --no-emit-index-url --no-emit-find-links --quiet \
	  --custom-compile-command "make lock" -o requirements-torch.lock
