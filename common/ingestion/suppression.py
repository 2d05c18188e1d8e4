"""People who were forgotten: keyed hashes of their IDs in the lake, by which ingestion leaves out what still comes.

The hash of an ID is sha256(key + hex(sha256(key + ID))), text in UTF-8, key and result as 64 hexadecimal digits: Spark
computes it with two calls of sha2, and the outer call is there so that nobody can extend a hash. Without the key, which
is a random object of the lake, no ID can be tried out against a hash.
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
NAMED = r'"user_id"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|(-?[0-9][0-9.eE+-]*))'  # a user ID in what may be no whole JSON
QUOTED = r'"((?:[^"\\]|\\.)*)"'
SIMPLE = re.compile(rb'"user_id"\s*:\s*(?:"([^"\\]+)"|(-?[0-9]+)\s*[,}])')
BETWEEN_WORDS = r"""[\s"',;:{}()<>|=&?/\[\]\\]+"""


@dataclass(frozen=True)
class People:
    """Some people by the keyed hashes of their IDs; `known` has the hash by ID where the IDs are at hand, else None."""

    key: str = field(repr=False)
    hashes: frozenset[str]
    known: dict[str, str] | None = field(default=None, repr=False)

    def find(self, user_id: str) -> str | None:
        """The hash of an ID if it is one of these people's."""
        if self.known is not None:
            return self.known.get(user_id)
        digest = keyed_hash(self.key, user_id)
        return digest if digest in self.hashes else None

    def named_in(self, text: str) -> set[str]:
        """The hashes of those whom a line names, whether it is JSON or not."""
        return {digest for user_id in user_ids(text) if (digest := self.find(user_id))}

    def named_in_quarantine(self, text: str) -> set[str]:
        """The hashes of those whom a line names of which quarantine shows some bytes as \\xNN."""
        windows = re.sub(r"\\x([89a-f][0-9a-f])", lambda byte: as_windows(bytes.fromhex(byte[1])), text)
        return self.named_in(text) | (self.named_in(windows) if windows != text else set())

    def named_in_line(self, line: bytes) -> set[str]:
        """The hashes of those whom a delivered line names; one with a simple user ID of another is not parsed."""
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
    """The hash of an ID by which a list, a request or a receipt names a person."""
    inner = hashlib.sha256(f"{key}{user_id}".encode("utf-8", "surrogatepass")).hexdigest()
    return hashlib.sha256(f"{key}{inner}".encode()).hexdigest()


def user_ids(text: str) -> set[str]:
    """The user IDs that a line may mean.

    That of a JSON object is its field user_id. A text that is none means whatever stands behind "user_id":, and if
    nothing does, any of its quoted texts and of its words may be one.
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
    """The text between two quotation marks of JSON, as it stands if it is broken."""
    try:
        return str(json.loads(f'"{quoted}"', strict=False))
    except ValueError:
        return quoted


def as_windows(content: bytes) -> str:
    """Bytes that are not UTF-8 as text: most of them were written on Windows."""
    return content.decode("cp1252", "replace")


def load(lake: str) -> People | None:
    """Those who were forgotten in a lake; None if nobody was, InputError if the key is lost."""
    try:
        content = storage.read(users_uri(lake))[0]
    except FileNotFoundError:
        return None
    try:
        key = storage.read(key_uri(lake))[0]
    except FileNotFoundError:
        raise InputError(
            f"{key_uri(lake)} is missing, without which nobody can tell who is on {users_uri(lake)}; restore it from "
            "the bucket's versions or a backup."
        ) from None
    return People(key.decode(), frozenset(content.decode().split()))


def add(lake: str, ids: Iterable[str]) -> People:
    """Put people on the list of a lake, which has a key from then on; they are what is returned."""
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
    """The key of a lake, made if there is none."""
    while True:
        try:
            return storage.read(key_uri(lake))[0].decode()
        except FileNotFoundError:
            try:
                storage.replace(key_uri(lake), secrets.token_hex(32).encode(), None)
            except storage.Conflict:
                continue


def users_uri(lake: str) -> str:
    """URI of the list: a hash a line, sorted."""
    return f"{lake}/{FOLDER}/users"


def key_uri(lake: str) -> str:
    """URI of the key, which only ingestion and those who forget people may read."""
    return f"{lake}/{FOLDER}/key"
