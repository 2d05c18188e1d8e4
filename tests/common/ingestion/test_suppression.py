"""List of forgotten people: the user IDs that a line may contain, and the secrecy of the hashes."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.handover import storage
from common.ingestion import suppression
from common.ingestion.suppression import user_ids

LINES = {
    '{"user_id": "ann", "item_id": "bob"}': {"ann"},
    '{"user_id": 17}': {"17"},
    '{"user_id": -3}': {"-3"},
    '{"user_id": true}': {"true", "user_id"},  # a broken field may mean anything in it
    '{"user_id": null, "x": "ann"}': set(),
    '{"user_id": ""}': set(),
    '{"x": {"user_id": "ann"}}': set(),
    '{"user_id": "Zo\\u00eb"}': {"Zoë"},
    '{"user_id": "o\\"neil \\\\"}': {'o"neil \\'},
    '{"user_id": "ann", "it': {"ann"},
    '{"user_id": 17, "it': {"17"},
    '{"user_id": "ann"} {"user_id": "bob"}': {"ann", "bob"},
    '["ann", 17]': {"ann", "17"},
    "ann;17|x": {"ann", "17", "x"},
    '"anna maria" said': {"anna maria", "anna", "maria", "said"},
    "": set(),
    "[" * 100_000: set(),
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:40])
def test_user_ids_of_a_line(line: str) -> None:
    assert user_ids(line) == LINES[line]


@given(st.text(min_size=1), st.booleans())
def test_any_id_is_found_in_json_and_in_truncated_lines(user_id: str, ascii_only: bool) -> None:
    line = json.dumps({"event_id": "e", "user_id": user_id, "x": 1}, ensure_ascii=ascii_only)
    assert user_ids(line) == {user_id}
    assert user_ids(line[:-3]) == {user_id}


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1), min_size=1, max_size=3, unique=True))
def test_lines_are_found_by_their_bytes(ids: list[str]) -> None:
    people = suppression.People("k", frozenset(), {ids[0]: "hash"})
    lines = [json.dumps({"user_id": user_id}, ensure_ascii=False).encode() for user_id in ids]
    assert [people.named_in_line(line) for line in lines] == [{"hash"}, *[set() for _ in ids[1:]]]


def test_list_grows_and_is_read_by_its_key(any_lake: str) -> None:
    assert suppression.load(any_lake) is None
    people = suppression.add(any_lake, ["ann", "Zoë"])
    suppression.add(any_lake, ["bob"])
    suppression.add(any_lake, ["ann"])
    loaded = suppression.load(any_lake)
    assert loaded
    assert [bool(loaded.find(user)) for user in ("ann", "Zoë", "bob", "eve")] == [True, True, True, False]
    assert people.find("bob") is None
    assert storage.read(suppression.users_uri(any_lake))[0].count(b"\n") == 3
    assert people.key not in repr(people)
    assert "ann" not in repr(people)


def test_hash_depends_on_the_key_of_the_lake(lake: str) -> None:
    people = suppression.add(lake, ["ann"])
    (digest,) = people.hashes
    assert digest != hashlib.sha256(b"ann").hexdigest()
    assert suppression.add(f"{lake}-2", ["ann"]).hashes != people.hashes


def test_list_without_its_key_is_an_error(lake: str) -> None:
    suppression.add(lake, ["ann"])
    storage.delete_files([suppression.key_uri(lake)])
    with pytest.raises(InputError, match="key is missing"):
        suppression.load(lake)
