"""Libraries without symbols: smaller, and loaded as before."""

import shutil
import subprocess
import sys
from pathlib import Path

import zstandard

from tools.packaging.fingerprint import ROOT

PROGRAM = ROOT / "dockerfiles" / "cut_symbols.py"


def test_library_without_symbols_is_smaller_and_works(tmp_path):
    shutil.copytree(Path(zstandard.__file__).parent, tmp_path / "zstandard")
    (library,) = (tmp_path / "zstandard").glob("backend_c.*.so")
    before = library.stat().st_size
    (tmp_path / "short").write_bytes(b"\x7fELF")
    (tmp_path / "text").write_text("Not a library.\n")
    (tmp_path / "link.so").symlink_to(library)
    subprocess.run([sys.executable, PROGRAM, tmp_path], check=True)
    assert library.stat().st_size < before / 5
    assert (tmp_path / "text").read_text() == "Not a library.\n"
    program = "import zstandard; print(zstandard.__file__, zstandard.backend, zstandard.compress(b'some')[:4].hex())"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{tmp_path}/zstandard/__init__.py", "cext", "28b52ffd"]
