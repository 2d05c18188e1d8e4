"""Every model on the same table of awkward inputs, and the choice of parameters."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
from shapes import of_dense, random_history

from common.recommending import choice, models
from common.recommending.blend import Blend, Model, candidates, choose_weights
from common.recommending.evaluation import Truth, quality
from common.recommending.histories import BY_EVENTS, BY_NOTHING, BY_WEIGHT, History, history, without_long_rows
from common.recommending.models import AGAIN, NEW
from common.recommending.popularity import momentum, popularity
from common.recommending.ranking import Ranking, concatenate
from common.recommending.trials import Variant, trial

PARAMETERS = {key: value for name in models.MODELS for key, value in models.defaults(name).items()}


def by_model(name: str, count: int, style: str) -> Callable[[History], Ranking]:
    def ranked(pairs: History) -> Ranking:
        model = made(name, pairs)
        scorer = model.scorer(pairs)
        found = concatenate(list(models.recommend(scorer, pairs, count, style)))
        because, again = scorer.reasons(found)
        np.testing.assert_allclose(again, found.scores, rtol=0.01, atol=1e-5)
        had = pairs.matrix(np.ones_like(pairs.events))
        assert (np.asarray(had[found.rows, np.maximum(because, 0)]).ravel()[because >= 0] == 1).all()
        return found

    return ranked


def made(name: str, pairs: History) -> Model:
    """Return the model of a name, or a blend of all."""
    if name != "blend":
        return models.fit(name, pairs, PARAMETERS, head=100)
    return Blend(
        [models.fit(member, pairs, PARAMETERS, head=100) for member in models.MODELS], [1.0] * len(models.MODELS)
    )


def by_popularity(count: int, style: str) -> Callable[[History], Ranking]:
    return lambda pairs: models.popular_ranking(popularity(pairs, 7), pairs, style)


def raw(events: list[float], age: list[float], items: int = 3) -> History:
    """Return one user with len(events) items."""
    return History(
        np.array([0, len(events)]),
        np.arange(len(events), dtype=np.int32),
        np.array(events, dtype=np.float32),
        np.ones(len(events), dtype=np.float32),
        np.array(age, dtype=np.float32),
        items,
    )


def with_a_long_row(items: int) -> History:
    """Return one user with all items, and two with one each."""
    indices = np.concatenate([np.arange(items), [0, 1]]).astype(np.int32)
    ones = np.ones(items + 2, dtype=np.float32)
    return History(np.array([0, items, items + 1, items + 2]), indices, ones, ones, 0 * ones, items)


RIGHT: dict[str, Callable[[], History]] = {
    "no users": lambda: of_dense(np.zeros((0, 4))),
    "no items": lambda: of_dense(np.zeros((3, 0))),
    "no pairs": lambda: of_dense(np.zeros((3, 4))),
    "one user": lambda: of_dense(np.array([[1, 0, 2, 1]])),
    "one item": lambda: of_dense(np.array([[1], [0], [2]])),
    "one pair": lambda: of_dense(np.array([[0, 1], [0, 0]])),
    "everyone has everything": lambda: of_dense(np.ones((5, 6))),
    "fewer items than requested": lambda: random_history(20, 7),
    "so old that all weights are zero": lambda: of_dense(np.ones((4, 4)), np.full((4, 4), 1e30)),
    "no events": lambda: raw([0, 0], [1, 1]),
    "a user with 700 items": lambda: with_a_long_row(700),
}
WRONG: dict[str, Callable[[], History]] = {
    "NaN events": lambda: raw([1, np.nan], [1, 1]),
    "infinite events": lambda: raw([1, np.inf], [1, 1]),
    "negative events": lambda: raw([1, -1], [1, 1]),
    "NaN age": lambda: raw([1, 1], [1, np.nan]),
    "infinite age": lambda: raw([1, 1], [np.inf, 1]),
    "purchases after the moment": lambda: raw([1, 1], [-1, 1]),
    "items outside of the catalogue": lambda: raw([1, 1], [1, 1], items=1),
    "an age too few": lambda: raw([1, 1], [1]),
}
EVERY_MODEL = [*models.MODELS, "blend", "popularity"]


@pytest.mark.parametrize("style", models.STYLES)
@pytest.mark.parametrize("name", EVERY_MODEL)
@pytest.mark.parametrize("case", RIGHT)
def test_every_model_ranks_awkward_input(case: str, name: str, style: str) -> None:
    pairs = RIGHT[case]()
    ranked = by_popularity(10, style) if name == "popularity" else by_model(name, 10, style)
    found = ranked(pairs)
    assert np.isfinite(found.scores).all() and (found.scores > 0).all()
    assert ((found.rows >= 0) & (found.rows < pairs.user_count)).all()
    assert ((found.items >= 0) & (found.items < pairs.item_count)).all()
    pair = found.rows * max(1, pairs.item_count) + found.items
    assert len(np.unique(pair)) == len(pair)
    for row in range(pairs.user_count):
        assert found.ranks[found.rows == row].tolist() == list(range(min(10, (found.rows == row).sum())))
        assert (np.diff(found.scores[found.rows == row]) <= 0).all()
    had = np.repeat(np.arange(pairs.user_count), pairs.lengths) * max(1, pairs.item_count) + pairs.indices
    if style == NEW:
        assert not np.isin(pair, had).any()
    if style == AGAIN:
        assert np.isin(pair, had).all()
    if name != "popularity":
        users_without_history = np.flatnonzero(pairs.lengths == 0)
        assert not np.isin(found.rows, users_without_history).any()
    for one, other in zip(found, ranked(RIGHT[case]()), strict=True):  # ranked once more
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(case: str) -> None:
    with pytest.raises(ValueError, match="history"):
        WRONG[case]()


def test_models_refuse_weights_that_are_not_finite() -> None:
    matrix = random_history(5, 6).matrix(np.full(len(random_history(5, 6).indices), np.nan, dtype=np.float32))
    for recipe in models.MODELS.values():
        with pytest.raises(ValueError, match="finite"):
            recipe.fit(matrix, PARAMETERS, 100)


def test_history_keeps_only_the_pairs_that_existed() -> None:
    kept = history(
        np.array([0, 2, 2, 4]),
        np.array([1, 3, 0, 2]),
        np.array([True, False, True, True]),
        np.array([5, 6, 7, 8]),
        np.array([1, 2, 3, 4]),
        np.array([0.5, np.nan, 2, 3]),
        4,
    )
    assert kept.matrix(kept.events).toarray().tolist() == [[0, 5, 0, 0], [0, 0, 0, 0], [7, 0, 8, 0]]
    assert kept.age.tolist() == [0.5, 2, 3]


def test_rows_of_a_history_are_in_the_given_order() -> None:
    pairs = random_history(9, 5)
    some = pairs.rows(np.array([7, 2]))
    assert (some.matrix(some.events).toarray() == pairs.matrix(pairs.events).toarray()[[7, 2]]).all()
    assert (some.matrix(some.age).toarray() == pairs.matrix(pairs.age).toarray()[[7, 2]]).all()


def test_popularity_halves_with_each_half_life() -> None:
    pairs = of_dense(np.array([[9, 1, 0], [1, 0, 0]]), np.array([[0, 14, 0], [7, 0, 0]]))
    assert popularity(pairs).tolist() == [2, 1, 0]
    assert popularity(pairs, 7).tolist() == [1.5, 0.25, 0]


def test_momentum_is_below_one_for_items_that_stopped_selling() -> None:
    pairs = of_dense(np.ones((40, 3)), np.tile([1, 90, 30], (40, 1)))
    assert momentum(pairs)[1] < 0.2 < 0.8 < momentum(pairs)[0] <= 1
    assert (momentum(of_dense(np.ones((4, 3)))) == 1).all(), "no ages"


def learnable() -> tuple[History, Truth]:
    """Return two tastes: each user bought half of the items of one, and later buys some of the other half."""
    random = np.random.default_rng(7)
    events, later = np.zeros((200, 30)), np.zeros((200, 30), dtype=np.int8)
    for user in range(200):
        liked = random.permutation(15) + 15 * (user % 2)
        events[user, liked[:7]], later[user, liked[7:11]] = 1, 1
    return of_dense(events), Truth(sp.csr_matrix(later))


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_learns_tastes_unlike_popularity(name: str) -> None:
    pairs, truth = learnable()
    chosen = choice.choose(name, pairs, pairs, {NEW: truth})[NEW].choice
    found = quality(models.ranking_of(models.fit(name, pairs, chosen.parameters), pairs, NEW), truth).means()["ndcg"]
    popular = quality(models.popular_ranking(popularity(pairs), pairs, NEW), truth).means()["ndcg"]
    assert chosen.ndcg == found
    assert found > popular + 0.2


def test_ease_covers_the_head_and_neighbours_the_tail() -> None:
    random = np.random.default_rng(4)
    events = random.random((60, 20)) < np.linspace(0.05, 0.9, 20)  # the last items are the head
    pairs, parameters = of_dense(events), {**PARAMETERS, "self_weight": 0}
    model = models.fit("ease", pairs, parameters, head=6)
    assert model.head.tolist() == sorted(np.argsort(-events.sum(axis=0), kind="stable")[:6].tolist())
    alone = models.fit("ease", of_dense(events[:, model.head]), parameters)
    np.testing.assert_allclose(model.dense, alone.dense, rtol=1e-4, atol=1e-6)
    neighbours = models.fit("rp3beta", pairs, {**parameters, "alpha": 0.8, "beta": 0.4}).sparse.toarray()
    inside = np.zeros((20, 20), dtype=bool)
    inside[np.ix_(model.head, model.head)] = True
    assert not model.sparse.toarray()[inside].any()
    ratio = model.sparse.toarray()[~inside & (neighbours > 0)] / neighbours[~inside & (neighbours > 0)]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert set(models.ranking_of(model, pairs, NEW).items) - set(model.head)


@pytest.mark.parametrize("name", models.MODELS)
def test_budget_bounds_all_candidates_but_the_first(name: str) -> None:
    pairs, truth = learnable()
    whole = choice.choose(name, pairs, pairs, {NEW: truth})[NEW].choice
    first = choice.choose(name, pairs, pairs, {NEW: truth}, seconds=0)[NEW].choice
    assert first.tried == 1 and first.parameters == {**models.defaults(name), "self_weight": 0}
    size = models.Size.of(pairs)
    two = 2.1 * models.fit_seconds(name, size, first.parameters, 100) + 2 * 2 * choice.rank_seconds(pairs)
    some = choice.choose(name, pairs, pairs, {NEW: truth}, seconds=two)[NEW].choice
    assert some.tried == 2 <= whole.tried
    assert first.ndcg <= some.ndcg <= whole.ndcg


def test_larger_data_have_a_higher_estimate() -> None:
    small, large = models.Size(1000, 100, 10_000, 2e5), models.Size(1_000_000, 100_000, 26_500_000, 2e9)
    for name in models.MODELS:
        parameters = models.defaults(name)
        costs = [models.fit_seconds(name, size, parameters, 20_000) for size in (small, large)]
        assert 1 > costs[0] < costs[1] / 100


def test_weights_favour_the_informed_member() -> None:
    _, truth = learnable()
    random = np.random.default_rng(0)

    class Told:
        width = 30

        def __init__(self, noise: float) -> None:
            self.all_scores = (truth.items.toarray() + noise * random.random((200, 30))).astype(np.float32)

        def scores(self, part: slice) -> np.ndarray:
            return self.all_scores[part].copy()

    among = candidates([Told(1.8), Told(1.8), Told(1e6)], 200)
    weights, ndcg, _ = choose_weights(among, truth)
    alone = [choose_weights(candidates([Told(1.8)], 200), truth)[1] for _ in range(2)]
    assert weights[0] > 0 and weights[1] > 0 and weights[2] <= 0.25
    assert ndcg > max(alone) + 0.01


def test_candidates_are_the_best_of_each_member_without_excluded() -> None:
    pairs, _ = learnable()
    scorers = [models.fit(name, pairs, PARAMETERS).scorer(pairs) for name in models.MODELS]
    among = candidates(scorers, pairs.user_count, **models.limits(pairs, NEW))
    found = set(zip(among.rows.tolist(), among.items.tolist(), strict=True))
    rows = np.repeat(np.arange(200), pairs.lengths)
    assert not found & set(zip(rows.tolist(), pairs.indices.tolist(), strict=True))
    for scorer in scorers:
        best = concatenate(list(models.recommend(scorer, pairs, 10, NEW)))
        assert set(zip(best.rows.tolist(), best.items.tolist(), strict=True)) <= found


def test_coordinate_search_finds_the_best_and_first_of_equals() -> None:
    tried = []

    def score(parameters: dict[str, float]) -> np.ndarray:
        tried.append(parameters)
        return np.array([-abs(parameters["a"] - 3) - abs(parameters["b"] - 1) + 0 * parameters["c"]])

    grid = {"a": (1, 2, 3), "b": (5, 1), "c": (8, 9)}
    assert choice.coordinate_search(grid, score) == ({"a": 3, "b": 1, "c": 8}, np.zeros(1))
    assert len(tried) == 1 + 2 + 1 + 1


def test_values_that_change_nothing_are_not_tried() -> None:
    once = choice.grid_of("svd", of_dense(np.ones((20, 20))), NEW)
    assert [name for name, values in once.items() if len(values) > 1] == ["item_power"]
    assert once["self_weight"] == (0,)
    varied = choice.grid_of("svd", random_history(40, 70), models.MIXED)
    assert varied["counting"] == (BY_EVENTS, BY_NOTHING), "here weights are proportional to events"
    assert len(varied["user_half_life"]) == 3
    assert varied["factors"] == (16, 32)


def styles_of(pairs: History, bought: np.ndarray) -> dict[str, Truth]:
    truth = Truth(sp.csr_matrix(bought))
    return {style: models.of_style(truth, pairs, style) for style in models.STYLES}


@pytest.mark.parametrize("name", models.MODELS)
def test_trial_has_the_quality_of_each_ranking(name: str) -> None:
    pairs = random_history(60, 40)
    truths = styles_of(pairs, np.random.default_rng(8).random((60, 40)) < 0.2)
    parameters = {**PARAMETERS, "factors": 8, "user_half_life": 3, "user_counting": BY_NOTHING}
    fitted = models.fit_once(name, pairs, parameters)
    found = trial(fitted, parameters, (0.4, 0), (30, 0), pairs, truths)
    assert len(found) == 2 * (2 + 2 + 1)
    for variant, ndcg in found.items():
        model = fitted.scored({**parameters, **variant.numbers()})
        expected = quality(models.ranking_of(model, pairs, variant.style), truths[variant.style]).ndcg
        np.testing.assert_array_equal(ndcg, expected, str(variant))


@pytest.mark.parametrize("name", models.MODELS)
def test_each_style_has_the_best_of_all_that_was_tried(name: str) -> None:
    """So none is worse than with the parameters of another, and the fit that comes with it is that of its own."""
    pairs, truth = learnable()
    again = np.random.default_rng(9).random((200, 30)) < 0.3
    truths = styles_of(pairs, (truth.items.toarray() > 0) | again)
    chosen = choice.choose(name, pairs, pairs, truths)
    for style, (best, fitted) in chosen.items():
        ndcg = {
            other: quality(
                models.ranking_of(each.fitted.scored(each.choice.parameters), pairs, style), truths[style]
            ).means()["ndcg"]
            for other, each in chosen.items()
        }
        assert best.ndcg == ndcg[style] >= max(ndcg.values())
        again_fitted = models.fit(name, pairs, best.parameters)
        one, other = (models.ranking_of(each, pairs, style) for each in (again_fitted, fitted.scored(best.parameters)))
        np.testing.assert_array_equal(one.items, other.items)


@pytest.mark.parametrize(("limit", "value"), [("OWN_FITS", 29), ("OWN_FITS_COST", 1e9)])
def test_styles_share_the_fit_if_the_catalogue_or_the_budget_allows_no_more(monkeypatch, limit, value) -> None:
    pairs, truth = learnable()
    again = np.random.default_rng(0).random((200, 30)) < 0.3
    truths = styles_of(pairs, (truth.items.toarray() > 0) | again)

    def choose() -> dict[str, choice.Chosen]:
        return choice.choose("cosine", pairs, pairs, truths, seconds=1000)

    free = choose()
    assert len({models.fitting_of(each.choice.parameters) for each in free.values()}) > 1
    monkeypatch.setattr(choice, limit, value)
    shared = choose()
    main = models.fitting_of(free["mixed"].choice.parameters)
    assert {models.fitting_of(each.choice.parameters) for each in shared.values()} == {main}


def test_search_stops_where_the_next_value_is_worse(monkeypatch) -> None:
    fitted = []
    monkeypatch.setattr(
        choice, "fit_once", lambda name, pairs, parameters, head: fitted.append(parameters) or parameters
    )

    def peak(fitted, parameters, momenta, *_) -> dict[Variant, np.ndarray]:
        return {Variant(NEW, each, 0): np.array([-abs(parameters["factors"] - 40)]) for each in momenta}

    monkeypatch.setattr(choice, "trial", peak)
    pairs = random_history(300, 300)
    chosen = choice.choose("svd", pairs, pairs, {NEW: Truth(sp.csr_matrix((300, 300)))})
    assert chosen[NEW].choice.parameters["factors"] == 32
    assert sorted({each["factors"] for each in fitted}) == [16, 32, 64]


def test_weights_tell_tastes_that_equal_pairs_hide() -> None:
    pairs, truth = learnable()
    looked_at = np.random.default_rng(1).random((200, 30)) < 0.3  # everyone looks at anything, with little weight
    liked = pairs.matrix(pairs.events).toarray()
    all_pairs = of_dense(np.maximum(liked * 20, looked_at * 1))
    weighed, equal = (
        quality(
            models.ranking_of(models.fit("cosine", all_pairs, {**PARAMETERS, **counted}), all_pairs, NEW),
            models.of_style(truth, all_pairs, NEW),
        ).means()["ndcg"]
        for counted in ({"counting": how, "user_counting": how} for how in (BY_WEIGHT, BY_NOTHING))
    )
    assert weighed > equal + 0.05


def test_views_are_weighed_before_targets_alone_are_counted() -> None:
    pairs = raw([0, 2, 0], [1, 2, 3])
    assert choice.grid_of("cosine", pairs, models.MIXED)["counting"] == (2, 1)  # all weights are 1


def test_users_of_very_many_items_are_not_fitted_on() -> None:
    pairs = without_long_rows(with_a_long_row(30), 29)
    assert pairs.lengths.tolist() == [0, 1, 1]
    assert without_long_rows(with_a_long_row(30), 30).lengths.tolist() == [30, 1, 1]


def test_simplest_of_equal_models_ships_and_a_clearly_better_one_before_it() -> None:
    random = np.random.default_rng(0)
    base, noise = random.random(300), random.normal(0, 0.1, 300)
    simple, equal, better = base, base + noise - noise.mean() + 0.001, base + 0.05 + noise
    assert choice.choose_winner({"a": (simple, simple), "b": (equal, equal)}, 1)[:2] == ("a", "b")
    winner = choice.choose_winner({"a": (simple, simple), "b": (equal, equal), "c": (better, better)}, 1)
    assert winner[:2] == ("c", "c") and winner.behind == (0, 0)


def test_ease_is_tuned_on_the_head_that_ships_if_the_budget_covers_it() -> None:
    size, grid = models.Size(10_000, 12_000, 10**6, 10**8), choice.grid_of("ease", random_history(9, 9), models.MIXED)
    assert choice.tuning_head("ease", size, grid, 10_000, seconds=1000) == 10_000
    assert choice.tuning_head("ease", size, grid, 10_000, seconds=50) == choice.TUNING_HEAD
