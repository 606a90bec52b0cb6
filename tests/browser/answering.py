"""Stands where the plugin's process is: answers operations from `answers.json` beside it and writes down every call.

A task that is named in `answers.json` under `hold` goes on until it is killed; others end at once.
"""

import json
import sys
import time
from pathlib import Path

HOLD_S = 60.0


def main() -> None:
    here = Path(__file__).resolve().parent
    args = json.loads(sys.stdin.buffer.read())["args"]
    answers = json.loads((here / "answers.json").read_text(encoding="utf-8"))
    with (here / "calls.jsonl").open("a", encoding="utf-8") as calls:
        calls.write(json.dumps(args) + "\n")
    if args.get("mode") == "page":
        reply = answers.get(args.get("op"), {"error": "no such answer"})
        if args.get("op") == "thumbnails" and "error" not in reply:
            reply = {"thumbnails": [{"t": t, "image": reply["image"]} for t in args["times"]]}
        sys.stdout.write(json.dumps({"output": reply}))
        return
    deadline = time.monotonic() + (HOLD_S if args.get("mode") in answers.get("hold", []) else 0)
    while time.monotonic() < deadline:
        time.sleep(0.05)
    sys.stdout.write(json.dumps({"output": "done"}))


if __name__ == "__main__":
    main()
