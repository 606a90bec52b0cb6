"""How a command ends, for whoever starts it: done, failed, wrong, or worth another try later."""

from __future__ import annotations

from enum import IntEnum

from haven_vlm.errors import (
    BusyError,
    ConfigError,
    DependencyError,
    HavenError,
    OutageError,
    StashUnauthorized,
    StashUnavailable,
)


class ExitCode(IntEnum):
    """How a command ended. Stash gets to see 0 and 1 only."""

    DONE = 0
    FAILED = 1
    WRONG = 2
    LATER = 3
    INTERRUPTED = 130
    TERMINATED = 143

    @property
    def meaning(self) -> str:
        """A line for the help text and the documents."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.DONE: "all was done that was asked for, also when there was nothing to do",
    ExitCode.FAILED: "something failed, at least for some of the media; the text and the report say what",
    ExitCode.WRONG: "the command, a setting or the API key is wrong, or packages are missing: nothing was done",
    ExitCode.LATER: "Stash or the model servers cannot be reached, or another run is at work: try again later; what "
    "was answered is kept",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C; the next run goes on",
    ExitCode.TERMINATED: "stopped by SIGTERM (a service that is stopped); the next run goes on",
}


def code_for(error: HavenError) -> ExitCode:
    """The exit code for a run that this error ended."""
    if isinstance(error, ConfigError | DependencyError | StashUnauthorized):
        return ExitCode.WRONG
    if isinstance(error, StashUnavailable | OutageError | BusyError):
        return ExitCode.LATER
    return ExitCode.FAILED
