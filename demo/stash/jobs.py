"""The job queue: one job at a time for the whole server, the last ten ended ones remembered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from demo.stash.store import Row

REMEMBERED = 10
"""Ended jobs still found by `findJob`."""


@dataclass(slots=True)
class Job:
    """One entry of the queue."""

    id: int
    description: str
    execute: Callable[[Job], None]
    added_at: float
    status: str = "READY"
    progress: float | None = 0.0
    """0 to 1; None = indefinite. A plugin that never tells stays at 0."""
    started_at: float | None = None
    ended_at: float | None = None
    error: str | None = None
    result: Any = None
    """Whatever the job leaves for tests to look at."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    on_cancel: Callable[[], None] = lambda: None

    def as_row(self) -> Row:
        return {
            "id": self.id,
            "status": self.status,
            "subTasks": None,
            "description": self.description,
            "progress": self.progress,
            "startTime": _time(self.started_at),
            "endTime": _time(self.ended_at),
            "addTime": _time(self.added_at),
            "error": self.error,
        }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class JobQueue:
    """A worker thread and its queue. A job that raises is FAILED; one that was stopped is CANCELLED."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._ended: deque[Job] = deque(maxlen=REMEMBERED)
        self._last_id = 0
        self._closed = False
        self._held = False
        self._thread: threading.Thread | None = None

    def add(self, description: str, execute: Callable[[Job], None]) -> int:
        with self._changed:
            self._last_id += 1
            self._waiting.append(Job(self._last_id, description, execute, self._clock()))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="stash-jobs")
                self._thread.start()
            self._changed.notify_all()
            return self._last_id

    def hold(self, held: bool = True) -> None:
        """While held no further job starts; what is added stays READY."""
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def queue(self) -> list[Job]:
        """Running and waiting jobs."""
        with self._changed:
            return ([self._running] if self._running else []) + list(self._waiting)

    def find(self, job_id: int) -> Job | None:
        with self._changed:
            every = [*self._ended, *([self._running] if self._running else []), *self._waiting]
            return next((job for job in every if job.id == job_id), None)

    def stop(self, job_id: int) -> None:
        """Cancel a job; an unknown or ended one is passed over."""
        with self._changed:
            job = next((job for job in self._waiting if job.id == job_id), None)
            if job:
                self._waiting.remove(job)
                self._finish(job, "CANCELLED")
                return
            job = self._running if self._running and self._running.id == job_id else None
            if job is None:
                return
            job.status = "STOPPING"
            job.cancelled.set()
        job.on_cancel()

    def stop_all(self) -> None:
        for job in self.queue()[::-1]:
            self.stop(job.id)

    def wait(self, job_id: int, timeout: float = 60.0) -> Job:
        """Wait for the end of a job.

        Raises:
            TimeoutError: it has not ended.
            KeyError: no such job.
        """
        job = self.find(job_id)
        if job is None:
            raise KeyError(job_id)
        if not job.ended.wait(timeout):
            raise TimeoutError(f"job {job_id} is {job.status} after {timeout} s")
        return job

    def close(self) -> None:
        """Stop everything and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.stop_all()
        if self._thread:
            self._thread.join(10.0)

    def _finish(self, job: Job, status: str) -> None:
        job.status = status
        job.ended_at = self._clock()
        self._ended.append(job)
        job.ended.set()
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._waiting and not self._held))
                if self._closed:
                    return
                job = self._running = self._waiting.popleft()
                job.status = "RUNNING"
                job.started_at = self._clock()
            failure: str | None = None
            try:
                job.execute(job)
            except Exception as exc:  # noqa: BLE001 - whatever a job raises is its failure, not the queue's
                failure = str(exc)
            with self._changed:
                self._running = None
                job.error = failure
                cancelled = job.cancelled.is_set()
                self._finish(job, "CANCELLED" if cancelled else "FAILED" if failure is not None else "FINISHED")
