"""The checks of the security tools: that they are run, find what they must, and pass without a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from release import audit, secret_scan
from release.audit import product_packages, read
from release.secret_scan import findings
from tests.__main__ import CHECKS

ROOT = Path(__file__).resolve().parents[2]


def test_secrets_are_found_where_they_do_not_belong(tmp_path: Path) -> None:
    key = "-----BEGIN " + "RSA PRIVATE KEY-----"
    token = "ghp_" + "a1B2" * 9
    (tmp_path / "tests" / "endpoint").mkdir(parents=True)
    for name in ("code.py", "tests/endpoint/selfsigned.pem"):
        (tmp_path / name).write_text(f"{key}\n", encoding="utf-8")
    (tmp_path / "token.py").write_text(f'TOKEN = "{token}"\n', encoding="utf-8")
    (tmp_path / "login.py").write_text("URL = 'http://coach:whistle2000@nas.example'\n", encoding="utf-8")
    found = findings(tmp_path, ["code.py", "tests/endpoint/selfsigned.pem", "token.py", "login.py"])
    assert found == [
        "code.py:1: Private Key", "login.py:1: Basic Auth Credentials", "token.py:1: GitHub Token",
    ]  # fmt: skip


def test_the_audit_is_about_the_product_and_all_it_needs() -> None:
    packages = product_packages("# comment\naiohttp>=3.10\nstashapp-tools>=0.2\n")
    assert {"aiohttp", "stashapp-tools", "requests", "multidict", "urllib3"} <= packages
    assert not {"pytest", "mypy"} & packages


ANSWER = {
    "dependencies": [
        {"name": "aiohttp", "version": "3.0", "vulns": [{"id": "X-1", "fix_versions": ["3.1"]}, {"id": "X-2"}]},
        {"name": "pytest", "version": "1", "vulns": [{"id": "Y-1", "fix_versions": []}]},
        {"name": "Pillow", "version": "13", "vulns": []},
        {"name": "requests", "skip_reason": "not found"},
    ]
}


def test_vulnerabilities_of_the_product_are_told() -> None:
    found, skipped, checked = read(json.dumps(ANSWER), {"aiohttp", "pillow", "requests"})
    assert found == ["aiohttp 3.0: X-1 (mended in 3.1)", "aiohttp 3.0: X-2 (mended in no release yet)"]
    assert checked == 2 and skipped == ["requests"]


CLEAN = {"dependencies": [{"name": "aiohttp", "version": "3.9", "vulns": []}]}
PARTLY = {"dependencies": [*CLEAN["dependencies"], {"name": "requests", "skip_reason": "not found"}]}
NONE = {"dependencies": [{"name": "aiohttp", "skip_reason": "x"}]}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (json.dumps(ANSWER), "X-1"),
        (json.dumps(PARTLY), "NOT CHECKED: requests"),
        (json.dumps(NONE), "NOT CHECKED: aiohttp"),
        ('{"dependencies": []}', "NOT CHECKED: none"),
        ("no answer from http://somewhere.example", "NOT CHECKED: pip-audit failed"),
        ("[]", "NOT CHECKED: pip-audit failed"),
        ("", "NOT CHECKED: pip-audit failed"),
        (None, "NOT CHECKED: no answer"),
    ],
)
def test_a_vulnerability_or_what_could_not_be_looked_up_fails_the_strict_audit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str | None, said: str
) -> None:
    """Without `--strict` it is told and passes, for there may be no network."""

    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        if answer is None:
            raise subprocess.TimeoutExpired([], 1)
        return subprocess.CompletedProcess([], 1, answer, "Traceback: http://somewhere.example")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.main(["--strict"]) == 1
    assert audit.main([]) == 0
    text = capsys.readouterr().out
    assert text.count(said) == 2 and "somewhere" not in text


def test_an_audit_that_finds_nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 0, json.dumps(CLEAN), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert audit.main(["--strict"]) == 0


@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.parametrize("checkout", [True, False])
def test_a_secret_scan_that_could_not_look_says_so_and_fails_in_a_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: bool, checkout: bool
) -> None:
    """In a container git refuses another user's folder; without git, or from a zip, there is nothing to list."""

    def run(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        if refused:
            return subprocess.CompletedProcess([], 128, b"", b"fatal: detected dubious ownership")
        raise FileNotFoundError("no git")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(secret_scan, "ROOT", tmp_path)
    if checkout:
        (tmp_path / ".git").mkdir()
    assert secret_scan.main() == (1 if checkout else 0)
    said = capsys.readouterr().out
    assert "NOT CHECKED" in said and ("dubious ownership" if refused else "no git") in said


def test_the_checks_include_them_and_the_workflow_is_strict() -> None:
    named = {check[0] for check in CHECKS}
    assert {"bandit", "release.secret_scan", "release.audit"} <= named
    workflow = (ROOT / ".github" / "workflows" / "tests.yaml").read_text(encoding="utf-8")
    runs = [step.get("run", "") for job in yaml.safe_load(workflow)["jobs"].values() for step in job["steps"]]
    assert any("release.audit --strict" in run for run in runs)


def test_bandit_finds_what_it_must_with_our_settings(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(
        "import hashlib, subprocess\nsubprocess.run('/x', shell=True)\nhashlib.md5(b'')\n"
        "def rows(db, name):\n    return db.execute(f'SELECT * FROM tags WHERE name = {name}')\n",
        encoding="utf-8",
    )
    line = [sys.executable, "-m", "bandit", "-q", "-c", "pyproject.toml", "-f", "json", str(file)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert {"B602", "B324", "B608"} <= {r["test_id"] for r in json.loads(done.stdout)["results"]}
