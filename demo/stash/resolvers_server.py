"""Version, configuration, plugins and jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demo.stash.backend import Fields, Info, call_of
from demo.stash.criteria import as_int
from demo.stash.jobs import Job
from demo.stash.manifest import Manifest, Operation
from demo.stash.settings import stored
from demo.stash.store import Row, StashError


def version(_root: Any, info: Info) -> Row:
    settings = call_of(info).backend.settings
    return {"version": settings.version, "hash": settings.version_hash, "build_time": "2025-12-18 03:57:18"}


def configuration(_root: Any, info: Info) -> Row:
    settings = call_of(info).backend.settings

    def plugins(_info: Info, include: list[str] | None = None) -> Row:
        saved = settings.plugins
        return saved if not include else {name: saved[name] for name in include if name in saved}

    return {
        "general": settings.general_result(),
        "interface": {"menuItems": [], "soundOnPreview": False, "wallShowTitle": True, "language": "en-US"},
        "dlna": {"serverName": "", "enabled": False, "port": 1338, "whitelistedIPs": [], "interfaces": []},
        "scraping": {"scraperCertCheck": True, "excludeTagPatterns": []},
        "defaults": {"deleteFile": False, "deleteGenerated": True},
        "ui": settings.ui,
        "plugins": plugins,
    }


def system_status(_root: Any, info: Info) -> Row:
    settings = call_of(info).backend.settings
    return {
        "databaseSchema": 75,
        "databasePath": settings.store.path,
        "configPath": str(settings.config_dir / "config.yml"),
        "appSchema": 75,
        "status": "OK",
        "os": "linux",
        "workingDir": "/",
        "homeDir": str(Path.home()),
        "ffmpegPath": "",
        "ffprobePath": "",
    }


def configure_general(_root: Any, info: Info, input: Row) -> Row:
    """`maxSessionAge` is noted, but the running server keeps the one it started with, as Stash does."""
    settings = call_of(info).backend.settings
    settings.username = input.get("username", settings.username) or ""
    settings.password = input.get("password", settings.password) or ""
    settings.python_path = input.get("pythonPath", settings.python_path) or ""
    settings.general |= {name: value for name, value in input.items() if name not in {"username", "password"}}
    return settings.general_result()


def configure_plugin(_root: Any, info: Info, plugin_id: str, input: Row) -> Row:
    if not isinstance(input, dict):
        raise StashError(f"{type(input).__name__} is not a map")
    return call_of(info).backend.settings.configure_plugin(plugin_id, input)


def _merged(base: Any, extra: Row) -> Row:
    done = dict(base) if isinstance(base, dict) else {}
    for key, value in extra.items():
        done[key] = _merged(done.get(key), value) if isinstance(value, dict) else value
    return done


def configure_ui(_root: Any, info: Info, input: Row | None = None, partial: Row | None = None) -> Row:
    settings = call_of(info).backend.settings
    if input is not None:
        settings.ui = stored(input)
    if partial is not None:
        settings.ui = _merged(settings.ui, stored(partial))
    return settings.ui


def configure_ui_setting(_root: Any, info: Info, key: str, value: Any = None) -> Row:
    settings = call_of(info).backend.settings
    ui = settings.ui
    here = ui
    *parents, last = key.split(".")
    for name in parents:
        here = here.setdefault(name, {})
    here[last] = stored(value)
    settings.ui = ui
    return ui


def generate_api_key(_root: Any, info: Info, input: Row) -> str:
    settings = call_of(info).backend.settings
    if input.get("clear"):
        settings.api_key = ""
        return ""
    return settings.new_api_key()


# ---- plugins ----


def _operation(operation: Operation, plugin: Row) -> Row:
    return {
        "name": operation.name,
        "description": operation.description,
        "hooks": list(operation.triggered_by),
        "plugin": plugin,
    }


def _addresses(names: tuple[str, ...], ours: str) -> list[str] | None:
    """Those of other servers, then one of ours for all local files together."""
    elsewhere = [name for name in names if name.startswith(("http://", "https://"))]
    return elsewhere + ([ours] if len(elsewhere) < len(names) else []) or None


def _plugin(manifest: Manifest, info: Info) -> Row:
    call = call_of(info)
    base = f"{call.backend.settings.external_host or call.base_url}/plugin/{manifest.id}"
    row: Row = {
        "id": manifest.id,
        "name": manifest.name,
        "description": manifest.description,
        "url": manifest.url,
        "version": manifest.version,
        "enabled": call.backend.plugins.enabled(manifest.id),
        "settings": [
            {"name": key, "display_name": s.display_name, "description": s.description, "type": s.type}
            for key, s in sorted(manifest.settings.items())
        ],
        "requires": list(manifest.ui.requires) or None,
        "paths": {
            "javascript": _addresses(manifest.ui.javascript, f"{base}/javascript"),
            "css": _addresses(manifest.ui.css, f"{base}/css"),
        },
    }
    row["tasks"] = [_operation(task, row) for task in manifest.tasks] or None
    row["hooks"] = [_operation(hook, row) for hook in manifest.hooks] or None
    return row


def plugins(_root: Any, info: Info) -> list[Row]:
    return [_plugin(manifest, info) for manifest in call_of(info).backend.plugins.found.values()]


def plugin_tasks(_root: Any, info: Info) -> list[Row]:
    return [task for plugin in plugins(_root, info) if plugin["enabled"] for task in plugin["tasks"] or []]


def reload_plugins(_root: Any, info: Info) -> bool:
    call_of(info).backend.plugins.load()
    return True


def set_plugins_enabled(_root: Any, info: Info, enabledMap: dict[str, bool]) -> bool:
    call_of(info).backend.plugins.enable(enabledMap)
    return True


def _old_value(value: Row | None) -> Any:
    """A value of the deprecated argument list: the first member that is set."""
    if value is None:
        return None
    for name in ("str", "i", "b", "f"):
        if value.get(name) is not None:
            return value[name]
    if value.get("o") is not None:
        return old_args(value["o"])
    return [_old_value(item) for item in value["a"]] if value.get("a") is not None else None


def old_args(given: list[Row]) -> Row:
    return {item["key"]: _old_value(item.get("value")) for item in given}


def run_plugin_task(
    _root: Any,
    info: Info,
    plugin_id: str,
    task_name: str | None = None,
    description: str | None = None,
    args: list[Row] | None = None,
    args_map: Row | None = None,
) -> int:
    call = call_of(info)
    given = args_map if args_map is not None else old_args(args or [])
    label = next(text for text in (description, task_name, plugin_id) if text is not None)
    work = call.backend.plugins.task_job(plugin_id, task_name, given, call.user)
    return call.backend.jobs.add(f"Running plugin task: {label}", work)


def run_plugin_operation(_root: Any, info: Info, plugin_id: str, args: Row | None = None) -> Any:
    call = call_of(info)
    return call.backend.plugins.operate(plugin_id, args or {}, call.user)


# ---- jobs ----


def job_queue(_root: Any, info: Info) -> list[Row] | None:
    return [job.as_row() for job in call_of(info).backend.jobs.queue()] or None


def find_job(_root: Any, info: Info, input: Row) -> Row | None:
    job = call_of(info).backend.jobs.find(as_int(input["id"]))
    return job.as_row() if job else None


def stop_job(_root: Any, info: Info, job_id: str) -> bool:
    call_of(info).backend.jobs.stop(as_int(job_id))
    return True


def stop_all_jobs(_root: Any, info: Info) -> bool:
    call_of(info).backend.jobs.stop_all()
    return True


def metadata_generate(_root: Any, info: Info, input: Row) -> int:
    """Queued and remembered; no pictures are made."""

    def execute(job: Job) -> None:
        job.result = input
        job.progress = None

    return call_of(info).backend.jobs.add("Generating...", execute)


def metadata_scan(_root: Any, info: Info, input: Row) -> int:
    """Take files into the library that are not there yet."""
    call = call_of(info)
    roots = [Path(path) for path in input.get("paths") or []]
    if not roots:
        roots = [Path(stash["path"]) for stash in call.backend.settings.general_result()["stashes"]]

    def execute(job: Job) -> None:
        from demo.stash.scanner import scan  # here, because the video library takes long to load

        scan(call.store, roots)
        job.progress = None

    return call.backend.jobs.add("Scanning...", execute)


FIELDS: Fields = {
    "Query": {
        "version": version,
        "configuration": configuration,
        "systemStatus": system_status,
        "plugins": plugins,
        "pluginTasks": plugin_tasks,
        "jobQueue": job_queue,
        "findJob": find_job,
    },
    "Mutation": {
        "configureGeneral": configure_general,
        "configurePlugin": configure_plugin,
        "configureUI": configure_ui,
        "configureUISetting": configure_ui_setting,
        "generateAPIKey": generate_api_key,
        "metadataScan": metadata_scan,
        "metadataGenerate": metadata_generate,
        "reloadPlugins": reload_plugins,
        "setPluginsEnabled": set_plugins_enabled,
        "runPluginTask": run_plugin_task,
        "runPluginOperation": run_plugin_operation,
        "stopJob": stop_job,
        "stopAllJobs": stop_all_jobs,
    },
}
