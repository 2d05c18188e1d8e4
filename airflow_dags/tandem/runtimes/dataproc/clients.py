"""Clients of Dataproc's services: at the region's address or another one, such as that of Private Service Connect."""

import os
import re
from typing import Any

LOOPBACK = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\]):\d+")


def client(service: str, region: str, endpoint: str) -> Any:
    """A client of a service, such as JobController, with the credentials of the connection google_cloud_default.

    `endpoint` is HOST:PORT, or empty for the region's own; the variable DATAPROC_ENDPOINT overrides it. One on this
    machine, and no other, is spoken to in plain text and without credentials.
    """
    from google.cloud import dataproc_v1  # 1 s, too slow for parsing DAGs

    endpoint = os.environ.get("DATAPROC_ENDPOINT", endpoint)
    kind = getattr(dataproc_v1, f"{service}Client")
    if LOOPBACK.fullmatch(endpoint):
        import grpc

        return kind(transport=kind.get_transport_class("grpc")(channel=grpc.insecure_channel(endpoint)))
    from airflow.providers.google.common.consts import CLIENT_INFO
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook

    hook = GoogleBaseHook()
    options = hook.get_client_options(api_endpoint_override=endpoint or f"{region}-dataproc.googleapis.com:443")
    return kind(credentials=hook.get_credentials(), client_info=CLIENT_INFO, client_options=options)
