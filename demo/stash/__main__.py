"""`python -m demo.stash --db FILE --port N`: an embedded Stash as a process of its own, to be killed and restarted."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import threading
from pathlib import Path

from demo.stash.server import EmbeddedStash


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.stash", description=__doc__)
    parser.add_argument("--db", type=Path, help="SQLite file of the library; without it everything is in memory")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--plugins", type=Path, help="folder of the plugins")
    parser.add_argument("--config-dir", type=Path)
    parser.add_argument("--username", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--api-key")
    parser.add_argument("--max-session-age", type=int, default=3600, help="seconds")
    parser.add_argument("--python", default=sys.executable, help="interpreter for plugins")
    parser.add_argument("--die-at", type=int, help="die as if killed when this many requests have come")
    parser.add_argument("--die-after", action="store_true", help="that one is carried out before, its reply is lost")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    with EmbeddedStash(
        db=options.db,
        port=options.port,
        plugins_path=options.plugins,
        config_dir=options.config_dir,
        credentials=(options.username, options.password) if options.username else None,
        api_key=options.api_key,
        max_session_age_s=options.max_session_age,
        python_path=options.python,
    ) as stash:
        if options.die_at:
            _die_at(stash, options.die_at, after=options.die_after)
        sys.stdout.write(json.dumps({"url": stash.url, "port": stash.port}) + "\n")
        sys.stdout.flush()
        stop.wait()
    return 0


def _die_at(stash: EmbeddedStash, number: int, *, after: bool) -> None:
    requests = itertools.count(1)

    def count(_: object) -> None:
        if next(requests) == number:
            os._exit(137)  # nothing of ours runs any more: no transaction is ended, no connection closed politely

    (stash.log.on_reply if after else stash.on_request)(count)


if __name__ == "__main__":
    sys.exit(main())
