# Every target makes .venv and installs what it needs; a second call is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := runs/poise-0

.PHONY: run test lab notebooks record lint clean

run: $(STAMP)
	$(BIN)/poise-lab train --baseline poise --seed 0 --out $(RUN) $(if $(wildcard $(RUN)/config.json),--resume)
	$(BIN)/poise-lab report $(RUN) -o $(RUN)/report.html

test: $(STAMP)
	$(BIN)/python -m pytest tests -q
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg --nbval-cell-timeout=600 -q notebooks

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

notebooks: $(STAMP)
	$(BIN)/python -m poise_lab.notebooks notebooks/*.ipynb

# Recorded runs under data/runs: made once, resumed if interrupted.
SEEDS ?= 0 1 2 3 4
record: $(STAMP)
	for baseline in poise rloo; do for seed in $(SEEDS); do \
	  out=data/runs/$$baseline-$$seed; \
	  $(BIN)/poise-lab train --baseline $$baseline --seed $$seed --out $$out $$(test -f $$out/config.json && echo --resume) || exit 1; \
	  rm -rf $$out/checkpoints; \
	done; done

lint: $(STAMP)
	$(BIN)/ruff check poise_lab tests
	$(BIN)/ruff format --check poise_lab tests

clean:
	rm -rf $(VENV) runs

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)
