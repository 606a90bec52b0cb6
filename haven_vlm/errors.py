"""Every error this project raises on purpose, in one tree.

    HavenError
    ├── ConfigError              a setting is wrong; the message names every culprit
    ├── WireError                what came on stdin is not what Stash sends
    ├── DependencyError          a package is missing and could not be installed
    ├── LedgerError              the ledger cannot be used (disk full, locked for too long, damaged)
    ├── BusyError                another run holds what this run needs
    ├── StashError               Stash could not do what was asked
    │   ├── StashUnavailable     no answer, a locked database, a server error: worth another try
    │   ├── StashUnauthorized    the login has run out or the key is wrong
    │   ├── StashRefused         Stash understood and said no (validation, unknown field)
    │   ├── PartialWrite         part of a batch was written before Stash failed
    │   └── StashGone            the scene, image, marker or tag does not exist (any more)
    ├── MediaError               no frame can be had
    │   ├── MediaUnreachable     the file is not where this process can read it; not the medium's fault
    │   └── MediaUnreadable      the medium itself is damaged, empty or no picture
    ├── EndpointError            one attempt at one endpoint failed; see `EndpointFault`
    └── OutageError              no endpoint can take work, for longer than the settings allow
        └── LocalOutageError     no local endpoint can take what must stay local; other work can go on

Messages are sentences for the person who runs Stash: what happened, and what to do about it.
"""

from __future__ import annotations

from enum import StrEnum


class HavenError(Exception):
    """Anything this project raises on purpose. `str()` of it is a sentence to show to the user."""


class ConfigError(HavenError):
    """One or more settings are wrong. The message names every one, with its layer and what is allowed."""


class WireError(HavenError):
    """Standard input did not hold the JSON document that Stash sends to a plugin."""


class DependencyError(HavenError):
    """A package that the connector needs is neither importable nor installable here."""


class LedgerError(HavenError):
    """The ledger cannot be read or written; nothing was lost that it had acknowledged."""


class BusyError(HavenError):
    """Another run of the connector is at work on the same thing."""


class StashError(HavenError):
    """Stash could not do what was asked."""


class StashUnavailable(StashError):
    """No usable answer: connection lost, server error, database locked. The same request may succeed later."""


class StashUnauthorized(StashError):
    """Stash wants a login that we do not have (any more)."""


class StashRefused(StashError):
    """Stash understood the request and refused it; the same request will be refused again."""


class StashGone(StashRefused):
    """The object the request names does not exist (any more); `ids` says which, where that is known."""

    def __init__(self, message: str, *, ids: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.ids = ids


class MediaError(HavenError):
    """No frame can be had from this medium."""


class MediaUnreachable(MediaError):
    """The file cannot be read from this machine, by path or by Stash's stream; the medium may be fine."""


class MediaUnreadable(MediaError):
    """The medium itself is at fault: empty, damaged, of no known format, or without a picture."""


class EndpointFault(StrEnum):
    """Why an attempt at an endpoint failed. What follows from each is policy, in `resilience`."""

    CONNECT = "connect"
    """Nobody listens there, the name does not resolve, the connection broke before an answer."""
    TIMEOUT = "timeout"
    """Connected, but no (whole) answer within the time allowed."""
    RATE_LIMITED = "rate_limited"
    """HTTP 429, or a queue that is full (503 with a busy message); `retry_after_s` when told."""
    LOADING = "loading"
    """The server is up and still loads its model."""
    SERVER = "server"
    """HTTP 5xx, or HTTP 200 with an error object in it, of the server's own making."""
    AUTH = "auth"
    """401/403: the key is missing, wrong or not allowed to use the model. Parks the endpoint."""
    MODEL = "model"
    """The model is not there, or cannot see pictures. Parks the endpoint."""
    QUOTA = "quota"
    """Out of credit (402, 429 `insufficient_quota`). Parks the endpoint."""
    NOT_AN_API = "not_an_api"
    """An HTML page or something else that no OpenAI-compatible server says. Parks the endpoint."""
    FIELD = "field"
    """400/422 that names a request field: drop that field for this endpoint and ask again."""
    CONTEXT = "context"
    """The question does not fit the model's context window."""
    PICTURE = "picture"
    """The server cannot take this very picture (or not of this size)."""
    FORBIDDEN = "forbidden"
    """The connector itself refuses: a remote address without permission, or a redirect elsewhere."""
    OTHER = "other"
    """Any other answer of 4xx, or one that could not be understood."""


class EndpointError(HavenError):
    """One attempt at one endpoint failed; the frame may still succeed elsewhere.

    Args:
        message: a sentence without secrets.
        endpoint: the endpoint's name.
        fault: the class that policy is keyed by.
        status: HTTP status, if there was one.
        retry_after_s: seconds the server asked us to wait, if it did.
        field: for `EndpointFault.FIELD`, the request field the server does not take.
        fix: what the user can do about it, a sentence; empty if there is nothing to do.

    `left_network` is set when frames went to a remote address, although no answer came.
    """

    def __init__(
        self,
        message: str,
        *,
        endpoint: str,
        fault: EndpointFault,
        status: int | None = None,
        retry_after_s: float | None = None,
        field: str | None = None,
        fix: str = "",
    ) -> None:
        super().__init__(message)
        self.endpoint = endpoint
        self.fault = fault
        self.status = status
        self.retry_after_s = retry_after_s
        self.field = field
        self.fix = fix
        self.left_network = False


class OutageError(HavenError):
    """No endpoint can take work and none came back in time; the run ends and everything is resumable."""


class LocalOutageError(OutageError):
    """Nothing on the local network can take a question that must not leave it; other media are not affected."""


class PartialWrite(StashError):
    """Stash failed in the middle of a batch; `created` holds what stands there already, in order.

    `uncertain` holds the drafts of which nobody can say whether they were written: the reply was lost, and
    Stash could not be asked afterwards. Usually empty.
    """

    def __init__(self, message: str, *, created: tuple[object, ...], uncertain: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.created = created
        self.uncertain = uncertain
