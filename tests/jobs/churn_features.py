"""Features of synthetic users at five dates, for tests of churn."""

import datetime

import numpy as np
import pyarrow as pa

from common import contracts

NOW = datetime.date(2011, 6, 1)
CUTS = [NOW - datetime.timedelta(days=age) for age in (120, 90, 60, 30)]


def features(users: int, learnable: float = 3.0, seed: int = 0) -> pa.Table:
    """Return users at each cut: few purchases predict churn, recency less so; other features are noise or constant."""
    random = np.random.default_rng(seed)
    tables = []
    for cut in [*CUTS, NOW]:
        good = random.normal(size=users)
        churned = random.random(users) < 1 / (1 + np.exp(learnable * good))
        at_risk = np.arange(users) % 7 > 0
        columns: dict[str, object] = {
            "user_id": [f"user {number}" for number in range(users)],
            "cut": [cut] * users,
            "at_risk": at_risk.tolist(),
            "churned": [None] * users if cut == NOW else churned.tolist(),
            "plan": random.choice(["free", "basic"], users).tolist(),
        }
        numbers = {"targets": np.exp(good), "recency_days": np.exp(random.normal(size=users) - 0.5 * good) * 40}
        numbers["tenure_days"] = np.full(users, 400.0)
        for name, column in contracts.load("user_features@2").columns.items():
            if name not in columns:
                columns[name] = numbers.get(name, [None if column.nullable else 0.0] * users)
        table = pa.table(columns)
        tables.append(table if cut == NOW else table.filter(pa.array(at_risk)))
    return pa.concat_tables(tables, promote_options="permissive")
