"""An audit distinguishes vulnerable, clean and unchecked by exit code and sentence."""

import json
import subprocess
import sys

import pytest

from tools.packaging import audit

CLEAN = {"name": "six", "version": "1.17.0", "vulns": []}
VULNERABLE = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": [], "description": "Escape."}],
}
WITHOUT_FIX = {"name": "old", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": []}]}
SKIPPED = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited: own (1)"}
CASES = {
    "clean": ([CLEAN], 0, "Checked 1 pinned libraries in 1 files: 0 known"),
    "vulnerable": ([CLEAN, VULNERABLE], 1, "PYSEC-2019-217"),
    "without a fix": ([WITHOUT_FIX], 1, "no version"),
    "no database that knows any": ([SKIPPED, SKIPPED], 2, "2 could not be checked (Dependency not found"),
    "one that is not checked": ([CLEAN, SKIPPED], 2, "1 could not be checked"),
    "vulnerable and unchecked": ([VULNERABLE, SKIPPED], 1, "1 could not be checked"),
}


@pytest.fixture
def audit_with(tmp_path, monkeypatch, capsys):
    """Run an audit of two requirements, with a program that prints what pip-audit would."""
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("six==1.17.0 \\\n    --hash=sha256:00\njinja2==2.4.1 \\\n    --hash=sha256:00\n")

    def run(script: str) -> tuple[int, str]:
        program = tmp_path / "pip-audit"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(audit, "PROGRAM", program)
        monkeypatch.setattr(sys, "argv", ["audit", str(requirements)])
        with pytest.raises(SystemExit) as ended:
            audit.main()
        return ended.value.code, capsys.readouterr().out

    return run


@pytest.mark.parametrize("case", CASES)
def test_exit_code_and_sentence_match_the_result(audit_with, case):
    dependencies, code, sentence = CASES[case]
    report = json.dumps({"dependencies": dependencies, "fixes": []})
    assert audit_with(f"cat <<'END'\n{report}\nEND\nexit {1 if code == 1 else 0}")[0] == code
    assert sentence in audit_with(f"cat <<'END'\n{report}\nEND")[1]


def test_unreachable_database_is_not_a_clean_result(audit_with):
    code, output = audit_with("echo 'requests.exceptions.ConnectionError: no route' >&2; exit 1")
    assert code == 2
    assert "2 could not be checked (requests.exceptions.ConnectionError: no route)" in output


@pytest.mark.system
def test_pip_audit_accepts_the_options():
    """The real program, which has its own environment."""
    output = subprocess.run([audit.PROGRAM, "--help"], capture_output=True, text=True).stdout
    assert {option for option in audit.OPTIONS if option.startswith("--")} <= set(output.replace(",", " ").split())
