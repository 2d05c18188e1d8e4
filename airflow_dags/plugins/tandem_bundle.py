"""Airflow's DAG bundle of the versions that `make deploy-dags` writes: each run keeps the version that it began with.

Airflow's configuration names it, so this file belongs to Airflow's installation; it imports nothing of a version.
"""

import hashlib
import io
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion


class VersionedDags(BaseDagBundle):
    """DAGs from a folder at file://, s3:// or gs://: <version>.zip for each version, current.json with the newest.

    A version is called <number>-<hash of the archive>; the hash is checked before the archive is unpacked.
    """

    supports_versioning = True

    def __init__(self, *, uri: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.uri = uri.rstrip("/")
        self.current: str | None = None  # unless this is a given version

    @property
    def path(self) -> Path:
        return self.versions_dir / (self.version or self.current or "")

    def get_current_version(self) -> BundleVersion | None:
        version = self.version or self.current
        return BundleVersion(version) if version else None

    def initialize(self) -> None:
        if self.version:
            self.unpack(self.version)
        else:
            self.refresh()
        super().initialize()

    def refresh(self) -> None:
        """Read which version is the newest, and unpack it."""
        try:
            version = json.loads(read(f"{self.uri}/current.json"))["version"]
        except FileNotFoundError:
            raise FileNotFoundError(f"No DAGs are deployed at {self.uri}; deploy them: make deploy-dags.") from None
        self.unpack(version)
        self.current = version

    def unpack(self, version: str) -> None:
        """Make the folder of a version, at once, unless this machine has it; Airflow deletes those long unused."""
        folder = self.versions_dir / version
        if folder.exists():
            return
        with self.lock():
            if folder.exists():
                return
            try:
                content = read(f"{self.uri}/{version}.zip")
            except FileNotFoundError:
                raise FileNotFoundError(
                    f"Version {version} of the DAGs is no longer at {self.uri}; clear the run with the latest version."
                ) from None
            if hashlib.sha256(content).hexdigest()[:16] != version.partition("-")[2]:
                raise ValueError(f"{self.uri}/{version}.zip is not what was deployed; deploy these DAGs again.")
            self.versions_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.versions_dir, prefix=".") as temporary:
                new = Path(temporary) / "dags"
                zipfile.ZipFile(io.BytesIO(content)).extractall(new)
                new.rename(folder)


def read(uri: str) -> bytes:
    """Return the bytes at a URI; FileNotFoundError if there are none."""
    place = urlsplit(uri)
    key = place.path.lstrip("/")
    if place.scheme == "s3":
        return read_s3(place.netloc, key)
    if place.scheme == "gs":
        return read_gs(place.netloc, key)
    return Path(uri.removeprefix("file://")).read_bytes()


def read_s3(bucket: str, key: str) -> bytes:
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}))
    try:
        content: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except client.exceptions.NoSuchKey:
        raise FileNotFoundError(key) from None
    return content


def read_gs(bucket: str, key: str) -> bytes:
    from google.api_core.exceptions import NotFound
    from google.cloud import storage

    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")  # a request that needs a right
    try:
        content: bytes = storage.Client(project=None).bucket(bucket).blob(key).download_as_bytes()
    except NotFound:
        raise FileNotFoundError(key) from None
    return content
