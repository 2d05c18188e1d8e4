"""Forgotten people: keyed hashes of their IDs in the lake, by which ingestion leaves out later deliveries of them.

The hash of an ID is sha256(key + hex(sha256(key + ID))), text in UTF-8, key and result as 64 hexadecimal digits: Spark
computes it with two calls of sha2, and the outer call prevents the extension of a hash. Without the key, which is a
random object of the lake, no ID can be tested against a hash.
"""

import contextlib
import functools
import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from common.errors import InputError
from common.handover import storage

FOLDER = "suppression"
NAMED = r'"user_id"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|(-?[0-9][0-9.eE+-]*))'  # a user ID in possibly incomplete JSON
QUOTED = r'"((?:[^"\\]|\\.)*)"'
SIMPLE = re.compile(rb'"user_id"\s*:\s*(?:"([^"\\]+)"|(-?[0-9]+)\s*[,}])')
BETWEEN_WORDS = r"""[\s"',;:{}()<>|=&?/\[\]\\]+"""


@dataclass(frozen=True)
class People:
    """Some people by the keyed hashes of their IDs; `known` maps IDs to hashes if the IDs are known, else None."""

    key: str = field(repr=False)
    hashes: frozenset[str]
    known: dict[str, str] | None = field(default=None, repr=False)

    def find(self, user_id: str) -> str | None:
        """Return the hash of an ID if it belongs to one of these people."""
        if self.known is not None:
            return self.known.get(user_id)
        digest = keyed_hash(self.key, user_id)
        return digest if digest in self.hashes else None

    def named_in(self, text: str) -> set[str]:
        """Return the hashes of the people that a line names, JSON or not."""
        return {digest for user_id in user_ids(text) if (digest := self.find(user_id))}

    def named_in_quarantine(self, text: str) -> set[str]:
        r"""Return the hashes of the people that a line in quarantine names, where some bytes are shown as \xNN."""
        windows = re.sub(r"\\x([89a-f][0-9a-f])", lambda byte: as_windows(bytes.fromhex(byte[1])), text)
        return self.named_in(text) | (self.named_in(windows) if windows != text else set())

    def named_in_line(self, line: bytes) -> set[str]:
        """Return the hashes of the people in a delivered line; skip parsing if its simple user ID is another."""
        simple = SIMPLE.findall(line)
        if len(simple) == 1 and b"\\" not in line and line.count(b"user_id") == 1:
            with contextlib.suppress(UnicodeDecodeError):
                if self.find((simple[0][0] or simple[0][1]).decode()) is None:
                    return set()
        try:
            return self.named_in(line.decode())
        except UnicodeDecodeError:
            return self.named_in(line.decode("utf-8", "replace")) | self.named_in(as_windows(line))


@functools.lru_cache(1 << 18)
def keyed_hash(key: str, user_id: str) -> str:
    """Return the hash by which a list, a request or a receipt names a person."""
    inner = hashlib.sha256(f"{key}{user_id}".encode("utf-8", "surrogatepass")).hexdigest()
    return hashlib.sha256(f"{key}{inner}".encode()).hexdigest()


def user_ids(text: str) -> set[str]:
    """Return the user IDs that a line may contain.

    A JSON object has it in its field user_id. Any other text has it after "user_id":, and without that any of its
    quoted texts and words may be one.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        value = document.get("user_id")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return {str(value)}
        if value is None or isinstance(value, str):
            return {value} if value else set()
    if named := re.findall(NAMED, text):
        return {unescaped(quoted) or number for quoted, number in named} - {""}
    return ({unescaped(each) for each in re.findall(QUOTED, text)} | set(re.split(BETWEEN_WORDS, text))) - {""}


def unescaped(quoted: str) -> str:
    """Return the text between two quotation marks of JSON, unchanged if it is broken."""
    try:
        return str(json.loads(f'"{quoted}"', strict=False))
    except ValueError:
        return quoted


def as_windows(content: bytes) -> str:
    """Decode bytes that are not UTF-8: most of them were written on Windows."""
    return content.decode("cp1252", "replace")


def load(lake: str) -> People | None:
    """Return the forgotten people of a lake; None if there are none, InputError if the key is lost."""
    try:
        content = storage.read(users_uri(lake))[0]
    except FileNotFoundError:
        return None
    try:
        key = storage.read(key_uri(lake))[0]
    except FileNotFoundError:
        raise InputError(
            f"{key_uri(lake)} is missing, so the hashes in {users_uri(lake)} cannot be matched; restore it from "
            "the bucket's versions or a backup."
        ) from None
    return People(key.decode(), frozenset(content.decode().split()))


def add(lake: str, ids: Iterable[str]) -> People:
    """Add people to the list of a lake, with a new key if it has none; return them."""
    key = key_of(lake)
    known = {user_id: keyed_hash(key, user_id) for user_id in ids}
    while True:
        try:
            content, tag = storage.read(users_uri(lake))
        except FileNotFoundError:
            content, tag = b"", None
        former = set(content.decode().split())
        if not former.issuperset(known.values()):
            lines = "".join(f"{digest}\n" for digest in sorted(former.union(known.values())))
            try:
                storage.replace(users_uri(lake), lines.encode(), tag)
            except storage.Conflict:
                continue
        return People(key, frozenset(known.values()), known)


def key_of(lake: str) -> str:
    """Return the key of a lake, created if there is none."""
    while True:
        try:
            return storage.read(key_uri(lake))[0].decode()
        except FileNotFoundError:
            try:
                storage.replace(key_uri(lake), secrets.token_hex(32).encode(), None)
            except storage.Conflict:
                continue


def users_uri(lake: str) -> str:
    """Return the URI of the list: one hash per line, sorted."""
    return f"{lake}/{FOLDER}/users"


def key_uri(lake: str) -> str:
    """Return the URI of the key, which only ingestion and forgetting may read."""
    return f"{lake}/{FOLDER}/key"
