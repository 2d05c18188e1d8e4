"""Model of a synthetic shop's shoppers, as arrays: drawn by block and week from counters, so in any order.

docs/generated_data.md lists which effects are modelled.
"""

import datetime
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DAY = 86_400  # seconds
WEEKS_PER_PERIOD = 4  # a subscription is renewed or cancelled once per period
WEEKS_PER_SEASON = 13  # the popularity of items changes with it
BLOCK = 1 << 16  # shoppers whose subscriptions are drawn together
EVENTS_PER_CHUNK = 1_000_000  # approximate number of one week that is drawn together
NEVER = np.iinfo(np.int64).max
VISITS, BASKETS, CATALOGUE, TOPIC, STYLE, SLOT, HABIT, COUNTRY, SALE, PLATFORM = range(10)  # streams of random numbers

GUESTS = 0.05  # of the number of users, in addition to them: their events have no user
CANCELLED = 0.02  # of the purchases
PLANS = ("free", "basic", "premium")
COUNTRIES = ("United Kingdom", "Germany", "France", "EIRE", "Netherlands", "Spain", "Switzerland", "Belgium")
COUNTRY_SHARES = (0.55, 0.15, 0.1, 0.06, 0.05, 0.04, 0.03, 0.02)
PLATFORMS = ("web", "ios", "android", "tv")
WEEKDAYS = np.array([1.0, 1.1, 1.1, 1.25, 0.85, 0.5, 1.05])  # Monday first; visits on each, in proportion
MAX_BASKET = 21.0  # mean number of events per visit of users with many events; Online Retail II has 20.9

# Events are distributed over the slots of a user's repertoire: slot k has a share like (k + SLOT_SCALE) ** -1.44, so
# the number of different items grows like the number of events to the power of .69.
SLOT_SHAPE, SLOT_SCALE = 0.44, 22.0
WEEKS_PER_SLOT = 60  # until a slot gets another item
WEEKS_PER_TASTE = 78  # until a user changes one of three topics
TOPIC_SHARES = (0.6, 0.85)  # of a user's slots: the first topic, the first or the second
ANY_TOPIC = 0.25  # of the slots: popular items of any topic
STYLE_WIDTH = 0.25  # of a topic: spread of the items around the centre of a user's style
RATE_SPREAD = 1.1  # standard deviation of the logarithm of users' visit rates
MOOD_SPREAD, MOOD_MEMORY = 0.6, 0.85  # the same for a user's mood, and its autocorrelation from period to period


@dataclass(frozen=True)
class Settings:
    """Size, first day and seed of a synthetic shop."""

    users: int
    items: int
    events: int
    seed: int
    days: int
    start: datetime.date

    @property
    def weeks(self) -> int:
        return -(-self.days // 7)

    @property
    def first_second(self) -> int:
        return (self.start - datetime.date(1970, 1, 1)).days * DAY

    @property
    def end(self) -> int:
        """The second at which the data ends."""
        return self.first_second + self.days * DAY

    @property
    def shoppers(self) -> int:
        return self.users + max(1, round(self.users * GUESTS))

    @property
    def blocks(self) -> int:
        return -(-self.shoppers // BLOCK)

    @property
    def visits(self) -> float:
        """Expected number of visits; users with few events have smaller baskets."""
        return self.events / (1 + CANCELLED) / min(MAX_BASKET, max(1.0, 2 * math.sqrt(self.events / self.users)))


def generator(settings: Settings, *numbers: int) -> np.random.Generator:
    """Return the random numbers of a block, independent of process and order."""
    return np.random.default_rng([settings.seed, *numbers])


def chance(settings: Settings, stream: int, *numbers: np.ndarray | int) -> np.ndarray:
    """Return a number from 0 to 1 per tuple of integers, always the same for the same tuple (SplitMix64)."""
    state = np.array([settings.seed * 1_000 + stream], np.uint64)
    for number in numbers:
        state = state * np.uint64(0x9E3779B97F4A7C15) + np.asarray(number).astype(np.uint64) + np.uint64(1)
        state ^= state >> np.uint64(30)
        state *= np.uint64(0xBF58476D1CE4E5B9)
        state ^= state >> np.uint64(27)
        state *= np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return np.asarray((state >> np.uint64(11)) * 2.0**-53)


@dataclass(frozen=True)
class Subscriptions:
    """Subscriptions of a block of shoppers: `visits` by week and shopper, the second when each `ended`, the changes.

    `changes` has shopper, second, kind (0 subscribe, 1 change, 2 cancel) and plan; `odds` has shopper,
    period, the probability of a cancellation and its outcome, for periods that end within the data.
    """

    visits: np.ndarray
    ended: np.ndarray
    changes: dict[str, np.ndarray]
    odds: dict[str, np.ndarray]


def subscriptions(settings: Settings, block: int) -> Subscriptions:
    """Draw visits and cancellations of a block of shoppers, period after period.

    A cancellation within a period is drawn at its start, from data until then.
    """
    random = generator(settings, VISITS, block)
    shoppers = np.arange(block * BLOCK, min((block + 1) * BLOCK, settings.shoppers))
    size, first = len(shoppers), settings.first_second
    rate = np.exp(random.normal(-(RATE_SPREAD**2) / 2, RATE_SPREAD, size))
    rate *= settings.visits / (
        settings.shoppers * settings.weeks * 0.62
    )  # about 62 % of the weeks are within a subscription
    existing = random.random(size) < 0.55
    began = np.where(existing, -random.exponential(400 * DAY, size), random.random(size) * settings.days * DAY).astype(
        np.int64
    )
    began += first
    plan = np.searchsorted([0.5, 0.85], random.random(size))
    known = shoppers < settings.users
    visits = np.zeros((settings.weeks, size), np.uint8)
    ended = np.full(size, NEVER)
    last_seen = np.maximum(began, first)
    mood = random.normal(0, MOOD_SPREAD, size)
    changes = [(shoppers[known], began[known], np.zeros(known.sum(), int), plan[known])]
    odds = []
    for period in range(-(-settings.weeks // WEEKS_PER_PERIOD)):
        week = period * WEEKS_PER_PERIOD
        start = first + week * 7 * DAY
        subscribed = known & (began < start) & (ended == NEVER)
        month = visits[max(0, week - WEEKS_PER_PERIOD) : week].sum(axis=0, dtype=np.int64)
        months = visits[max(0, week - 3 * WEEKS_PER_PERIOD) : week].sum(axis=0, dtype=np.int64)
        weeks_away = np.clip((start - last_seen) / (7 * DAY), 0, 12)
        logit = -4.9 + 0.25 * weeks_away - 0.5 * np.log1p(month) - 0.25 * np.log1p(months) - 0.6 * plan
        probability = 1 / (1 + np.exp(-logit - 0.8 * (start - began < 90 * DAY)))
        cancels = subscribed & (random.random(size) < probability)
        moment = start + (random.random(size) * WEEKS_PER_PERIOD * 7 * DAY).astype(np.int64)
        ended[cancels] = moment[cancels]
        switches = subscribed & ~cancels & (random.random(size) < 0.02)
        other = (plan + random.integers(1, len(PLANS), size)) % len(PLANS)
        for mask, kind, new in ((cancels, 2, plan), (switches, 1, other)):
            changes.append((shoppers[mask], moment[mask], np.full(mask.sum(), kind), new[mask]))
        plan = np.where(switches, other, plan)
        if week + WEEKS_PER_PERIOD <= settings.days // 7:
            whole_period = np.full(subscribed.sum(), period)
            odds.append((shoppers[subscribed], whole_period, probability[subscribed], cancels[subscribed]))
        mood = MOOD_MEMORY * mood + random.normal(0, MOOD_SPREAD * math.sqrt(1 - MOOD_MEMORY**2), size)
        expected = rate * np.exp(mood - MOOD_SPREAD**2 / 2)
        for number in range(week, min(week + WEEKS_PER_PERIOD, settings.weeks)):
            since = first + number * 7 * DAY
            share = min(7, settings.days - number * 7) / 7
            count = np.where((began < since) & (ended > since), random.poisson(expected * share), 0)
            visits[number] = np.minimum(count, 255)
            last_seen = np.where(count > 0, since + 7 * DAY, last_seen)
    everything = stacked(("shopper", "time", "kind", "plan"), changes)
    seen = everything["time"] < settings.end
    return Subscriptions(
        visits,
        ended,
        {name: column[seen] for name, column in everything.items()},
        stacked(("shopper", "period", "probability", "cancelled"), odds),
    )


def stacked(names: tuple[str, ...], pieces: Sequence[tuple[np.ndarray, ...]]) -> dict[str, np.ndarray]:
    """Concatenate pieces of the same columns."""
    if not pieces:
        return {name: np.zeros(0) for name in names}
    return {name: np.concatenate(columns) for name, columns in zip(names, zip(*pieces, strict=True), strict=True)}


@dataclass(frozen=True)
class Catalogue:
    """Items (by topic, neighbours similar), their prices in pennies, and their interval in each season's line.

    `line` has per season an ascending sequence of 1 + items numbers from season to season + 1: the length of an item's
    interval is its popularity.
    """

    prices: np.ndarray
    line: np.ndarray
    topics: np.ndarray

    def pick(self, season: np.ndarray, topic: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Return the items at a position, from 0 to 1, of a topic's interval in a season's line; topic -1 is any."""
        width = len(self.prices) + 1
        any_topic = topic < 0
        low = self.line[season * width + np.where(any_topic, 0, self.topics[topic])]
        high = self.line[season * width + np.where(any_topic, len(self.prices), self.topics[topic + 1])]
        found = np.searchsorted(self.line, low + position * (high - low), side="right") - 1
        items: np.ndarray = np.minimum(found - season * width, len(self.prices) - 1).astype(np.int32)
        return items


@functools.cache
def catalogue(settings: Settings) -> Catalogue:
    """Draw the items of a shop: long-tailed popularity (Weibull), which changes by season; some are launched later."""
    random = generator(settings, CATALOGUE)
    items, seasons = settings.items, -(-settings.weeks // WEEKS_PER_SEASON)
    weight = (-np.log(random.random(items))) ** 1.5
    launched = np.where(random.random(items) < 0.8, 0, random.integers(0, seasons, items))
    line = np.empty((seasons, items + 1))
    for season in range(seasons):
        popularity = weight * np.exp(random.normal(0, 0.3, items)) * (launched <= season)
        if not popularity.any():
            popularity = weight
        ends = np.cumsum(popularity)
        line[season] = season + np.append(0, ends / ends[-1]) * (1 - 1e-9)
    prices = np.maximum(1, np.exp(random.normal(math.log(195), 0.95, items))).astype(np.int64)
    topics = np.linspace(0, items, max(1, min(100, items // 400)) + 1).astype(np.int64)
    return Catalogue(prices, line.ravel(), topics)


def slot_items(settings: Settings, shopper: np.ndarray, slot: np.ndarray, week: int) -> np.ndarray:
    """Return the item in a slot of a shopper's repertoire in a week: drawn when the slot was last filled."""
    goods = catalogue(settings)
    filled = (
        week - np.floor(week + WEEKS_PER_SLOT * chance(settings, SLOT, shopper, slot)).astype(np.int64) % WEEKS_PER_SLOT
    )
    filled = np.maximum(filled, 0)
    which, kind, spread = (chance(settings, SLOT + 100 * number, shopper, slot, filled) for number in (1, 2, 3))
    rank = np.searchsorted(TOPIC_SHARES, which)
    turn = np.floor(filled / WEEKS_PER_TASTE + chance(settings, TOPIC + 100, shopper, rank)).astype(np.int64)
    count = len(goods.topics) - 1
    topic = np.floor(count * chance(settings, TOPIC, shopper, rank, turn) ** 1.5).astype(np.int64)
    any_topic = kind < ANY_TOPIC
    side = np.where(spread < 0.5, np.log(2 * np.maximum(spread, 1e-12)), -np.log(2 * np.maximum(1 - spread, 1e-12)))
    style = (chance(settings, STYLE, shopper, rank, turn) + STYLE_WIDTH * side) % 1
    position = np.where(any_topic, spread, style)
    return goods.pick(filled // WEEKS_PER_SEASON, np.where(any_topic, -1, topic), position)


def events(
    settings: Settings, week: int, first_shopper: int, visits: np.ndarray, ended: np.ndarray, basket: float
) -> dict[str, np.ndarray]:
    """Draw the events of some shoppers in a week, in the order of time: shopper, item, kind, quantity, pennies, time.

    `visits` are their numbers of visits in this week, with `basket` events each on average. `kind` is 1 for
    a cancellation, and `time` in seconds since 1970.
    """
    random = generator(settings, BASKETS, week, first_shopper)
    monday = settings.first_second + week * 7 * DAY
    days = min(7, settings.days - week * 7)
    rhythm = np.roll(WEEKDAYS, -settings.start.weekday())[:days]
    visitor = np.repeat(np.arange(len(visits)), visits)
    day = np.searchsorted(np.cumsum(rhythm / rhythm.sum())[:-1], random.random(len(visitor)), side="right")
    hour = 9 + 10 * chance(settings, HABIT, visitor + first_shopper) + random.normal(0, 1.5, len(visitor))
    begin = monday + day * DAY + (np.clip(hour, 0, 21) * 3600).astype(np.int64)
    lengths = random.geometric(min(1.0, 1 / basket), len(visitor))
    visit = np.repeat(np.arange(len(visitor)), lengths)
    position = np.arange(len(visit)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    # A visit's draws are stratified over the slots: few items are twice in a basket.
    even = (position + random.random(len(visit))) / lengths[visit]
    slot = np.floor(SLOT_SCALE * (np.maximum(1 - even, 1e-7) ** (-1 / SLOT_SHAPE) - 1)).astype(np.int64)
    shopper = visitor[visit]
    item = slot_items(settings, shopper + first_shopper, slot, week)
    goods = catalogue(settings)
    sale = chance(settings, SALE, item, week) < 0.1
    table = {
        "shopper": shopper,
        "item": item,
        "kind": np.zeros(len(item), np.int8),
        "quantity": np.maximum(1, np.exp(random.normal(math.log(6), 1.08, len(item)))).astype(np.int64),
        "pennies": np.maximum(1, np.where(sale, goods.prices[item] * 4 // 5, goods.prices[item])),
        "time": np.minimum(begin[visit] + position * 25 + random.integers(0, 25, len(item)), monday + days * DAY - 1),
    }
    regretted = np.flatnonzero(random.random(len(item)) < CANCELLED)
    back = {name: column[regretted] for name, column in table.items()}
    back["kind"] = back["kind"] + np.int8(1)
    back["time"] = back["time"] + (random.random(len(regretted)) * (monday + days * DAY - back["time"])).astype(
        np.int64
    )
    back["quantity"] = np.maximum(1, (back["quantity"] * random.random(len(regretted))).astype(np.int64))
    table = {name: np.concatenate([table[name], back[name]]) for name in table}
    rows = np.flatnonzero(table["time"] < ended[table["shopper"]])
    rows = rows[np.argsort(table["time"][rows], kind="stable")]
    table = {name: column[rows] for name, column in table.items()}
    table["shopper"] += first_shopper
    return table
