"""Versions and uploads of objects on S3."""

import shutil
from collections.abc import Iterator
from typing import IO

from common.handover.stores import s3


def former_versions(folder: str) -> Iterator[tuple[str, int, float, str]]:
    """Yield names below a folder, bytes, time of change and version of former versions, if the bucket keeps any."""
    bucket, prefix = s3.bucket_and_key(f"{folder}/")
    if "Status" not in s3.client().get_bucket_versioning(Bucket=bucket):
        return
    for page in s3.client().get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Versions", ()):
            if not each["IsLatest"]:
                name = each["Key"].removeprefix(prefix)
                yield name, each["Size"], each["LastModified"].timestamp(), each["VersionId"]


def download_version(uri: str, version: str, file: IO[bytes]) -> None:
    bucket, key = s3.bucket_and_key(uri)
    shutil.copyfileobj(s3.client().get_object(Bucket=bucket, Key=key, VersionId=version)["Body"], file)


def delete_version(uri: str, version: str) -> None:
    bucket, key = s3.bucket_and_key(uri)
    s3.client().delete_object(Bucket=bucket, Key=key, VersionId=version)


def abort_uploads(folder: str, latest: float) -> None:
    s3.abort_matching(folder, lambda upload: upload["Initiated"].timestamp() <= latest)


def tag_of(uri: str) -> str:
    """Return the ETag of an object; FileNotFoundError if there is none."""
    bucket, key = s3.bucket_and_key(uri)
    try:
        return str(s3.client().head_object(Bucket=bucket, Key=key)["ETag"]).strip('"')
    except s3.client().exceptions.ClientError as error:
        if error.response["Error"]["Code"] == "404":
            raise FileNotFoundError(uri) from None
        raise


def replace(uri: str, file: IO[bytes], tag: str) -> str | None:
    """Replace an object by a file; return its new ETag, None if it had another one than expected."""
    bucket, key = s3.bucket_and_key(uri)
    try:
        response = s3.client().put_object(Bucket=bucket, Key=key, Body=file, IfMatch=f'"{tag}"', **s3.encryption())
        return str(response["ETag"]).strip('"')
    except s3.client().exceptions.ClientError as error:
        if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
            return None
        raise
