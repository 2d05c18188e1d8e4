"""The content of the base is part of an image's fingerprint, so a new base makes new images."""

import json
import re
import shutil
import uuid

import pytest
from small_checkout import write

from common.errors import TaskError
from tools.packaging import affected, base_image, build
from tools.packaging.docker_client import docker
from tools.packaging.fingerprint import product


def import_image(name: str, content: str) -> None:
    """Import an image with a label, under a name."""
    process = docker("import", "--change", f"LABEL content={content}", "/dev/null", name)
    assert process.returncode == 0, process.stderr
    base_image.digest.cache_clear()  # as in another process


@pytest.fixture
def base():
    """The name of a base image of the engine."""
    name = f"tandem-test/base:{uuid.uuid4().hex}"
    import_image(name, "one")
    yield name
    docker("image", "rm", name)


@pytest.mark.usefixtures("docker_engine")
def test_new_content_of_base_makes_new_fingerprint(checkout, base):
    first, bundle = product("learn", checkout, base), product("count", checkout, base)
    assert product("learn", checkout, base).fingerprint == first.fingerprint
    import_image(base, "two")
    second = product("learn", checkout, base)
    assert second.fingerprint != first.fingerprint
    assert product("count", checkout, base).fingerprint == bundle.fingerprint  # a bundle has no base
    assert re.fullmatch(rf"{base}@sha256:\w{{64}}", second.base)
    assert second.base != first.base


@pytest.mark.usefixtures("docker_engine")
def test_affected_names_the_new_content_of_a_base(checkout, base, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BASES", tmp_path / "bases.json")
    monkeypatch.setattr(build, "RELEASE", tmp_path / "release.json")
    write(checkout, {"dockerfiles/python-job.Dockerfile": f"ARG BASE_IMAGE={base}\nFROM ${{BASE_IMAGE}}\n"})
    built = product("learn", checkout, base)
    build.record_build(built)
    import_image(base, "two")
    bases = json.loads(build.BASES.read_text())
    rows = {name: (old, new, why) for name, old, new, why in affected.compare(checkout, checkout, bases)}
    old, new, why = rows["learn"]
    assert old == built.fingerprint
    assert new == product("learn", checkout, base).fingerprint != old
    assert why == [f"base image changed: {built.base} → {base_image.with_digest(base)}"]
    assert rows["count"][0] == rows["count"][1]


def test_affected_names_a_base_that_the_dockerfile_pins(checkout, tmp_path):
    former = tmp_path / "former"
    shutil.copytree(checkout, former)
    for root, digit in ((former, "1"), (checkout, "2")):
        text = f"ARG BASE_IMAGE=python@sha256:{digit * 64}\nFROM ${{BASE_IMAGE}}\n"
        write(root, {"dockerfiles/python-job.Dockerfile": text})
    rows = {name: why for name, old, new, why in affected.compare(former, checkout) if old != new}
    assert set(rows) == {"learn"}
    assert rows["learn"][0] == f"base image changed: python@sha256:{'1' * 64} → python@sha256:{'2' * 64}"
    assert rows["learn"][1] == "dockerfiles/python-job.Dockerfile changed: the Dockerfile of python jobs"


@pytest.mark.usefixtures("docker_engine")
def test_base_that_no_registry_has_is_reported():
    with pytest.raises(TaskError, match="tandem-test/none:x is neither on this engine nor can it be pulled"):
        base_image.pull_if_missing("tandem-test/none:x")


def test_name_counts_without_an_engine(checkout, monkeypatch):
    monkeypatch.setenv("DOCKER", "no-such-client")
    assert base_image.with_digest("python:3") == "python:3"
    assert product("learn", checkout, "python:3").base == "python:3"


def test_all_dockerfiles_name_the_same_base():
    named = {
        file.name: base_image.DEFAULT.search(file.read_text())[1]
        for file in (base_image.ROOT / "dockerfiles").glob("*.Dockerfile")
    }
    assert set(named.values()) == {base_image.BASE_IMAGE}
    assert len(named) == 2
