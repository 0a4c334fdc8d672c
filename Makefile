# Every target makes .venv and installs what it needs; a second call is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SCALE := .venv-scale
RUN := runs/poise-0

.PHONY: run fetch probes sums test test-scale test-lab lab notebooks record record-real tracking transfer showdown engines bench assignments handout grade grade-check lint clean

run: $(STAMP)
	$(BIN)/poise-lab train --baseline poise --seed 0 --out $(RUN) $(if $(wildcard $(RUN)/config.json),--resume)
	$(BIN)/poise-lab report $(RUN) -o $(RUN)/report.html

# One thread per process, one process per core: torch's threads slow each other down where cores are shared.
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg --nbval-cell-timeout=600
test: $(STAMP)
	@export OMP_NUM_THREADS=1; \
	$(BIN)/python -m pytest tests -q -n 2 --dist loadfile; library=$$?; \
	$(BIN)/python -m pytest $(NBVAL) $(filter-out notebooks/11_%,$(wildcard notebooks/*.ipynb)) -q -n 2 --dist loadfile; notebooks=$$?; \
	word() { test $$1 = 0 && echo passed || echo FAILED; }; \
	echo "library: $$(word $$library); notebooks: $$(word $$notebooks)"; \
	test $$library = 0 -a $$notebooks = 0

# POISE on TRL and accelerate: an environment of its own, processes on the CPU, and a GPU where there is one.
test-scale: $(SCALE)/.installed
	OMP_NUM_THREADS=1 $(SCALE)/bin/python -m pytest tests/scale tests/test_scale.py -q -n 2 --dist loadfile
	OMP_NUM_THREADS=1 $(SCALE)/bin/python -m pytest $(NBVAL) notebooks/11_*.ipynb -q

$(SCALE)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(SCALE)
	$(SCALE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,scale]"
	touch $@

# The notebooks in a real browser: every cell run, every slider moved. Chromium is installed if there is none.
test-lab: $(SCALE)/.installed
	$(SCALE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,scale,browser]"
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  { command -v apt-get && test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq -y chromium; } || \
	  $(SCALE)/bin/playwright install --with-deps chromium
	OMP_NUM_THREADS=1 $(SCALE)/bin/python -m pytest tests/lab_check.py -q -n 2

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

notebooks: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.notebooks $(filter-out notebooks/11_%,$(wildcard notebooks/*.ipynb))

# Recorded runs under data/runs: one thread each, two at a time, resumed if interrupted. A recorded
# run keeps no checkpoints; delete its folder to make it again.
RECORDED := $(foreach seed,0 1 2 3 4,poise-$(seed) rloo-$(seed))
record: $(STAMP)
	printf '%s\n' $(RECORDED) | xargs -P 2 -I{} $(MAKE) --no-print-directory data/runs/{}

data/runs/%: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/poise-lab train --baseline $(firstword $(subst -, ,$*)) \
	  --seed $(lastword $(subst -, ,$*)) --out $@.partial $$(test -f $@.partial/config.json && echo --resume)
	rm -rf $@.partial/checkpoints
	mv $@.partial $@

# SmolLM2 trained on sums of two terms, 96 responses per step: POISE and RLOO on pairs, GRPO on groups of eight.
REAL := $(foreach seed,0 1 2 3 4,poise-$(seed) rloo-$(seed) grpo-$(seed))
record-real: $(STAMP)
	$(BIN)/poise-lab fetch smollm2-135m
	printf '%s\n' $(REAL) | xargs -P 2 -I{} $(MAKE) --no-print-directory data/runs-smollm2/{}

data/runs-smollm2/%: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/poise-lab train --policy smollm2-135m --shots 4 --wording line --task chain_sum \
	  --task-set max_terms=2 --baseline $(firstword $(subst -, ,$*)) --seed $(lastword $(subst -, ,$*)) \
	  $(if $(filter grpo-%,$*),--set responses=8 --prompts 12,--set responses=2 --prompts 48) --steps 30 \
	  --learning-rate 1e-5 --max-new-tokens 8 --layer 15 --eval-prompts 128 --eval-responses 8 \
	  --out $@.partial $$(test -f $@.partial/config.json && echo --resume)
	rm -rf $@.partial/checkpoints
	mv $@.partial $@

# Every baseline over seeds: makes the runs that are missing under data/showdown, then prints the table.
showdown: $(STAMP)
	$(BIN)/poise-lab compare --recipe showdown --out data/showdown

# Real language models, into ~/.cache/poise-lab (or POISE_LAB_CACHE): 331 MB to download, 0.8 GB to keep.
fetch: $(STAMP)
	$(BIN)/poise-lab fetch smollm2-135m
	$(BIN)/poise-lab fetch gemma3-270m

# Five short runs on each engine, for notebook 11: one thread each, one after the other.
engines: $(SCALE)/.installed
	for seed in 0 1 2 3 4; do for engine in lab trl; do out=data/engines/$$engine-$$seed; test -f $$out/metrics.jsonl || \
	  { OMP_NUM_THREADS=1 $(SCALE)/bin/poise-lab train --engine $$engine --steps 40 --eval-every 20 --seed $$seed --out $$out.partial && \
	  mkdir $$out && mv $$out.partial/config.json $$out.partial/metrics.jsonl $$out && rm -r $$out.partial; } || exit 1; done; done

# The paper's tables on both models (notebook 09), into data/real: makes what is missing there.
probes: fetch
	OMP_NUM_THREADS=1 $(BIN)/poise-lab probes --policy smollm2-135m --out data/real
	OMP_NUM_THREADS=1 $(BIN)/poise-lab probes --policy gemma3-270m --out data/real

# The quick probe: 320 sums x 8 responses on SmolLM2, five seeds, timed.
sums: $(STAMP)
	$(BIN)/poise-lab fetch smollm2-135m
	OMP_NUM_THREADS=1 $(BIN)/python -m poise_lab.studies.sums data/real/sums.json

# Value models that watch five training runs, and probes carried from one setting to another (notebook 10): what is
# missing under data. Two more tiny policies are pretrained into the cache.
POLICIES := $(or $(POISE_LAB_CACHE),$(HOME)/.cache/poise-lab)/policies
tracking: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/poise-lab tracking --out data/tracking

transfer: $(STAMP)
	test -d $(POLICIES)/tiny-seed1 || $(BIN)/poise-lab pretrain --out $(POLICIES)/tiny-seed1 --steps 2000 --seed 1
	test -d $(POLICIES)/tiny-narrow || $(BIN)/poise-lab pretrain --out $(POLICIES)/tiny-narrow --steps 2000 --width 64
	$(BIN)/poise-lab transfer --out data/transfer

bench: $(STAMP)
	$(BIN)/poise-lab bench

# Student versions of the assignments, into notebooks/assignments/release.
assignments: $(VENV)/.course
	$(BIN)/python -m poise_lab.course release

# What students install and work in, without solutions: notebooks/assignments/poise-lab-students.zip.
handout: $(VENV)/.course
	$(BIN)/python -m poise_lab.course handout

# Grades what is new in notebooks/assignments/submitted/<student>/<assignment>: grades.csv, and feedback for each.
grade: $(VENV)/.course
	OMP_NUM_THREADS=1 $(BIN)/python -m poise_lab.course grade

# Grades the grader: the untouched notebook gets 0, the solution everything, each planted answer what it should.
grade-check: $(VENV)/.course
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_assignments.py -q
	printf '%s\n' $(notdir $(wildcard notebooks/assignments/source/*)) | \
	  OMP_NUM_THREADS=1 xargs -P 2 -I{} $(BIN)/python -m poise_lab.course check {}

$(VENV)/.course: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[course]"
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check poise_lab tests
	$(BIN)/ruff format --check poise_lab tests

clean:
	rm -rf $(VENV) $(SCALE) runs

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)
