"""The server's configuration: general, ui, plugins. Kept with the library, so that it survives a restart."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.stash.store import Row, StashError, Store


@dataclass(slots=True)
class ServerSettings:
    """Settings behind `configuration`.

    With no `username` there are no credentials and everybody may do everything, as with a fresh Stash.
    """

    store: Store
    config_dir: Path
    plugins_path: Path
    username: str = ""
    password: str = ""
    max_session_age_s: int = 3600
    """Seconds a cookie stays valid from its issue; 0 = for ever."""
    version: str = "v0.30.1"
    version_hash: str = "5cf4d1ba8"
    advertised_host: str = "0.0.0.0"
    """Host handed to plugins, as the `host` setting of the real server (default 0.0.0.0)."""
    external_host: str = ""
    """When set, all `paths` in replies point there."""
    python_path: str = ""
    general: dict[str, Any] = field(default_factory=dict)
    """Overrides of single fields of `configuration.general`."""

    @property
    def has_credentials(self) -> bool:
        return bool(self.username and self.password)

    @property
    def api_key(self) -> str:
        key: str = self.store.kept("api_key", "")
        return key

    @api_key.setter
    def api_key(self, key: str) -> None:
        self.store.keep("api_key", key)

    def new_api_key(self) -> str:
        if not self.username:
            raise StashError("cannot generate API key without username")
        self.api_key = secrets.token_urlsafe(48)
        return self.api_key

    @property
    def session_key(self) -> bytes:
        """Signs the cookies; kept, so that a cookie outlives a restart."""
        key = self.store.kept("session_key")
        if key is None:
            key = secrets.token_hex(32)
            self.store.keep("session_key", key)
        return bytes.fromhex(key)

    @property
    def ui(self) -> dict[str, Any]:
        found: dict[str, Any] = self.store.kept("ui", {})
        return found

    @ui.setter
    def ui(self, values: dict[str, Any]) -> None:
        self.store.keep("ui", values)

    @property
    def plugins(self) -> dict[str, dict[str, Any]]:
        """Plugin id to its saved settings; a plugin that never saved anything is absent."""
        found: dict[str, dict[str, Any]] = self.store.kept("plugins", {})
        return found

    def configure_plugin(self, plugin_id: str, values: dict[str, Any]) -> dict[str, Any]:
        """Replace a plugin's whole settings."""
        with self.store.transaction():
            self.store.keep("plugins", self.plugins | {plugin_id: stored(values)})
        return self.plugins[plugin_id]

    def general_result(self) -> Row:
        base = self.config_dir
        return {
            "stashes": [],
            "databasePath": self.store.path,
            "backupDirectoryPath": "",
            "generatedPath": str(base / "generated"),
            "metadataPath": "",
            "configFilePath": str(base / "config.yml"),
            "scrapersPath": str(base / "scrapers"),
            "pluginsPath": str(self.plugins_path),
            "cachePath": str(base / "cache"),
            "blobsPath": str(base / "blobs"),
            "ffmpegPath": "",
            "ffprobePath": "",
            "pythonPath": self.python_path,
            "calculateMD5": False,
            "videoFileNamingAlgorithm": "OSHASH",
            "parallelTasks": 1,
            "previewAudio": True,
            "writeImageThumbnails": True,
            "createImageClipsFromVideos": False,
            "createGalleriesFromFolders": False,
            "galleryCoverRegex": r"(poster|cover|folder|board)\.[^\.]+$",
            "apiKey": self.api_key,
            "username": self.username,
            "password": hashlib.sha256(self.password.encode()).hexdigest() if self.password else "",
            "maxSessionAge": self.max_session_age_s,
            "logFile": "",
            "logOut": True,
            "logLevel": "Info",
            "logAccess": True,
            "videoExtensions": [
                "m4v",
                "mp4",
                "mov",
                "wmv",
                "avi",
                "mpg",
                "mpeg",
                "rmvb",
                "rm",
                "flv",
                "asf",
                "mkv",
                "webm",
            ],
            "imageExtensions": ["png", "jpg", "jpeg", "gif", "webp", "avif"],
            "galleryExtensions": ["zip", "cbz"],
            "excludes": [],
            "imageExcludes": [],
            "customPerformerImageLocation": "",
        } | self.general


def stored(value: Any) -> Any:
    """A value as Stash notes it: a number written without a point is taken as a whole one, so 1e-05 becomes 0."""
    if isinstance(value, dict):
        return {str(key): stored(item) for key, item in value.items()}
    if isinstance(value, float) and "." not in repr(value):
        return 0
    return value
