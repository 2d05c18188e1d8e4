"""Differences of two versions of a contract; the versions that a table of job.toml takes."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import contracts
from common.contracts import Column, Contract, Product
from common.contracts.evolution import check_extends, compare
from common.errors import ArgumentError
from common.handover import job_toml

bounds = st.none() | st.integers(-5, 5)
columns = st.builds(Column, st.sampled_from(sorted(contracts.TYPES)), st.booleans(), bounds, bounds, st.integers(1, 9))
tables = st.dictionaries(st.text("abc", min_size=1, max_size=2), columns, max_size=4)
OLD = {"key": Column("string"), "note": Column("string", nullable=True), "share": Column("float64", False, 0, 1)}


def contract(columns: dict[str, Column], **settings: object) -> Contract:
    return Contract("visits@1", "Visits.", columns, **settings)


@given(tables, tables)
def test_only_added_nullable_columns_are_compatible(old: dict[str, Column], new: dict[str, Column]) -> None:
    added = {name: column for name, column in new.items() if name not in old}
    extends = {**old, **added} == new and all(column.nullable for column in added.values())
    found = compare(contract(old), dataclasses.replace(contract(new), name="visits@2", description="Other words."))
    assert extends == (not any(difference.migration for difference in found))
    assert (old == new) == (found == [])
    named = " ".join(difference.text for difference in found)
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    assert all(f"'{name}'" in named for name in changed)


@pytest.mark.parametrize(
    ("changes", "text", "migration"),
    [
        ({"city": Column("string", True)}, "nullable column 'city' is added", ""),
        ({"city": Column("string")}, "column 'city' is added, which older files lack", "let 'city' be nullable"),
        ({"share": None}, "column 'share' is removed", "keep 'share', or fill a new dataset"),
        ({"key": None, "id": Column("string")}, "'key' is renamed to 'id'", "add 'id' as a nullable column, and write"),
        ({"key": Column("int64")}, "'key' changes from string to int64", "add a nullable column of the new kind"),
        ({"note": Column("string")}, "'note' changes from nullable to required", "keep 'note' as it is"),
        (
            {"key": Column("string", True)},
            "'key' changes from required to nullable",
            "add a nullable column of the new",
        ),
        ({"share": Column("float64", False, 0, 0.5)}, "maximum of column 'share' changes from 1 to 0.5", "as it is"),
        ({"share": Column("float64", False, None, 1)}, "minimum of column 'share' changes from 0 to none", "new kind"),
        ({"share": Column("float64", False, 0.1, 1)}, "minimum of column 'share' changes from 0 to 0.1", "as it is"),
        ({"key": Column("string", max_bytes=9)}, "max_bytes of column 'key' changes from 1,024 to 9", "as it is"),
        (
            {"key": Column("string", max_bytes=2048)},
            "max_bytes of column 'key' changes from 1,024 to 2,048",
            "new kind",
        ),
    ],
)
def test_difference_names_the_column_and_its_migration(
    changes: dict[str, Column | None], text: str, migration: str
) -> None:
    new = {name: column for name, column in {**OLD, **changes}.items() if column}
    (difference,) = compare(contract(OLD), contract(new))
    assert text in difference.text
    assert migration in difference.migration
    assert bool(migration) == bool(difference.migration)


def test_products_and_models_do_not_change() -> None:
    (product,) = compare(contract(OLD, product=Product("key")), contract(OLD, product=Product("note")))
    assert "a table of its own" in product.migration
    (kind,) = compare(contract({}), contract({}, arrays=True))
    assert "another name" in kind.migration


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three versions of a contract: the second adds a nullable column, the third removes one."""
    for number, names in enumerate(["a", "ab", "b"], 1):
        lines = [f'{name} = {{type = "string", nullable = true}}\n' for name in names]
        (tmp_path / f"visits@{number}.toml").write_text('description = "Visits."\n[columns]\n' + "".join(lines))
    monkeypatch.setattr(contracts, "FOLDER", tmp_path)
    contracts.load.cache_clear()
    yield tmp_path
    contracts.load.cache_clear()


def load_job(folder, table):
    (folder / "job.toml").write_text(f'[job]\ndescription = "A toy."\nengine = "python"\n[inputs.visits]\n{table}')
    return job_toml.load(folder)


def test_input_takes_the_versions_down_to_the_oldest(folder):
    job = load_job(folder, 'dataset = "curated/visits"\ncontract = "visits@2"\noldest = "visits@1"\n')
    assert job.inputs["visits"].fitting == ("visits@2", "visits@1")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            'dataset = "d"\ncontract = "visits@3"\noldest = "visits@1"',
            r"oldest of \[inputs.visits\] .* is 'visits@1', but column 'a' is removed from visits@2 to visits@3; keep",
        ),
        ('dataset = "d"\ncontract = "visits@2"\noldest = "visits@2"', "expected an older version of visits@2"),
        ('dataset = "d"\ncontract = "visits@2"\noldest = "views@1"', "is 'views@1', expected an older version"),
        ('dataset = "d"\ncontract = "visits@2"\noldest = "visits"', "'visits', expected a name and a version such"),
        ('dataset = "d"\ncontract = "visits@2"\noldest = "visits@0"', "There is no contract 'visits@0'"),
        ('contract = "visits@2"\noldest = "visits@1"', "has oldest, which only a dataset with a contract has"),
        ('dataset = "d"\ncontracts = ["visits@2"]\noldest = "visits@1"', "only a dataset with a contract has"),
    ],
)
def test_oldest_that_cannot_be_read_is_refused_with_the_job(folder, table, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        load_job(folder, table)


def test_gap_between_versions_is_refused(folder):
    (folder / "visits@2.toml").unlink()
    with pytest.raises(ArgumentError, match="There is no contract 'visits@2'"):
        check_extends("visits@3", "visits@1", "a table")
