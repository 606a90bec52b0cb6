"""What a resolver may reach: the library, the settings, the plugins, the jobs, and who is asking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphql import GraphQLResolveInfo

from demo.stash.store import Row, Store

if TYPE_CHECKING:
    from demo.stash.jobs import JobQueue
    from demo.stash.plugins import Plugins
    from demo.stash.settings import ServerSettings


@dataclass(slots=True)
class Backend:
    """One server's parts."""

    store: Store
    settings: ServerSettings
    plugins: Plugins
    jobs: JobQueue


@dataclass(frozen=True, slots=True)
class Call:
    """One GraphQL request; `info.context` of every resolver."""

    backend: Backend
    base_url: str
    """As the client addressed us, no slash at the end; paths in replies start with it."""
    user: str
    visited_hooks: tuple[str, ...] = ()
    """Plugin and trigger of each hook this request is nested in."""

    @property
    def store(self) -> Store:
        return self.backend.store

    def trigger(self, object_id: int, trigger: str, given: Any, fields: list[str] | None) -> None:
        """Run the plugins hooked on this trigger, one after another, before the reply goes out.

        Arguments:
            given: the mutation's input as the hook gets it.
            fields: names the client gave; None when the trigger does not tell.
        """
        self.backend.plugins.run_hooks(self, object_id, trigger, given, fields)


Info = GraphQLResolveInfo["Call"]
Resolver = Callable[..., Any]
Fields = dict[str, dict[str, Resolver]]
"""Type name, field name, resolver."""


def call_of(info: Info) -> Call:
    return info.context


def store_of(info: Info) -> Store:
    return call_of(info).backend.store


__all__ = ["Backend", "Call", "Fields", "Info", "Resolver", "Row", "call_of", "store_of"]
