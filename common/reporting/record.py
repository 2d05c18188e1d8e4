"""The record of a pipeline's run: all that its card and later trends need, as one small JSON document."""

from datetime import datetime
from typing import Any

import msgspec

FORMAT = 1


class Attempt(msgspec.Struct, omit_defaults=True):
    """An attempt of a task. The scheduler's process began and ended around the job's own beginning and end."""

    number: int
    state: str  # succeeded, failed, skipped, or lost: it left no end, because it was killed
    began: datetime | None = None
    ended: datetime | None = None
    job_began: datetime | None = None
    job_ended: datetime | None = None
    exit_code: int | None = None
    sentence: str | None = None
    log: str | None = None  # URL of its log on the scheduler's page


class Instance(msgspec.Struct, omit_defaults=True):
    """A task, or one of its mapped instances, with the figures of the attempt that counts."""

    state: str
    attempts: list[Attempt]
    map_index: int | None = None
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_memory_bytes: int = 0
    manifest: str | None = None  # its path in the lake
    rerun: str | None = None  # the command that runs it again


class TaskSummary(msgspec.Struct, omit_defaults=True):
    """A task of the pipeline with all its mapped instances; `shown` has the failed and the slowest of many."""

    task: str
    state: str  # succeeded, failed, skipped, upstream_failed, not started
    upstream: list[str] = []
    job: str | None = None  # None: a task of the scheduler itself, such as one that opens a cluster
    engine: str | None = None  # python, spark, or light: a Spark job in a container
    engine_reason: str | None = None
    runtime: str | None = None
    instances: int = 1
    states: dict[str, int] = {}
    shown: list[Instance] = []
    began: datetime | None = None
    job_began: datetime | None = None
    ended: datetime | None = None
    rows: int = 0
    bytes: int = 0
    processor_seconds: float = 0.0
    peak_memory_bytes: int = 0  # of the largest instance
    memory_limit_bytes: int | None = None
    parameters: dict[str, Any] = {}
    fingerprint: str | None = None
    links: dict[str, str] = {}  # by label: URLs of a pod's log, a step, a driver's log, Spark's page


class Failure(msgspec.Struct, omit_defaults=True):
    """The failure that decided on a run."""

    task: str
    sentence: str
    map_index: int | None = None
    attempt: int | None = None
    exit_code: int | None = None
    rerun: str | None = None


class Figure(msgspec.Struct, omit_defaults=True):
    """A number of a task that guards, gates and trends look at; the limit is that of a guard or gate."""

    task: str
    name: str  # a path such as models.ease.ndcg
    value: float
    minimum: float | None = None
    maximum: float | None = None


class Example(msgspec.Struct, omit_defaults=True):
    """A quarantined record: file, line and first characters."""

    file: str
    content: str = ""
    line: int | None = None


class Reason(msgspec.Struct, omit_defaults=True):
    """Records that a step of the funnel took out for a reason."""

    reason: str
    records: int
    examples: list[Example] = []


class Step(msgspec.Struct, omit_defaults=True):
    """A step of the funnel from lines to users served: what is left after it, its parts, what it took out."""

    name: str  # lines delivered, events, pairs, …
    task: str
    count: int
    parts: dict[str, int] = {}  # such as events by type
    out: list[Reason] = []


class Model(msgspec.Struct, omit_defaults=True):
    """A model of a training, compared with the others of its style; figures by name, such as ndcg or coverage."""

    name: str
    chosen: bool = False
    figures: dict[str, float] = {}  # ndcg, recall, map, coverage, auc, …
    low: float | None = None  # interval of the first figure
    high: float | None = None
    groups: dict[str, float] = {}  # the first figure by group of users or items: "1 to 2 events", "new items"


class Comparison(msgspec.Struct, omit_defaults=True):
    """The models of one style, the words of the choice and the gate, and calibration and drift where there are any."""

    task: str
    style: str
    figure: str  # the name of the figure that decides
    judged: int  # users or rows
    models: list[Model]
    choice: str  # one or two sentences
    calibration: list[dict[str, float]] = []  # predicted, observed, count by bin
    drift: dict[str, float] = {}


class Published(msgspec.Struct, omit_defaults=True):
    """A product that the run published, or did not."""

    product: str
    table: str = ""
    version: str | None = None  # None: refused or not published
    keys: int = 0
    rows: int = 0
    own_rows_share: float | None = None  # of users served by own rows


class Cost(msgspec.Struct, omit_defaults=True):
    """An estimated part of the cost of a run: amount times price."""

    task: str
    unit: str  # hours of m5.xlarge, vCPU hours, GiB hours, million write units
    amount: float
    price: float


class Warning(msgspec.Struct, omit_defaults=True):
    """A sentence about data that broke a contract's soft rule, or about something unusual that a task reported."""

    task: str
    sentence: str


class Record(msgspec.Struct, omit_defaults=True):
    """A run of a pipeline."""

    format: int
    environment: str
    dag: str
    run: str
    kind: str  # scheduled, manual, backfill, …
    run_after: datetime
    state: str  # succeeded, failed
    code: str = ""  # version of this repository's DAGs, if known
    until: str | None = None  # the day as of which it read
    began: datetime | None = None
    ended: datetime | None = None
    failure: Failure | None = None
    tasks: list[TaskSummary] = []
    figures: list[Figure] = []
    funnel: list[Step] = []
    comparisons: list[Comparison] = []
    published: list[Published] = []
    warnings: list[Warning] = []
    currency: str = ""
    costs: list[Cost] = []
    url: str | None = None  # of the run on the scheduler's page


def encode(record: Record) -> bytes:
    """Return the JSON document of a record."""
    return msgspec.json.encode(record)


def decode(content: bytes) -> Record:
    """Return the record in a JSON document; fields of later versions are ignored.

    Raises msgspec.ValidationError, or DecodeError, if it is not the document of a record.
    """
    return msgspec.json.decode(content, type=Record)
