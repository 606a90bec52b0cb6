"""Runs `vlm-engine` on one video; a program of its own, for the Python that has the package.

It imports nothing of this project. One JSON object comes on standard input; JSON lines go to what was standard output:
{"progress": percent}, then {"spans": {tag: [[start_s, end_s, confidence], …]}, "duration_s": …} or {"error": text}.
Whatever the package itself prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import warnings
from typing import Any

_INPUTS = [
    "video_path",
    "return_timestamps",
    "time_interval",
    "threshold",
    "return_confidence",
    "vr_video",
    "existing_video_data",
    "skipped_categories",
]
_CATEGORY = "actiondetection"  # the package knows results of its search by this name only


def configuration(job: dict[str, Any]) -> dict[str, Any]:
    """The package's `EngineConfig` for a job, as plain data; `options` of the user win."""
    options = job["options"]
    python = {"type": "python", "instance_count": 1}
    model = {
        "type": "vlm_model",
        "model_file_name": "vlm_model",
        "model_category": _CATEGORY,
        "model_id": "connector",
        "model_identifier": 1,
        "model_version": "1.0",
        "tag_list": list(job["tags"]),
        "use_multiplexer": True,
        "instance_count": job["places"],
        **options.get("model", {}),
        # the way to the models is always the connector's: its endpoints, its limits, its privacy
        "multiplexer_endpoints": [
            {"name": "connector", "base_url": job["bridge"], "api_key": job["key"], "max_concurrent": job["places"]}
        ],
        "systemone_endpoints": None,
    }
    categories = {
        name: {"RenamedTag": name, **limits, **options.get("categories", {}).get(name, {})}
        for name, limits in job["tags"].items()
    }
    return {
        "active_ai_models": ["vlm"],
        "pipelines": {
            "video": {
                "inputs": _INPUTS,
                "output": "results",
                "short_name": "video",
                "version": 1.0,
                "models": [
                    {
                        "name": "dynamic_video_ai",
                        "inputs": [i for i in _INPUTS if i != "existing_video_data"],
                        "outputs": "results",
                    }
                ],
            }
        },
        "models": {
            "vlm": model,
            "binary_search_processor_dynamic": {"type": "binary_search_processor", "instance_count": 1},
            **{
                name: {**python, "model_file_name": name}
                for name in ("result_coalescer", "result_finisher", "batch_awaiter", "video_result_postprocessor")
            },
        },
        "category_config": {_CATEGORY: categories},
    }


def spans_of(result: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Tag → [start, end, confidence] in seconds, from what the package returns."""
    found = result["video_tag_info"]["tag_timespans"].get(_CATEGORY, {})
    return {
        tag: [[float(s["start"]), float(s["end"]), float(s["totalConfidence"] or 0.0)] for s in spans]
        for tag, spans in found.items()
    }


async def run(job: dict[str, Any], say: Any) -> None:
    """Look at the video."""
    from vlm_engine import VLMEngine
    from vlm_engine.config_models import EngineConfig

    engine = VLMEngine(EngineConfig(**configuration(job)))
    await engine.initialize()
    process = {
        "frame_interval": job["interval_s"],
        "threshold": job["threshold"],
        "return_timestamps": True,
        "return_confidence": True,
        "pipeline_name": "video",
        **job["options"].get("process", {}),
    }
    result = await engine.process_video(job["video"], lambda percent: say({"progress": int(percent)}), **process)
    say({"spans": spans_of(result), "duration_s": float(result["video_tag_info"]["video_duration"])})


def main() -> int:
    """Read the job, do it, say what came of it."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)  # what the package prints must not get among the answers

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        asyncio.run(run(json.loads(sys.stdin.readline()), say))
    except Exception as exc:  # noqa: BLE001 - told to the connector, which says what it means
        say({"error": f"{type(exc).__name__}: {exc}"[:2000]})
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads of the package may hang; what was to be said is said
