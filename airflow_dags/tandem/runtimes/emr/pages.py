"""Addresses of pages of the AWS console, in the formats of Amazon's provider.

Its link to the dashboard of an EMR Serverless job run is left out: whoever has that address needs no login, it works
once, and expires within an hour.
"""

from typing import Any

from airflow.providers.amazon.aws.links.base_aws import BASE_AWS_CONSOLE_LINK, BaseAwsLink
from airflow.providers.amazon.aws.links.emr import EmrClusterLink


def place(client: Any) -> dict[str, str]:
    """The region and the domain of a client's AWS."""
    domain = BaseAwsLink.get_aws_domain(client.meta.partition) or "aws.amazon.com"
    return {"region_name": client.meta.region_name, "aws_domain": domain}


def cluster(client: Any, cluster_id: str) -> str:
    """The page of a cluster with its steps."""
    return EmrClusterLink().format_link(job_flow_id=cluster_id, **place(client))


def folder(client: Any, uri: str) -> str:
    """The page of a folder of S3."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    where = place(client)
    console = BASE_AWS_CONSOLE_LINK.format(**where)
    return f"{console}/s3/buckets/{bucket}?region={where['region_name']}&prefix={prefix.rstrip('/')}/"
