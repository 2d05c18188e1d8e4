"""Estimates for a container and a cluster, and the size of input from which the cluster is better."""

import pytest

from benchmarks import crossover
from benchmarks.crossover import CONTAINER, MACHINE, ON_CLUSTER, POD, Estimate, Point, Prices
from benchmarks.measure import Measurement

MIB = 2**20


def points(container: list[float], cluster: list[float]) -> list[Point]:
    """Return points of 100, 200, … MiB with seconds of both places; both cost nothing."""
    return [
        Point(0, 100 * MIB * number, {}, {CONTAINER: Estimate(one, 0), ON_CLUSTER: Estimate(other, 0)})
        for number, (one, other) in enumerate(zip(container, cluster, strict=True), 1)
    ]


@pytest.mark.parametrize(
    ("container", "cluster", "mib"),
    [
        ([10, 20, 40], [30, 30, 30], 250),
        ([10, 20], [100, 101], 200 + 100 * 81 / 9),  # by the growth of both, beyond the sizes
        ([10, 11], [100, 102], None),
    ],
)
def test_crossover_is_where_the_cluster_becomes_faster(container, cluster, mib) -> None:
    found = crossover.crossover(points(container, cluster), "seconds")
    assert found == (None if mib is None else pytest.approx(mib * MIB))


def test_default_is_the_earliest_crossover_in_time_rounded_down() -> None:
    late, early = points([10, 20], [100, 101]), points([10, 20, 40], [30, 30, 30])
    text = crossover.conclusion({"late": late, "early": early})
    assert "- late: crossover of seconds: 1,100 MiB (1,153,433,600 bytes), beyond the largest size measured\n" in text
    assert "- early: crossover of seconds: 250 MiB (262,144,000 bytes)\n" in text
    assert text.endswith('`max_bytes = "128MiB"`')
    assert crossover.conclusion({"late": late}).endswith('`max_bytes = "1GiB"`')
    assert crossover.conclusion({"never": points([10, 11], [100, 102])}).endswith('`runtime = "container"`')


def test_cluster_divides_the_work_by_its_cores_and_costs_all_its_machines() -> None:
    """By production's prices, its four machines of four cores, and the two cores of build_interactions."""
    runs = {"light": Measurement(95, 0, 0), "spark": Measurement(88, 0, 0, {"work": 80})}
    places = Prices("build_interactions").estimates(runs)
    assert places[CONTAINER] == pytest.approx((POD + 95, 100 / 3600 * (2 * 0.046 + 3 * 0.0051)))
    assert places[MACHINE].seconds == POD + 88
    seconds = crossover.OPENING + 8 + 80 * 2 / 16
    assert places[ON_CLUSTER] == pytest.approx((seconds, seconds / 3600 * (0.184 + 4 * 0.243) * 1.25))
