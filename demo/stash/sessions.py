"""Who is asking: API key, then cookie. A cookie is signed, carries its time of issue, and is kept nowhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate

from demo.stash.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class Session:
    """What a valid cookie says."""

    user: str = ""
    visited_hooks: tuple[str, ...] = ()


class Unauthorized(Exception):
    """A wrong API key, or any key while none is configured."""


def first_cookie(header: str, name: str = "session") -> str | None:
    """The first of several cookies of one name counts."""
    for part in header.split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value.strip('"')
    return None


class Sessions:
    """Makes and reads cookies."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock

    def issue(self, session: Session) -> str:
        """A cookie value, valid from now."""
        body = json.dumps({"user": session.user, "hooks": session.visited_hooks, "at": int(self._clock())})
        text = base64.urlsafe_b64encode(body.encode()).decode()
        return f"{text}-{self._signature(text)}"

    def read(self, value: str | None) -> Session | None:
        """The session of a cookie value; None when forged, broken or too old."""
        text, _, signature = (value or "").rpartition("-")
        if not text or not hmac.compare_digest(signature, self._signature(text)):
            return None
        body = json.loads(base64.urlsafe_b64decode(text))
        lifetime = self._settings.max_session_age_s
        if lifetime and body["at"] < int(self._clock()) - lifetime:
            return None
        return Session(body["user"], tuple(body["hooks"]))

    def set_cookie(self, session: Session) -> str:
        """Value of a Set-Cookie header."""
        lifetime = self._settings.max_session_age_s
        until = formatdate(self._clock() + lifetime, usegmt=True)
        age = f"; Expires={until}; Max-Age={lifetime}" if lifetime else ""
        return f"session={self.issue(session)}; Path=/{age}; SameSite=Lax"

    def authenticate(self, api_key: str, cookie_header: str) -> tuple[Session, bool]:
        """The session of a request, and whether its cookie is to be refreshed.

        Raises:
            Unauthorized: the key is wrong.
        """
        session = self.read(first_cookie(cookie_header))
        if api_key:
            if api_key != self._settings.api_key:
                raise Unauthorized
            return Session(self._settings.username, session.visited_hooks if session else ()), False
        return session or Session(), session is not None

    def _signature(self, text: str) -> str:
        return hmac.new(self._settings.session_key, text.encode(), hashlib.sha256).hexdigest()
