# Two commands on a fresh machine with Python 3.11 to 3.13: `make demo` and `make test`. Each brings what it needs.
# the first that runs: a launcher of a version manager may be there without its interpreter
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c "" 2> /dev/null && echo $$p && break; done)
TORCH ?= torch==2.13.0
BIN := .venv/bin
# most modules of the packages are never imported; Python compiles one when it first is
INSTALL := $(BIN)/pip install --quiet --no-compile
# and keeps the result, also where an image of a container asks it not to: each of many processes would compile torch anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: venv venv-distributed demo test slowest coverage lint check format docs wheel clean

venv: .venv/.ready

# torch comes first and pinned: a plain `torch` would bring another release, on Linux with gigabytes of CUDA packages
.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(INSTALL) "$(TORCH)"
	$(INSTALL) --editable '.[dev]'
	touch $@

# torchrec last and without what it asks for: that would be the CUDA build of fbgemm and another torch
venv-distributed: .venv/.distributed

.venv/.distributed: .venv/.ready constraints/cpu.txt
ifeq ($(shell uname -s -m),Linux x86_64)
	$(INSTALL) -c constraints/cpu.txt --editable '.[distributed]'
	$(INSTALL) -c constraints/cpu.txt --no-deps torchrec
else
	@echo "TorchRec has no CPU build for $$(uname -s -m): tests of several processes are skipped, with this reason"
endif
	touch $@

demo: venv
	$(BIN)/unimixer demo --out demo --overwrite

# one process of tests more than cores (tests/conftest.py), so threads that wait must not spin; processes that tests start
# have one thread too
test: venv-distributed
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest -n auto --dist worksteal

# one process, so that no other test takes time from the one that is timed
slowest: venv-distributed
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --durations=30 --durations-min=0.5 $(TESTS)

# branches of the library that tests take, in the processes that they start as well, in about the time of the tests; parts
# that passed are kept, so a stopped run goes on. The last line is the total. Python 3.12 or later
coverage: venv-distributed
	OMP_NUM_THREADS=1 $(BIN)/python tests/branches/measure.py $(TESTS)

lint: venv-distributed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

check: lint docs test

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# a warning is an error: a link that leads nowhere, a page that is in no menu, a docstring that cannot be read
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: venv
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf .venv demo site dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .branches
