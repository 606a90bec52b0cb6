"""The tasks that learn from what a person set by hand: Find Marker Settings, Apply Marker Settings, Evaluate.

No model is asked, and nothing is written to Stash.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from haven_vlm.errors import ConfigError
from haven_vlm.evaluating import as_json as evaluation_json
from haven_vlm.evaluating import enough_to_say, evaluate
from haven_vlm.evaluating import table as evaluation_table
from haven_vlm.evidence import Evidence, Gatherer
from haven_vlm.facts import Medium, Term
from haven_vlm.files import write_atomically
from haven_vlm.journal import Journal
from haven_vlm.media_access import preparation_for
from haven_vlm.picture import Preparation
from haven_vlm.prompts import build_prompt
from haven_vlm.reviewed import Reviewed
from haven_vlm.settings import Settings, TagTuning
from haven_vlm.stash_ports import StashCollections
from haven_vlm.tuning import propose
from haven_vlm.tuning_text import as_json as tuning_json
from haven_vlm.tuning_text import proposal_yaml, vocabulary_key
from haven_vlm.tuning_text import table as tuning_table
from haven_vlm.yaml_edit import KEY, Changes, Value
from haven_vlm_utility import Length, count_text

log = logging.getLogger(__name__)

TOGETHER = "all together"
"""Stands for a model in the evaluation, where there are several."""

NEARLY_ALL = 0.9
"""Share of a scene's moments that a model must have answered before its spans are measured."""

KEPT = 20
"""Reports of each of these tasks that are kept."""


class ConfigFile(Protocol):
    """The user's file of settings, and the proposal for it; see `settings_file`."""

    @property
    def path(self) -> Path: ...

    def propose(self, text: str) -> Path: ...

    def withdraw(self) -> None: ...

    def proposal(self) -> tuple[Path, Mapping[str, Any]] | None: ...

    def apply(self, changes: Changes, *, now: datetime) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class Learning:
    """What these tasks need."""

    settings: Settings
    gateway: StashCollections
    journal: Journal
    file: ConfigFile
    preparation: Preparation
    vr_tag_id: str
    """Tag of VR scenes, whose pictures are prepared in another way; empty: none."""
    data_dir: Path
    now: Callable[[], datetime]
    show: Callable[[float], None]
    """Told the share that is done, 0 to 1."""
    ids: Sequence[str] = ()
    limit: int | None = None

    async def find_marker_settings(self) -> str:
        """Fit settings of tags to the scenes gone through, write a proposal, and say what was found.

        Raises:
            StashError, LedgerError: as the gateway and the ledger.
            ConfigError: the proposal cannot be written.
        """
        evidence = await self.gatherer().gather(self.ids, limit=self.limit)
        if not evidence.scenes:
            return _nothing(evidence)
        loop = asyncio.get_running_loop()

        def step(share: float) -> None:
            loop.call_soon_threadsafe(self.show, share)

        found = await asyncio.to_thread(propose, evidence.scenes, self.settings, step=step)
        lines = [
            f"{count_text(found.scenes, 'scene')} gone through"
            + (": too few to hold some of them out, so stretches were held out." if found.stretches else "."),
            *_left_out(evidence),
            tuning_table(found),
        ]
        if found.changed:
            made = self.now().strftime("%Y-%m-%d %H:%M")
            text = proposal_yaml(found, self.settings, made=made)
            place = await asyncio.to_thread(self.file.propose, text)
            lines.append(
                f"Other settings are proposed for {count_text(len(found.changed), 'tag')}: {place}\nRead it, and start "
                "Apply Marker Settings to put them into effect. Nothing is changed until then."
            )
        else:
            await asyncio.to_thread(self.file.withdraw)
            lines.append("No other settings are proposed.")
        report = {**tuning_json(found), "left_out": dict(evidence.left_out)}
        lines.append(await self._report("marker-settings", report))
        return "\n".join(lines)

    async def apply_marker_settings(self) -> str:
        """Put the proposal into the user's file of settings.

        Raises:
            ConfigError: there is no proposal, it does not hold any more, or the file cannot be changed.
        """
        found = await asyncio.to_thread(self.file.proposal)
        if found is None:
            raise ConfigError("There is no proposal to apply. Start Find Marker Settings first.")
        place, content = found
        wanted = self._checked(place, content)
        today = {t.name: t for t in self.settings.tuned_tags}
        changes: dict[str, dict[str, Value]] = {}
        said: list[str] = []
        stamp = self.now()
        for tag, tuning in wanted.items():
            for key in TagTuning.model_fields:
                new = getattr(tuning, key)
                old = getattr(today[tag], key)
                old = getattr(self.settings, key) if old is None else old
                if new is None or new == old:
                    continue
                text = str(new) if isinstance(new, Length) else repr(new)
                comment = f"was {old}, Find Marker Settings {stamp:%Y-%m-%d}"
                changes.setdefault(tag, {})[key] = Value(text, comment)
                said.append(f"{tag}: {key} {old} → {new}")
        if not changes:
            return f"Nothing to apply: all that {place} proposes is in effect already."
        copy = await asyncio.to_thread(self.file.apply, changes, now=stamp)
        kept = f" As it was before: {copy}" if copy else ""
        return "\n".join(
            [
                f"Put into {self.file.path}.{kept}",
                *said,
                "For these tags they win over the general values, those on Stash's settings page included.",
                f"Now put “{self.settings.update_tag}” on scenes and start Update Results (or, for all, the command "
                "update --everything): their markers are made anew, without a question.",
            ]
        )

    def _checked(self, place: Path, content: Mapping[str, Any]) -> dict[str, TagTuning]:
        """What a proposal wants, by names of the vocabulary."""
        head, tags = content.get("proposal"), content.get(KEY)
        if not isinstance(head, Mapping) or not isinstance(tags, Mapping) or not tags:
            raise ConfigError(f"{place} is no proposal of Find Marker Settings. Start that task anew.")
        if str(head.get("vocabulary")) != vocabulary_key(self.settings):
            raise ConfigError(
                f"{place} was made for other tags or definitions than today's, so it is not applied. Start Find Marker "
                "Settings anew."
            )
        names = {t.name.casefold(): t.name for t in self.settings.tag_list}
        wanted: dict[str, TagTuning] = {}
        for tag, values in tags.items():
            name = names.get(str(tag).casefold())
            if name is None:
                raise ConfigError(f"{place}: “{tag}” is not in the tag list.")
            try:
                wanted[name] = TagTuning.model_validate(values)
            except ValidationError as exc:
                first = exc.errors(include_url=False)[0]
                where = ".".join(str(part) for part in (KEY, tag, *first["loc"]))
                raise ConfigError(f"{place}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
        return wanted

    async def evaluate(self) -> str:
        """Measure each model on the scenes gone through, and say how right it is.

        Raises:
            StashError, LedgerError: as the gateway and the ledger.
        """
        gatherer = self.gatherer()
        evidence = await gatherer.gather(self.ids, limit=self.limit)
        if not evidence.scenes:
            return _nothing(evidence)
        by_model = await gatherer.by_model(evidence)
        if len(by_model) > 1:
            by_model[TOGETHER] = evidence.scenes  # what really runs: each frame answered by whoever was free
        moments = {scene.scene_id: len(scene.samples) for scene in evidence.scenes}

        def enough(scene: Reviewed) -> bool:
            return len(scene.samples) >= NEARLY_ALL * moments[scene.scene_id]

        scores = await asyncio.to_thread(evaluate, by_model, self.settings, covers=enough)
        self.show(1.0)
        lines = [f"{count_text(len(evidence.scenes), 'scene')} gone through.", *_left_out(evidence)]
        if too_little := enough_to_say(scores):
            lines.append(too_little)
        lines.append(evaluation_table(scores))
        report = {
            "scenes": len(evidence.scenes),
            "left_out": dict(evidence.left_out),
            "models": evaluation_json(scores),
        }
        lines.append(await self._report("evaluation", report))
        return "\n".join(lines)

    def gatherer(self) -> Gatherer:
        """Finds the scenes that were gone through, under today's settings."""
        terms = tuple(Term(t.name, t.definition, t.aliases) for t in self.settings.tag_list)
        return Gatherer(
            self.gateway,
            self.journal,
            self.settings,
            prompt=build_prompt(terms, instructions=self.settings.instructions),
            picture=self._picture,
        )

    def _picture(self, medium: Medium) -> str:
        return preparation_for(medium, self.preparation, vr_tag_id=self.vr_tag_id).key

    async def _report(self, what: str, content: Mapping[str, Any]) -> str:
        now = self.now()
        folder = self.data_dir / "reports"
        file = folder / f"{now:%Y-%m-%dT%H%M%S}-{what}.json"
        text = json.dumps({"made": now.isoformat(timespec="seconds"), **content}, ensure_ascii=False, indent=1)

        def write() -> None:
            write_atomically(file, text)
            for old in sorted(folder.glob(f"*-{what}.json"))[:-KEPT]:
                old.unlink(missing_ok=True)

        try:
            await asyncio.to_thread(write)
        except OSError as exc:
            return f"The report could not be written: {exc}"
        return f"Report: {file}"


def _nothing(evidence: Evidence) -> str:
    left_out = _left_out(evidence)
    if left_out:
        return "\n".join(["There is nothing to learn from.", *left_out])
    return (
        "There is nothing to learn from yet: no scene has markers of your tags that you set, moved or deleted. Go "
        "through the markers of some scenes in Stash, and start the task again."
    )


def _left_out(evidence: Evidence) -> list[str]:
    return [f"Left out, {count_text(n, 'scene')}: {why}." for why, n in evidence.left_out.items()]
