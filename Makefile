# Two commands on a fresh machine with Python 3.11 or 3.12: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: venv venv-distributed demo test check format clean

venv: .venv/.ready

# torch comes first and pinned: a plain `torch` would bring another release, on Linux with gigabytes of CUDA packages
.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

# torchrec last and without what it asks for: that would be the CUDA build of fbgemm and another torch
venv-distributed: .venv/.distributed

.venv/.distributed: .venv/.ready constraints/cpu.txt
	$(BIN)/pip install --quiet -c constraints/cpu.txt --editable '.[distributed]'
	$(BIN)/pip install --quiet -c constraints/cpu.txt --no-deps torchrec
	touch $@

demo: venv
	$(BIN)/unimixer demo --out demo --overwrite

test: venv
	$(BIN)/pytest -n auto --dist worksteal

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist worksteal

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
