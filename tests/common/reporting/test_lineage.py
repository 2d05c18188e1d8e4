"""Lineage from products to deliveries: grouped, with digests; what changed, is gone or was left out is counted."""

import pytest
from run_lake import RunLake

from common import protocol
from common.handover import manifest, storage
from common.reporting import lineage
from common.reporting.lineage import describe, trace_run

RUN = "scheduled__2011-09-01T02:00:00+00:00"
DAYS = ["2011-08-29", "2011-08-30", "2011-08-31"]


def output(rows, **more):
    return {"contract": "events@3", "rows": rows, "files": [], **more}


@pytest.fixture
def shop(lake):
    """A lake with a product, made in two shards of three days of events and a catalogue that has a former state."""
    made = RunLake(lake)
    for number, day in enumerate(DAYS):
        arrivals = {day: 10, DAYS[0]: number}
        made.partition(f"curated/events/date={day}", f"in/run-{number}/ingest", output(10, arrivals=arrivals))
        if number:  # retention has deleted the first run
            made.task(f"in/run-{number}/ingest", outputs={"events": output(10)})
    entry = {"bytes": 1, "tag": "1", "unusable": 0}
    files = {
        f"raw/events/{shop}/arrival={day}/a.gz": entry
        for day in [*DAYS, "2011-08-01", "2011-09-01"]
        for shop in ("app", "web")
    }
    for month in ("2011-08", "2011-09"):
        of_month = {path: each for path, each in files.items() if f"={month}" in path}
        storage.write(
            f"{lake}/curated/events/ingested/{month}.json", manifest.to_json({"format": 1, "files": of_month})
        )
    state = made.partition("curated/item_state/all", "items/run-1/items", output(7))
    made.partition("curated/items/all", "items/run-1/items", output(5))
    made.task("items/run-1/items", [state], {"items": output(5)}, deliveries=["raw/items/arrival=2011-08-31/i.csv"])
    days = [f"{lake}/curated/events/date={day}/manifest.json" for day in DAYS]
    pairs = made.task(f"daily/{RUN}/pairs", days, {"pairs": output(30)})
    shards = [
        made.task(f"daily/{RUN}/select", [pairs, f"{lake}/curated/items/all/manifest.json"], {"rows": output(20)}, k, 2)
        for k in range(2)
    ]
    parts = [made.task(f"daily/{RUN}/write", shards, {"part": output(1)}, k, 2) for k in range(2)]
    made.task(
        f"daily/{RUN}/publish",
        parts,
        metrics={"product": "lists@2", "table": "shop-lists", "version": "v1", "rows": 40},
    )
    made.task(f"daily/{RUN}/{protocol.REPORT_TASK}", [])
    return made


def nodes(found):
    return {node.id: node for node in found.nodes}


def test_product_is_traced_to_deliveries(shop):
    found = trace_run(shop.root, "daily", RUN)
    known = nodes(found)
    assert {(edge.source, edge.target) for edge in found.edges} == {
        ("daily/publish", "shop-lists v1"),
        ("daily/write", "daily/publish"),
        ("daily/select", "daily/write"),
        ("daily/pairs", "daily/select"),
        ("curated/items", "daily/select"),
        ("curated/events", "daily/pairs"),
        ("in/ingest", "curated/events"),
        ("items/items", "curated/items"),
        ("curated/item_state", "items/items"),  # not the other way round, too: that were a circle
        ("raw/events/app", "in/ingest"),
        ("raw/events/web", "in/ingest"),
        ("raw/items", "items/items"),
    }
    assert (found.nodes[0].kind, found.nodes[0].label) == ("product", "lists v1")
    assert set(known) == {end for edge in found.edges for end in (edge.source, edge.target)}
    assert describe(known["daily/select"]) == "2 shards, 40 rows, 2011-09-01 02:00"
    assert describe(known["curated/events"]) == "3 days, 2011-08-29 to 2011-08-31, 30 rows, 2011-09-01 02:00"
    assert describe(known["in/ingest"]) == "3 runs, 20 rows, 2011-09-01 02:00, 1 deleted since"
    assert describe(known["raw/events/web"]) == "3 files, 2011-08-29 to 2011-08-31"  # none of days that were not read
    day = f"curated/events/date={DAYS[0]}/manifest.json"
    assert (known["curated/events"].manifest, known["curated/events"].digest) == (
        day,
        shop.digest(f"{shop.root}/{day}"),
    )


def test_changed_and_deleted_manifests_are_marked(shop):
    uris = [f"{shop.root}/curated/events/date={day}/manifest.json" for day in DAYS]
    read = shop.digest(uris[0])
    shop.partition(f"curated/events/date={DAYS[0]}", "in/run-2/ingest", output(99))
    storage.delete_files([uris[1], protocol.manifest_uri(protocol.task_key(shop.root, "daily", RUN, "select", 1))])
    known = nodes(trace_run(shop.root, "daily", RUN))
    assert known["curated/events"].digest == read
    assert describe(known["curated/events"]).endswith("109 rows, 2011-09-01 02:00, 1 changed since, 1 deleted since")
    assert describe(known["daily/select"]) == "2 shards, 20 rows, 2011-09-01 02:00, 1 deleted since"


def test_reads_are_limited_and_the_rest_is_counted(shop, monkeypatch):
    read = []
    monkeypatch.setattr(lineage, "load_or_none", lambda uri: read.append(uri) or manifest.load_or_none(uri))
    start = lineage.results(shop.root, f"{shop.root}/intermediate/daily/{protocol.encode(RUN)}")
    known = nodes(lineage.trace(shop.root, start, limit=9))
    assert len(read) == 9
    assert (known["curated/events"].count, known["curated/events"].unread) == (3, 2)
    assert f"{shop.root}/curated/events/date={DAYS[2]}/manifest.json" in read  # the newest


def test_ingestion_is_traced_to_the_files_that_it_took(shop):
    taken = ["raw/events/app/arrival=2011-08-31/a.gz"]
    events = {"events": output(10, dataset="curated/events", partitions={f"date={DAYS[2]}": {"rows": 10}})}
    shop.task("in/run-2/ingest", outputs=events, deliveries=taken)
    found = trace_run(shop.root, "in", "run-2")
    assert {(node.kind, describe(node)) for node in found.nodes} == {
        ("dataset", "1 day, 2011-08-31, 10 rows, 2011-09-01 02:00"),
        ("task", "10 rows, 2011-09-01 02:00"),
        ("deliveries", "1 file, 2011-08-31"),
    }


def test_manifest_of_another_lake_or_form_is_not_followed(shop, tmp_path):
    other = (tmp_path / "other" / "manifest.json").as_uri()
    broken = f"{shop.root}/curated/odd/all/manifest.json"
    storage.write(broken, b'{"outputs": {"rows": {"files": [{"path": "../../../passwd", "bytes": 1}]}}}')
    top = shop.task("odd/run/make", [other])
    document = manifest.load_or_none(top).document
    document["parents"].append({"role": "of", "uri": broken, "digest": "sha256:0"})
    storage.write(top, manifest.to_json(document))
    known = nodes(trace_run(shop.root, "odd", "run"))
    assert known["curated/odd"].missing == 1
    assert sum(node.unread for node in known.values()) == 1
