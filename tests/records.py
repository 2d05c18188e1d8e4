"""Records of runs for tests: a good run, a failed one, and one with 10,000 mapped instances and odd names."""

from datetime import UTC, datetime, timedelta

from common.reporting.examples import Had, ItemExample, Shown, UserExample
from common.reporting.index_entry import IndexEntry, entry_of
from common.reporting.lineage import Edge, Lineage, Node
from common.reporting.page import Extras
from common.reporting.record import (
    FORMAT,
    Attempt,
    Comparison,
    Cost,
    Example,
    Failure,
    Figure,
    Instance,
    Model,
    Published,
    Reason,
    Record,
    Step,
    TaskSummary,
    Warning,
)

DAG = "daily_recommendations"
BEGAN = datetime(2026, 11, 26, 4, 0, 5, tzinfo=UTC)
MARKUP = "<script>alert('x')</script><b onmouseover=alert(1)>&amp;\"'"
RIGHT_TO_LEFT = "מוצר מיוחד שלי ١٢٣"
EMOJI = "👩‍👩‍👧‍👦 🎁🇺🇳"
OVERRIDE = "invoice\u202egnp.exe"  # a direction override that swaps what follows it
LONG = "very_long_name_" * 40
ODD = [MARKUP, RIGHT_TO_LEFT, EMOJI, OVERRIDE, LONG]
MIB = 1 << 20


def at(seconds: float) -> datetime:
    """Return a moment of the run, by the seconds since its beginning."""
    return BEGAN + timedelta(seconds=seconds)


def instance(
    began: float, job_began: float, ended: float, map_index: int | None = None, state: str = "succeeded", **figures
) -> Instance:
    """Return an instance with one attempt."""
    attempt = Attempt(
        number=1,
        state=state,
        began=at(began),
        job_began=at(job_began),
        job_ended=at(ended - 0.5),
        ended=at(ended),
        exit_code=0 if state == "succeeded" else 1,
        sentence=None if state == "succeeded" else "The job failed.",
        log="https://airflow.example.com/log?task=1&attempt=1",
    )
    return Instance(
        state=state, attempts=[attempt], map_index=map_index, seconds=ended - job_began, **{"rows": 1000} | figures
    )


def task(name: str, upstream: list[str], began: float, job_began: float, ended: float, **fields) -> TaskSummary:
    """Return a task that succeeded, with one instance if the fields have none."""
    return TaskSummary(
        **{
            "task": name,
            "state": "succeeded",
            "upstream": upstream,
            "job": name,
            "engine": "python",
            "runtime": "process",
            "states": {"succeeded": 1},
            "shown": [instance(began, job_began, ended, manifest=f"intermediate/{DAG}/run/{name}/manifest.json")],
            "began": at(began),
            "job_began": at(job_began),
            "ended": at(ended),
            "rows": 1000,
            "bytes": 250_000,
            "processor_seconds": ended - job_began,
            "peak_memory_bytes": 300 * MIB,
            "memory_limit_bytes": 2048 * MIB,
            "fingerprint": "0f3c9a7be1d2a4c6",
            **fields,
        }
    )


def mapped(name: str, upstream: list[str], began: float, job_began: float, ended: float, count: int, **fields):
    """Return a task with mapped instances of which at most 30 are shown."""
    shown = [
        instance(
            began + number,
            job_began + number,
            ended - count + number,
            number,
            manifest=f"intermediate/{DAG}/run/{name}/map-{number}/manifest.json",
        )
        for number in range(min(count, 30))
    ]
    return task(
        name,
        upstream,
        began,
        job_began,
        ended,
        **{"instances": count, "states": {"succeeded": count}, "shown": shown} | fields,
    )


def tasks() -> list[TaskSummary]:
    """Return the tasks of a good run of the daily recommendations."""
    return [
        task("look_for_input", [], 0, 0, 2, job=None, engine=None, runtime=None, rows=0, bytes=0, memory_limit_bytes=0),
        task(
            "build_interactions",
            ["look_for_input"],
            3,
            21,
            95,
            engine="spark",
            engine_reason="its inputs have 3.1 GiB, more than 2 GiB (spark.auto.max_bytes)",
            runtime="emr_serverless",
            rows=385_967,
            bytes=5_300_000,
            peak_memory_bytes=1141 * MIB,
            parameters={"window_days": 365, "since": None, "min_weight": 0.1},
            links={"Spark's page": "https://spark.example.com/history/1", "driver's log": "s3://logs/driver"},
        ),
        task(
            "train_recommender",
            ["build_interactions"],
            96,
            101,
            171,
            runtime="kubernetes",
            rows=12,
            peak_memory_bytes=1890 * MIB,
            parameters={"seed": 1, "repeats": True, "head_items": 20_000},
            links={"pod's log": "https://logs.example.com/pod/train-recommender-1"},
        ),
        mapped("predict_recommendations", ["build_interactions", "train_recommender"], 172, 175, 201, 4, rows=400_000),
        mapped("select_recommendations", ["predict_recommendations", "train_recommender"], 202, 204, 215, 4),
        mapped("write_product", ["select_recommendations"], 216, 218, 229, 4, rows=118_000),
        task("publish_product", ["write_product"], 230, 231, 233, rows=0),
    ]


def funnel() -> list[Step]:
    """Return the steps from lines to users served."""
    examples = [
        Example(file="raw/events/shop/arrival=2026-11-25/part-3.json.gz", line=17, content='{"user_id": null, "ty'),
        Example(file="raw/events/shop/arrival=2026-11-25/part-8.json.gz", line=4, content=MARKUP),
    ]
    return [
        Step(name="lines delivered", task="ingest_events", count=817_261),
        Step(
            name="events",
            task="ingest_events",
            count=812_908,
            parts={"view": 701_220, "cart": 61_107, "purchase": 50_581},
            out=[
                Reason(reason="user_id is missing", records=3_811, examples=examples),
                Reason(reason="timestamp is not a time", records=402),
                Reason(reason="duplicate", records=140),
            ],
        ),
        Step(name="pairs of users and items", task="build_interactions", count=385_967),
        Step(
            name="users served",
            task="select_recommendations",
            count=5_942,
            parts={"by own rows": 5_801, "by default rows": 141},
        ),
    ]


def comparisons(shift: float = 0.0) -> list[Comparison]:
    """Return the models of two styles; `shift` is added to their quality."""

    def model(name: str, ndcg: float, chosen: bool = False) -> Model:
        ndcg = round(ndcg + shift, 4)
        return Model(
            name=name,
            chosen=chosen,
            figures={"ndcg": ndcg, "recall": round(ndcg * 1.4, 4), "map": round(ndcg * 0.7, 4), "coverage": 0.31},
            low=round(ndcg - 0.006, 4),
            high=round(ndcg + 0.006, 4),
            groups={
                "1 to 2 events": round(ndcg * 0.6, 4),
                "3 to 9 events": round(ndcg * 0.9, 4),
                "10 and more events": round(ndcg * 1.2, 4),
                "new items": round(ndcg * 0.2, 4),
            },
        )

    return [
        Comparison(
            task="train_recommender",
            style="repeat",
            figure="ndcg",
            judged=4_119,
            models=[
                model("blend", 0.2101, True),
                model("ease", 0.1903),
                model("neighbours", 0.1831),
                model("popular", 0.061),
            ],
            choice="The blend ships: it is the best of 4 models, and its interval does not overlap that of ease.",
        ),
        Comparison(
            task="train_recommender",
            style="new",
            figure="ndcg",
            judged=3_872,
            models=[model("ease", 0.0812, True), model("neighbours", 0.0776), model("popular", 0.0391)],
            choice="EASE ships: it is the best of 3 models by ndcg.",
        ),
    ]


def churn() -> Comparison:
    """Return the models of a training for churn, with calibration and drift."""
    bins = [
        {"predicted": 0.05 + number / 10, "observed": 0.04 + 0.095 * number, "count": 900 - 80 * number}
        for number in range(10)
    ]
    return Comparison(
        task="train_churn",
        style="churn",
        figure="auc",
        judged=5_210,
        models=[
            Model("trees", True, {"auc": 0.7812, "log_loss": 0.412, "calibration_error": 0.011}, 0.771, 0.7912),
            Model("recency rule", False, {"auc": 0.6911, "log_loss": 0.52, "calibration_error": 0.09}, 0.68, 0.702),
        ],
        choice="The trees ship: they beat the recency rule, and their AUC is that of the live model within 0.02.",
        calibration=bins,
        drift={"days_since_last_event": 0.031, "sessions": 0.182},
    )


def figures(day: int = 0) -> list[Figure]:
    """Return the figures of guards and gates, slightly different each day."""
    wave = ((day * 37) % 11 - 5) / 100
    return [
        Figure("build_interactions", "rows", round(385_967 * (1 + wave)), minimum=1),
        Figure("train_recommender", "unlisted_share", round(0.021 + wave / 10, 5), maximum=0.5),
        Figure("train_recommender", "models.blend.ndcg", round(0.2101 + wave / 20, 4)),
        Figure("select_recommendations", "default_share", round(0.0237 + wave / 10, 4), maximum=0.2),
        Figure("publish_product", "users", round(5_942 * (1 + wave)), minimum=4_000),
    ]


def good_run(day: int = 0) -> Record:
    """Return a run that succeeded, `day` days before the newest one."""
    moved = timedelta(days=day)
    return Record(
        format=FORMAT,
        environment="prod",
        dag=DAG,
        run=f"scheduled__{BEGAN - moved:%Y-%m-%dT04:00:00+00:00}",
        kind="scheduled",
        run_after=(BEGAN - moved).replace(second=0),
        state="succeeded",
        code="0.1.0 (4c0ffee)",
        until=f"{BEGAN - moved:%Y-%m-%d}",
        began=BEGAN - moved,
        ended=at(234) - moved,
        tasks=tasks(),
        figures=figures(day),
        funnel=funnel(),
        comparisons=comparisons(((day * 37) % 11 - 5) / 2000),
        published=[
            Published("recommendations", "prod-recommendations", f"{BEGAN - moved:%Y%m%d}T0400", 5_942, 118_000, 0.976),
            Published("similar_items", "prod-similar-items", f"{BEGAN - moved:%Y%m%d}T0400", 3_665, 36_650),
        ],
        warnings=[Warning("build_interactions", "Events of platform 'ios' fell to 41 % of the last four weeks' mean.")],
        currency="USD",
        costs=[
            Cost("build_interactions", "vCPU hours", 0.16, 0.0526),
            Cost("build_interactions", "GiB hours", 0.64, 0.0058),
            Cost("write_product", "million write units", 0.118, 0.625),
        ],
        url="https://airflow.example.com/dags/daily_recommendations/runs/1",
    )


def failed_run() -> Record:
    """Return a run whose training was killed twice, for lack of memory."""
    record = good_run()
    names = [task.task for task in record.tasks]
    training = record.tasks[names.index("train_recommender")]
    killed = "The process was killed by signal 9, probably for lack of memory; raise memory in job.toml (now 2 GiB)."
    attempts = [
        Attempt(1, "lost", began=at(96), job_began=at(101)),
        Attempt(2, "failed", at(160), at(197), at(165), None, 137, killed, "https://airflow.example.com/log?attempt=2"),
    ]
    rerun = (
        f"make replay DAG={DAG} RUN='{record.run}' TASK=train_recommender LAKE=s3://prod-lake"  # as the log prints it
    )
    training.state, training.states = "failed", {"failed": 1}
    training.shown = [Instance("failed", attempts, peak_memory_bytes=2047 * MIB, rerun=rerun)]
    training.ended, training.rows, training.peak_memory_bytes = at(197), 0, 2047 * MIB
    for later in record.tasks[names.index("train_recommender") + 1 :]:
        later.state, later.states, later.shown = "upstream_failed", {"upstream_failed": later.instances}, []
        later.began = later.job_began = later.ended = None
        later.rows = later.bytes = later.peak_memory_bytes = 0
    record.state, record.ended, record.published, record.comparisons = "failed", at(198), [], []
    record.figures, record.funnel, record.costs = record.figures[:1], record.funnel[:3], record.costs[:2]
    record.failure = Failure("train_recommender", killed, None, 2, 137, rerun)
    return record


def large_run(instances: int = 10_000) -> Record:
    """Return a run with a task of thousands of mapped instances of which some failed, and with odd names everywhere."""
    record = good_run()
    many = mapped("predict_recommendations", ["train_recommender"], 172, 175, 172 + instances, instances)
    many.states = {"succeeded": instances - 40, "failed": 40}
    many.state = "failed"
    many.shown = [
        instance(200 + number, 203 + number, 260 + 3 * number, number * 7, "failed" if number < 40 else "succeeded")
        for number in range(100)
    ]
    record.tasks = [task if task.task != many.task else many for task in record.tasks]
    for number, name in enumerate(ODD):
        record.tasks.append(task(name, ["look_for_input"], 240 + number, 241 + number, 300 + number, job=name))
        record.figures.append(Figure(name, name, number + 0.5, maximum=number))
        record.warnings.append(Warning(name, f"Odd: {name}"))
        record.comparisons[0].models.append(Model(name, figures={"ndcg": 0.01 * number}, groups={name: 0.1}))
        record.funnel[1].out.append(Reason(name, number, [Example(name, name, number)]))
        record.published.append(Published(name, name, name, number, number))
        record.costs.append(Cost(name, name, number, 0.01))
    record.dag, record.run, record.environment = MARKUP, f"manual__{RIGHT_TO_LEFT}{EMOJI}", MARKUP
    record.state, record.failure = "failed", Failure(many.task, MARKUP, 7, 1, 1, f"make replay RUN='{MARKUP}'")
    return record


def days(count: int) -> list[Record]:
    """Return good runs of so many days before the newest, newest first."""
    return [good_run(day) for day in range(1, count + 1)]


def lineage() -> Lineage:
    """Return the lineage of the recommendations back to deliveries."""
    run = f"intermediate/{DAG}/run"
    digest = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

    def task_node(name: str, rows: int, count: int = 1) -> Node:
        return Node(
            name,
            "task",
            name,
            f"{run}/{name}/manifest.json",
            digest,
            rows,
            at(200),
            count,
            "shards" if count > 1 else "",
        )

    nodes = [
        Node("recommendations", "product", "recommendations", None, None, 118_000, at(233)),
        task_node("publish_product", 118_000),
        task_node("write_product", 118_000, 4),
        task_node("select_recommendations", 118_000, 4),
        task_node("predict_recommendations", 400_000, 4),
        task_node("train_recommender", 12),
        task_node("build_interactions", 385_967),
        Node("events", "dataset", "curated/events", "curated/events/date=2026-11-25", digest, 812_908, count=365,
             unit="days", changed=1, first="2025-11-26", last="2026-11-25"),
        Node("items", "dataset", "curated/items", "curated/items", digest, 3_665, at(-3600)),
        Node("raw_events", "deliveries", "raw/events/shop", "raw/events/shop", count=518, unit="files",
             first="2025-11-26", last="2026-11-26"),
        Node("raw_items", "deliveries", "raw/items/shop", "raw/items/shop", count=12, unit="files", missing=3),
    ]  # fmt: skip
    steps = [
        ("publish_product", "recommendations", "parts"),
        ("write_product", "publish_product", "parts"),
        ("select_recommendations", "write_product", "product"),
        ("predict_recommendations", "select_recommendations", "predictions"),
        ("train_recommender", "select_recommendations", "model"),
        ("items", "select_recommendations", "items"),
        ("build_interactions", "predict_recommendations", "interactions"),
        ("train_recommender", "predict_recommendations", "model"),
        ("build_interactions", "train_recommender", "interactions"),
        ("items", "train_recommender", "items"),
        ("events", "build_interactions", "events"),
        ("raw_events", "events", ""),
        ("raw_items", "items", ""),
    ]
    return Lineage(nodes, [Edge(*step) for step in steps])


def extras() -> Extras:
    """Return users and items by name, among them odd ones, and a lineage."""
    shown = [
        Shown(1, "Heart-shaped trinket box", "mixed", "often bought with Red wool hottie"),
        Shown(2, "Jumbo bag, pink polkadot", "again", "bought 4 times, the last time 18 days ago"),
        Shown(3, "Set of three cake tins", "new", "similar to Regency cakestand"),
    ]
    users = [
        UserExample(
            "14646",
            [Had("Red wool hottie", 4, at(-86400)), Had("Regency cakestand"), Had(EMOJI)],
            182,
            shown,
            shown[1:],
        ),
        UserExample(RIGHT_TO_LEFT, [Had(MARKUP, 2)], 1, [*shown, Shown(4, MARKUP, "new", OVERRIDE)]),
    ]
    items = [ItemExample("Regency cakestand", shown[:2], shown[1:]), ItemExample(LONG, [Shown(1, EMOJI)], [])]
    return Extras(users, items, lineage())


def entries(count: int) -> list[IndexEntry]:
    """Return entries of so many runs of five pipelines, newest first, every seventh failed."""
    dags = [DAG, "ingest_events", "ingest_items", "trending_items", "user_characteristics"]
    found = []
    for number in range(count):
        record = failed_run() if number % 35 == 15 else good_run()
        moved = timedelta(days=number // len(dags))
        record.dag, record.kind = dags[number % len(dags)], "backfill" if number % 50 > 40 else "scheduled"
        record.run_after -= moved
        record.began, record.ended = record.began - moved, record.ended - moved + timedelta(seconds=number * 13 % 50)
        record.until = f"{record.run_after:%Y-%m-%d}"
        if record.dag != DAG:
            record.comparisons = []
            record.published = [Published(record.dag, "", record.until, 5_000, 90_000 + number * 7919 % 9_000)]
        if record.state == "failed":
            record.published = []
        found.append(entry_of(record, f"cards/{record.dag}/{record.run_after:%Y-%m/%Y-%m-%dT%H%M%SZ}_{number}.html"))
    return found
