# The verbs for everybody. PYTHON is the interpreter that the environments are made with (3.11 or newer).
PYTHON ?= python3
DEV := .venv
DEMO := .venv-demo
DEMO_HOME := .demo
WORKERS := -n 2 --dist worksteal
BENCHMARKS := retrieval reranking evaluation cold_start indexing exact_scan install_size open_clip_speed fast_decode threads million masks large_collection many_files cold coarse spilling

.PHONY: help demo test test-all test-quick check format bench clean

help:
	@echo "make demo    a first search over data/photos, in an environment of its own"
	@echo "make test    the whole suite        make test-quick   without the slow tests"
	@echo "make test-all   with every step of every crash, too: ten minutes more"
	@echo "make check   format, lint, types, layers     make format   put the code in order"
	@echo "make bench   every figure that the README quotes (needs ../shared)"

$(DEV)/ready: pyproject.toml
	@echo "Making $(DEV) and installing mmsearch with the extras [cpu,clip,dev] into it (torch, OpenCLIP, pytest, hypothesis, ruff, mypy, import-linter, build)"
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install --quiet --editable '.[cpu,clip,dev]'
	@touch $@

$(DEMO)/ready: pyproject.toml $(shell find mmsearch indexer -type f -not -name '*.pyc')
	@echo "Making $(DEMO) and installing mmsearch[cpu] into it"
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --force-reinstall --no-deps .
	$(DEMO)/bin/python -m pip install --quiet '.[cpu]'
	@touch $@

demo: export MMSEARCH_HOME = $(DEMO_HOME)
demo: $(DEMO)/ready
	@rm -rf $(DEMO_HOME)
	@set -e; say() { \
	  printf '\n$$ mmsearch'; for word in "$$@"; do case $$word in *" "*) printf ' "%s"' "$$word";; *) printf ' %s' "$$word";; esac; done; \
	  printf '\n'; $(DEMO)/bin/mmsearch "$$@"; }; \
	say index data/photos data/photos/captions.jsonl; \
	say query "a red car" -k 5; \
	say query data/photos/tabby-cat.jpg -k 5; \
	say query data/photos/night-bridge.jpg --target text -k 5; \
	say info
	@printf '\nThe collection lies in %s; try: MMSEARCH_HOME=%s %s/bin/mmsearch query "…"\n' .demo .demo $(DEMO)

test: $(DEV)/ready
	$(DEV)/bin/python -m pytest $(WORKERS) -m "not exhaustive"

test-all: $(DEV)/ready
	$(DEV)/bin/python -m pytest $(WORKERS)

test-quick: $(DEV)/ready
	$(DEV)/bin/python -m pytest $(WORKERS) -m "not slow and not exhaustive"

check: $(DEV)/ready
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports

format: $(DEV)/ready
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

bench: $(DEV)/ready
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(DEV)/bin/python -m benchmarks.$$name; done

clean:
	rm -rf $(DEV) $(DEMO) $(DEMO_HOME) build dist *.egg-info
