"""Estimate the cost of an hour of a task: the CPU and memory that it reserves, or the instances of its cluster."""

import re
from collections.abc import Mapping
from typing import Any

from tandem.catalogue import Job
from tandem.protocol import quantity

Rates = list[dict[str, Any]]  # unit, amount per hour, price of one
ON_CLUSTERS = ("emr", "dataproc")  # runtimes whose jobs cost only their cluster
SERVERLESS = ("emr_serverless", "dataproc_serverless")
EXECUTORS = 3  # of a job without a cluster that sets no number: the default of EMR Serverless


def job_rates(prices: Mapping[str, Any], runtime: str, job: Job, request: Mapping[str, Any]) -> Rates:
    """The rates of the task of a job; none for a job on a cluster, whose instances are the rates of its open task."""
    if runtime in ON_CLUSTERS:
        return []
    cpu, memory = job.resources.get("cpu", "0"), job.resources.get("memory", "0")
    amounts = {"vCPU hours": quantity(str(cpu)), "GiB hours": quantity(str(memory)) / 2**30}
    if runtime in SERVERLESS:
        amounts = serverless_amounts(request.get("conf") or request["properties"])
    found = {"vCPU hours": prices.get("vcpu_hour"), "GiB hours": prices.get("gib_hour")}
    return rates(amounts, found, surcharge(prices, runtime))


def serverless_amounts(conf: Mapping[str, str]) -> dict[str, float]:
    """The CPU and memory of a job run: driver, and executors that it begins with; none if they are templates."""
    amounts = {"vCPU hours": 0.0, "GiB hours": 0.0}
    try:
        executors = int(conf.get("spark.executor.instances", EXECUTORS))
        for process, count in (("driver", 1), ("executor", executors)):
            amounts["vCPU hours"] += count * int(conf.get(f"spark.{process}.cores", 4))
            amounts["GiB hours"] += count * gib(conf.get(f"spark.{process}.memory", "14g"))
    except ValueError:
        return {}
    return amounts


def gib(memory: str) -> float:
    """The GiB that a text of Spark such as 512m or 4g denotes; ValueError for another text."""
    parts = re.fullmatch(r"(\d+)([mgt])b?", memory.lower())
    if parts is None:
        raise ValueError(memory)
    return int(parts[1]) * {"m": 2**-10, "g": 1.0, "t": 2.0**10}[parts[2]]


def cluster_rates(prices: Mapping[str, Any], runtime: str, instances: Mapping[str, float]) -> Rates:
    """The rates of a cluster, from the number of its instances by type."""
    known = prices.get("instance_hours", {})
    amounts = {f"hours of {kind}": count for kind, count in instances.items()}
    return rates(amounts, {f"hours of {kind}": price for kind, price in known.items()}, surcharge(prices, runtime))


def surcharge(prices: Mapping[str, Any], runtime: str) -> float:
    """The factor by which a runtime's service makes machines dearer."""
    return 1 + float(prices.get("surcharges", {}).get(runtime, 0))


def rates(amounts: Mapping[str, float], prices: Mapping[str, float | None], factor: float) -> Rates:
    """The rates of amounts whose prices are known."""
    return [
        {"unit": unit, "per_hour": amount, "price": round(price * factor, 6)}
        for unit, amount in amounts.items()
        if amount and (price := prices.get(unit)) is not None
    ]
