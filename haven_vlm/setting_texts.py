"""Settings that are lists or mappings, written as one text: on Stash's settings page, in arguments, or in YAML."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from haven_vlm.settings import EndpointSettings

_BARE_ADDRESS = re.compile(r"(localhost|[\w-]+(\.[\w-]+)+|[\w-]+(?=:\d))(:\d{1,5})?(/\S*)?")
"""What people type for an address: a name or numbers, perhaps with a port, without http://."""


def _endpoints_from_text(text: str) -> list[dict[str, Any]]:
    """`http://host:1234/v1 model=x weight=5 max=4 fallback remote key_env=NAME`, several separated by ; or lines."""
    words = {
        **{w: w for w in EndpointSettings.model_fields if w != "base_url"},
        "max": "max_concurrent",
        "key": "api_key",
        "key_env": "api_key_env",
        "policy": "fallback_policy",
    }
    flags = {"fallback": "is_fallback", "remote": "allow_remote"}
    endpoints = []
    for line in re.split(r"[;\n]+", text):
        entry: dict[str, Any] = {}
        for part in line.split():
            key, equals, value = part.partition("=")
            if part.startswith(("http://", "https://")):
                if "base_url" in entry:
                    raise ValueError("two addresses in one entry: separate endpoints with a semicolon")
                entry["base_url"] = part
            elif equals and key.lower() in words:
                entry[words[key.lower()]] = value
            elif not equals and part.lower() in flags:
                entry[flags[part.lower()]] = True
            elif "base_url" not in entry and _BARE_ADDRESS.fullmatch(part):
                raise ValueError("an address begins with http:// or https://, for example http://192.168.1.20:1234/v1")
            else:
                allowed = ", ".join([f"{w}=…" for w in words if "_" not in w] + list(flags))
                # the word itself may be a key typed in the wrong place, so it is not repeated
                raise ValueError(f"one word is not understood; write ADDRESS and then any of: {allowed}")
        if entry and "base_url" not in entry:
            raise ValueError("an entry without an address: write http://… first")
        if entry:
            endpoints.append(entry)
    return endpoints


def _names_from_text(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[,;\n]+", text) if part.strip()]


def _paths_from_text(text: str) -> dict[str, str]:
    paths = {}
    for part in re.split(r"[;\n]+", text):
        if part.strip():
            theirs, arrow, ours = part.partition("=")
            if not arrow or not theirs.strip() or not ours.strip():
                raise ValueError("write FOLDER-IN-STASH=FOLDER-HERE, several separated by ;")
            paths[theirs.strip()] = ours.strip()
    return paths


FROM_TEXT: Mapping[str, Callable[[str], object]] = {
    "endpoints": _endpoints_from_text,
    "tag_list": _names_from_text,
    "skip_tags": _names_from_text,
    "skip_paths": lambda text: [part.strip() for part in re.split(r"[;\n]+", text) if part.strip()],
    "skip_studios": _names_from_text,
    "path_mutation": _paths_from_text,
}
"""Setting → how its text is read; raises `ValueError` with a sentence for the user."""
