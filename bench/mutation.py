"""Mutation testing: which small changes of the code that decides would no test notice?

    python -m bench.mutation [--sample 80] [--seed 1] [--jobs 2] [--patience 0.5] [--only timeline ...]

Mutants come from `bench.mutants`. The tests are collected once and run once, to see which test reaches which function;
then each mutant is one fork of that process: the change is put in place, and the tests that reach it run, quickest
first, until one fails. No failure means that it survived. Prints a table, the survivors with their lines, and one line
of JSON; the exit code says whether every group reaches its share. POSIX only, for the fork.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import json
import math
import os
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import _lru_cache_wrapper
from pathlib import Path
from random import Random
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

import pytest

from bench.equivalents import EQUIVALENT
from bench.mutants import Mutant, marked, mutants_of, mutated

ROOT = Path(__file__).resolve().parent.parent

GROUPS = {
    "timeline": ("timeline", "spans"),
    "sampling": ("sampling", "refinement", "probing", "shots"),
    "parsing": ("replies", "several"),
    "resilience": ("resilience", "concurrency", "outage", "endpoint_faults"),
}

_TIMELINE = ("tests/pure/test_timeline.py", "tests/pure/test_spans.py")
_SAMPLING = tuple(
    f"tests/pure/test_{name}.py" for name in ("sampling", "sampling_adaptive", "refinement", "probing", "shots")
)
_FAULTS = ("tests/endpoint/test_faults.py", "tests/endpoint/test_fault_rules.py")
_POOL = ("breaker", "finding_slots", "outage_watch", "resilience")

TESTS = {
    "timeline": _TIMELINE,
    "sampling": _SAMPLING,
    "parsing": tuple(f"tests/pure/test_{name}.py" for name in ("prompts", "replies", "several")),
    "resilience": (*(f"tests/multiplexer/test_{name}.py" for name in _POOL), *_FAULTS),
}
"""Those that need neither sockets nor files nor whole pools; what only slower tests notice counts as survived."""

SHARE = 0.85
"""Least share of killed mutants in each group."""

CPU_S = 10
"""A mutant whose tests need so much processor time more than three times all tests counts as hanging: as noticed."""
WALL_S = 120.0
"""The same for the time on the clock, for those that wait."""

MARKER = "_reached_by_a_test"


@dataclass(frozen=True, slots=True)
class Reached:
    """What one run without any change tells about each test."""

    tests: Mapping[tuple[str, str], Sequence[int]]
    """(module, function) → numbers of the tests that call it, quickest first."""
    by_module: Mapping[str, Sequence[int]]
    cpu_s: float
    """Processor time of all of them."""
    wall_s: float


@dataclass(slots=True)
class Outcome:
    """What became of the mutants of one module."""

    mutants: int = 0
    tried: int = 0
    killed: int = 0
    hanging: int = 0
    equivalent: int = 0
    survivors: list[Mutant] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.killed / (self.tried - self.equivalent) if self.tried > self.equivalent else 1.0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.mutants + other.mutants,
            self.tried + other.tried,
            self.killed + other.killed,
            self.hanging + other.hanging,
            self.equivalent + other.equivalent,
            self.survivors + other.survivors,
        )


class MutationRun:
    """A pytest plugin that runs no test itself: it forks a process for each mutant, which does."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.outcomes: dict[str, Outcome] = {}

    def pytest_configure(self) -> None:
        from hypothesis import HealthCheck, Phase, settings  # not before pytest rewrites its assertions

        # a failing example is enough: nobody looks at the smallest one; a busy machine is no failure
        phases, idle = (Phase.explicit, Phase.generate), [HealthCheck.too_slow]
        settings.register_profile(
            "mutation", phases=phases, database=None, derandomize=True, deadline=None, suppress_health_check=idle
        )
        settings.load_profile("mutation")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        names = [name for group in GROUPS.values() for name in group]
        chosen = [name for name in names if not self._options.only or name in self._options.only]
        modules = {f"haven_vlm.{name}": importlib.import_module(f"haven_vlm.{name}") for name in chosen}
        _say(f"{len(session.items)} tests; seeing what each reaches …")
        _run_tests(session, [0])  # what fixtures import when they are first used is imported once, and not in each fork
        _forget(modules.values())
        reached = _what_tests_reach(session, modules, self._options.patience)
        plan: list[Mutant] = []
        for name, module in modules.items():
            every = mutants_of(name, _file_of(module))
            sample = min(self._options.sample or len(every), len(every))
            picked = Random(f"{self._options.seed}:{name}").sample(every, sample)
            outcome = self.outcomes[name] = Outcome(len(every), len(picked))
            known = [m for m in picked if m.key in EQUIVALENT]
            outcome.equivalent = len(known)
            plan += [m for m in picked if m.key not in EQUIVALENT]
        self._try_all(session, plan, reached)
        return True

    def _try_all(self, session: pytest.Session, plan: Sequence[Mutant], reached: Reached) -> None:
        running: dict[int, tuple[Mutant, float]] = {}
        waiting = list(reversed(plan))
        done = 0
        while waiting or running:
            while waiting and len(running) < self._options.jobs:
                mutant = waiting.pop()
                tests = reached.by_module[mutant.module]
                tests = reached.tests.get((mutant.module, mutant.function), tests if not mutant.function else ())
                pid = _forked(lambda m=mutant, t=tests: _notices(session, m, t, CPU_S + 3 * reached.cpu_s))
                running[pid] = mutant, time.monotonic() + WALL_S + 3 * reached.wall_s
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                for late, (_, deadline) in running.items():
                    if time.monotonic() > deadline:
                        os.kill(late, signal.SIGKILL)
                time.sleep(0.005)
                continue
            mutant, _ = running.pop(pid)
            done += 1
            outcome = self.outcomes[mutant.module]
            if status == 0:
                outcome.survivors.append(mutant)
            else:
                outcome.killed += 1
                outcome.hanging += os.WIFSIGNALED(status)
            if done % 25 == 0 or status == 0:
                _say(f"{done}/{len(plan)}" + (f" survived: {mutant}" if status == 0 else ""))


def _forked(work: Any) -> int:
    """Run something in a copy of this process; its exit code is what the work returns. Returns the process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        code = work()
    finally:
        os._exit(code)


def _notices(session: pytest.Session, mutant: Mutant, tests: Sequence[int], cpu_s: float) -> int:
    """1 if a test fails with this change in place, else 0; killed if they take more processor time."""
    import resource  # POSIX only, as all that happens in here

    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu_s), math.ceil(cpu_s)))
    module = sys.modules[mutant.module]
    put_in_place(module, mutated(_file_of(module), mutant.number))
    return 1 if _run_tests(session, tests) else 0


def _run_tests(session: pytest.Session, tests: Sequence[int]) -> bool:
    """Whether a test failed; stops at the first."""
    items = [session.items[n] for n in tests]
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return True
    return False


def put_in_place(module: ModuleType, tree: ast.Module) -> None:
    """Change a module as it is loaded, wherever others hold its functions, defaults and constants."""
    file = str(_file_of(module))
    changed = ModuleType(module.__name__)
    changed.__file__ = file
    sys.modules[module.__name__] = changed  # dataclasses look there while they are made
    try:
        exec(compile(tree, file, "exec"), changed.__dict__)
    finally:
        sys.modules[module.__name__] = module
    codes = {(f.__code__.co_qualname, f.__code__.co_firstlineno): f for f in _functions(changed.__dict__)}
    for function in _functions(module.__dict__):
        if (new := codes.get((function.__code__.co_qualname, function.__code__.co_firstlineno))) is not None:
            function.__code__ = new.__code__
            _replace_defaults(function, new)
    for name, new_value in [(n, v) for n, v in vars(changed).items() if not n.startswith("__")]:
        old = vars(module).get(name)
        if isinstance(old, type) and old.__module__ == module.__name__:
            made, remade = vars(old).get("__init__"), vars(new_value).get("__init__")
            if isinstance(made, FunctionType) and isinstance(remade, FunctionType):
                _replace_defaults(made, remade)
        elif isinstance(old, _VALUES) and repr(old) != repr(new_value):
            for holder in list(sys.modules.values()):
                ours = getattr(holder, "__name__", "").startswith(("haven_", "tests."))
                if ours and vars(holder).get(name) is old:
                    setattr(holder, name, new_value)


_VALUES = (int, float, str, tuple, frozenset, dict, MappingProxyType, re.Pattern)
"""What a constant of a module can be: values, which are told apart by how they are written."""


def _replace_defaults(function: FunctionType, new: FunctionType) -> None:
    """Give a function the defaults of another, and the `__init__` of a dataclass those of all its fields.

    What is no plain value stays: a member of an enumeration that was made anew is not the one that the code compares.
    """

    def chosen(old: Any, new: Any) -> Any:
        return new if isinstance(old, int | float | str) and not isinstance(old, Enum) else old

    if function.__defaults__ and new.__defaults__:
        function.__defaults__ = tuple(map(chosen, function.__defaults__, new.__defaults__))
    if function.__kwdefaults__ and new.__kwdefaults__:
        function.__kwdefaults__ = {k: chosen(v, new.__kwdefaults__[k]) for k, v in function.__kwdefaults__.items()}
    # a field that is no parameter has its default in a cell
    cells = dict(zip(new.__code__.co_freevars, new.__closure__ or (), strict=True))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if "dflt_" in name and name in cells:
            cell.cell_contents = chosen(cell.cell_contents, cells[name].cell_contents)


def _functions(namespace: Mapping[str, Any]) -> list[FunctionType]:
    """The functions of a module as written: its own, those of its classes, and those inside others that exist."""
    file = namespace["__file__"]
    functions = [f for f in gc.get_objects() if isinstance(f, FunctionType) and f.__globals__ is namespace]
    return [f for f in functions if f.__code__.co_filename == file]


def _forget(modules: Iterable[ModuleType]) -> None:
    """Empty the caches of their functions: a remembered result would hide that a test needs the function."""
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, _lru_cache_wrapper):
                value.cache_clear()


def _what_tests_reach(session: pytest.Session, modules: Mapping[str, ModuleType], patience_s: float) -> Reached:
    """Run all tests once, in a copy of this process; those that take longer than the patience are left out.

    Raises:
        pytest.exit.Exception: they fail without any change.
    """
    reading, writing = os.pipe()

    def run() -> int:
        calls: set[tuple[str, str]] = set()
        for name, module in modules.items():
            module.__dict__[MARKER] = lambda function, name=name: calls.add((name, function))
            put_in_place(module, marked(_file_of(module), MARKER))
        seen: list[tuple[float, list[tuple[str, str]]]] = []
        failed: list[str] = []
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            calls.clear()
            _forget(modules.values())
            failures, began = session.testsfailed, time.process_time()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed > failures:
                failed.append(item.nodeid)
            seen.append((time.process_time() - began, sorted(calls)))
        with os.fdopen(writing, "w") as out:
            json.dump([failed, seen], out)
        return 0

    pid = _forked(run)
    os.close(writing)
    with os.fdopen(reading) as coming:
        text = coming.read()
    _, _, used = os.wait4(pid, 0)
    failed, seen = json.loads(text) if text else (["the process that ran them died"], [])
    if failed:
        pytest.exit(f"tests fail without any change: {', '.join(failed)}", returncode=1)
    order = sorted((n for n in range(len(seen)) if seen[n][0] <= patience_s), key=lambda n: seen[n][0])
    tests: dict[tuple[str, str], list[int]] = defaultdict(list)
    by_module: dict[str, list[int]] = {name: [] for name in modules}
    for n in order:
        for module, function in seen[n][1]:
            tests[module, function].append(n)
        for module in {module for module, _ in seen[n][1]}:
            by_module[module].append(n)
    return Reached(tests, by_module, used.ru_utime + used.ru_stime, sum(seconds for seconds, _ in seen))


def _file_of(module: ModuleType) -> Path:
    assert module.__file__ is not None
    return Path(module.__file__)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, default=80, help="mutants per module; 0: all of them (default 80)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time (default: processors)")
    patience = "leave out tests that take more processor seconds, each by itself; what only they notice then survives"
    parser.add_argument("--patience", type=float, default=math.inf, metavar="SECONDS", help=patience)
    parser.add_argument("--only", nargs="*", default=[], metavar="MODULE", help="of these modules")
    options = parser.parse_args(arguments)
    run = MutationRun(options)
    began = time.monotonic()
    groups = [g for g, names in GROUPS.items() if not options.only or not set(names).isdisjoint(options.only)]
    tests = sorted({path for group in groups for path in TESTS[group]})
    plain = ["--assert=plain", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist"]  # nobody reads why they fail
    code = pytest.main(["-q", "-s", *plain, *tests], plugins=[run])
    if code not in {0, pytest.ExitCode.NO_TESTS_COLLECTED} or not run.outcomes:
        return int(code) or 1
    return _print(run.outcomes, time.monotonic() - began)


def _print(outcomes: Mapping[str, Outcome], took_s: float) -> int:
    print("\n| module | mutants | tried | equivalent | killed | of them hanging | survived | share |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    figures = {}
    for group, names in GROUPS.items():
        parts = [(name, outcomes[f"haven_vlm.{name}"]) for name in names if f"haven_vlm.{name}" in outcomes]
        if not parts:
            continue
        whole = sum((o for _, o in parts), Outcome())
        figures[group] = whole
        for name, o in [*parts, (f"**{group}**", whole)]:
            cells = [o.mutants, o.tried, o.equivalent, o.killed, o.hanging, len(o.survivors)]
            print(f"| {name} | {' | '.join(map(str, cells))} | {o.share:.0%} |")
    survivors = [m for o in outcomes.values() for m in sorted(o.survivors, key=lambda m: m.line)]
    print(f"\n{took_s:.0f} s. Survivors:\n")
    print("\n".join(map(str, survivors)) or "none")
    shares = {group: round(o.share, 3) for group, o in figures.items()}
    print(json.dumps({"killed": shares, "survived": len(survivors), "seconds": round(took_s)}))
    return int(any(o.share < SHARE for o in figures.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
