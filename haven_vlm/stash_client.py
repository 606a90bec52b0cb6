"""stashapp-tools' client of Stash with what it lacks: typed errors, timeouts, retries, a login that lasts.

`StashClient` also does without introspection of the whole schema, and without a word on stderr. Importing this
module imports stashapi and requests: only after `bootstrap` has made sure that they are there. Blocking.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from haven_vlm.errors import StashError, StashRefused, StashUnauthorized
from haven_vlm.stash_address import StashConnection
from haven_vlm.stash_faults import PATIENCE_S, Patience, Reply
from haven_vlm.stash_queries import (
    HANDSHAKE,
    KEEP_ALIVE,
    creates,
)
from haven_vlm.stash_transport import Silence, StashTransport

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # requests complains about versions of its dependencies, into Stash's log
    from stashapi.classes import StashVersion
    from stashapi.stashapp import StashInterface

log = logging.getLogger(__name__)
T = TypeVar("T")

PLUGIN_ID = "ahavenvlmconnector"
FIRST_PATIENCE_S = 20.0
"""Patience at the start: a wrong address should be told soon; later we know that Stash was there."""


class StashClient(StashInterface):  # type: ignore[misc]
    """Blocking, for one thread. Every method raises the errors of `StashGateway`.

    Args:
        connection: where Stash is and how it knows us.
        timeout_s: seconds without a byte of an answer; hooks of other plugins run inside our requests.
        clock, sleep, jitter: for `Patience`.
    """

    def __init__(
        self,
        connection: StashConnection,
        *,
        timeout_s: float = 600.0,
        patience_s: float = PATIENCE_S,
        first_patience_s: float = FIRST_PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.transport = StashTransport(connection, timeout_s=timeout_s)
        self.connection = connection
        self.patience = Patience(first_patience_s, clock=clock, sleep=sleep)
        self.max_session_age_s = 0
        self.wants_login = False
        self.zip_objects = True
        self.version_text = ""
        try:
            super().__init__({"Logger": Silence()})
        except BaseException:
            self.transport.close()
            raise
        self.transport.met = True
        self.s = self.transport.session  # the one the library made never opened a connection
        self.patience = Patience(patience_s, clock=clock, sleep=sleep)

    # --- what the library's constructor calls ---

    @property
    def url(self) -> str:
        return self.connection.graphql_url

    @url.setter
    def url(self, _composed: str) -> None:
        """The library's own composition knows neither IPv6 nor a reverse proxy's path."""

    def stash_version(self) -> Any:
        """The version; at the first call also what this Stash can do, and its API key if it has one.

        Raises:
            StashRefused: it is older than 0.28.
        """
        data = self.run(HANDSHAKE, {}).data
        version = str(data["version"].get("version") or "of an unknown version")
        if "end_seconds" not in _names(data["marker"], "inputFields"):
            raise StashRefused(
                f"This is Stash {version}; the connector needs v0.28 or newer, because markers had no end before. "
                "Please update Stash."
            )
        self.zip_objects = "zip_file" in _names(data["file"], "fields")
        general = data["configuration"]["general"]
        self.max_session_age_s = int(general.get("maxSessionAge") or 0)
        self.wants_login = bool(general.get("username"))
        self.transport.api_key = self.transport.api_key or general.get("apiKey") or ""
        self.version_text = version
        return StashVersion({"version": version, "hash": data["version"].get("hash") or ""})

    def _get_fragments_introspection(self, *_overrides: object) -> dict[str, str]:
        """Nothing: the library would load and parse half a megabyte of schema for selections we never use."""
        return {}

    # --- transport ---

    def _GQL(self, query: str, variables: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Where every method of the library ends."""
        return self.run(query, variables or {}).data

    def run(self, document: str, variables: Mapping[str, Any], *, each: bool = False) -> Reply:
        """Have Stash carry out a document; see `stash_writes.Talk`."""

        def attempt() -> Reply:
            reply = self.transport.exchange(document, variables)
            if reply.worst is not None and not each:
                raise reply.worst
            return reply

        repeatable = not creates(document)
        try:
            try:
                return self.patience.run(attempt, repeatable=repeatable)
            except StashUnauthorized:
                if not self._log_in_again():
                    raise
            return self.patience.run(attempt, repeatable=repeatable)
        except StashError as exc:
            exc.args = tuple(self.transport.masked(str(part)) for part in exc.args)
            raise

    @property
    def needs_keep_alive(self) -> bool:
        """Whether only a cookie authenticates us, and it ages."""
        return bool(self.transport.cookie and not self.transport.api_key and self.max_session_age_s > 0)

    def keep_alive(self) -> None:
        """Have Stash renew the cookie."""
        self.run(KEEP_ALIVE, {})

    def _log_in_again(self) -> bool:
        """After a 401: the API key may have been made anew while we ran; the cookie can tell."""
        login = self.transport
        if not (login.api_key and login.cookie) or self.connection.api_key:
            return False
        stale, login.api_key = login.api_key, ""
        try:
            general = login.exchange(HANDSHAKE, {}).data["configuration"]["general"]
        except StashError:
            login.api_key = stale
            return False
        login.api_key = general.get("apiKey") or ""
        log.info("Stash's API key has changed; going on with the login as it is now")
        return True


def _names(type_: Mapping[str, Any] | None, members: str) -> set[str]:
    return {member["name"] for member in (type_ or {}).get(members) or ()}
