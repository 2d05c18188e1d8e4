"""The TypeScript of docs/reading_products.md, type-checked, reads from each store as the Python readers do."""

import json
import re
import shutil
import subprocess
import uuid
from pathlib import Path

from common.delivery.json_values import packed
from common.delivery.store import POINTER, VERSIONS, place_of
from common.delivery.stores import open_store

ROOT = Path(__file__).parents[2]
CHECKED = ["--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck", "--outDir", "made"]


def test_typescript_of_the_page_reads_each_store(
    readers: Path, dynamodb: str, bigtable: str, redis: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    name, keys = f"t{uuid.uuid4().hex}-recommendations", ["13132", "ü/é 1", "k" * 1024, "nobody", "", "k" * 1025]
    stores = {url.partition(":")[0]: open_store(url, name, 2) for url in ("dynamodb:", bigtable, redis)}
    rows = [{"item_id": "ü", "score": 0.1, "rank": 3, "reason": None, "new": True}]
    for store in stores.values():
        store.create(None)
        assert [store.shown(key) for key in keys] == [None] * len(keys)
    page = (ROOT / "docs" / "reading_products.md").read_text("utf-8")
    for file, code in re.findall(r'```ts title="(.*?)"\n(.*?)```', page, re.DOTALL):
        (tmp_path / file).write_text(code, "utf-8")
    shutil.copy(ROOT / "tests" / "programs" / "read_products.ts", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "node_modules").symlink_to(readers)
    subprocess.run([readers / ".bin" / "tsc", *CHECKED, "read_products.ts"], cwd=tmp_path, check=True)

    def read() -> list[dict[str, object]]:
        command = ["node", "made/read_products.js", json.dumps([name, *keys])]
        found: list[dict[str, object]] = json.loads(subprocess.check_output(command, cwd=tmp_path, text=True))
        return found

    assert read() == [dict.fromkeys(stores)] * len(keys)
    for store in stores.values():
        assert store.put([(place_of("v", 16, key), packed([{**rows[0], "key": key}])) for key in keys[:3]]) == 0
        pointer = {"version": "v", "buckets": 16, "content": rows}
        assert store.commit({POINTER: pointer, f"{VERSIONS}v": {"items": 3}}, {POINTER: None, f"{VERSIONS}v": None})
    expected = [[{**rows[0], "key": key}] if position < 3 else rows for position, key in enumerate(keys)]
    for key, contents, content in zip(keys, read(), expected, strict=True):
        assert contents == dict.fromkeys(stores, content), key
        for store in stores.values():
            assert store.shown(key) == content, key
