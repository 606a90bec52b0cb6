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
    found, checked = read(json.dumps(ANSWER), {"aiohttp", "pillow", "requests"})
    assert found == ["aiohttp 3.0: X-1 (mended in 3.1)", "aiohttp 3.0: X-2 (mended in no release yet)"]
    assert checked == 2


@pytest.mark.parametrize(
    ("stdout", "arguments", "code", "said"),
    [
        (json.dumps(ANSWER), ["--strict"], 1, "X-1"),
        (json.dumps(ANSWER), [], 0, "X-1"),
        ('{"dependencies": [{"name": "aiohttp", "skip_reason": "x"}]}', ["--strict"], 0, "NOT CHECKED"),
        ("no answer from http://somewhere.example", ["--strict"], 0, "NOT CHECKED"),
    ],
)
def test_without_a_network_the_audit_says_so_and_passes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stdout: str,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, stdout, "")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.main(arguments) == code
    text = capsys.readouterr().out
    assert said in text and "somewhere" not in text


@pytest.mark.parametrize("git", ["missing", "refuses"])
def test_without_git_the_secret_scan_says_that_it_did_not_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], git: str
) -> None:
    """A zip of the project on a machine without git, and a container in which the checkout is another user's."""

    def run(line: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        if git == "missing":
            raise FileNotFoundError(2, "No such file or directory", "git")
        return subprocess.CompletedProcess(line, 128, b"", b"fatal: detected dubious ownership\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert secret_scan.main() == 0
    said = capsys.readouterr().out
    assert "NOT CHECKED" in said and ("'git'" if git == "missing" else "dubious ownership") in said


def test_the_checks_include_them_and_the_workflow_is_strict() -> None:
    named = {check[0] for check in CHECKS}
    assert {"bandit", "release.secret_scan", "release.audit"} <= named
    workflow = (ROOT / ".github" / "workflows" / "tests.yaml").read_text(encoding="utf-8")
    runs = [step.get("run", "") for job in yaml.safe_load(workflow)["jobs"].values() for step in job["steps"]]
    assert any("release.audit --strict" in run for run in runs)


def test_bandit_finds_what_it_must_with_our_settings(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(
        "import hashlib, subprocess\nsubprocess.run('/x', shell=True)\nhashlib.md5(b'')\n", encoding="utf-8"
    )
    line = [sys.executable, "-m", "bandit", "-q", "-c", "pyproject.toml", "-f", "json", str(file)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert {"B602", "B324"} <= {r["test_id"] for r in json.loads(done.stdout)["results"]}
