"""The schedule of a chaos run, drawn from its seed only: by round, task and attempt, or by number of a request."""

import hashlib
import json
import random
from dataclasses import asdict, dataclass

INGEST_EVENTS, INGEST_USERS, INGEST_ITEMS = "ingest_events", "ingest_users", "ingest_items"
RECOMMEND = "daily_recommendations"
SPARK_TASKS = ("ingest_events", "build_interactions")
WRITES_PARTITIONS = ("ingest_events", "ingest_users", "ingest_items")
PUBLISH = "publish_product"
SHARDS = 4
TASKS: dict[str, list[tuple[str, int | None]]] = {  # tasks of each pipeline, with their map index
    INGEST_EVENTS: [("ingest_events", None)],
    INGEST_USERS: [("ingest_users", None)],
    INGEST_ITEMS: [("ingest_items", None)],
    RECOMMEND: [
        ("build_interactions", None),
        ("train_recommender", None),
        *[("predict_recommendations", shard) for shard in range(SHARDS)],
        *[("select_recommendations", shard) for shard in range(SHARDS)],
        *[("write_product", shard) for shard in range(SHARDS)],
        ("build_similar_items", None),
        ("write_similar_items", 0),
        ("publish_similar_items", None),
        (PUBLISH, None),
    ],
}
# kill, term: signals. pause: stopped for a while. orphan: its Airflow worker is killed, it continues concurrently with
# its successor. late: stopped, its worker killed, resumed after its successor has published. twin: a second process of
# the attempt.
STRIKES = {"kill": 5, "term": 3, "pause": 2, "orphan": 3, "late": 5, "twin": 3}
# start: some seconds after the start. The others: at the publishing request, before or after the server receives it.
MOMENTS = {"start": 5, "before manifest": 2, "after manifest": 2, "before partition": 4, "after partition": 3}
POINTER_MOMENTS = {"before pointer": 4, "after pointer": 3}
SHARE_STRUCK = {1: 0.5, 2: 0.35, 3: 0.2}  # of the attempts with this number
SHARE_OF_OTHERS = 0.15  # of later attempts
EVENTS_EVERY = 3  # rounds; the others omit Spark jobs, to be faster
REQUEST_FAULTS = {"unavailable": 4, "refused": 3, "lost": 3, "cut": 3, "slow": 2}
SHARE_OF_REQUESTS = 0.02
BURST = 12  # consecutive requests of an outage; a tenth of the faults are outages
DYNAMODB_FAULTS = {"throttled": 6, "partial": 6, "unavailable": 2, "refused": 2, "lost": 3}
SHARE_OF_DYNAMODB_REQUESTS = 0.08
OPERATIONS = (
    ("deliver", 0.8),
    ("roll back", 0.7),
    ("roll back", 0.5),
    ("clear", 0.8),
    ("deploy", 0.4),
    ("restart scheduler", 0.25),
)


AT_REST = ("all", "ended")  # instead of a run and a task: after all runs of the round have ended


@dataclass(frozen=True)
class Strike:
    """Fault of one process: its kind, its moment, and the seconds for them."""

    kind: str
    moment: str
    seconds: float


@dataclass(frozen=True)
class Run:
    """A run of a pipeline, by its name in the round; it begins when a task of another one starts, if `after` is set."""

    name: str
    dag: str
    after: tuple[str, str] | None = None


@dataclass(frozen=True)
class Operation:
    """Intervention of a person, when a task of a run starts."""

    kind: str
    run: str
    task: str
    number: int  # the seed of its own random numbers


@dataclass(frozen=True)
class Round:
    """Plan of one round, except for the faults of processes and requests."""

    number: int
    days: int  # of events that arrive before it
    runs: tuple[Run, ...]
    operations: tuple[Operation, ...]


def stream(*names: object) -> random.Random:
    """Return the random numbers of one decision, independent of all others."""
    return random.Random("/".join(map(str, names)))


def draw(random: random.Random, weights: dict[str, int]) -> str:
    return random.choices(list(weights), list(weights.values()))[0]


def round_of(seed: int, number: int) -> Round:
    """Draw the runs of a round: every pipeline, some twice concurrently, and interventions of people."""
    random = stream(seed, number, "round")
    runs = [Run("users-1", INGEST_USERS), Run("items-1", INGEST_ITEMS)]
    with_events = number % EVENTS_EVERY == 0
    if with_events:
        runs.append(Run("events-1", INGEST_EVENTS))
        if random.random() < 0.5:
            runs.append(Run("events-2", INGEST_EVENTS, ("events-1", "ingest_events")))
        if random.random() < 0.4:  # concurrent with the ingestion; the run that new events start comes after it
            runs.append(Run("recommend-1", RECOMMEND, ("events-1", "ingest_events")))
    for name, dag in (("users", INGEST_USERS), ("items", INGEST_ITEMS)):
        for other in (2, 3):
            if random.random() < 0.6:
                runs.append(Run(f"{name}-{other}", dag, (f"{name}-1", dag)))
    cleared = ("select_recommendations", PUBLISH)
    triggers = [
        ("recommend", task) for task, shard in TASKS[RECOMMEND] if not shard and (with_events or task in cleared)
    ]
    triggers.append(("events-1", "ingest_events") if with_events else ("users-1", "ingest_users"))
    operations = []
    for kind, share in OPERATIONS:
        if random.random() < share or (kind == "clear" and not with_events):
            last = ("recommend", PUBLISH)
            run, task = last if kind == "roll back" and random.random() < 0.6 else random.choice(triggers)
            if kind == "clear":
                run, task = AT_REST if with_events else ("users-1", "ingest_users")
            operations.append(Operation(kind, run, task, random.randrange(1 << 30)))
    return Round(number, random.randint(1, 3), tuple(runs), tuple(operations))


def strike(seed: int, number: int, run: str, task: str, shard: int | None, attempt: int) -> Strike | None:
    """Draw the fault of the process of an attempt, None for most."""
    random = stream(seed, number, run, task, shard, attempt)
    if random.random() >= SHARE_STRUCK.get(attempt, SHARE_OF_OTHERS):
        return None
    moments = dict(MOMENTS)
    if task not in WRITES_PARTITIONS:
        moments = {name: weight for name, weight in moments.items() if "partition" not in name}
    if task == PUBLISH:
        moments |= POINTER_MOMENTS
    moment = draw(random, moments)
    kind = draw(random, STRIKES)
    if kind == "twin":
        moment = "start"  # later its twin would find everything published
    max_seconds = 0.0 if kind == "twin" else 10.0 if task in SPARK_TASKS else 1.0
    return Strike(kind, moment, round(random.uniform(0, max_seconds), 2))


def request_fault(seed: int, number: int, server: str, request: int) -> str | None:
    """Draw the fault of a request of a round, by its number; an outage takes all of the next ones, too."""
    dynamodb = server == "dynamodb"
    share = SHARE_OF_DYNAMODB_REQUESTS if dynamodb else SHARE_OF_REQUESTS
    for before in range(BURST):
        if request < before:
            break
        random = stream(seed, number, server, request - before)
        if random.random() < share:
            outage = random.random() < 0.1 / BURST
            if before == 0 or outage:
                return "unavailable" if outage else draw(random, DYNAMODB_FAULTS if dynamodb else REQUEST_FAULTS)
    return None


def digest(seed: int, rounds: int, requests: int = 2000) -> str:
    """Return a hash of the schedule of these rounds, which depends only on the seed."""
    result = hashlib.sha256()
    for number in range(rounds):
        planned = round_of(seed, number)
        result.update(json.dumps(asdict(planned)).encode())
        dags = {run.name: run.dag for run in planned.runs} | {"recommend": RECOMMEND}
        for name, dag in dags.items():
            for task, shard in TASKS[dag]:
                for attempt in range(1, 9):
                    result.update(repr(strike(seed, number, name, task, shard, attempt)).encode())
        for server in ("s3", "dynamodb"):
            result.update(repr([request_fault(seed, number, server, request) for request in range(requests)]).encode())
    return result.hexdigest()[:16]
