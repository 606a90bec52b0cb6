"""What the documents say must be so: links lead somewhere, settings load, commands run, sentences are the code's."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from docs.page_sentences import page_sentences
from docs.sentences import sentences
from docs.trouble import by_case, files, said_in, topic_of, trouble_page
from docs.trouble_topics import OTHER, TOPICS
from haven_vlm.command_line import parser
from haven_vlm.setting_layers import Layer, merge
from haven_vlm_config import default_values

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMES = [p.relative_to(ROOT).as_posix() for p in PAGES]


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, (kind, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            if kind == language:
                yield f"{page.name}-{number}", text


def our_commands() -> Iterator[str]:
    """Every command of ours that a document shows: whole lines of code blocks, and code within a line."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^[ \t]*(python3? .*)$|`(python3? [^`]+)`", text, re.MULTILINE):
            command = (line[0] or line[1]).strip()
            if "…" not in command:
                yield command


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(("name", "text"), list(blocks("yaml")), ids=lambda v: v if "\n" not in v else "")
def test_settings_in_documents_are_valid(name: str, text: str) -> None:
    values = yaml.safe_load(text)
    # an example of endpoints alone is about the endpoints; the rest are the defaults
    loaded = merge([Layer("defaults", default_values()), Layer(name, values)])
    assert set(values) <= set(loaded.origins)


@pytest.mark.parametrize("command", sorted(set(our_commands())))
def test_our_commands_are_understood(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    words = words[: next((i for i, w in enumerate(words) if w.startswith((">", "2>", "|"))), None)]
    if words[0].endswith("haven_vlm_connector.py"):
        if "--help" not in words:
            parser().parse_args(words[1:] if "--stash" in words else [*words[1:], "--stash", "http://nas:9999"])
    elif words[0] == "-m":
        run = [sys.executable, "-m", words[1], "--help"]
        found = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert found.returncode == 0, found.stderr
        for option in (w.split("=")[0] for w in words[2:] if w.startswith("--")):
            assert option in found.stdout, f"{words[1]} has no {option}"
    else:
        assert words[0] in ("demo", "tests", "docs"), command
        assert (ROOT / words[0] / "__main__.py").is_file() or words[0] == "docs"


def test_every_sentence_of_the_code_stands_in_the_page_of_troubles() -> None:
    page = trouble_page()
    assert (ROOT / "docs" / "trouble.md").read_text(encoding="utf-8") == page
    assert "nobody answers at …" in page
    assert page.count("\n- ") > 600
    for short_or_technical in (
        "“…” is not an address of Stash; write for example http://localhost:9999",
        "--set needs KEY=VALUE, with a key of docs/settings.md",
        "“…” must be FOLDER-IN-STASH=FOLDER-HERE",
        "Set the key the server wants: key\\_env= with the name of an environment variable.",
        "the disk is full",
        "Set base\\_url to …",
        "Stash wants you to log in again: reload this page.",
    ):
        assert f"\n- {short_or_technical}\n" in page


def test_every_sentence_stands_under_what_to_do_about_it_and_every_advice_has_one() -> None:
    advised = told = 0
    for topic in TOPICS:
        found = [s for file in files() if topic_of(file.stem) is topic for s in said_in(file)]
        grouped = by_case(topic, found)
        assert sorted(s for some in grouped.values() for s in some) == sorted(set(found))
        assert [case.title for case in topic.cases if not grouped[case]] == [], topic.title
        told += len(set(found))
        advised += len(set(found)) - len(grouped[None])
    assert advised > told / 2


def test_asking_for_help_writes_no_page() -> None:
    """Else the test of the commands would bring up to date what the test of the sentences looks at."""
    page = ROOT / "docs" / "trouble.md"
    before = page.stat().st_mtime_ns
    line = [sys.executable, "-m", "docs.generate", "--help"]
    told = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "--check" in told and page.stat().st_mtime_ns == before


def test_texts_are_read_from_code_as_the_user_sees_them(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        '"""A docstring of several words."""\n'
        "import logging\n"
        "def f(name, n):\n"
        "    '''Another docstring of several words.'''\n"
        '    logging.warning("only %d of %s can be read", n, name)\n'
        '    logging.debug("something only developers want to read")\n'
        '    raise ValueError(f"the name “{name}” "\n'
        '        f"stands {n} times in it")\n'
    )
    assert sentences(file) == ["only … of … can be read", "the name “…” stands … times in it"]


def test_where_a_text_goes_decides_and_not_its_characters(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "class Oops(Exception): ...\n"
        "BAD = 'write “{key}” as KEY=VALUE | or not at all'\n"
        "_USER = 'Which colours are in this picture?'\n"
        "def f(db, log, answer, parser):\n"
        "    log.warning('%s broke', answer)\n"
        "    log.error('not YAML')\n"
        "    db.execute('SELECT it FROM there WHERE so = ?')\n"
        "    parser.add_argument('--x', help='a help text that stands in the help')\n"
        "    if 'the words of an answer' in answer:\n"
        "        raise Oops('a={x}')\n"
        "    html = f'<p class=\"dim\">{answer} more are in the file.</p>'\n"
        "    reason = 'the disk is full' if html else 'one two'\n"
        "    raise Oops(reason or 'set a=b')\n"
        "class C:\n"
        "    def __repr__(self):\n"
        "        return 'what only programmers see'\n"
    )
    assert sentences(file) == [
        "write “…” as KEY=VALUE | or not at all",
        "not YAML",
        "… more are in the file.",
        "the disk is full",
    ]


def test_texts_are_read_from_the_page_as_the_user_sees_them(tmp_path: Path) -> None:
    file = tmp_path / "page.js"
    file.write_text(
        '// a comment of "several quoted words"\n'
        "/* another comment: 'of several words' */\n"
        'h("div", { className: "one two three", title: "Look at this (now)" },\n'
        '  n + " questions are left: " + f(a, "b") + ".");\n'
        'const q = "query Any($id: ID!) { findScene(id: $id) { id title } }";\n'
        "const say = (x) => `${x} was not found`;\n"
        'if (/["\']/.test(x)) throw new Error("Not so.");\n'
        'h(Notice, null, "Not saved: ", error, "two words");\n'
    )
    assert page_sentences(file) == [
        "Look at this (now)",
        "… questions are left: ….",
        "… was not found",
        "Not so.",
        "Not saved",
    ]


def test_every_module_that_speaks_has_a_topic() -> None:
    speaking = [f.stem for f in files() if said_in(f)]
    assert {"command_line", "haven-stash"} <= set(speaking)
    assert not [m for m in speaking if topic_of(m) is OTHER]


def test_every_page_is_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in PAGES[1:] if f"docs/{p.name})" not in readme] == []


def test_the_options_shown_for_llama_server_are_its_own() -> None:
    shown = [line for _, text in blocks("console") for line in text.splitlines() if line.startswith("llama-server ")]
    assert shown
    for line in shown:
        options = [w for w in shlex.split(line)[1:] if re.match(r"--?[a-z]", w)]
        assert {"-m", "--mmproj", "--host", "--port"} <= set(options) or "-hf" in options


@pytest.mark.real
@pytest.mark.skipif("HAVEN_LLAMA_SERVER" not in os.environ, reason="HAVEN_LLAMA_SERVER names no llama-server")
def test_a_real_llama_server_knows_the_options_shown() -> None:
    told = subprocess.run(
        [os.environ["HAVEN_LLAMA_SERVER"], "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", told))
    for _, text in blocks("console"):
        for line in text.splitlines():
            if line.startswith("llama-server "):
                assert {w for w in shlex.split(line)[1:] if re.match(r"--?[a-z]", w)} <= known


def test_the_architecture_names_modules_and_packages_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {f.stem for f in [*(ROOT / "haven_vlm").glob("*.py"), *ROOT.glob("haven_*.py")]}
    layers = page.partition("## Layers")[2].partition("## Dependencies")[0]
    for named in re.findall(r"`([a-z_*]+)`", layers.partition("| layer |")[2]):
        assert fnmatch.filter(modules, named), f"there is no module {named}"
    dependencies = page.partition("## Dependencies")[2].partition("\n## ")[0]
    for file in ("requirements.txt", "requirements-dev.txt"):
        for package in re.findall(r"^([A-Za-z][\w-]*)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE):
            assert f"`{package}`" in dependencies, f"nothing says what {package} is for"
