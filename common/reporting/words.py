"""Numbers, times and states of runs in words, for pages and the terminal."""

from datetime import UTC, datetime

NOT_RUN = "upstream_failed"  # because an earlier task failed


def state(name: str) -> str:
    """Return a state in words."""
    return "not run" if name == NOT_RUN else name.replace("_", " ")


def duration(seconds: float | None) -> str:
    """Return a duration by its two largest units."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for name, size, smaller, unit in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // unit} {smaller}"
    return f"{whole} s"


def size(count: int | None) -> str:
    """Return a number of bytes with three digits."""
    if not count:
        return ""
    left = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if left < 1000:
            return f"{left:.3g} {unit}"
        left /= 1024
    return f"{left:,.3g} TiB"


def number(value: float | None) -> str:
    """Return a whole number with separators of thousands, another one with four digits."""
    if value is None:
        return ""
    if value == round(value) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 1000 else f"{value:.4g}"


def figure(value: float | None, name: str) -> str:
    """Return a figure as its name demands: bytes, seconds, or a number."""
    if value is not None and name.endswith("bytes"):
        return size(round(value)) or "0 B"
    return duration(value) if name.endswith("seconds") else number(value)


def quality(value: float | None) -> str:
    """Return a figure of a model with four decimals, so that those of a column stand below each other."""
    return f"{value:.4f}" if value is not None and abs(value) < 10 else number(value)


def share(value: float | None) -> str:
    """Return a share in percent."""
    return "" if value is None else f"{value:.1%}".replace("%", " %")


def money(amount: float | None, currency: str) -> str:
    """Return an amount of money, in small amounts with two digits that count."""
    if amount is None:
        return ""
    return f"{amount:,.2f} {currency}" if amount >= 0.1 or not amount else f"{amount:.2g} {currency}"


def moment(time: datetime | None) -> str:
    """Return a time to the minute with its zone, UTC."""
    return f"{minute(time)} UTC" if time else ""


def minute(time: datetime) -> str:
    """Return a time to the minute, in UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def clock(time: datetime | None) -> str:
    """Return the time of day, in UTC."""
    return f"{time.astimezone(UTC):%H:%M:%S}" if time else ""


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, such as "1 task" or "2 tasks"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def cut(text: str, characters: int) -> str:
    """Return a text with at most so many characters."""
    return text if len(text) <= characters else text[: characters - 1] + "…"
