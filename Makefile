# The front door. `make` alone lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Python packages and collections, into .venv and .cache
	@tools/setup.sh

.PHONY: engine
engine: ## a Docker engine: yours if it answers, else Debian's, installed and started
	@tools/engine.sh

.PHONY: demo
demo: setup engine ## the whole site in containers on this machine
	@tools/demo.sh up

.PHONY: demo-down
demo-down: ## remove the demo without a trace
	@tools/demo.sh down

.PHONY: test
test: setup ## every check, the longest first
	@.venv/bin/python tools/check.py

.PHONY: lint
lint: setup ## only the linters
	@.venv/bin/python tools/check.py lint

.PHONY: unit
unit: setup ## only the unit tests
	@.venv/bin/python tools/check.py unit

.PHONY: try
try: setup engine ## one scenario whose hosts stay: make try S=was_django K=release
	@tools/try.sh "$(S)" "$(K)"

.PHONY: fresh
fresh: setup engine ## its hosts as the role leaves them, from a snapshot: make fresh S=was_django
	@tools/try.sh fresh "$(S)"

.PHONY: drop
drop: setup engine ## remove the hosts of a scenario: make drop S=was_django
	@tools/try.sh drop "$(S)"

.PHONY: changed
changed: setup ## what the changes since main can touch: linters, unit tests, scenarios
	@stages=$$(.venv/bin/python tools/changed.py) && { [ -z "$$stages" ] || .venv/bin/python tools/check.py $$stages; }

.PHONY: molecule
molecule: setup ## one scenario: make molecule S=lb_nginx
	@.venv/bin/python tools/check.py images molecule$(if $(S),:$(S))

.PHONY: bench
bench: setup engine ## the benchmarks (long); one of them: make bench B=cache
	@for bench in $(or $(B),ring cache lb site); do \
	    echo "== $$bench"; .venv/bin/python "tests/bench/bench_$$bench.py" || failed=1; \
	done; exit $${failed:-0}

.PHONY: chaos
chaos: setup ## a million schedules against the database's decision; each fault of databases and caches: make chaos ROUNDS=3
	@.venv/bin/python tests/bench/simulate_failover.py $(or $(SCHEDULES),1000000)
	@WEBSTACK_TEST_SECONDS=7200 CACHE_FAULT_HOGS=0 CACHE_FAULT_ROUNDS=$(or $(ROUNDS),5) .venv/bin/python tools/check.py images molecule:cache_faults; code=$$?; \
	    grep -o '| .* |$$' .cache/check/molecule-cache_faults.log | sort -u -k 2,2; exit $$code
	@WEBSTACK_TEST_SECONDS=7200 FAILOVER_ROUNDS=$(or $(ROUNDS),5) .venv/bin/python tools/check.py images molecule:failover; code=$$?; \
	    grep -a 'without a write' .cache/check/molecule-failover.log; exit $$code

.PHONY: upgrade
upgrade: setup engine ## a running site of an earlier commit becomes this one, under load: make upgrade FROM=<commit>
	@.venv/bin/python tests/bench/upgrade_site.py "$(FROM)"

.PHONY: docs
docs: setup ## regenerate the variable tables
	@.venv/bin/python tools/role_docs.py

.PHONY: clean
clean: ## remove every lab, its images, .venv and .cache; stop the engine if it was started here
	@if [ -x .venv/bin/python ] && docker info >/dev/null 2>&1; then .venv/bin/python tools/lab.py clean; fi
	@tools/engine.sh down
	@rm -rf .venv .cache inventories/demo/.pki inventories/demo/group_vars/all/secrets.yml
