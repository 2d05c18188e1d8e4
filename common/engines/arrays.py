"""Arrays with a JSON document, as `.npy` files without pickle: inputs and outputs of Python jobs."""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs

from common.engines.arrow import destination, filesystem, path
from common.errors import GateRefused, InputError
from common.handover import storage
from common.handover.task import Task

ARRAYS_FORMAT = 1


def write_arrays(task: Task, role: str, arrays: dict[str, np.ndarray], document: dict[str, Any]) -> None:
    """Write one `.npy` file per array, and a JSON document that lists them: no pickle, readable from any language.

    If the output is a dataset, it replaces its only partition, `all`. Raises GateRefused for an array with NaN.
    """
    folder, publish = destination(task, role)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.size and np.isnan(array.min()):
            raise GateRefused(f"Array '{name}' of output '{role}' has NaN in it, which cannot be ranked.")
        with storage.stream(f"{folder}/{name}.npy") as file, pa.PythonFile(file, mode="w") as stream:
            np.save(stream, array, allow_pickle=False)
    described = {"format": ARRAYS_FORMAT, "arrays": sorted(arrays), "document": document}
    storage.write(f"{folder}/document.json", json.dumps(described, indent=1, sort_keys=True).encode())
    publish(sum(len(array) if array.ndim else 1 for array in arrays.values()))


def read_arrays(task: Task, role: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays by name, and their document; InputError for another format version."""
    files = {file.uri.rpartition("/")[2]: file.uri for file in task.input(role).files}
    described = json.loads(storage.read(files["document.json"])[0])
    if described["format"] != ARRAYS_FORMAT:
        raise InputError(
            f"{files['document.json']} has format {described['format']}, expected {ARRAYS_FORMAT}; "
            "run the task that wrote it at this version."
        )

    def load(name: str) -> Any:
        uri = files[f"{name}.npy"]
        if not storage.is_remote(uri):
            return np.load(storage.local(uri), mmap_mode="r", allow_pickle=False)  # pages are loaded when touched
        with filesystem(uri).open_input_stream(path(uri)) as stream:
            return np.load(io.BytesIO(stream.read_buffer()), allow_pickle=False)

    return {name: load(name) for name in described["arrays"]}, described["document"]


def string_arrays(name: str, strings: pa.Array) -> dict[str, np.ndarray]:
    """Return strings as arrays to be written: their concatenated UTF-8, and the offset at which each begins.

    NumPy's arrays of strings need the size of the longest for each, and lose NULs at the end.
    """
    encoded = [string.encode() for string in strings.to_pylist()]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {name: np.frombuffer(b"".join(encoded), np.uint8), f"{name}_offsets": offsets}


def strings_of(name: str, arrays: dict[str, np.ndarray]) -> pa.Array:
    """Return the strings from the arrays of `string_arrays`."""
    offsets = np.array(arrays[f"{name}_offsets"], np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.array(arrays[name], np.uint8))]
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers).cast(pa.string())
