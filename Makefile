# Commands for people; `make` without a target lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
DOCKER ?= docker
export DOCKER
export UV_PYTHON_DOWNLOADS := never
UV := .tandem/uv/bin/uv
JOBS_PYTHON := .venv/bin/python
AIRFLOW_PYTHON := .venv-airflow/bin/python
# Programs other than Python's, outside the checkout.
PARTS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tandem/bin
# Spark jobs run on DuckDB, where the environment allows it; with SPARK=1 on Spark.
ifeq ($(SPARK),1)
export TANDEM_SPARK := spark_submit
setup: .venv/spark-jars
endif
ACTIONLINT = $(or $(shell command -v actionlint),$(wildcard $(PARTS)/actionlint))

##@ Set up
help: ## print this list
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' \
	    $(MAKEFILE_LIST)

setup: .venv/ready .venv-airflow/ready ## install both environments below this folder

setup-spark: setup .venv/spark-jars ## install also what Spark needs: Java, unless the machine has it, and libraries for object stores

clean: ## remove environments, lake, Airflow's files and caches
	rm -rf .venv .venv-airflow .venv-airflow-managed .venv-peers .venv-graph .venv-docs .venv-audit .tandem dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

##@ Bring your data
adopt: setup ## look at a file of events and write its source, then report (FILE=… NAME=… ITEMS=… USERS=… FORCE=1)
	$(JOBS_PYTHON) -m tools.adopt.adopt $(BROUGHT) --name "$(NAME)"

try: setup ## adopt a file, run all pipelines on it through Airflow, show recommendations (FILE=… NAME=… ITEMS=… SPARK=1)
	$(JOBS_PYTHON) -m tools.adopt.trial $(BROUGHT) $(if $(NAME),--name "$(NAME)")

BROUGHT = --file "$(FILE)" $(if $(ITEMS),--items "$(ITEMS)") $(if $(USERS),--users "$(USERS)") $(if $(FORCE),--force)

##@ Try it
demo: $(if $(filter gcp,$(CLOUD)),setup-spark,setup) ## recommendations from real data, through Airflow, on this machine (LAKE=s3://…, CONTAINERS=docker, SPARK=1; CLOUD=gcp: on Google's parts)
	$(JOBS_PYTHON) -m tools.sandbox.$(if $(filter gcp,$(CLOUD)),demo_gcp,demo $(if $(LAKE),--lake $(LAKE)) $(if $(CONTAINERS),--containers $(CONTAINERS)))

demo-emr: setup-spark ## the demo with its Spark jobs as steps of EMR clusters, all on this machine
	$(JOBS_PYTHON) -m tools.sandbox.demo_emr

demo-kubernetes: setup ## the demo with its jobs as pods of the cluster in KUBECONFIG (CONTAINERS=kubernetes_job)
	$(JOBS_PYTHON) -m tools.sandbox.demo_kubernetes $(if $(CONTAINERS),--containers $(CONTAINERS))

demo-all: setup ## all products from real data, through Airflow, on this machine: reads, a rollback, a refusal (LAKE=…, SPARK=1)
	$(JOBS_PYTHON) -m tools.sandbox.demo_all $(if $(LAKE),--lake $(LAKE))

airflow: setup ## Airflow with its scheduler and web page, all pipelines loaded, until Ctrl-C (SPARK=1)
	$(JOBS_PYTHON) -m tools.sandbox.local_airflow

sample: setup ## load the sample data into the raw level of a lake (LAKE=file:///…)
	$(JOBS_PYTHON) -m tools.data.load_sample --lake $(or $(LAKE),file://$(CURDIR)/.tandem/lake)

generate-data: setup ## a synthetic shop of any size (USERS= ITEMS= EVENTS= DAYS= SEED= LEVEL=raw|curated LAKE=file:///…)
	$(JOBS_PYTHON) -m tools.data.generate_data --lake $(or $(LAKE),file://$(CURDIR)/.tandem/generated) \
	    $(if $(USERS),--users $(USERS)) $(if $(ITEMS),--items $(ITEMS)) $(if $(EVENTS),--events $(EVENTS)) \
	    $(if $(DAYS),--days $(DAYS)) $(if $(SEED),--seed $(SEED)) $(if $(LEVEL),--level $(LEVEL))

##@ Develop
new-job: setup ## a job with its contract and test, from the template (NAME=… ENGINE=spark|python)
	$(JOBS_PYTHON) -m tools.scaffold.new job --name "$(NAME)" --template "$(ENGINE)"

new-pipeline: setup ## an app folder with its test, from the template (NAME=… PATTERN=spark|container|hybrid)
	$(JOBS_PYTHON) -m tools.scaffold.new pipeline --name "$(NAME)" --template "$(PATTERN)"

test: setup-spark ## install, then run the tests that need only Python and make (TESTS=tests/common for some)
	$(MAKE) --no-print-directory --jobs=2 test-jobs test-airflow

test-system: setup-spark .venv-docs/ready .tandem/mermaid/ready .venv-audit/ready .venv-graph/ready ## run the tests that need parts or take long (TESTS=tests/system for some)
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-system-jobs test-system-airflow test-spark

test-parts: setup .venv-graph/ready ## list the parts that make test-system uses; install those that come from package registries
	$(JOBS_PYTHON) -m tools.sandbox.parts

# A tail of tests goes to the worker that is idle. The Airflow half is done long before, so one process is enough: a
# second one would import Airflow and make the fixtures of modules again.
IN_PARALLEL = $(if $(TESTS),,--numprocesses=2 --dist=worksteal)
JOBS_TESTS = $(if $(TESTS),$(filter-out tests/airflow_dags%,$(TESTS)),tests --ignore=tests/airflow_dags)
AIRFLOW_TESTS = $(if $(TESTS),$(filter tests/airflow_dags%,$(TESTS)),tests/airflow_dags)

# Both halves at once: either waits for servers, processes and pods much of its time. Workers share the cores, so threads
# of OpenBLAS would wait for each other by spinning.
test-jobs: setup-spark
	$(if $(JOBS_TESTS),OPENBLAS_NUM_THREADS=1 $(JOBS_PYTHON) -m pytest -m "not system" $(IN_PARALLEL) $(JOBS_TESTS))

test-airflow: setup-spark
	$(if $(AIRFLOW_TESTS),$(AIRFLOW_PYTHON) -m pytest -m "not system" $(AIRFLOW_TESTS))

test-system-jobs: setup-spark
	$(if $(JOBS_TESTS),$(JOBS_PYTHON) -m pytest -m system $(JOBS_TESTS))

test-spark: setup-spark ## run the tests of Spark jobs on Spark, which make test runs on DuckDB (TESTS=tests/jobs for some)
	$(if $(JOBS_TESTS),TANDEM_ENGINE=spark $(JOBS_PYTHON) -m pytest -m frames $(JOBS_TESTS) || [ $$? -eq 5 ])  # 5: none of TESTS

test-system-airflow: setup-spark
	$(if $(AIRFLOW_TESTS),$(AIRFLOW_PYTHON) -m pytest -m system $(AIRFLOW_TESTS))

test-managed: .venv-airflow-managed/ready ## import, render and defer with the newest Airflow that MWAA and Composer offer
	.venv-airflow-managed/bin/python -m pytest -m "not system" $(addprefix tests/airflow_dags/,test_pipelines.py \
	    test_dag_bundle.py runtimes/test_deferral.py)

lint: setup ## format, lint, types, generated files, sources, language, spelling, workflows
	@ignored=$$(git ls-files --cached --ignored --exclude-standard 2>/dev/null || true); \
	    test -z "$$ignored" || { echo "committed, but .gitignore names it; git rm --cached $$ignored"; exit 1; }
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy common jobs tools benchmarks
	.venv/bin/mypy --python-executable $(AIRFLOW_PYTHON) airflow_dags/tandem
	$(JOBS_PYTHON) -m tools.packaging.catalogue --check
	$(JOBS_PYTHON) -m tools.scaffold.schemas --check
	$(JOBS_PYTHON) -m tools.packaging.contract_changes
	$(JOBS_PYTHON) -m tools.scaffold.sources
	PYTHONPATH=airflow_dags $(AIRFLOW_PYTHON) -m tandem.schemas --check
	$(JOBS_PYTHON) -m tools.scaffold.language *.md docs airflow_dags/README.md airflow_dags/*/README.md benchmarks/results.md \
	    sample_data/*/README.md templates/README.md templates/pipelines/*/README.md \
	    common jobs tools airflow_dags benchmarks tests templates
	.venv/bin/codespell
	$(if $(ACTIONLINT),$(ACTIONLINT) .github/workflows/*.yml,echo "actionlint is not here, so workflows were not checked; install it: make actionlint")

docs: .venv-docs/ready .tandem/mermaid/ready ## build the documentation site into dist/site; a broken link fails
	mkdir -p .tandem/site
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "Read it: python3 -m http.server --bind 127.0.0.1 --directory dist/site"

# The package only carries the program that draws diagrams.
.tandem/mermaid/ready: requirements/mermaid.txt .venv-docs/ready | $(UV)
	$(UV) pip install -q --target $(@D) --no-deps --require-hashes --python .venv-docs/bin/python -r requirements/mermaid.txt
	touch $@

actionlint: .venv/ready ## install the check of workflows, which make lint then runs (needs Go)
	$(JOBS_PYTHON) -m tools.sandbox.parts actionlint

format: setup ## format the code; rewrite the catalogue of jobs, the protocol and the schemas
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .
	$(JOBS_PYTHON) -m tools.packaging.catalogue
	$(JOBS_PYTHON) -m tools.scaffold.schemas
	PYTHONPATH=airflow_dags $(AIRFLOW_PYTHON) -m tandem.schemas

##@ Measure
bench-quality: setup-spark $(if $(MOVIELENS),,.tandem/movielens/ready) ## compare models: recommendations (MOVIELENS=u.data) and churn (TELCO=csv)
	$(JOBS_PYTHON) -m benchmarks.quality --movielens $(or $(MOVIELENS),.tandem/movielens/recbole/dataset_example/ml-100k/ml-100k.inter)
	$(JOBS_PYTHON) -m benchmarks.movielens_jobs --movielens $(or $(MOVIELENS),.tandem/movielens/recbole/dataset_example/ml-100k/ml-100k.inter)
	$(JOBS_PYTHON) -m benchmarks.churn $(if $(TELCO),--telco $(TELCO))

bench-recommending: setup .venv-peers/ready ## fitting and ranking, compared with implicit (LARGE=1 for a million users)
	$(JOBS_PYTHON) -m benchmarks.recommending $(if $(LARGE),--large) $(if $(RUNS),--runs $(RUNS))

# The package only carries the data; their licence forbids redistribution, so they are fetched on use.
.tandem/movielens/ready: requirements/movielens.txt | $(UV)
	$(UV) pip install -q --target $(@D) --no-deps --require-hashes --python $(JOBS_PYTHON) -r requirements/movielens.txt
	touch $@

bench-delivery: setup ## items per second into DynamoDB, compared with a plain loop (DYNAMODB_ENDPOINT=… instead of moto)
	$(JOBS_PYTHON) -m benchmarks.delivery $(ARGS)

bench-stores: setup ## items per second into DynamoDB (moto), Bigtable (emulator) and Redis, each compared with a plain loop
	$(JOBS_PYTHON) -m benchmarks.stores $(ARGS)

bench-preprocessing: setup-spark .venv-peers/ready ## build_interactions and ingest_events on both engines, compared with duckdb and naive Spark (LARGE=1)
	$(JOBS_PYTHON) -m benchmarks.preprocessing $(if $(LARGE),--large) $(if $(RUNS),--runs $(RUNS))

bench-crossover: setup-spark ## time and cost on DuckDB and on Spark by the size of the input, with a plot (ARGS="--sizes 10000 1000000")
	$(JOBS_PYTHON) -m benchmarks.crossover $(ARGS)

bench-growth: setup-spark ## CPU of a daily ingestion on day 7, 100 and 700 of a lake, with a plot (ARGS="--jobs ingest_events")
	$(JOBS_PYTHON) -m benchmarks.growth $(ARGS)

conformance: setup-spark ## each Spark job on Spark and on DuckDB over the same data, with all differences
	$(JOBS_PYTHON) -m benchmarks.conformance

bench-handover: setup-spark ## from Spark to a CSR in Python: files, compared with toPandas and toArrow (LARGE=1)
	$(JOBS_PYTHON) -m benchmarks.handover $(if $(LARGE),--large) $(if $(RUNS),--runs $(RUNS))

chaos: setup ## run the hybrid pipeline under kills and server failures, and check all promises (SECONDS=600 SEED=1 SPARK=1)
	$(JOBS_PYTHON) -m benchmarks.chaos $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

##@ Build and release
build: $(if $(filter %image,$(KIND)),setup-spark,setup) ## build products: an image of each job, or of JOB=…, and the bundles of Spark jobs (KIND=bundle|light|image)
	$(JOBS_PYTHON) -m tools.packaging.build $(if $(JOB),--job $(JOB)) $(if $(KIND),--kind $(KIND)) \
	    $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE))

submit: setup-spark ## run a Spark job's bundle, here or as a step on EMR (JOB=… CLUSTER=j-… LAKE=s3://… ARGS="--set a=b")
	$(JOBS_PYTHON) -m tools.run.submit --job $(JOB) $(if $(CLUSTER),--cluster $(CLUSTER)) $(if $(LAKE),--lake $(LAKE)) $(ARGS)

affected: .venv/ready ## list the build products that a change affects, and why (BASE=origin/main, JSON=FILE for machines)
	$(JOBS_PYTHON) -m tools.packaging.affected --base $(or $(BASE),origin/main) $(if $(JSON),--json $(JSON))

run: $(if $(filter %image,$(KIND)),setup-spark,setup) ## run a job in its image (JOB=… LAKE=… ARGS="--from interactions=… --set a=b", or ARGS=--help; KIND=image: Spark)
	$(JOBS_PYTHON) -m tools.run.run --job $(JOB) $(if $(KIND),--kind $(KIND)) $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE)) $(if $(LAKE),--lake $(LAKE)) \
	    $(ARGS)

image-report: setup ## sizes of images by layer and package, start times, files never imported
	$(JOBS_PYTHON) -m tools.packaging.image_report $(if $(JOB),--job $(JOB))

push: build ## push the images to the registry of ENV=…, or to REGISTRY=…, and verify them by a pull
	$(JOBS_PYTHON) -m tools.packaging.push $(if $(REGISTRY),--registry $(REGISTRY),--environment $(ENV)) $(if $(JOB),--job $(JOB))

release: .venv/ready ## tag a version of this repository: changelog, pyproject.toml, commit, tag, no push (VERSION=0.2.0)
	$(JOBS_PYTHON) -m tools.packaging.version release --version "$(VERSION)"

##@ Deploy
show-environment: setup ## print all values of an environment, and the file of each (ENV=dev)
	$(JOBS_PYTHON) -m tools.environment --environment $(ENV)

deploy-jobs: setup ## release the jobs of this checkout, or JOB=…, to an environment; ENV=prod promotes the release of preprod
	$(JOBS_PYTHON) -m tools.deploy.deploy_jobs --environment $(ENV) $(if $(JOB),--job $(JOB))

rollback-jobs: setup ## roll back to the release before the live one (ENV=dev)
	$(JOBS_PYTHON) -m tools.deploy.rollback_jobs --environment $(ENV)

deploy-dags: setup ## switch an environment to the DAGs of this checkout, if they fit the released jobs (ENV=dev)
	$(JOBS_PYTHON) -m tools.deploy.deploy_dags --environment $(ENV)

create-tables: setup ## create the missing tables of products in their store (ENV=laptop)
	$(JOBS_PYTHON) -m tools.tables --environment $(ENV)

iam-policy: setup ## print the minimal AWS policy of a job, or of a pipeline's nodes (JOB=write_product PIPELINE=trending_items ENV=dev)
	@$(JOBS_PYTHON) -m tools.deploy.iam_policy $(if $(JOB),--job $(JOB)) $(if $(PIPELINE),--pipeline $(PIPELINE)) --environment $(ENV)

lifecycle-rules: setup ## print the S3 lifecycle rules of an environment's bucket (ENV=dev)
	@$(JOBS_PYTHON) -m tools.lake.lifecycle_rules --environment $(ENV)

##@ Operate
report: setup ## make the page over all runs anew from their records, and open it (ENV=laptop LAKE=s3://…)
	@$(JOBS_PYTHON) -m tools.run.report $(if $(ENV),--environment $(ENV)) $(if $(LAKE),--lake $(LAKE))

models: setup ## list the models that shipped: when, by which run, with which quality (ENV=laptop LAKE=s3://…)
	@$(JOBS_PYTHON) -m tools.run.models $(if $(ENV),--environment $(ENV)) $(if $(LAKE),--lake $(LAKE))

backfill: setup ## make a pipeline's results of past days, each as of its day (PIPELINE= FROM= TO= RUNS=1 ENV=laptop)
	$(JOBS_PYTHON) -m tools.sandbox.backfill --environment $(or $(ENV),laptop) --pipeline "$(PIPELINE)" --first "$(FROM)" \
	    --last "$(TO)" $(if $(RUNS),--runs $(RUNS))

replay: setup ## rerun a task of a pipeline here, on its inputs (DAG=… RUN=… TASK=… MAP_INDEX=… LAKE=s3://… SPARK=1)
	$(JOBS_PYTHON) -m tools.run.replay --dag-id "$(DAG)" --run-id "$(RUN)" --task-id "$(TASK)" \
	    $(if $(MAP_INDEX),--map-index $(MAP_INDEX)) $(if $(LAKE),--lake $(LAKE)) $(if $(filter 1,$(SPARK)),--spark)

render: setup ## print a task's request to its runtime: pod, Job, step, command (DAG=… TASK=… ARGS="--map-index 1")
	PYTHONPATH=airflow_dags $(AIRFLOW_PYTHON) -m tandem.render --dag $(DAG) --task $(TASK) $(ARGS)

graph: setup .venv-graph/ready ## write a picture of a pipeline's newest run from Airflow's page (DAG=… FILE=PNG), with Chromium
	.venv-graph/bin/python -m tools.sandbox.graph --dag $(DAG) --file $(or $(FILE),docs/images/$(DAG).png)

screenshots: setup .venv-graph/ready ## write pictures of a pipeline's newest card and of the index page (DAG=daily_recommendations), with Chromium
	.venv-graph/bin/python -m tools.sandbox.screenshots $(if $(DAG),--dag $(DAG))

lineage: setup ## print where a product comes from, back to deliveries; with USER= also that user's rows (PRODUCT=… ENV= LAKE=)
	@$(JOBS_PYTHON) -m tools.run.lineage --product "$(PRODUCT)" $(if $(filter command,$(origin USER)),--user="$$USER") \
	    $(if $(ENV),--environment $(ENV)) $(if $(LAKE),--lake $(LAKE))

quarantine: setup ## show quarantined records of a source: reasons, files, examples (SOURCE=… KIND=events DAY=… or RUN=… ENV= LAKE=)
	@$(JOBS_PYTHON) -m tools.lake.quarantine --kind "$(or $(KIND),events)" --source "$(SOURCE)" \
	    $(if $(DAY),--day $(DAY)) $(if $(RUN),--run "$(RUN)") $(if $(ENV),--environment $(ENV)) $(if $(LAKE),--lake $(LAKE))

requeue: setup ## let the next ingestion take files with quarantined records again (KIND=events SOURCE=… SINCE= UNTIL= ENV= LAKE=)
	@$(JOBS_PYTHON) -m tools.lake.requeue --kind "$(KIND)" --source "$(SOURCE)" $(if $(SINCE),--since $(SINCE)) \
	    $(if $(UNTIL),--until $(UNTIL)) $(if $(ENV),--environment $(ENV)) $(if $(LAKE),--lake $(LAKE))

retention: setup ## list runs and versions that nothing needs (ENV=… LAKE=… DAYS=…; APPLY=1 deletes them)
	$(JOBS_PYTHON) -m tools.lake.retention $(if $(ENV),--environment $(ENV)) $(if $(LAKE),--lake $(LAKE)) \
	    $(if $(DAYS),--days $(DAYS)) $(if $(filter 1,$(APPLY)),--apply)

forget: setup ## erase users from lake and tables, and keep them out (USERS_FILE=…, or -, or USER=…; none: finish; ENV= LAKE= GRACE_MINUTES=)
	@$(if $(filter command,$(origin USER)),TANDEM_FORGET_USER="$$USER") $(JOBS_PYTHON) -m tools.lake.forget \
	    $(if $(ENV),--environment $(ENV)) $(if $(LAKE),--lake $(LAKE)) $(if $(USERS_FILE),--users $(USERS_FILE)) \
	    $(if $(GRACE_MINUTES),--grace-minutes $(GRACE_MINUTES))

rollback: setup ## roll a product back to the version before the live one (PRODUCT=recommendations ENV=laptop)
	$(JOBS_PYTHON) -m tools.deploy.rollback --product $(PRODUCT) --environment $(ENV)

##@ Keep requirements current
audit: .venv/ready .venv-audit/ready ## known vulnerabilities of pinned libraries (exit 1: some, 2: not all could be checked)
	@$(JOBS_PYTHON) -m tools.packaging.audit

COMPILE := $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate
requirements: $(UV) ## recompile requirements/*.in to hashed files
	for name in uv java build learning spark peers graph docs audit; do \
	    $(COMPILE) requirements/$$name.in -o requirements/$$name.txt; done
	$(COMPILE) -c requirements/learning.txt requirements/tables.in -o requirements/tables.txt
	$(COMPILE) -c requirements/tables.txt requirements/delivery.in -o requirements/delivery.txt
	$(COMPILE) -c requirements/spark.txt requirements/cluster.in -o requirements/cluster.txt
	$(COMPILE) -c requirements/tables.txt requirements/light.in -o requirements/light.txt
	$(COMPILE) -c requirements/learning.txt requirements/reporting.in -o requirements/reporting.txt
	$(COMPILE) $(addprefix -c requirements/,learning.txt tables.txt delivery.txt light.txt spark.txt reporting.txt) requirements/development.in \
	    -o requirements/development.txt
	$(COMPILE) requirements/airflow.in -o requirements/airflow.txt
	$(COMPILE) -c requirements/airflow.txt requirements/airflow-dataproc.in -o requirements/airflow-dataproc.txt
	$(COMPILE) requirements/airflow-managed.in -o requirements/airflow-managed.txt
	for name in airflow-dataproc-provider airflow-managed-provider movielens mermaid; do \
	    $(COMPILE) --no-deps requirements/$$name.in -o requirements/$$name.txt; done

# Build tools of source distributions are pinned by hash, too.
SYNC := $(UV) pip sync -q --compile-bytecode --require-hashes --build-constraints requirements/build.txt
.venv/ready: requirements/development.txt requirements/build.txt | $(UV)
	$(UV) venv -q --allow-existing --python $(PYTHON) .venv
	$(SYNC) --python $(JOBS_PYTHON) requirements/development.txt
	echo "$(CURDIR)" >"$$($(JOBS_PYTHON) -c 'import site; print(site.getsitepackages()[0])')/tandem.pth"
	touch $@

.venv/java: requirements/java.txt tools/sandbox/java.py | .venv/ready $(UV)
	$(JOBS_PYTHON) -m tools.sandbox.java --uv $(UV)
	touch $@

.venv/spark-jars: tools/packaging/spark_jars.py requirements/spark-jars.sha256 | .venv/java
	$(JOBS_PYTHON) -m tools.packaging.spark_jars
	touch $@

# Production needs only airflow.txt, unless its Spark jobs run on Dataproc.
.venv-airflow/ready: $(addprefix requirements/airflow,.txt -dataproc.txt -dataproc-provider.txt) | $(UV)
	$(UV) venv -q --allow-existing --python $(PYTHON) .venv-airflow
	$(SYNC) --python $(AIRFLOW_PYTHON) $^
	touch $@

.venv-airflow-managed/ready: $(addprefix requirements/airflow-managed,.txt -provider.txt) | $(UV)
	$(UV) venv -q --allow-existing --python $(PYTHON) $(@D)
	$(SYNC) --python $(@D)/bin/python $^
	touch $@

.venv-peers/ready .venv-graph/ready .venv-docs/ready .venv-audit/ready: .venv-%/ready: requirements/%.txt | $(UV)
	$(UV) venv -q --allow-existing --python $(PYTHON) $(@D)
	$(SYNC) --python $(@D)/bin/python $<
	touch $@

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), but Tandem needs Python 3.11 or newer; install one (Debian: apt-get install python3.11, macOS: brew install python@3.12) and name it: make PYTHON=python3.12 setup" >&2; exit 1; }
	$(PYTHON) -m pip install -q --upgrade --target .tandem/uv --require-hashes -r requirements/uv.txt
	touch $@

.PHONY: test-jobs test-airflow test-system-jobs test-system-airflow $(shell awk -F: '/^[a-z-]+:.*\#\# / {print $$1}' $(MAKEFILE_LIST))
