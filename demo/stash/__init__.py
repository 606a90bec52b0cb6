"""An embedded Stash: strict about GraphQL, fast to seed, scriptable in its failures.

    from demo.stash import EmbeddedStash, running_stash, run_task

    with running_stash(credentials=("user", "secret"), api_key="key") as stash:      # or: async with EmbeddedStash(…)
        court = stash.add_tag("Court", aliases=["Hardwood"], parents=["VLM"], description="…")
        scene = stash.add_scene("/media/game.mp4", duration=60.0, tags=["VLM_TagMe", court])
        stash.url, stash.graphql_url, stash.server_connection()                      # for clients and plugins

**Options**: `db` (a file: state survives kill and restart), `port`, `credentials`, `api_key`, `max_session_age_s`,
`plugins_path`, `config_dir`, `advertised_host` (what plugins are told, default 0.0.0.0), `external_host`, `version`,
`python_path`, `general` (overrides of `configuration.general`). It always runs in a thread of its own, whose loop is
never blocked; making it and seeding it block shortly, so do that in a fixture that is not `async`.

**Seeding**: `add_tag add_scene add_scene_file add_image add_clip add_zip_image add_gallery add_marker`, tags by id or
by exact name (made when unknown); `with stash.seeding():` makes thousands one transaction. Behind the client's back:
`tag_scene untag_scene tag_image untag_image delete(table, id)`; `settings.ui = {"vrTag": …}`.

**Reading**: `scene_tags(id) image_tags gallery_tags` (sorted names), `markers(scene_id=None)`, `tag_id(name)`,
`tag_names()`, `snapshot(times=False)`: equal before and after = the user's library is untouched.

**Trouble**: `stash.faults.add(match, kind, times=1, after=0, seconds=None)` with `match` an operation name, root field,
path prefix or predicate, and `kind` one of `locked slow hook_delay drop drop_after status status_after junk truncated`
or a number such as "401"; `slow` and `hook_delay` without seconds wait for `fault.release()`. `fault.hits` counts.

**Watching**: `stash.requests` (operation, fields, variables, headers, at, status, reply), `stash.count("FindScenes")`,
`stash.log.named(…)`, `stash.on_request(callback, match=…)` before and `stash.log.on_reply` after each request is
carried out; a callback may change the library. `stash.advance(seconds)` moves the server's clock (cookies, times).

**Plugins**: `run_task(plugin_dir, task, args, timeout=…, connection=stash.connection()) -> JobResult(logs, progress,
output, error, exit_code, status)`; `start_task(…)` gives a handle with `kill()` (SIGKILL, as Stop does), `wait()`,
`pid`, live `logs`. Through the queue: `stash.run_plugin_task(id, task)` or GraphQL `runPluginTask`, then
`stash.wait_for_job(job_id)`. `load(path)` reads a manifest as strictly as Stash; `stash.plugins.refused` tells why one
is absent.

**As a process**: `python -m demo.stash --db FILE --port N` prints one JSON line with its url, and serves until killed.
"""

from demo.stash.faults import Fault, RequestRecord
from demo.stash.jobs import Job
from demo.stash.manifest import Manifest, ManifestError, load
from demo.stash.runner import Connection, JobResult, LogLine, PluginProcess, Run, run_task, start_task
from demo.stash.server import EmbeddedStash, running_stash
from demo.stash.store import StashError

__all__ = [
    "Connection",
    "EmbeddedStash",
    "Fault",
    "Job",
    "JobResult",
    "LogLine",
    "Manifest",
    "ManifestError",
    "PluginProcess",
    "RequestRecord",
    "Run",
    "StashError",
    "load",
    "run_task",
    "running_stash",
    "start_task",
]
