"""`python3 -m release.secret_scan` looks for keys, tokens and passwords in every file that git knows.

By the shapes that services give their keys (detect-secrets); entropy and key words are left out, for checksums and the
sentences of this project look like both. What tests need is named here, each with its kind.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).resolve().parent.parent

_GUESSING = {"Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector", "IPPublicDetector"}

ALLOWED = {
    "Basic Auth Credentials": ("tests/",),  # addresses with a login, which must never be repeated
    "Private Key": ("tests/endpoint/selfsigned.pem",),  # of a server that lives for a test, on loopback
}
"""Kind → beginnings of the paths that may hold it."""


def findings(root: Path, names: Iterable[str]) -> list[str]:
    """'path:line: kind' of what looks like a secret and is not allowed there."""
    detectors: Collection[type] = get_mapping_from_secret_type_to_class().values()
    kinds = sorted(detector.__name__ for detector in detectors)
    found = SecretsCollection(root=str(root))
    with transient_settings({"plugins_used": [{"name": k} for k in kinds if k not in _GUESSING]}):
        for name in names:
            found.scan_file(name)
    return sorted(
        f"{Path(name).as_posix()}:{secret.line_number}: {secret.type}"
        for name, secret in found
        if not Path(name).as_posix().startswith(ALLOWED.get(secret.type, ("\0",)))
    )


def files() -> tuple[list[str], str]:
    """Paths of all files that git knows; none, and why, where git is not there or refuses."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    except OSError as exc:
        return [], f"git cannot be run: {exc}"
    # “dubious ownership”, in a container, comes with the command that helps
    said = listed.stderr.decode(errors="replace").strip()
    return [name for name in listed.stdout.decode().split("\0") if name], f"git lists no files here. {said}"


def main() -> int:
    """Scan; returns 1 when there is something to look at, or nothing could be looked at in a checkout of git."""
    names, problem = files()
    if not names:
        print(f"secret scan: NOT CHECKED: {problem}")
        return 1 if (ROOT / ".git").exists() else 0
    found = findings(ROOT, names)
    print("\n".join(found) or f"secret scan: nothing in {len(names)} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
