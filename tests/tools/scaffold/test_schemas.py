"""The JSON Schemas that editors use, and the checks of the code, accept and refuse the same documents."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from common import contracts
from common.errors import TaskError
from common.handover import job_toml
from tools.packaging import catalogue
from tools.scaffold import schemas

ROOT = schemas.ROOT
JOBS = [*ROOT.glob("jobs/*/job.toml"), *ROOT.glob("templates/jobs/*/job.toml")]
SOURCES = [*ROOT.glob("sources/*/*.toml")]
PLAN = ROOT / "sources" / "tracking_plan.toml"
CONTRACTS = [*ROOT.glob("common/contracts/*.toml"), *ROOT.glob("templates/jobs/*/contract.toml")]
HEAD = '[job]\ndescription = "A job."\nengine = "spark"\n'
WHOLE = """
[job]
description = "A job."
engine = "python"
requirements = "requirements/tables.txt"
mapped_by = "shards"
services = ["delivery"]
[inputs.handed]
contracts = ["rows@1", "rows@2"]
[inputs.dataset]
dataset = "curated/rows"
contract = "rows@1"
dates = ["since", "until"]
window = "window_days"
optional = true
[inputs.raw]
raw = "raw/rows"
[outputs.rows]
contract = "rows@1"
when = "wanted"
[parameters.since]
type = "date"
default = ""
help = "first"
[parameters.until]
type = "date"
default = ""
help = "after"
[parameters.window_days]
type = "integer"
default = 7
help = "days"
[parameters.wanted]
type = "boolean"
default = true
help = "write it"
[parameters.shards]
type = "integer"
default = 2
range = [1, 4]
help = "how many"
[parameters.way]
type = "string"
choices = ["a", "b"]
help = "which"
[resources]
cpu = "1"
memory = "1Gi"
deadline_seconds = 60
[spark]
driver_memory = "1g"
executor_memory = "1g"
executor_cores = 1
conf = { "spark.a" = "b" }
"""
JOB_CASES = {
    "whole": (WHOLE, True),
    "least": (HEAD, True),
    "no description": ('[job]\nengine = "spark"\n', False),
    "no engine": ('[job]\ndescription = "A job."\n', False),
    "no job": ("", False),
    "unknown engine": (HEAD.replace("spark", "flink"), False),
    "unknown table": (f"{HEAD}[input.rows]\n", False),
    "unknown key of a job": (f"{HEAD}memory = '1g'\n", False),
    "unknown key of an input": (f'{HEAD}[inputs.rows]\ncontract = "a@1"\npath = "x"\n', False),
    "unknown key of an output": (f'{HEAD}[outputs.rows]\ncontract = "a@1"\npartition = "x"\n', False),
    "input without contract": (f'{HEAD}[inputs.rows]\ndataset = "curated/rows"\n', False),
    "contract twice": (f'{HEAD}[inputs.rows]\ncontract = "a@1"\ncontracts = ["b@1"]\n', False),
    "oldest of a hand-over": (f'{HEAD}[inputs.rows]\ncontract = "a@2"\noldest = "a@1"\n', False),
    "oldest of alternatives": (f'{HEAD}[inputs.a]\ndataset = "a"\ncontracts = ["a@2"]\noldest = "a@1"\n', False),
    "window without dates": (
        f'{HEAD}[inputs.a]\ndataset = "a"\ncontract = "a@1"\nwindow = "b"\n'
        '[parameters.b]\ntype = "integer"\nhelp = "b"\n',
        False,
    ),
    "raw without contract": (f'{HEAD}[inputs.rows]\nraw = "raw/rows"\n', True),
    "parameter without help": (f'{HEAD}[parameters.a]\ntype = "string"\n', False),
    "parameter without type": (f'{HEAD}[parameters.a]\nhelp = "a"\n', False),
    "parameter of an unknown type": (f'{HEAD}[parameters.a]\ntype = "text"\nhelp = "a"\n', False),
    "unknown key of a parameter": (f'{HEAD}[parameters.a]\ntype = "string"\nhelp = "a"\nleast = 1\n', False),
    "deadline of text": (f'{HEAD}[resources]\ndeadline_seconds = "60"\n', False),
    "deadline of none": (f"{HEAD}[resources]\ndeadline_seconds = 0\n", False),
    "deadline of a flag": (f"{HEAD}[resources]\ndeadline_seconds = true\n", False),
    "unknown resource": (f"{HEAD}[resources]\ngpu = 1\n", False),
    "unknown size of Spark": (f"{HEAD}[spark]\nmemory = '1g'\n", False),
    "number for a description": ('[job]\ndescription = 1\nengine = "spark"\n', False),
    "text for a list of services": (f'{HEAD}services = "dynamodb"\n', False),
    "list of numbers for services": (f"{HEAD}services = [1]\n", False),
    "value for the job": ("job = 1\n", False),
    "value for inputs": (f"inputs = 1\n{HEAD}", False),
    "value for an input": (f'{HEAD}[inputs]\nrows = "a@1"\n', False),
    "value for parameters": (f"parameters = true\n{HEAD}", False),
    "value for a parameter": (f"{HEAD}[parameters]\na = 1\n", False),
    "value for resources": (f"resources = 1\n{HEAD}", False),
    "value for Spark": (f"spark = []\n{HEAD}", False),
    "text for contracts": (f'{HEAD}[inputs.rows]\ncontracts = "a@1"\n', False),
    "list for a contract": (f'{HEAD}[inputs.rows]\ncontract = ["a@1"]\n', False),
    "one name of a date": (f'{HEAD}[inputs.rows]\ncontract = "a@1"\ndates = ["since"]\n', False),
    "text for true": (f'{HEAD}[inputs.rows]\ncontract = "a@1"\noptional = "yes"\n', False),
    "number for help": (f'{HEAD}[parameters.a]\ntype = "string"\nhelp = 1\n', False),
    "list as default": (f'{HEAD}[parameters.a]\ntype = "string"\nhelp = "a"\ndefault = []\n', False),
    "false as default": (f'{HEAD}[parameters.a]\ntype = "boolean"\nhelp = "a"\ndefault = false\n', True),
    "range of one end": (f'{HEAD}[parameters.a]\ntype = "integer"\nhelp = "a"\nrange = [1]\n', False),
    "range of texts": (f'{HEAD}[parameters.a]\ntype = "integer"\nhelp = "a"\nrange = ["1", "2"]\n', False),
    "range with fractions": (f'{HEAD}[parameters.a]\ntype = "number"\nhelp = "a"\nrange = [0, 0.5]\n', True),
    "choices that are numbers": (f'{HEAD}[parameters.a]\ntype = "integer"\nhelp = "a"\nchoices = [1, 2]\n', False),
    "number for cpu": (f"{HEAD}[resources]\ncpu = 2\n", False),
    "true for cores": (f"{HEAD}[spark]\nexecutor_cores = true\n", False),
    "text for conf": (f'{HEAD}[spark]\nconf = "a=b"\n', False),
}
CHECKED = (
    'description = "Rows."\n[columns]\na = { type = "string" }\narrival = { type = "date" }\n'
    '[[checks]]\nseverity = "warn"\n'
)
CONTRACT_CASES = {
    "columns": ('description = "Rows."\n[columns]\na = { type = "string", nullable = true }\n', True),
    "limits": ('description = "Rows."\n[columns]\na = { type = "float64", minimum = 0, maximum = 1.5 }\n', True),
    "arrays": ('description = "A model."\narrays = true\n', True),
    "product": (
        'description = "Rows."\n[product]\nkey = "a"\norder = "b"\ncompared = "b"\n'
        '[columns]\na = { type = "string" }\nb = { type = "int64" }\n',
        True,
    ),
    "no description": ("arrays = true\n", False),
    "number for a description": ("description = 1\n", False),
    "text for arrays": ('description = "Rows."\narrays = "yes"\n', False),
    "value for columns": ('description = "Rows."\ncolumns = 1\n', False),
    "value for a column": ('description = "Rows."\n[columns]\na = "string"\n', False),
    "text for nullable": ('description = "Rows."\n[columns]\na = { type = "string", nullable = "no" }\n', False),
    "text for a limit": ('description = "Rows."\n[columns]\na = { type = "number", minimum = "0" }\n', False),
    "true for a limit": ('description = "Rows."\n[columns]\na = { type = "number", minimum = true }\n', False),
    "number for a type": ('description = "Rows."\n[columns]\na = { type = 1 }\n', False),
    "value for a product": ('description = "Rows."\nproduct = 1\n', False),
    "bytes of a string": ('description = "Rows."\n[columns]\na = { type = "string", max_bytes = 8 }\n', True),
    "fraction of a byte": ('description = "Rows."\n[columns]\na = { type = "string", max_bytes = 8.5 }\n', False),
    "unknown key": ('description = "Rows."\nversion = 2\n', False),
    "unknown type": ('description = "Rows."\n[columns]\na = { type = "text" }\n', False),
    "column without type": ('description = "Rows."\n[columns]\na = { nullable = true }\n', False),
    "unknown key of a column": ('description = "Rows."\n[columns]\na = { type = "string", unit = "m" }\n', False),
    "product without key": ('description = "Rows."\n[product]\norder = "a"\n[columns]\na = {type = "string"}\n', False),
    "checks": (f'{CHECKED}allowed = ["a"]\ncolumn = "a"\n[[checks]]\nunique = ["a"]\nseverity = "refuse"\n', True),
    "expected volume": (f'{CHECKED}volume = true\nby = ["a"]\nfactor = 1.5\n', True),
    "two kinds of checks": (f'{CHECKED}unique = ["a"]\nvolume = true\n', False),
    "no kind of check": (CHECKED, False),
    "no allowed value": (f'{CHECKED}allowed = []\ncolumn = "a"\n', False),
    "allowed values of no column": (f'{CHECKED}allowed = ["a"]\n', False),
    "column of a key": (f'{CHECKED}unique = ["a"]\ncolumn = "a"\n', False),
    "factor of one": (f"{CHECKED}volume = true\nfactor = 1\n", False),
    "unknown severity": (f'{CHECKED}unique = ["a"]\n'.replace('"warn"', '"fail"'), False),
    "table of checks": ('description = "Rows."\n[checks]\nunique = ["a"]\nseverity = "warn"\n', False),
    "unknown key of a product": (
        'description = "Rows."\n[product]\nkey = "a"\ntable = "x"\n[columns]\na = { type = "string" }\n',
        False,
    ),
}


def fits(schema, document) -> bool:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema).is_valid(document)


def accepted(load, *arguments) -> bool:
    try:
        load(*arguments)
    except TaskError:
        return False
    return True


@pytest.mark.parametrize("case", JOB_CASES)
def test_schema_and_check_agree_on_a_job(tmp_path, case):
    text, good = JOB_CASES[case]
    (tmp_path / "job.toml").write_text(text)
    assert accepted(job_toml.load, tmp_path) is good
    assert fits(schemas.job_schema(), tomllib.loads(text)) is good


SENTENCES = {
    "text for a list of services": r"services of \[job\] of \S+ is 'dynamodb', expected a list of texts",
    "one name of a date": r"dates of \[inputs\.rows\] of \S+ is \['since'\], expected a list of 2 texts",
    "list as default": r"default of \[parameters\.a\] of \S+ is \[\], expected a text or a number or true or false",
    "number for cpu": r"cpu of \[resources\] of \S+ is 2, expected a text",
    "value for an input": r"rows of \[inputs\] of \S+ is 'a@1', expected a table",
}


@pytest.mark.parametrize("case", SENTENCES)
def test_wrong_type_is_reported_with_key_value_and_expectation(tmp_path, case):
    (tmp_path / "job.toml").write_text(JOB_CASES[case][0])
    with pytest.raises(TaskError, match=SENTENCES[case]):
        job_toml.load(tmp_path)


@pytest.fixture
def contract_folder(tmp_path, monkeypatch):
    """The folder of contracts, instead of the package's own."""
    monkeypatch.setattr(contracts, "FOLDER", tmp_path)
    contracts.load.cache_clear()
    yield tmp_path
    contracts.load.cache_clear()


@pytest.mark.parametrize("case", CONTRACT_CASES)
def test_schema_and_check_agree_on_a_contract(contract_folder, case):
    text, good = CONTRACT_CASES[case]
    (contract_folder / "rows@1.toml").write_text(text)
    assert accepted(contracts.load, "rows@1") is good
    assert fits(schemas.contract_schema(), tomllib.loads(text)) is good


def test_schema_of_a_job_has_the_keys_of_the_check(tmp_path, monkeypatch):
    known = set()
    monkeypatch.setattr(job_toml, "check_keys", lambda settings, keys, where: known.add(frozenset(keys)))
    (tmp_path / "job.toml").write_text(WHOLE)
    job_toml.load(tmp_path)
    schema = schemas.job_schema()
    tables = schema["properties"]
    named = [tables["job"], tables["resources"], tables["spark"]]
    each = [schema["$defs"]["table"], tables["parameters"]["additionalProperties"]]
    assert known == {frozenset(table["properties"]) for table in [schema, *named, *each]}


def test_schema_of_a_contract_has_the_keys_of_the_check(contract_folder, monkeypatch):
    known = set()
    monkeypatch.setattr(contracts, "check_keys", lambda settings, keys, where: known.add(frozenset(keys)))
    (contract_folder / "rows@1.toml").write_text(CONTRACT_CASES["product"][0])
    contracts.load("rows@1")
    schema = schemas.contract_schema()
    tables = [schema, schema["properties"]["columns"]["additionalProperties"], schema["properties"]["product"]]
    assert known == {frozenset(table["properties"]) for table in tables}


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.parent.name)
def test_every_job_fits_its_schema(file):
    assert fits(schemas.job_schema(), tomllib.loads(file.read_text()))


@pytest.mark.parametrize("file", CONTRACTS, ids=lambda file: file.stem)
def test_every_contract_fits_its_schema(file):
    assert fits(schemas.contract_schema(), tomllib.loads(file.read_text()))


SETTINGS = {
    "nothing": ({}, True),
    "a value": ({"parameters": {"shards": 3}}, True),
    "a template": ({"parameters": {"shards": "{{ params.n }}"}}, True),
    "an unknown parameter": ({"parameters": {"shard": 3}}, False),
    "an unknown key": ({"parameter": {}}, False),
    "text for a number": ({"parameters": {"shards": "many"}}, False),
    "out of range": ({"parameters": {"shards": 5}}, False),
    "none of the choices": ({"parameters": {"way": "c"}}, False),
    "a choice": ({"parameters": {"way": "b"}}, True),
    "a size of Spark for a Python job": ({"driver_memory": "1g"}, False),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_follow_the_parameters_of_the_job(tmp_path, case):
    document, good = SETTINGS[case]
    (tmp_path / "job.toml").write_text(WHOLE)
    found = job_toml.load(tmp_path)
    assert fits(schemas.settings_schema(found), document) is good
    values = {name: str(value) for name, value in document.get("parameters", {}).items()}
    if values and "{{" not in "".join(values.values()):
        assert accepted(job_toml.parameter_values, found, {"way": "a"} | values) is good


def test_schemas_of_the_checkout_are_current():
    schemas.check(ROOT)


def test_stale_schemas_are_reported_and_rewritten(tmp_path):
    for file in JOBS[:2]:
        (tmp_path / "jobs" / file.parent.name).mkdir(parents=True)
        shutil.copy(file, tmp_path / "jobs" / file.parent.name)
    schemas.write(tmp_path)
    schemas.check(tmp_path)
    gone = tmp_path / "schemas/settings/gone.schema.json"
    gone.write_text("{}")
    changed = tmp_path / f"schemas/settings/{JOBS[0].parent.name}.schema.json"
    changed.write_text("{}")
    with pytest.raises(SystemExit, match=rf"{gone.name}, schemas/settings/{changed.name}: out of date"):
        schemas.check(tmp_path)
    schemas.write(tmp_path)
    schemas.check(tmp_path)
    assert not gone.exists()


def source_schema(kind: str) -> dict[str, Any]:
    return schemas.source_schemas()[f"schemas/{kind}_source.schema.json"]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_source_fits_its_schema(file):
    assert fits(source_schema(file.stem), tomllib.loads(file.read_text()))


def test_schema_of_a_source_refuses_unknown_keys_and_columns():
    document = tomllib.loads((ROOT / "sources/online_retail_ii/events.toml").read_text())
    assert not fits(source_schema("events"), {**document, "mode": "full"})
    assert not fits(source_schema("events"), {**document, "columns": {**document["columns"], "user": "u"}})
    assert not fits(source_schema("events"), {**document, "columns": {"time": "time"}})


def test_tracking_plan_fits_its_schema():
    assert fits(schemas.source_schemas()["schemas/tracking_plan.schema.json"], tomllib.loads(PLAN.read_text()))


def test_editors_know_the_schema_of_every_file():
    """Taplo and VS Code map each file to one existing schema."""
    rules = tomllib.loads((ROOT / ".taplo.toml").read_text())["rule"]
    vscode = json.loads((ROOT / ".vscode/settings.json").read_text())["json.schemas"]
    mapped = [(pattern, rule["schema"]["path"]) for rule in rules for pattern in rule["include"]]
    mapped += [(pattern, schema["url"]) for schema in vscode for pattern in schema["fileMatch"]]
    described = {file: {schema for pattern, schema in mapped if file.match(pattern)} for file in documents()}
    assert {file.name for file, found in described.items() if len(found) != 1} == set()
    assert all((ROOT / schema).is_file() for found in described.values() for schema in found)


def documents() -> list[Path]:
    """Files that people edit and that have a schema."""
    jobs = json.loads(catalogue.catalogue(ROOT / "jobs"))
    settings = [file for file in ROOT.glob("airflow_dags/*/*.json") if file.stem in jobs]
    clusters = list(ROOT.glob("airflow_dags/*/cluster*.json"))
    environments = list(ROOT.glob("airflow_dags/environments/*.toml"))
    assert all([settings, clusters, environments])
    return [file.relative_to(ROOT) for file in [*JOBS, *CONTRACTS, *SOURCES, PLAN, *settings, *clusters, *environments]]
