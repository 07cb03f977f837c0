# A fresh clone needs python3 (3.11 or later) and make: `make demo` or `make test` sets up the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
# Containers often forbid Python to keep what it has compiled: then each start of a command compiles all its libraries anew, seconds of CPU.
unexport PYTHONDONTWRITEBYTECODE
DEBIAN := openssh-server openssh-client iproute2 iputils-ping netcat-openbsd nftables iptables debootstrap procps systemd systemd-container ceph-mon ceph-osd radosgw ceph-common podman runc chromium
TOOLS := sshd ssh ip nc nft iptables debootstrap systemd-nspawn ceph-mon ceph-osd radosgw podman runc chromium

.PHONY: help demo test simulation unit zipapp pythons agent contract runs lab deployment lint docs format soak-sim mutants lab-soak main-job incident bench lock echarts clean system

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/ready ## eight local agents, a real S3 server, a cut link: nothing is lost
	$(BIN)/sai3ssh demo

# The simulation needs processors and no clock: with the lowest priority it takes what the other suites leave, which mostly wait for clocks. Of those
# there are four at a time, the longest first; with more of them both processors are so busy that guards run out. Each prints when it is over.
# The guide is built before them, since it writes into the tree.
ROOT := $(if $(shell test "$$(id -u)" = 0 && echo root),root)
test: .venv/ready ## everything: lint, types, unit, simulation, contract, and eight real hosts
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target docs system .venv/azurite/ready .venv/axe/ready
	@echo "suites that run side by side; each prints when it is over"
	@$(MAKE) --no-print-directory --keep-going --jobs=5 --output-sync=target SYSTEM= DOCS= simulation lint runs $(if $(ROOT),lab) contract $(if $(ROOT),deployment) pythons zipapp unit

simulation: .venv/ready ## only the simulation: 5,000 fault schedules
	nice -n 19 $(BIN)/python -m pytest --durations=5 tests/simulation

AGENTS := tests/unit/test_agent_pythons.py
unit: .venv/ready ## only the unit tests, but the agent's on other Pythons
	$(BIN)/python -m pytest --durations=5 tests/unit --ignore=$(AGENTS)

zipapp: .venv/ready ## only the agent's own tests in the zipapp on the oldest Python, but those of its recovery
	$(BIN)/python -m pytest --durations=5 $(AGENTS) -k whole

pythons: .venv/ready ## only those of its recovery, and the quick ones on all other Pythons
	$(BIN)/python -m pytest --durations=5 $(AGENTS) -k "not whole"

# tests/unit/test_agent_pythons.py runs all of them in the zipapp on the oldest Python, and the quick ones on all others: `make test` needs no more.
agent: .venv/ready ## only the agent's own tests, with real processes and servers
	$(BIN)/python -m pytest --durations=5 tests/agent --ignore=tests/agent/test_agent_recovery.py

RUNS := $(wildcard $(patsubst %,tests/contract/test_%.py,run run_stages resume policies op_log endpoints api web report))
contract: .venv/ready .venv/azurite/ready ## only contract tests but those of whole runs: real sshd, real S3 servers
	$(BIN)/python -m pytest --durations=10 tests/contract $(RUNS:%=--ignore=%)

runs: .venv/ready .venv/axe/ready ## only contract tests of whole runs, with real agents on this machine
	$(BIN)/python -m pytest --durations=10 $(RUNS)

SYSTEM := system
DEPLOYMENT := $(wildcard tests/lab/test_roles.py tests/lab/test_container.py tests/lab/test_preflight*.py)
lab: .venv/ready $(SYSTEM) ## only runs on real hosts (root)
	$(BIN)/python -m pytest --durations=10 tests/lab $(DEPLOYMENT:%=--ignore=%)

deployment: .venv/ready $(SYSTEM) ## only roles, container and preflight on real hosts (root)
	$(BIN)/python -m pytest --durations=10 $(DEPLOYMENT)

DOCS := docs
lint: .venv/ready $(DOCS) ## ruff, mypy, ansible-lint, and the guide's links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# It wants its tools on PATH, and warns when it has to put them there.
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/ansible-lint -q --nocolor

docs: .venv/ready ## the user guide, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

format: .venv/ready ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak-sim: .venv/ready ## 100,000 fault schedules against the session
	$(BIN)/python -m tests.simulation.schedules 0-99999

mutants: .venv/ready ## plants bugs, one at a time, and shows which fault schedule finds each
	$(BIN)/python -m tests.simulation.mutants

lab-soak: .venv/ready system ## fault schedules on eight real hosts, SEED and up, for HOURS (root)
	$(BIN)/python -m tests.lab.schedule $(or $(SEED),1) --minutes $$(( 60 * $(or $(HOURS),4) ))

main-job: .venv/ready system ## 100,000 objects on Ceph and 30 s of five operations from eight hosts, exact (root)
	SAI3SSH_MAIN_JOB="100000 30" $(BIN)/python -m pytest --durations=3 tests/lab/test_main_job.py -k exact

incident: .venv/ready system ## 4,915,200 objects, and the link of one host of eight breaks at 54 % (root)
	$(BIN)/python -m tests.lab.incident

bench: .venv/ready system ## benchmarks, or those of ONLY="engine_cpu memory"; each prints a ratio
	@missed=; for file in $(if $(ONLY),$(ONLY:%=bench/%.py),$$(grep -l __main__ bench/*.py)); do \
	  echo "== $$file"; $(BIN)/python $$file || missed="$$missed $$file"; done; \
	test -z "$$missed" || { echo "beyond a limit, or failed:$$missed" >&2; exit 1; }

lock: .venv/ready ## write requirements.lock anew from pyproject.toml
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile -q --python-version 3.11 --all-extras --universal --no-header --no-annotate --generate-hashes pyproject.toml -o requirements.lock
	echo 'obstore>=0.8' | $(BIN)/uv pip compile -q --python-version 3.9 --universal --no-header --no-annotate --generate-hashes - -o roles/sai3ssh_agent/files/obstore.txt

echarts: .venv/ready ## build the bundle of Apache ECharts that the report draws with anew, from vendor/echarts (npm)
	@mkdir -p .venv/echarts && cp vendor/echarts/* .venv/echarts
	cd .venv/echarts && npm ci --silent --no-fund --no-audit --ignore-scripts && node build.js $(CURDIR)/sai3ssh/report/static/echarts.min.js

clean: ## remove what the other targets made here
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis sai3ssh-runs

.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "sai3ssh needs Python 3.11 or later: no such python3 is on PATH" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@# The lock names everything: nothing is left to resolve, and the build needs nothing but what is there then.
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Microsoft's own server for tests of az:// targets. Its telemetry and its other databases are replaced by old, small versions: 77 MB instead of 365.
.venv/azurite/ready: tests/azurite/package.json tests/azurite/package-lock.json | .venv/ready
	@mkdir -p $(@D) && cp $^ $(@D)
	@if command -v node >/dev/null && command -v npm >/dev/null; then cd $(@D) && npm ci --silent --no-fund --no-audit --ignore-scripts --omit=optional; \
	else echo "NOTE: no node and npm, so the tests on Azurite are left out"; fi
	@touch $@

# What looks for barriers in the report, in tests.
.venv/axe/ready: tests/axe/package.json tests/axe/package-lock.json | .venv/ready
	@mkdir -p $(@D) && cp $^ $(@D)
	@if command -v npm >/dev/null; then cd $(@D) && npm ci --silent --no-fund --no-audit --ignore-scripts; \
	else echo "NOTE: no npm, so the report is not checked for accessibility"; fi
	@touch $@

# Tools that only tests need. As root on Debian they are installed; elsewhere what is missing is named. Without root the lab of real hosts cannot be
# built: `make test` then leaves it out and says so, unless CI is set.
system: .venv/ready
	@missing=; for tool in $(TOOLS); do PATH="$$PATH:/usr/sbin:/sbin" command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN) >/dev/null; \
	elif [ -n "$$missing" ]; then echo "missing for the tests:$$missing (Debian: apt-get install $(DEBIAN))" >&2; exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then $(BIN)/python -m tests.lab.image >/dev/null; \
	elif [ -n "$$CI" ]; then echo "the lab of real hosts needs root" >&2; exit 1; \
	else echo "NOTE: not root, so the tests on real hosts (tests/lab) are left out"; fi
