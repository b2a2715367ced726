# Every target makes .venv and installs what it needs, once per change of pyproject.toml.
#   TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu make demo     takes PyTorch's CPU build (about 0.2 GB instead of 3 GB)
PYTHON ?= python3
VENV := .venv/bin
STAMP := .venv/installed
TORCH := torch==2.13.0
CORES ?= 2

export OMP_WAIT_POLICY ?= passive
export GRADIO_ANALYTICS_ENABLED = False

.PHONY: demo run test lint bench install browser rehearsal rehearsal-container docs clean

demo: install
	@$(VENV)/python app.py demo

run: install
	@$(VENV)/python app.py

# Files keep their order, so the slow ones of tests/browser begin first and no core waits for them at the end.
test: install browser
	@$(VENV)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder --durations=20

lint: install
	@$(VENV)/ruff check .
	@$(VENV)/mypy
	@$(VENV)/python -m core.reference --check

bench: install
	@$(VENV)/python -m bench.startup
	@$(VENV)/python -m bench.ui
	@$(VENV)/python -m bench.sft
	@$(VENV)/python -m bench.mine
	@$(VENV)/python -m bench.mine --memory
	@$(VENV)/python -m bench.hsdpo
	@$(VENV)/python -m bench.hsdpo --memory
	@$(VENV)/python -m bench.waltz
	@$(VENV)/python -m bench.waltz --memory

docs: install
	@$(VENV)/python -m core.reference
	@$(VENV)/python -m core.requirements

# Every step of the Dockerfile in a clean folder, the downloads too (minutes, 3 GB); needs no Docker.
rehearsal-container: install
	@GUARDWALTZ_CONTAINER=1 $(VENV)/python -m pytest -n 0 -s -o timeout=3600 tests/test_container.py

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "GuardWaltz needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	@test -d .venv || $(PYTHON) -m venv .venv
	@$(VENV)/python -c "import torch" 2>/dev/null || $(VENV)/pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$(TORCH)"
	@$(VENV)/python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print('\n'.join(p['dependencies'] + p['optional-dependencies']['dev']))" > .venv/needed.txt
	@$(VENV)/pip install --quiet -r .venv/needed.txt
	@touch $@

# The browser tests want Debian's chromium; elsewhere they say why they are skipped.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
		echo "no chromium here: the browser tests will be skipped (install Debian's package chromium)"

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
