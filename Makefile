# Every target makes the environment that it needs by itself; a second call is quick. Recorded data: poise-lab study NAME.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCALE := .venv-scale
VLLM := .venv-vllm
RUN := runs/poise-0
PIP := bin/python -m pip install --quiet --disable-pip-version-check
# An environment from scratch: one that an older Python began, or that is not whole, is not gone on with.
NEW = $(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 15) or sys.exit("$(PYTHON) is not one of Python 3.11 to 3.14; name another, such as make $(or $(MAKECMDGOALS),run) PYTHON=python3.12")' && $(PYTHON) -m venv --clear
# One thread per process, one process per core: torch's threads slow each other down where cores are shared.
ONE := OMP_NUM_THREADS=1
TWO := -n 2 --dist loadfile
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg --nbval-cell-timeout=600
NOTEBOOKS := $(filter-out notebooks/11_%,$(wildcard notebooks/*.ipynb))
.PHONY: run test test-scale test-vllm test-lab test-all lab site notebooks bench assignments handout grade grade-check lint clean
run: $(VENV)/.installed
	$(BIN)/poise-lab train --out $(RUN) $(if $(wildcard $(RUN)/config.json),--resume)
	$(BIN)/poise-lab report $(RUN) -o $(RUN)/report.html
test: $(VENV)/.installed
	@export $(ONE); $(BIN)/python -m pytest tests -q $(TWO); library=$$?; \
	$(BIN)/python -m pytest $(NBVAL) $(NOTEBOOKS) -q $(TWO); notebooks=$$?; \
	word() { test $$1 = 0 && echo passed || echo FAILED; }; \
	echo "library: $$(word $$library); notebooks: $$(word $$notebooks)"; test $$library = 0 -a $$notebooks = 0
test-scale: $(SCALE)/.installed  # POISE on TRL and accelerate: processes on the CPU, and a GPU where there is one
	$(ONE) $(SCALE)/bin/python -m pytest tests/scale tests/test_scale.py -q $(TWO)
	$(ONE) $(SCALE)/bin/python -m pytest $(NBVAL) notebooks/11_*.ipynb tests/test_notebooks.py -k "ipynb or solutions and 11_" -q
test-vllm: $(VLLM)/.installed  # POISE on TRL with vLLM, on the CPU: Linux on x86-64
	$(ONE) $(VLLM)/bin/python -m pytest tests/vllm_cpu -q
test-lab: $(SCALE)/.installed  # the notebooks in a browser, every slider moved; Chromium is installed if there is none
	$(SCALE)/$(PIP) -c constraints.txt -e ".[dev,scale,browser,site]"
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  { command -v apt-get && test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq -y chromium; } || $(SCALE)/bin/playwright install --with-deps chromium
	$(ONE) $(SCALE)/bin/python -m pytest tests/lab_check.py tests/viewer_check.py tests/report_check.py tests/site_check.py tests/figures_check.py -q -n 2
test-all: test test-scale grade-check test-lab
site: $(VENV)/.installed  # the course as pages that need no network: open site/index.html
	$(VENV)/$(PIP) -c constraints.txt -e ".[site]" && $(BIN)/python -m tools.site site
lab: $(VENV)/.installed ; $(BIN)/jupyter lab notebooks
notebooks: $(VENV)/.installed ; $(ONE) $(BIN)/python -m tools.notebooks $(NOTEBOOKS)
bench: $(VENV)/.installed ; $(BIN)/poise-lab bench
assignments: $(VENV)/.course ; $(BIN)/python -m poise_lab.course release
handout: $(VENV)/.course ; $(BIN)/python -m poise_lab.course handout
grade: $(VENV)/.course ; $(ONE) $(BIN)/python -m poise_lab.course grade --jobs 2
grade-check: $(VENV)/.course  # the grader graded: untouched gets 0, the solution all, planted answers what they should
	$(ONE) $(BIN)/python -m pytest tests/test_assignments.py -q
	ls notebooks/assignments/source | $(ONE) xargs -P 2 -I{} $(BIN)/python -m poise_lab.course check {}
lint: $(VENV)/.installed
	$(BIN)/ruff check poise_lab tests tools && $(BIN)/ruff format --check poise_lab tests tools
clean: ; rm -rf $(VENV) $(SCALE) $(VLLM)
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(NEW) $(VENV)
	$(VENV)/$(PIP) -c constraints.txt -e ".[dev]" && touch $@
$(VENV)/.course: $(VENV)/.installed
	$(VENV)/$(PIP) -c constraints.txt -e ".[course]" && touch $@
$(SCALE)/.installed: pyproject.toml constraints.txt
	@$(NEW) $(SCALE)
	$(SCALE)/$(PIP) -c constraints.txt -e ".[dev,scale]" && touch $@
$(VLLM)/.installed: pyproject.toml constraints.txt tests/vllm_cpu/requirements.txt
	@$(NEW) $(VLLM) && $(VLLM)/$(PIP) --no-deps --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt torch
	$(VLLM)/$(PIP) --no-deps -r tests/vllm_cpu/requirements.txt && $(VLLM)/$(PIP) -c constraints.txt -e ".[dev,scale]" && touch $@
