"""Tables, arrays and interactions compared with plain references; files that break their contract."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from common import contracts
from common.engines import arrow
from common.engines.arrays import read_arrays, string_arrays, strings_of, write_arrays
from common.engines.interactions import max_pairs, read_interactions
from common.errors import GateRefused, InputError
from common.handover import storage
from common.handover.inputs import Input
from common.handover.job_toml import Job, Table
from common.handover.storage import File

names = st.text(alphabet="abé😀", min_size=1, max_size=2)  # few, so that they recur
rows = st.lists(st.tuples(names, names, st.floats(0, 1e6, width=32)), max_size=60, unique_by=lambda row: row[:2])


class FakeTask:
    """A stand-in for a Task, with inputs and outputs in a folder."""

    def __init__(self, folder):
        self.folder_uri = f"file://{folder}"
        self.inputs = {}
        self.counts = {}
        self.events = []
        output = Table(contract="predictions@3")
        self.job = Job("toy", "", "python", outputs={"predictions": output, "model": Table("recommender_model@5")})

    def input(self, role):
        return self.inputs[role]

    def folder(self, role):
        return f"{self.folder_uri}/{role}"

    def record_output(self, role, rows, buckets=None):
        self.counts[role] = rows

    def log(self, event, **numbers):
        self.events.append(event)

    def progress(self, *_):
        pass

    def add(self, role, contract, parts):
        files = []
        for number, part in enumerate(parts):
            file = f"{self.folder_uri}/{role}-{number}.parquet".removeprefix("file://")
            pq.write_table(part, file, row_group_size=7)
            files.append(File(f"file://{file}", 0))
        count = sum(part.num_rows for part in parts)
        self.inputs[role] = Input(role, contracts.load(contract) if contract else None, files, count)
        return files


def interactions(entries):
    columns = contracts.load("interactions@2").columns
    table = {name: pa.nulls(len(entries), arrow.TYPES[column.type]) for name, column in columns.items()}
    for position, name in enumerate(["user_id", "item_id", "weight"]):
        table[name] = pa.array([entry[position] for entry in entries], arrow.TYPES[columns[name].type])
    return pa.table(table)


def matrix(found):
    shape = (len(found.users), len(found.items))
    return csr_matrix((found.values["weight"], found.indices, found.indptr), shape=shape)


def by_name(found):
    """Return the entries of a CSR matrix by names: the plain form to compare with."""
    users, items = found.users.to_pylist(), found.items.to_pylist()
    assert len(users) == len(set(users))
    assert items == sorted(items, key=str.encode)
    entries = matrix(found).tocoo()
    return sorted((users[u], items[i], float(v)) for u, i, v in zip(entries.row, entries.col, entries.data))


@pytest.fixture
def small_batches(monkeypatch):
    """Make the rows of a user continue in the next batch."""
    monkeypatch.setattr("common.engines.interactions.BATCH", 3)


@given(rows, st.integers(1, 4), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_interactions_match_files_in_any_order(tmp_path, small_batches, entries, parts, ordered):
    task = FakeTask(tmp_path)
    if ordered:
        users = sorted({user for user, _, _ in entries})
        entries = sorted(entries)
        pieces = [[entry for entry in entries if users.index(entry[0]) % parts == part] for part in range(parts)]
    else:
        pieces = [entries[part::parts] for part in range(parts)]
    task.add("interactions", "interactions@2", [interactions(piece) for piece in pieces])
    found = read_interactions(task, "interactions", ["weight"])
    assert by_name(found) == sorted((user, item, float(np.float32(value))) for user, item, value in entries)
    if ordered:
        assert "unsorted" not in task.events
        assert matrix(found).has_sorted_indices


def test_rows_of_a_user_in_two_files_are_joined(tmp_path):
    task = FakeTask(tmp_path)
    task.add("interactions", "interactions@2", [interactions([("u", "a", 1.0)]), interactions([("u", "b", 2.0)])])
    found = read_interactions(task, "interactions", ["weight"])
    assert task.events == ["unsorted"]
    assert matrix(found).toarray().tolist() == [[1.0, 2.0]]


def test_pairs_to_train_on_are_limited_by_half_of_the_memory(tmp_path):
    task = FakeTask(tmp_path)
    task.job = replace(task.job, resources={"memory": "4Gi"})
    for limit, expected in ((0, 2**32 // 256), (7, 7)):
        task.parameters = {"max_training_pairs": limit}
        assert max_pairs(task) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_null_or_non_finite_number_stops_the_reader(tmp_path, value):
    task = FakeTask(tmp_path)
    task.add("interactions", "interactions@2", [interactions([("u", "a", value)])])
    with pytest.raises(InputError, match=r"interactions-0.parquet has a null, NaN or infinite number in 'weight'"):
        read_interactions(task, "interactions", ["weight"])


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda table: table.drop_columns("item_id"), "column 'item_id' is missing, expected string"),
        (
            lambda table: table.set_column(2, "weight", pa.array(["much"])),
            "column 'weight' is string, expected float32",
        ),
    ],
)
def test_file_of_another_contract_is_named_with_its_column(tmp_path, harm, sentence):
    task = FakeTask(tmp_path)
    good = interactions([("u", "a", 1.0)])
    task.add("interactions", "interactions@2", [good, harm(good)])
    for read in (arrow.read, lambda *names: list(arrow.batches(*names))):
        with pytest.raises(InputError, match=rf"interactions-1.parquet breaks interactions@2: {sentence}"):
            read(task, "interactions")
    with pytest.raises(InputError, match=r"interactions-1\.parquet"):
        read_interactions(task, "interactions", ["weight"])


def test_table_is_read_by_columns_in_order_of_files(tmp_path):
    task = FakeTask(tmp_path)
    entries = [("u", "a", 1.0), ("v", "b", 2.0), ("w", "c", 3.0)]
    task.add("interactions", "interactions@2", [interactions([entry]) for entry in entries])
    found = arrow.read(task, "interactions", ["item_id", "weight"])
    assert found.to_pydict() == {"item_id": ["a", "b", "c"], "weight": [1.0, 2.0, 3.0]}
    assert sum(batch.num_rows for batch in arrow.batches(task, "interactions")) == 3


PREDICTIONS = {
    "user_id": ["u"],
    "style": ["new"],
    "rank": [1],
    "item_id": ["a"],
    "score": [0.5],
    "explained_by_item_id": [None],
    "model": ["m"],
}


def test_table_is_written_in_the_contracts_order_and_types(tmp_path):
    task = FakeTask(tmp_path)
    shuffled = pa.table(dict(reversed(PREDICTIONS.items())))
    arrow.write(task, "predictions", [shuffled, shuffled])
    assert task.counts == {"predictions": 2}
    written = pq.read_table(f"{tmp_path}/predictions/part-00000.parquet")
    assert written.column_names == list(contracts.load("predictions@3").columns)
    assert written["explained_by_item_id"].type == pa.string()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"user_id": [None]}, "has 1 nulls in 'user_id', predictions@3 allows none"),
        ({"rank": ["first"]}, "does not fit predictions@3"),
        ({"score": [float("nan")]}, "has NaN or infinite numbers in 'score', predictions@3 allows none"),
        ({"score": [float("inf")]}, "has NaN or infinite numbers in 'score', predictions@3 allows none"),
        ({"rank": [0]}, "has values from 0 to 0 in 'rank', predictions@3 allows 1 to any"),
        ({"user_id": [""]}, "strings of 0 to 0 bytes in 'user_id', predictions@3 allows 1 to 1,024"),
        ({"item_id": ["é" * 513]}, "strings of 1,026 to 1,026 bytes in 'item_id'"),
        ({"explained_by_item_id": ["cup\0"]}, "has control characters in 'explained_by_item_id'"),
        ({"model": ["\x85"]}, "has control characters in 'model'"),
    ],
)
def test_result_that_breaks_its_contract_is_refused(tmp_path, change, sentence):
    with pytest.raises(GateRefused, match=sentence):
        arrow.write(FakeTask(tmp_path), "predictions", pa.table(PREDICTIONS | change))


def test_arrays_round_trip(tmp_path):
    task = FakeTask(tmp_path)
    arrays = {"weights": np.arange(6, dtype=np.float32).reshape(2, 3), "items": np.array(["a", "bé"])}
    write_arrays(task, "model", arrays, {"won": "ease"})
    files = storage.files(task.folder("model"))
    task.inputs["model"] = Input("model", None, files)
    found, document = read_arrays(task, "model")
    assert document == {"won": "ease"}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert found["weights"].dtype == np.float32


@pytest.mark.parametrize(
    "strings", [[], [""], ["a", "bé", "", "c\0", "c"], ["x" * 100_000, *map(str, range(1000))]], ids=range(4)
)
def test_strings_round_trip_without_padding(tmp_path, strings):
    task = FakeTask(tmp_path)
    arrays = string_arrays("items", pa.array(["cut off", *strings], pa.string())[1:])
    write_arrays(task, "model", arrays, {})
    task.inputs["model"] = Input("model", None, storage.files(task.folder("model")))
    assert strings_of("items", read_arrays(task, "model")[0]).to_pylist() == strings
    assert sum(array.nbytes for array in arrays.values()) < 8 + sum(len(string.encode()) + 8 for string in strings) + 1


def test_array_with_nan_is_refused(tmp_path):
    with pytest.raises(GateRefused, match="Array 'weights' of output 'model' has NaN in it"):
        write_arrays(FakeTask(tmp_path), "model", {"weights": np.array([[1.0, np.nan], [0.0, np.inf]])}, {})


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_arrays(FakeTask(tmp_path), "model", {"objects": np.array([{}])}, {})


def test_reading_sorted_files_peaks_well_below_sorting(tmp_path):
    """1.7 to 2.2 times the matrix here, by the overlap of four threads; `make bench-handover` measures large ones."""
    users, items = 240_000, 50
    files = []
    for part in range(8):
        count = users // 8
        table = {
            "user_id": pa.array(np.repeat(np.char.mod("user-%07d", np.arange(part, users, 8)), items)),
            "item_id": pa.array(np.tile(np.char.mod("item-%05d", np.arange(items) * 97), count)),
            "weight": pa.array(np.random.default_rng(part).random(count * items, np.float32)),
        }
        whole = interactions([]).schema
        missing = {name: pa.nulls(count * items, whole.field(name).type) for name in whole.names if name not in table}
        files.append(f"{tmp_path}/{part}.parquet")
        pq.write_table(pa.table(table | missing), files[-1])
    command = [sys.executable, "-m", "tests.programs.peak_of_reading", *files]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    ratio, found = process.stdout.split()[-2:]
    assert int(found) == users
    assert float(ratio) < 2.6
