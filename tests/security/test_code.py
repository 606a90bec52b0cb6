"""What must not stand in the code at all: shells, pickles, evaluated text, unsafe YAML, archives unpacked to disk."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = [*sorted(ROOT.glob("haven_*.py")), *sorted((ROOT / "haven_vlm").rglob("*.py"))]

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "jsonpickle", "xml", "telnetlib", "ftplib"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.spawnl", "os.execv", "os.execvp",
    "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "tempfile.mktemp", "asyncio.create_subprocess_shell",
}  # fmt: skip
FORBIDDEN_METHODS = {"extractall", "extract"}
"""Of archives: nothing inside one may choose where it goes."""
STARTERS = {
    "haven_vlm/ffmpeg_cli.py": "ffmpeg",
    "haven_vlm/pip_calls.py": "pip",
    "haven_vlm/vlm_engine_install.py": "Python, to make an environment",
}
"""The only modules that start other programs, and which."""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def complaints(source: str) -> list[str]:
    """What is wrong with a module."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
    for name, call in calls(tree):
        if name in FORBIDDEN_CALLS or name.split(".")[-1] in FORBIDDEN_METHODS:
            found.append(f"calls {name}")
        shell = [k.value for k in call.keywords if k.arg == "shell"]
        if shell and not (isinstance(shell[0], ast.Constant) and shell[0].value is False):
            found.append("starts a shell")
    return found


@pytest.mark.parametrize("file", PRODUCT, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_no_shell_no_pickle_no_eval_no_unsafe_yaml(file: Path) -> None:
    assert complaints(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from marshal import loads", "eval('1')", "import os\nos.system('x')", "yaml.load(x)",
        "subprocess.run('x', shell=True)", "archive.extractall('x')", "subprocess.run('x', shell=flag)",
    ],
)  # fmt: skip
def test_each_of_them_would_be_found(source: str) -> None:
    assert len(complaints(source)) == 1


def test_other_programs_are_started_in_few_places_only_and_never_by_a_text() -> None:
    starting, asked = {}, {}
    for file in PRODUCT:
        for name, call in calls(ast.parse(file.read_text(encoding="utf-8"))):
            if name in ("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"):
                asked[file.relative_to(ROOT).as_posix()] = name
            elif name.startswith("subprocess.") and name not in ("subprocess.CompletedProcess", "asyncio.subprocess"):
                starting[file.relative_to(ROOT).as_posix()] = name
                assert not isinstance(call.args[0], ast.Constant | ast.JoinedStr), f"{file.name}: a text is no command"
    assert starting == dict.fromkeys(STARTERS, "subprocess.run")
    assert asked == {"haven_vlm/vlm_engine.py": "asyncio.create_subprocess_exec"}


WHOLE = {
    "endpoint_transport": {"read", "json", "text"},
    "fetching": {"read", "json", "text"},
    "stash_transport": {"content", "json", "text"},
}
"""Module that fetches → what gives it a body in one go, however long: of aiohttp's responses, or of requests'."""


@pytest.mark.parametrize("name", WHOLE)
def test_everything_read_from_the_network_is_bounded(name: str) -> None:
    """A limit, and no redirect, in every module that fetches."""
    tree = ast.parse((ROOT / "haven_vlm" / f"{name}.py").read_text(encoding="utf-8"))
    members = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not members & {f"response.{member}" for member in WHOLE[name]}
    asking = [call for text, call in calls(tree) if text.startswith(("self.session.", "session."))]
    asking = [call for call in asking if isinstance(call.func, ast.Attribute) and call.func.attr in ASKING]
    assert asking
    for call in asking:
        said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert said.get("allow_redirects") == "False"
        assert name != "stash_transport" or said.get("stream") == "True"


ASKING = {"get", "post", "request"}
