"""`python -m docs.generate` writes the pages that are made from the code; `--check` fails if one is out of date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import haven_vlm_config as config
from docs.trouble import trouble_page
from haven_vlm.setting_layers import PAGE_KEYS
from haven_vlm.settings import EndpointSettings, Section, Settings, TagSettings, VlmEngineSettings

DOCS = Path(__file__).resolve().parent

_INTRODUCTION = """\
# Settings

<!-- Made by `python -m docs.generate` from haven_vlm/settings.py; edit the descriptions there. -->

Settings come from four places; the later one wins, key by key:

1. the capitals in `haven_vlm_config.py` (the defaults; an update of the plugin replaces this file),
2. `haven_vlm_config.yaml`, beside the plugin, or in Stash's configuration folder, or where the environment
   variable `HAVEN_VLM_CONFIG` points: **put your own values here**, with the keys below,
3. Stash's settings page (Settings → Plugins → A Haven VLM Connector),
4. the arguments of a task.

A length of time is a number of seconds, or text such as `12s`, `1m30s`, or `5%` of the video. A mistake is
refused with its key, the place it came from, what was found and what is allowed; all mistakes at once.

"""

_PAGE = """\
## On Stash's settings page

Stash shows an unset setting as empty, 0 or off, so these always mean "as below". The page has
{keys}. Endpoints are written in one line, separated by semicolons; after the
address come any of `weight=`, `max=` (`max_concurrent`), `model=`, `key_env=` (`api_key_env`), `name=`, `timeout=`,
`only_for=`, `fallback`, `policy=` (`fallback_policy`) and `remote` (`allow_remote`), and every other key of an endpoint
with `=`:

```
http://192.168.1.20:1234/v1 weight=5; http://gpu:8080/v1 weight=2 max=4 model=qwen3-vl
```

`model` is asked for at every endpoint that names none. `no_markers` is `create_markers: false`, `local_only`
is `allow_remote_media: false`, `path_mutation` is `/folder/in/stash=/folder/here`, several separated by semicolons.
"""


def settings_page() -> str:
    """docs/settings.md."""
    parts = [_INTRODUCTION, "## General\n\n", *_table(Settings, config.default_values())]
    parts += ["\n## An endpoint\n\n", *_table(EndpointSettings, {})]
    parts += ["\n## A tag\n\nA name alone will do. A mapping can hold:\n\n", *_table(TagSettings, {}), "\n"]
    parts += ["## vlm_engine\n\nFor `engine: vlm-engine`; see [vlm-engine](vlm-engine.md).\n\n"]
    parts += [*_table(VlmEngineSettings, {}), "\n"]
    parts.append(_PAGE.format(keys=", ".join(f"`{key}`" for key in PAGE_KEYS)))
    return "".join(parts)


def _table(model: type[Section], defaults: dict[str, Any]) -> Iterator[str]:
    yield "| key | default | allowed | meaning |\n| --- | --- | --- | --- |\n"
    for name, field in model.model_fields.items():
        default = defaults.get(name, field.get_default(call_default_factory=True))
        yield f"| `{name}` | {_default(default)} | {_allowed(field)} | {field.description} |\n"


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ((), {}, "", []):
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return "; ".join(f"`{item.get('base_url') or item['name']}`" for item in value)
    return f"`{value}`"


def _allowed(field: FieldInfo) -> str:
    annotation = str(field.annotation)
    if "Length" in annotation:
        return "length of time"
    literals = [f"`{a}`" for a in get_args(field.annotation) if isinstance(a, str)]
    bounds = {type(m).__name__.lower(): m for m in field.metadata}
    low: Any = None
    low, high = bounds.get("ge") or bounds.get("gt"), bounds.get("le") or bounds.get("lt")
    if low is not None or high is not None:
        low_text = f"more than {low.gt}" if hasattr(low, "gt") else f"from {low.ge}" if hasattr(low, "ge") else ""
        return low_text + (f" to {high.le}" if high is not None else "")
    if name := {"bool": "on, off", "str": "text"}.get(getattr(field.annotation, "__name__", "")):
        return name
    if literals:
        return ", ".join(literals)
    if "Literal['auto']" in annotation:
        return "1 to 1024, `auto`"
    if "Literal['forever']" in annotation:
        return "`forever`, or days from 1"
    if "Mapping" in annotation:
        return "mapping"
    if "tuple" in annotation:
        return "list"
    return "text"


PAGES = {"settings.md": settings_page, "trouble.md": trouble_page}


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` say which are out of date."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    options = parser.parse_args(arguments)
    stale = []
    for name, make in PAGES.items():
        file, text = DOCS / name, make()
        if not options.check:
            file.write_text(text, encoding="utf-8", newline="\n")
        elif not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(name)
    for name in stale:
        print(f"docs/{name} is out of date: run python -m docs.generate", file=sys.stderr)  # noqa: T201
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
