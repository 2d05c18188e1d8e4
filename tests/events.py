"""Events as a shop delivers them."""

from typing import Any


def event(number: int, day: str = "2011-01-05", **changes: Any) -> dict[str, Any]:
    """A usable event of a day, with changes."""
    whole = {"event_id": f"e{number}", "user_id": "ann", "item_id": "cup", "type": "purchase", "quantity": 1}
    return {**whole, "unit_price": 1.5, "time": f"{day}T10:00:00Z", "country": "France", **changes}
