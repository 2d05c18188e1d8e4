"""The check of all sources in `make lint`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tools.scaffold import sources

SHIPPED = Path(__file__).parents[3] / "sources"


def test_wrong_source_is_named(make_sources: Callable[..., Path]) -> None:
    text = (SHIPPED / "generated_shop" / "users.toml").read_text("utf-8")
    make_sources({"shop/users.toml": text})
    sources.main()
    make_sources({"shop/users.toml": text.replace("user_id =", "usr_id =")})
    with pytest.raises(SystemExit, match=r"of sources/shop/users\.toml"):
        sources.main()
