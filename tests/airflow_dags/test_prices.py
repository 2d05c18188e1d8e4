"""The estimated cost of an hour of a task, from the prices of an environment."""

import pytest
from tandem import prices
from tandem.catalogue import Job
from tandem.runtimes.emr.cluster import instances

PRICES = {
    "currency": "USD",
    "vcpu_hour": 0.05,
    "gib_hour": 0.005,
    "instance_hours": {"small": 0.2, "large": 0.4},
    "surcharges": {"emr": 0.25, "emr_serverless": 0.2},
}


def job(**resources):
    return Job("toy", "python", {}, {}, {}, resources, {})


def amounts(rates):
    return {each["unit"]: (each["per_hour"], each["price"]) for each in rates}


def test_job_costs_the_cpu_and_memory_that_it_reserves():
    rates = prices.job_rates(PRICES, "kubernetes_pod", job(cpu="500m", memory="512Mi"), {})
    assert amounts(rates) == {"vCPU hours": (0.5, 0.05), "GiB hours": (0.5, 0.005)}
    assert prices.job_rates(PRICES, "kubernetes_pod", job(), {}) == []
    assert prices.job_rates({}, "kubernetes_pod", job(cpu="2", memory="4Gi"), {}) == [], "no price is known"


def test_job_on_cluster_costs_nothing_beside_it():
    assert prices.job_rates(PRICES, "emr", job(cpu="2", memory="4Gi"), {}) == []
    rates = prices.cluster_rates(PRICES, "emr", {"small": 1, "large": 3, "unknown": 9})
    assert amounts(rates) == {"hours of small": (1, 0.25), "hours of large": (3, 0.5)}


@pytest.mark.parametrize(
    ("conf", "cpu", "memory"),
    [
        ({"spark.driver.memory": "1g", "spark.executor.memory": "512m", "spark.executor.cores": "2"}, 4 + 3 * 2, 2.5),
        ({"spark.executor.instances": "10", "spark.driver.cores": "1", "spark.executor.memory": "1t"}, 41, 10254),
    ],
)
def test_serverless_job_costs_its_driver_and_the_executors_it_begins_with(conf, cpu, memory):
    rates = prices.job_rates(PRICES, "emr_serverless", job(cpu="9"), {"conf": conf})
    assert amounts(rates) == {"vCPU hours": (cpu, 0.06), "GiB hours": (memory, 0.006)}
    unknown = {"conf": {**conf, "spark.driver.memory": "{{ var.value.memory }}"}}
    assert prices.job_rates(PRICES, "emr_serverless", job(cpu="9"), unknown) == []


def test_instances_of_groups_and_fleets_are_counted():
    groups = [{"InstanceType": "small", "InstanceCount": 1}, {"InstanceType": "large", "InstanceCount": 2}]
    assert instances({"InstanceGroups": [*groups, {"InstanceType": "large", "InstanceCount": 1}]}) == {
        "small": 1,
        "large": 3,
    }
    types = [{"InstanceType": "large", "WeightedCapacity": 4}, {"InstanceType": "small"}]
    fleet = {"TargetOnDemandCapacity": 4, "TargetSpotCapacity": 5, "InstanceTypeConfigs": types}
    assert instances({"InstanceFleets": [fleet]}) == {"large": 3}
