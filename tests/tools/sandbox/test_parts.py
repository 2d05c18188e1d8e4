"""Parts of make test-system: named with a remedy where they are missing, installed from a package registry."""

from pathlib import Path

import pytest

from tools.sandbox import parts

GO = '#!/bin/sh\nprogram="${2##*/}"\n/bin/cp "$0" "$GOBIN/${program%@*}"\n'
NPM = """#!/bin/sh
for folder do :; done
[ "$1 $4" = "ci --prefix" ] && [ -s "$folder/package-lock.json" ] || exit 1
/bin/mkdir -p "$folder/node_modules/.bin"
/bin/cp "$0" "$folder/node_modules/.bin/dynalite"
"""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH of a machine without parts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(parts, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(parts, "PROGRAMS", tmp_path / "cache" / "bin")
    for name in ("DOCKER", "KUBECONFIG", "TANDEM_LOAD_IMAGE", "TANDEM_NODE_CONTROL"):
        monkeypatch.delenv(name, raising=False)
    return folder


def add(folder: Path, name: str, program: str) -> None:
    (folder / name).write_text(program)
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("name", parts.PARTS)
def test_missing_part_is_named_with_a_remedy(bare: Path, name: str) -> None:
    sentence = parts.lack(name)
    assert sentence and sentence.endswith(".")
    assert any(word in sentence for word in ("install", "run make test-parts", "set it as"))


@pytest.mark.parametrize(
    ("name", "tool", "program"), [("versitygw", "go", GO), ("bigtable-emulator", "go", GO), ("dynalite", "npm", NPM)]
)
def test_program_is_installed_once_into_the_cache(bare: Path, name: str, tool: str, program: str) -> None:
    assert "run make test-parts" in str(parts.install(name))
    add(bare, tool, program)
    assert parts.install(name) is None
    assert Path(str(parts.program(name))) == parts.PROGRAMS / name
    add(bare, tool, "#!/bin/sh\nexit 1\n")
    assert parts.install(name) is None


@pytest.mark.parametrize(
    ("answer", "sentence"), [("exit 1", "No Docker engine"), ("echo buildx >&2", "without buildx")]
)
def test_docker_client_of_no_use_is_a_missing_part(bare: Path, answer: str, sentence: str) -> None:
    add(bare, "docker", f"#!/bin/sh\n{answer}\n")
    assert sentence in str(parts.lack("docker"))
    add(bare, "docker", "#!/bin/sh\n")
    assert parts.lack("docker") is None
