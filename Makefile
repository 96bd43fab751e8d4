PYTHON ?= python3
BIN := .venv/bin
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: install demo test check format bench clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
# A test oracle that pins NumPy < 2 and works with the one installed; without it its tests are skipped.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt gbstats
# For its axe.min.js, which checks the console's pages in Chromium; Playwright itself is not used.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt axe-playwright-python
	touch $@

demo: install
	$(BIN)/ratchet demo

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .ratchet .mypy_cache .ruff_cache .pytest_cache
