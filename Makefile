# What people type; `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
export UV_PYTHON_DOWNLOADS := never
UV := .tandem/uv/bin/uv
JOBS_PYTHON := .venv/bin/python
AIRFLOW_PYTHON := .venv-airflow/bin/python

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## recommendations from real data, through Airflow, on this machine (LAKE=s3://… for another lake)
	$(JOBS_PYTHON) -m tools.demo $(if $(LAKE),--lake $(LAKE))

airflow: setup ## Airflow with its scheduler and web page, all pipelines loaded, until Ctrl-C
	$(JOBS_PYTHON) -m tools.local_airflow

test: setup ## install, then run all tests that this machine can run (TESTS=tests/common for some)
	$(JOBS_PYTHON) -m pytest $(or $(TESTS),tests --ignore=tests/airflow_dags)
	$(if $(TESTS),,$(AIRFLOW_PYTHON) -m pytest tests/airflow_dags)

lint: setup ## format, lint, types, layering, catalogue
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy common jobs tools
	.venv/bin/mypy --python-executable $(AIRFLOW_PYTHON) airflow_dags/tandem
	$(JOBS_PYTHON) -m tools.catalogue --check

format: setup ## let ruff write the format, and the catalogue of jobs be made anew
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .
	$(JOBS_PYTHON) -m tools.catalogue

sample: setup ## bring the sample data into the raw level of a lake (LAKE=file:///…)
	$(JOBS_PYTHON) -m tools.load_sample --lake $(or $(LAKE),file://$(CURDIR)/.tandem/lake)

bench-quality: setup ## recommendation models side by side on the sample data
	$(JOBS_PYTHON) -m benchmarks.quality

requirements: $(UV) ## compile requirements/*.in to hashed files, again
	for name in uv java learning spark; do \
	    $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	        requirements/$$name.in -o requirements/$$name.txt; done
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	    -c requirements/learning.txt -c requirements/spark.txt requirements/development.in -o requirements/development.txt
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	    requirements/airflow.in -o requirements/airflow.txt

setup: .venv/ready .venv/java .venv/s3-jars .venv-airflow/ready ## install both environments below this folder

.venv/ready: requirements/development.txt | $(UV)
	$(UV) venv -q --allow-existing --python $(PYTHON) .venv
	$(UV) pip sync -q --compile-bytecode --require-hashes --python $(JOBS_PYTHON) requirements/development.txt
	echo "$(CURDIR)" >"$$($(JOBS_PYTHON) -c 'import site; print(site.getsitepackages()[0])')/tandem.pth"
	touch $@

.venv/java: requirements/java.txt tools/java.py | .venv/ready $(UV)
	$(JOBS_PYTHON) -m tools.java --uv $(UV)
	touch $@

.venv/s3-jars: tools/s3_jars.py | .venv/java
	$(JOBS_PYTHON) -m tools.s3_jars
	touch $@

.venv-airflow/ready: requirements/airflow.txt | $(UV)
	$(UV) venv -q --allow-existing --python $(PYTHON) .venv-airflow
	$(UV) pip sync -q --compile-bytecode --require-hashes --python $(AIRFLOW_PYTHON) requirements/airflow.txt
	touch $@

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), but Tandem needs Python 3.11 or newer; install one (Debian: apt-get install python3.11, macOS: brew install python@3.12) and name it: make PYTHON=python3.12 setup" >&2; exit 1; }
	$(PYTHON) -m pip install -q --upgrade --target .tandem/uv --require-hashes -r requirements/uv.txt
	touch $@

clean: ## remove environments, lake, Airflow's files and caches
	rm -rf .venv .venv-airflow .tandem dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: help demo airflow test lint format sample bench-quality requirements setup clean
