"""A plugin that does what its `do` argument says; written into a plugins folder by tests."""

from __future__ import annotations

from pathlib import Path

MANIFEST = """
name: Probe
description: does as told
version: 1.10
exec: [python, "{pluginDir}/probe.py", "{pluginDir}"]
errLog: warning
tasks:
  - name: Echo
    description: says what it was given
    defaultArgs: {mode: x, flag: true, n: 5, f: 1.50, nothing: , day: 2024-01-02}
    execArgs: ["--extra"]
  - name: Other
hooks:
  - name: Note
    triggeredBy: [Scene.Update.Post, SceneMarker.Create.Post, Tag.Destroy.Post, No.Such.Trigger]
    defaultArgs: {do: hook}
settings:
  zeta: {type: NUMBER, displayName: Zeta}
  alpha: {}
"""

SCRIPT = r"""
import json, os, sys, time
raw = sys.stdin.buffer.read()
given = json.loads(raw)
args, here = given["args"], given["server_connection"]["PluginDir"]
def err(data): os.write(2, data)
def note(name, value):
    with open(os.path.join(here, name), "a") as file: file.write(json.dumps(value) + "\n")
def echo():
    keys = ("PYTHONPATH",)
    print(json.dumps({"output": {"given": given, "argv": sys.argv[1:], "cwd": os.getcwd(), "last": raw[-1:].decode(),
                                 "env": {key: os.environ.get(key) for key in keys}}}))
def printed():
    sys.stdout.write(args["text"]); sys.stdout.flush(); sys.exit(args.get("code", 0))
def log():
    for line in args["lines"]: err(line.encode("latin-1")); time.sleep(0.01)
    time.sleep(0.1); print("{}")
def big():
    err(b"\x01i\x02" + b"y" * (args["size"] - 4) + b"\n"); time.sleep(0.2)
    try: err(b"\x01i\x02after\n"); note("big", "ok")
    except BrokenPipeError: note("big", "broken")
    time.sleep(0.1); print("{}")
def progress():
    for value in args["values"]: err(b"\x01p\x02%s\n" % str(value).encode()); time.sleep(0.3)
    print("{}")
def sleep():
    note("started", os.getpid()); err(b"\x01p\x020.5\n"); time.sleep(args["seconds"]); note("slept", True)
def hook(): note("hooks", args["hookContext"])
todo = {"echo": echo, "print": printed, "log": log, "big": big, "progress": progress, "sleep": sleep, "hook": hook}
todo[args.get("do", "echo")]()
"""


def install(plugins: Path) -> Path:
    """Write the plugin `probe` below a plugins folder; returns its own folder."""
    folder = plugins / "probe"
    folder.mkdir(parents=True)
    (folder / "probe.yml").write_text(MANIFEST, encoding="utf-8")
    (folder / "probe.py").write_text(SCRIPT, encoding="utf-8")
    return folder
