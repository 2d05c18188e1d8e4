"""Funnel, comparisons of models, figures with limits, and products, from the metrics of jobs."""

from typing import Any

import pytest
from run_documents import RunFolder

from common.reporting.record import Record

QUALITY = {"recall": 0.2, "map": 0.1, "coverage": 0.3, "tuning_ndcg": 0.4}


@pytest.fixture
def run(lake: str) -> RunFolder:
    return RunFolder(lake)


def figure(record: Record, task: str, name: str) -> tuple[float, float | None, float | None]:
    """Return value, minimum and maximum of the only figure of a name."""
    ((value, minimum, maximum),) = [
        (each.value, each.minimum, each.maximum) for each in record.figures if (each.task, each.name) == (task, name)
    ]
    return value, minimum, maximum


def quality(ndcg: float) -> dict[str, float]:
    return {"ndcg": ndcg, "ndcg_low": ndcg - 0.05, "ndcg_high": ndcg + 0.05, **QUALITY}


def style(model: str | None, ndcg: dict[str, float], **more: Any) -> dict[str, Any]:
    found = {"users": 800, "models": {name: quality(value) for name, value in ndcg.items()}, **more}
    return found | ({"model": model} if model else {})


def test_recommenders_are_compared_by_style_with_their_choice_in_words(run: RunFolder) -> None:
    groups = {
        "users_by_history": {"1-4": 300, "5-19": 0, "100+": 500},
        "by_history": {"ease": {"1-4": 0.2, "5-19": 0.0, "100+": 0.6}},
        "users_with_new_items": 7,
        "on_new_items": {"ease": 0.05},
    }
    recent = {"recent popularity": 0.1}
    single = style(
        "ease", recent | {"ease": 0.3, "blend": 0.31}, best="als", single="ease", behind_best=[-0.001, 0.004]
    )
    styles = {
        "again": style("blend", recent | {"ease": 0.3, "blend": 0.4}, single="ease", blend_ahead_of_single=[0.05, 0.2]),
        "mixed": single | groups | {"blend_ahead_of_single": [-0.01, 0.02]},
        "new": style("ease", {"recent popularity": 0.5, "ease": 0.3}),
    }
    run.manifest("train_recommender", 0, 10, metrics={"styles": styles, "model": "ease"})
    record = run.record()
    mixed, again, new = record.comparisons
    assert [each.style for each in record.comparisons] == ["mixed", "again", "new"]
    assert [(model.name, model.chosen) for model in mixed.models] == [
        ("blend", False),
        ("ease", True),
        ("recent popularity", False),
    ]
    ease = mixed.models[1]
    assert (mixed.judged, ease.low, ease.high) == (800, 0.25, 0.35)
    assert list(ease.groups.items()) == [("1 to 4 items", 0.2), ("100 items and more", 0.6), ("on new items", 0.05)]
    assert ease.figures == {"ndcg": 0.3, **QUALITY}
    assert "simplest model whose lag behind the best, als (-0.0010 to 0.0040), may be noise" in mixed.choice
    assert "lead of -0.0100 to 0.0200 may be noise" in mixed.choice
    assert "The blend ships with nDCG@10 0.4000: it is 0.0500 to 0.2000 ahead of the best single" in again.choice
    assert new.choice.startswith("No model of this style beats recent popularity (0.5000)")
    assert figure(record, "train_recommender", "mixed.ndcg") == (0.3, 0.1, None)
    assert figure(record, "train_recommender", "new.ndcg") == (0.3, None, None)  # no gate: the first style's serves it


def test_trending_ships_in_words(run: RunFolder) -> None:
    run.manifest("train_recommender", 0, 10, metrics={"model": "trending", "because": "nobody came back"})
    assert run.record().comparisons[0].choice == "Trending items ship for everyone: nobody came back."
    styles = {"mixed": style(None, {"recent popularity": 0.2, "ease": 0.1})}
    run.manifest("train_recommender", 0, 10, metrics={"styles": styles, "model": "trending"})
    (comparison,) = run.record().comparisons
    assert comparison.choice.startswith("No model beats recent popularity (nDCG@10 0.2000)")
    assert not any(model.chosen for model in comparison.models)


def churn_metrics() -> dict[str, Any]:
    models = {"blend": {"auc": 0.8, "log_loss": 0.5, "setting": 3}, "recency rule": {"auc": 0.7, "log_loss": 0.6}}
    return {
        "model": "blend",
        "models": models,
        "judged_rows": 1000,
        "judged_churned": 200,
        "calibrated": True,
        "reliability": [{"rows": 900, "probability": 0.1, "churned": 0.12}],
        "drift": {f"feature_{number}": number / 10 for number in range(20)},
        "in_place": {"auc": 0.79},
    }


def test_churn_models_have_intervals_calibration_and_drift(run: RunFolder) -> None:
    run.manifest("train_churn", 0, 10, metrics=churn_metrics(), parameters={"max_auc_loss": 0.01})
    record = run.record()
    (comparison,) = record.comparisons
    assert [model.name for model in comparison.models] == ["blend", "model in place", "recency rule"]
    blend = comparison.models[0]
    assert (blend.chosen, blend.figures) == (True, {"auc": 0.8, "log_loss": 0.5})
    assert (blend.low, blend.high) == pytest.approx((0.7614, 0.8386), abs=5e-4)  # Hanley and McNeil for 200 and 800
    assert comparison.calibration == [{"predicted": 0.1, "observed": 0.12, "count": 900}]
    assert list(comparison.drift)[:2] == ["feature_19", "feature_18"] and len(comparison.drift) == 10
    assert "The model in place has 0.7900 there; the new one may have 0.01 less." in comparison.choice
    assert figure(record, "train_churn", "churn.auc") == (0.8, 0.7, None)


def test_refused_training_and_publication_show_their_numbers(run: RunFolder) -> None:
    refused = "The blend does not beat the recency rule."
    run.failure("train_churn", 0, 10, sentence=refused, exit_code=4, metrics=churn_metrics())
    limits = {"max_key_drop": 0.2, "min_overlap": 0.3, "max_default_share": 0.5, "max_unpublishable_share": 0.01}
    metrics = {"product": "characteristics@3", "table": "prod-characteristics", "items": 60, "items_before": 100}
    metrics |= {"rows": 60, "users": 60, "default_share": 0.1, "items_left_out": 0, "overlap": 0.4}
    run.failure("publish_product", 20, 30, sentence="Too few.", exit_code=4, metrics=metrics, parameters=limits)
    record = run.record()
    (comparison,) = record.comparisons
    assert comparison.choice == f"No model ships. {refused}"
    assert not any(model.chosen for model in comparison.models)
    (product,) = record.published
    assert (product.product, product.version, product.keys, product.own_rows_share) == (
        "characteristics",
        None,
        60,
        0.9,
    )
    assert figure(record, "publish_product", "key_drop") == (0.4, None, 0.2)
    assert figure(record, "publish_product", "overlap") == (0.4, 0.3, None)
    assert figure(record, "publish_product", "unpublishable_share") == (0, None, 0.01)


def test_shards_count_together(run: RunFolder) -> None:
    for shard in range(3):
        same = {"items": 500, "items_available": 400}
        own = {"users": 10, "no_longer_available": 5, "rows_by_style": {"mixed": 100, "new": shard}}
        run.manifest("select_recommendations", 0, 10, shard, metrics=same | own)
        run.manifest("predict_churn", 0, 10, shard, metrics={"users": 10, "at_risk": 4, "expected_churn": 1.5})
        examples = {"empty_key": {"keys": 2, "examples": ["''"]}}
        run.manifest("write_product", 0, 10, shard, metrics={"table": "t", "items": 9, "unpublishable_keys": examples})
    record = run.record()
    steps = {step.name: step for step in record.funnel}
    assert steps["recommendations"].parts == {"mixed": 300, "new": 3}
    assert [(each.reason, each.records) for each in steps["recommendations"].out] == [("item no longer available", 15)]
    assert steps["users"].parts == {"at risk": 12, "not at risk": 18}
    (left_out,) = steps["keys for t"].out
    assert (left_out.reason, left_out.records, left_out.examples[0].content) == ("empty_key", 6, "''")
    assert figure(record, "select_recommendations", "items") == (500, None, None)
    assert figure(record, "predict_churn", "expected_churn") == (4.5, None, None)


def test_new_job_has_figures_limited_by_parameters_of_their_names(run: RunFolder) -> None:
    metrics = {"empty_share": 0.02, "likes": 3, "by_kind": {"a": 2, "b": 5, "c": 0}, "name": "x", "flag": True}
    metrics |= {f"m{number}": number for number in range(100)} | {"text": {"a": "b"}, "list": [1], "nothing": None}
    run.manifest("new_job", 0, 10, metrics=metrics, parameters={"max_empty_share": 0.1, "min_likes": 1})
    record = run.record()
    assert figure(record, "new_job", "empty_share") == (0.02, None, 0.1)
    assert figure(record, "new_job", "likes") == (3, 1, None)
    assert figure(record, "new_job", "by_kind.b") == (5, None, None)
    assert figure(record, "new_job", "seconds") == (10, None, None)
    assert not [each for each in record.figures if each.name in ("by_kind.c", "flag", "name", "nothing")]
    assert len(record.figures) <= 50


def test_metrics_of_another_shape_cost_only_their_part(run: RunFolder) -> None:
    run.manifest("train_recommender", 0, 10, metrics={"styles": {"mixed": {"users": "many", "models": {"a": 3}}}})
    run.manifest("ingest_events", 0, 10, metrics={"lines": 7, "reasons": "none", "events_by_type": {"view": 7}})
    record = run.record()
    (warning,) = record.warnings
    assert warning.sentence.startswith("The comparisons of the run cannot be read: AttributeError")
    assert (record.comparisons, record.funnel[0].count) == ([], 7)
    assert figure(record, "ingest_events", "events_by_type.view") == (7, None, None)
