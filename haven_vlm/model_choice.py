"""Which of a server's models is asked. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from haven_vlm.endpoint_faults import Verdict
from haven_vlm.errors import EndpointError, EndpointFault
from haven_vlm.server_survey import Model, Server


def choose(server: Server, wanted: str, *, fail: Callable[[Verdict], EndpointError]) -> Model:
    """The model to ask for: the one that is wanted, else the vision model that is loaded.

    Raises:
        EndpointError: MODEL, with the names there are.
    """
    names = [m.id for m in server.models]
    if wanted:
        found = _by_name(server.models, wanted)
        if found is None and names and server.checks_names:
            raise fail(Verdict(EndpointFault.MODEL, f"there is no model “{wanted}”", fix=nearest(wanted, names)))
        model = found or Model(wanted)
        if found is None and server.kind == "llama.cpp" and len(names) == 1:
            model = server.models[0]  # it answers to any name
    else:
        model = _loaded(server, fail)
    if model.sees is False:
        able = [m.id for m in server.models if m.sees and m.id != model.id]
        fix = f"Set `model` to one that does: {', '.join(able[:8])}." if able else _FIX_EYES
        raise fail(Verdict(EndpointFault.MODEL, f"the model “{model.id}” does not see pictures", fix=fix))
    return model


_FIX_EYES = "Load a vision model there (llama.cpp: also its mmproj file), or set `model` to one that sees pictures."


def _by_name(models: Sequence[Model], wanted: str) -> Model | None:
    for name in (wanted, f"{wanted}:latest", f"models/{wanted}"):
        if (found := next((m for m in models if m.id == name), None)) is not None:
            return found
    alike = [m for m in models if m.id.casefold() == wanted.casefold()]
    return alike[0] if len(alike) == 1 else None


def _loaded(server: Server, fail: Callable[[Verdict], EndpointError]) -> Model:
    candidates = [m for m in server.models if m.sees is not False] or list(server.models)
    for narrowed in (
        [m for m in candidates if m.loaded and m.sees],
        [m for m in candidates if m.loaded],
        [m for m in candidates if m.sees],
        candidates,
    ):
        if len(narrowed) == 1 or (narrowed and server.kind in ("vllm", "sglang")):
            return narrowed[0]
        if narrowed:
            break
    if not server.models:
        raise fail(Verdict(EndpointFault.MODEL, "it offers no model", fix="Load a vision model there, or set `model`."))
    several = ", ".join(m.id for m in narrowed[:8]) + (" …" if len(narrowed) > 8 else "")
    fix = f"Set `model` of this endpoint to one of: {several}."
    raise fail(Verdict(EndpointFault.MODEL, "it offers several models, and none is named in the settings", fix=fix))


def nearest(wanted: str, names: Sequence[str]) -> str:
    """A sentence that names what there is, the most similar first."""
    if not names:
        return "The server offers no model; load one there."
    folded = {n.casefold(): n for n in names}
    close = difflib.get_close_matches(wanted.casefold(), list(folded), n=1, cutoff=0.5)
    guess = f"Did you mean “{folded[close[0]]}”? " if close else ""
    return f"{guess}There are: {', '.join(sorted(names)[:12])}{' …' if len(names) > 12 else ''}."
