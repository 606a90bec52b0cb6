"""What a valid configuration is: one frozen model, with units, bounds and descriptions.

The field descriptions are the documentation: `docs/settings.md` is generated from them. Where the values
come from, and in which order, is the business of `haven_vlm_config`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from haven_vlm_utility import Length, control_character


def _no_bool(value: object) -> object:
    """YAML reads `on` and `yes` as true, and true would pass for the number 1."""
    if isinstance(value, bool):
        raise ValueError("a number is needed")
    return value


def _length(value: object) -> Length:
    return Length.parse(value)


Duration = Annotated[
    Length,
    BeforeValidator(_length),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": ["number", "string"], "title": "duration"}),
]
"""Seconds as a number, or text: "12s", "1m30s", or "5%" of the medium's duration."""


class Section(BaseModel):
    """Base of all settings: unknown keys are mistakes, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, str_strip_whitespace=True)


class EndpointSettings(Section):
    """One OpenAI-compatible server."""

    name: str = Field("", description="Name in logs and reports; unique. Made from the address when empty.")
    base_url: str = Field(description="Address up to and including `/v1`, for example `http://192.168.1.20:1234/v1`.")
    api_key: SecretStr | None = Field(None, description="Key, if the server wants one. Better: `api_key_env`.")
    api_key_env: str | None = Field(None, description="Name of the environment variable that holds the key.")
    model: str = Field("", description="Model to ask for. Empty: the vision model that is loaded there.")
    weight: float = Field(
        1.0,
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="Share of the questions it gets while several endpoints are busy.",
    )
    is_fallback: bool = Field(False, description="Use it only as `fallback_policy` says.")
    fallback_policy: Literal["when_down", "when_busy", "never"] = Field(
        "when_down",
        description="When a fallback gets work: when no primary endpoint lives, already when all are busy, or never.",
    )
    max_concurrent: int | Literal["auto"] = Field(
        "auto",
        description="Questions it gets at once; `auto` finds out and remembers.",
    )
    allow_remote: bool = Field(False, description="Allow this endpoint to be outside the local network.")
    verify_tls: bool = Field(True, description="Check the certificate of an https endpoint.")
    timeout: float = Field(
        300.0,
        gt=0,
        le=7200,
        allow_inf_nan=False,
        description="Seconds one answer may take at most, loading of the model included.",
    )
    only_for: Literal["scenes", "images", "first_look", "close_look"] | None = Field(
        None,
        description="Keep it for scenes, or for images and galleries; or of scenes for the first, coarse look (a quick "
        "model), or for the close look at ends and doubts (a careful one). Empty: for all.",
    )
    max_requests: int | None = Field(None, ge=1, description="Requests it gets at most in one run.")
    max_requests_per_day: int | None = Field(None, ge=1, description="Requests it gets at most in one day.")
    max_tokens: int | None = Field(
        None, ge=1, description="Tokens it may use at most in one run, those of questions and answers together."
    )
    max_tokens_per_day: int | None = Field(None, ge=1, description="Tokens it may use at most in one day.")
    price_in: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Price of a million tokens of questions, in any currency."
    )
    price_out: float = Field(0.0, ge=0, allow_inf_nan=False, description="Price of a million tokens of answers.")
    max_cost: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="What it may cost in one run, in the currency of the prices.",
    )
    max_cost_per_day: float | None = Field(None, gt=0, allow_inf_nan=False, description="What it may cost in one day.")

    @field_validator("max_concurrent", mode="before")
    @classmethod
    def _concurrency(cls, value: object) -> object:
        if value in (None, "", "auto"):
            return "auto"
        text = str(value)
        if isinstance(value, bool) or not re.fullmatch(r"\d{1,4}", text) or not 1 <= int(text) <= 1024:
            raise ValueError("a whole number from 1 to 1024, or auto")
        return int(text)

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if not re.match(r"^https?://[^/\s@?#,;]+(?:/[^\s?#,;]*)?$", value):
            raise ValueError("an address such as http://localhost:1234/v1 (no user name, no query, no comma)")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_]\w*", value):
            raise ValueError("the name of an environment variable, not the key itself")
        return value

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("name") and isinstance(data.get("base_url"), str):
            host = re.sub(r"^https?://", "", data["base_url"]).split("/")[0]
            return {**data, "name": host}
        return data

    @model_validator(mode="after")
    def _one_key(self) -> EndpointSettings:
        if self.api_key is not None and self.api_key_env:
            raise ValueError("either api_key or api_key_env, not both")
        for name in ("max_cost", "max_cost_per_day"):
            if getattr(self, name) is not None and not self.price_in and not self.price_out:
                raise ValueError(f"{name} needs a price: set price_in, price_out or both")
        return self


class TagTuning(Section):
    """What makes a tag and its markers out of answers; None: as for all tags."""

    threshold: float | None = Field(None, ge=0, le=1, description="Confidence from which it counts.")
    min_marker_duration: Duration | None = Field(None, description="Shorter spans get no marker.")
    max_gap: Duration | None = Field(None, description="Spans closer than this are one.")
    required_duration: Duration | None = Field(None, description="Total time from which the scene gets the tag.")


class TagWords(Section):
    """A tag as the model gets to see it."""

    name: str = Field(min_length=1, max_length=200, description="Name as the model shall use it.")
    definition: str = Field("", max_length=2000, description="What the tag means, in a sentence for the model.")
    aliases: tuple[str, ...] = Field((), description="Other words the model may use for it.")

    @field_validator("name", "definition", "aliases", "rename", check_fields=False)
    @classmethod
    def _printable(cls, value: str | tuple[str, ...] | None, info: ValidationInfo) -> str | tuple[str, ...] | None:
        # a name is one line of the question's list, and a name in Stash; a definition becomes one line
        texts = (value or "",) if not isinstance(value, tuple) else value
        for text in texts:
            text = " ".join(text.split()) if info.field_name == "definition" else text
            if (found := control_character(text)) is not None:
                raise ValueError(f"only letters, signs and spaces; there is a {found} in it, which must be taken out")
        return value


class TagSettings(TagTuning, TagWords):
    """One tag of the vocabulary."""

    rename: str | None = Field(None, max_length=200, description="Name of the tag in Stash, if another one.")

    @property
    def stash_name(self) -> str:
        """The name the tag has in Stash."""
        return self.rename or self.name


class VlmEngineSettings(Section):
    """The package `vlm-engine`, for `engine: vlm-engine`."""

    python: Path | None = Field(
        None, description="Python that has the package. Empty: an environment in `data_dir`, made at the first run."
    )
    options: Mapping[str, Mapping[str, Any]] = Field(
        default_factory=dict,
        description="The package's own settings, as they are called there: `model` (its ModelConfig), `process` (of "
        "process_video), `categories` (tag → its limits). The endpoints are always the connector's.",
    )

    @field_validator("options")
    @classmethod
    def _known(cls, value: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        if unknown := sorted(set(value) - {"model", "process", "categories"}):
            raise ValueError(f"{', '.join(unknown)}: only model, process and categories are options of vlm-engine")
        return value


FROM_STASH = "from_stash"
"""Instead of a tag list: the tags below `tag_parent`."""


def _tag_list(value: object) -> object:
    if value in (FROM_STASH, [FROM_STASH], (FROM_STASH,)):
        return ()  # `vocabulary.from_stash` fills it in
    if isinstance(value, list | tuple):
        return [{"name": item} if isinstance(item, str) else item for item in value]
    return value


class Settings(Section):
    """Everything a run depends on."""

    # where to ask
    endpoints: tuple[EndpointSettings, ...] = Field(
        description="The model servers, in any order; at least one that is not a fallback.",
    )
    outage_patience: Duration = Field(
        Length(600),
        description="How long to wait when no endpoint answers, before the run ends.",
    )
    allow_remote_media: bool = Field(
        True,
        description="Off: frames stay on the local network even where an endpoint has `allow_remote`.",
    )
    discover_endpoints: bool = Field(
        False, description="Also use model servers found on this machine's usual ports, when no other answers."
    )
    hedge: bool = Field(False, description="At the end of a run, ask a second local endpoint when the first is slow.")

    # what to ask
    tag_list: Annotated[tuple[TagSettings, ...], BeforeValidator(_tag_list)] = Field(
        description="The vocabulary: names, or mappings with a name and more. `from_stash`: all tags below "
        "`tag_parent` in Stash; their descriptions are the definitions, their aliases count, and a tag implies its "
        "parents.",
    )
    tag_parent: str = Field("", max_length=200, description="For `tag_list: from_stash`: the tag above them.")
    tags_per_question: Annotated[int, BeforeValidator(_no_bool)] = Field(
        100,
        ge=5,
        le=300,
        description="A longer tag list is asked in slices of at most so many tags: several questions for each frame.",
    )
    instructions: str = Field(
        "",
        max_length=4000,
        description="Extra sentences for the model, added to the built-in instructions.",
    )

    # how to look
    engine: Literal["built-in", "vlm-engine"] = Field(
        "built-in",
        description="What searches videos: the connector itself, or the package `vlm-engine` (docs/vlm-engine.md).",
    )
    vlm_engine: VlmEngineSettings = Field(VlmEngineSettings(), description="About that package; see below.")
    video_frame_interval: Duration = Field(Length(2.0), description="Distance of the frames that are always looked at.")
    sampling: Literal["fixed", "refine", "adaptive"] = Field(
        "refine",
        description="`fixed`: every interval. `refine`: then also search for the ends of what was found. "
        "`adaptive`: fewer questions in long shots, then refine.",
    )
    boundary_tolerance: Duration = Field(Length(0.5), description="How exactly the ends of a span are searched for.")
    max_questions_per_scene: int | None = Field(None, ge=1, description="Upper bound of questions for one scene.")
    max_time_per_scene: Duration | None = Field(
        None,
        description="Time to work on one scene in one run, or a share of its length. Then it gets what is known so far "
        "and keeps its mark, and the next run goes on from there.",
    )
    frames_per_question: Annotated[int, BeforeValidator(_no_bool)] = Field(
        1,
        ge=1,
        le=16,
        description="Frames of the first, coarse look that share one question, where an endpoint can. Fewer questions, "
        "but models confuse pictures: compare before you trust it.",
    )
    examples: Annotated[int, BeforeValidator(_no_bool)] = Field(
        0,
        ge=0,
        le=4,
        description="Pictures from scenes you went through that are shown with each frame of a video, with their right "
        "tags, to endpoints inside your network that take several pictures. 0: none (docs/learning.md).",
    )
    skip_similar_frames: bool = Field(
        True,
        description="A frame that looks the same as its neighbour takes over its answer without a question.",
    )
    image_max_side: int = Field(640, ge=64, le=4096, description="Longer side of the picture that is sent, in pixels.")
    jpeg_quality: int = Field(85, ge=30, le=100, description="JPEG quality of the picture that is sent.")
    image_moments: int = Field(
        5,
        ge=1,
        le=50,
        description="Pictures looked at of an animated image, of a clip among the images, or of a long panorama.",
    )
    concurrent_task_limit: Annotated[int, BeforeValidator(_no_bool)] = Field(
        8, ge=1, le=64, description="Scenes worked on at the same time."
    )

    # what to make of the answers
    threshold: Annotated[float, BeforeValidator(_no_bool)] = Field(
        0.5, ge=0, le=1, description="Confidence from which a tag counts in a frame."
    )
    min_marker_duration: Duration = Field(Length(1.0), description="Shorter spans get no marker.")
    max_gap: Duration = Field(Length(4.0), description="Spans of the same tag closer than this become one.")
    required_duration: Duration = Field(Length(1.0), description="Total time from which a scene gets a tag.")
    tag_settings: Mapping[str, TagTuning] = Field(
        default_factory=dict,
        description="Name in the tag list → `threshold`, `min_marker_duration`, `max_gap`, `required_duration`, which "
        "win over those in the list, wherever the list stands. *Find Marker Settings* writes here.",
    )
    create_markers: bool = Field(True, description="Write markers with start and end.")
    create_tags: bool = Field(True, description="Write tags to scenes and images.")
    min_coverage: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of the frames that must have been analysed before anything is written.",
    )
    exclusive_groups: tuple[tuple[str, ...], ...] = Field(
        (),
        description="Groups of tags of which only the surest counts at a time.",
    )
    implications: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Tag → tags that hold whenever it does.",
    )

    gallery_every: int = Field(1, ge=1, description="Of a gallery look at every image (1), every second (2), …")
    gallery_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Share of the images looked at from which a gallery gets a tag.",
    )

    # what to work on, besides what is marked
    select: Literal["tagged", "untagged"] = Field(
        "tagged",
        description="`tagged`: what carries `trigger_tag`. `untagged`: everything that has neither `tagged_tag` nor "
        "`errored_tag`, but for what the settings below leave out.",
    )
    skip_organized: bool = Field(False, description="`untagged` leaves out what is marked as organised.")
    skip_tags: tuple[str, ...] = Field((), description="`untagged` leaves out what has any of these tags.")
    skip_paths: tuple[str, ...] = Field(
        (), description="`untagged` leaves out files in these folders, as Stash names them."
    )
    skip_studios: tuple[str, ...] = Field((), description="`untagged` leaves out these studios and those below them.")
    select_order: Literal["oldest", "newest", "shortest"] = Field(
        "oldest", description="What comes first: as added to Stash, or by length (images: by size of the file)."
    )
    select_limit: int | None = Field(None, ge=1, description="So many in one run at most.")

    remove_incorrect_markers: bool = Field(
        False,
        description="Collect Incorrect Markers also removes what carries `incorrect_tag`, where it is the connector's "
        "and otherwise unchanged. Undo brings it back.",
    )

    # names in Stash
    parent_tag: str = Field("VLM", min_length=1, description="Parent of the tags the connector creates.")
    trigger_tag: str = Field("VLM_TagMe", min_length=1, description="Marks what shall be looked at.")
    update_tag: str = Field("VLM_UpdateMe", min_length=1, description="Marks what shall get new settings applied.")
    tagged_tag: str = Field("VLM_Tagged", min_length=1, description="Marks what has been looked at.")
    errored_tag: str = Field("VLM_Errored", min_length=1, description="Marks media that cannot be read.")
    incorrect_tag: str = Field("VLM_Incorrect", min_length=1, description="Marks wrong results, set by you.")
    local_only_tag: str = Field("VLM_LocalOnly", min_length=1, description="Marks media that never leave.")
    confirmed_marker_tag: str = Field(
        "",
        description="Put on markers that you confirm in a review, for other tools such as Stash Marker Studio: the "
        "name of its status tag. The marker is yours from then on. Empty: none.",
    )
    rejected_marker_tag: str = Field(
        "", description="Put, besides `incorrect_tag`, on markers of yours that you reject in a review. Empty: none."
    )

    # files and patience
    path_mutation: Mapping[str, str] = Field(
        default_factory=dict,
        description="Folder as Stash names it → the same folder as this machine names it.",
    )
    data_dir: Path | None = Field(
        None,
        description="Folder of ledger and reports. Empty: `haven_vlm` in Stash's configuration folder.",
    )
    keep_answers: int | Literal["forever"] = Field(
        "forever",
        description="Days after which answers about a file that were of no use any more are forgotten, at the end of a "
        "run; counted up to the run before, so that a long break costs nothing. What the connector wrote to Stash, and "
        "your corrections, are always remembered.",
    )
    stash_timeout: float = Field(
        600.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds to wait for Stash; hooks of other plugins run inside our requests.",
    )
    log_frames: bool = Field(False, description="Log every answer (debugging).")

    @property
    def tuned_tags(self) -> tuple[TagSettings, ...]:
        """The tag list, with what `tag_settings` says of its tags; what it says of others waits for them."""
        if not self.tag_settings:
            return self.tag_list
        own = {
            name.casefold(): {k: v for k in TagTuning.model_fields if (v := getattr(tuning, k)) is not None}
            for name, tuning in self.tag_settings.items()
        }
        return tuple(tag.model_copy(update=own.get(tag.name.casefold(), {})) for tag in self.tag_list)

    @field_validator("keep_answers", mode="before")
    @classmethod
    def _days(cls, value: object) -> object:
        found = re.fullmatch(r"(\d{1,6})\s*(?:d|days?)?", str(value).strip().casefold())
        if found and int(found[1]) >= 1 and not isinstance(value, bool):
            return int(found[1])
        if value in (None, "") or str(value).strip().casefold() == "forever":
            return "forever"
        raise ValueError("forever, or a number of days such as 365")

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        problems = []
        names = [e.name.casefold() for e in self.endpoints]
        if not self.endpoints:
            problems.append("endpoints: at least one is needed")
        elif all(e.is_fallback for e in self.endpoints):
            problems.append("endpoints: at least one must not be a fallback")
        twice = sorted({n for n in names if names.count(n) > 1})
        problems += [f"endpoints: the name “{n}” stands twice" for n in twice]
        words: dict[str, str] = {}
        for tag in self.tag_list:
            for word in (tag.name, *tag.aliases):
                folded = word.casefold().strip()
                if words.get(folded, tag.name) != tag.name:
                    problems.append(f"tag_list: “{word}” is used by both “{words[folded]}” and “{tag.name}”")
                words.setdefault(folded, tag.name)
        if self.tag_list and self.tag_parent:
            problems.append(f"tag_parent: only together with tag_list: {FROM_STASH}")
        if not self.tag_list and not self.tag_parent:
            problems.append(
                f"tag_list: at least one tag is needed; {FROM_STASH} needs tag_parent, the tag in Stash above them"
            )
        if self.tag_list:  # what comes from Stash is not known yet
            known = {tag.name for tag in self.tag_list}
            for group in self.exclusive_groups:
                problems += [f"exclusive_groups: “{name}” is not in tag_list" for name in group if name not in known]
            for name in (*self.implications, *(n for ns in self.implications.values() for n in ns)):
                if name not in known:
                    problems.append(f"implications: “{name}” is not in tag_list")
        interval = self.video_frame_interval
        if interval.seconds < 0.1 if interval.percent is None else interval.percent < 0.05:
            problems.append("video_frame_interval: at least 0.1 seconds, or 0.05%")
        most = self.max_time_per_scene
        if most is not None and (most.seconds < 1 if most.percent is None else most.percent < 1):
            problems.append("max_time_per_scene: at least 1 second, or 1%")
        if self.outage_patience.percent is not None:
            problems.append("outage_patience: seconds or minutes; there is nothing it could be a share of")
        if self.data_dir is not None and not self.data_dir.expanduser().is_absolute():
            problems.append("data_dir: a whole path is needed, from the root (or from ~)")
        if self.boundary_tolerance.percent is not None or self.boundary_tolerance.seconds < 0.05:
            problems.append("boundary_tolerance: seconds, at least 0.05")
        marks = [
            self.trigger_tag,
            self.update_tag,
            self.tagged_tag,
            self.errored_tag,
            self.incorrect_tag,
            self.local_only_tag,
            self.parent_tag,
            *filter(None, (self.confirmed_marker_tag, self.rejected_marker_tag)),
        ]
        folded_marks = [m.casefold() for m in marks]
        problems += [
            f"the tag name “{m}” is used for two purposes"
            for m in sorted({m for m in marks if folded_marks.count(m.casefold()) > 1})
        ]
        reserved = {m.casefold(): m for m in marks}
        for tag in self.tag_list:
            if tag.stash_name.casefold() in reserved:
                problems.append(f"tag_list: “{tag.stash_name}” is the connector's own tag; choose another name")
        if problems:
            raise ValueError("; ".join(problems))
        return self
