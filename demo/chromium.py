"""A headless Chromium over its DevTools protocol: what the page's tests and pictures need; every wait has an end."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

T = TypeVar("T")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
START_S = 60.0
CALL_S = 60.0
WAIT_S = 30.0
VIRTUAL_S = 150.0
KEPT_EVENTS = 1000
FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--mute-audio",
)

KEY_CODES = {
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, "Delete": 46,
    "Tab": 9, "Home": 36, "End": 35, "PageUp": 33, "PageDown": 34, " ": 32,
}  # fmt: skip


class PageError(AssertionError):
    """Something in the page failed, or did not come in time."""


def find_chromium() -> str | None:
    """The browser: the one HAVEN_CHROMIUM names, or one that is installed; None without any."""
    named = os.environ.get("HAVEN_CHROMIUM", "")
    if named:
        return named
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    return found or next((place for place in PLACES if Path(place).exists()), None)


class Browser:
    """A running browser. `with Browser(executable, profile_folder) as browser: page = browser.page()`."""

    def __init__(self, executable: str, profile: Path) -> None:
        self._executable = executable
        self._profile = profile
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="devtools")
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        # a sandbox needs rights that root in a container lacks
        root = ["--no-sandbox"] if sys.platform == "linux" and os.geteuid() == 0 else []
        command = [self._executable, *FLAGS, *root, f"--user-data-dir={self._profile}", "about:blank"]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
        try:
            self._do(self._connect(self._address()), START_S)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._do(self._disconnect(), 10)
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def page(self, width: int = 1280, height: int = 900) -> Page:
        """A new page in a profile of its own: no cookies, no cache of others."""
        context = self.call("Target.createBrowserContext", disposeOnDetach=True)["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, context)
        self._pages[session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        return page

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Do something and wait for the answer.

        Raises:
            PageError: the browser refuses.
            TimeoutError: it does not answer.
        """
        return self._do(self._call(method, session, params), CALL_S)

    def _do(self, work: Coroutine[Any, Any, T], patience_s: float) -> T:
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, patience_s), self._loop).result(patience_s + 5)

    def _address(self) -> str:
        """Where to connect: the browser writes it into its profile."""
        file = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise PageError(f"{self._executable} ended at once, with code {self._process.returncode}")
            lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            if len(lines) >= 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.05)
        raise TimeoutError(f"{self._executable} does not open its debugging port")

    async def _connect(self, address: str) -> None:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(address, max_msg_size=0)
        self._reader = asyncio.create_task(self._read(self._socket))

    async def _disconnect(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            await self._reader
        if self._session is not None:
            await self._session.close()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            body = json.loads(message.data)
            if "id" in body:
                waiting = self._waiting.pop(body["id"], None)
                if waiting and not waiting.done():
                    waiting.set_result(body)
            elif page := self._pages.get(body.get("sessionId", "")):
                page.heard(body["method"], body["params"])
                if body["method"] == "Page.javascriptDialogOpening":  # would hold up the page for ever
                    session = body["sessionId"]
                    number = next(self._ids)
                    answer = {"id": number, "sessionId": session, "method": "Page.handleJavaScriptDialog"}
                    await socket.send_json({**answer, "params": {"accept": True}})
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PageError("the browser is gone"))

    async def _call(self, method: str, session: str, params: dict[str, Any]) -> dict[str, Any]:
        assert self._socket is not None
        number = next(self._ids)
        waiting = self._waiting[number] = self._loop.create_future()
        body: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session:
            body["sessionId"] = session
        await self._socket.send_json(body)
        reply = await waiting
        if "error" in reply:
            raise PageError(f"{method}: {reply['error'].get('message')}")
        result: dict[str, Any] = reply["result"]
        return result


class Page:
    """One tab. Whatever went wrong in it is in `troubles`, dialogs that a script opened are in `dialogs`."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self._context = context
        self.troubles: deque[str] = deque(maxlen=KEPT_EVENTS)
        self.dialogs: deque[str] = deque(maxlen=KEPT_EVENTS)
        self.requests: deque[str] = deque(maxlen=KEPT_EVENTS)
        self.expired = threading.Event()

    def close(self) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        """Keep what tests ask for."""
        if method == "Runtime.exceptionThrown":
            detail = params["exceptionDetails"]
            self.troubles.append(str(detail.get("exception", {}).get("description") or detail.get("text")))
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.troubles.append(" ".join(str(arg.get("value") or arg.get("description")) for arg in params["args"]))
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(f"{params['type']}: {params['message']}")
        elif method == "Emulation.virtualTimeBudgetExpired":
            self.expired.set()
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def go(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Value of an expression; a promise is waited for.

        Raises:
            PageError: it throws.
        """
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in result:
            detail = result["exceptionDetails"]
            raise PageError(str(detail.get("exception", {}).get("description") or detail.get("text")))
        return result["result"].get("value")

    def wait(self, condition: str, patience_s: float = WAIT_S) -> None:
        """Wait until an expression is true, or a promise of it is."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                value = self.run(f"Promise.resolve({condition}).then(Boolean)")
            except PageError as exc:
                if "context" not in str(exc):  # gone while navigating
                    raise
                value = None
            if value:
                return
            if time.monotonic() > deadline:
                text = self.run("document.body ? document.body.innerText.slice(0, 2000) : ''")
                raise PageError(f"not within {patience_s:g} s: {condition}\n{list(self.troubles)}\n{text}")
            time.sleep(0.02)

    def wait_for(self, selector: str) -> None:
        self.wait(f"document.querySelector({json.dumps(selector)}) !== null")

    def wait_text(self, text: str, inside: str = "body", patience_s: float = WAIT_S) -> None:
        found = f"(document.querySelector({json.dumps(inside)})?.innerText || '').includes({json.dumps(text)})"
        self.wait(found, patience_s)

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def count(self, selector: str) -> int:
        return int(self.run(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def box(self, selector: str) -> dict[str, float]:
        """Where an element is on the screen, scrolled to if need be: x, y, width, height in CSS pixels."""
        found: dict[str, float] | None = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            " e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect();"
            " return {x: b.x, y: b.y, width: b.width, height: b.height}; })()"
        )
        if found is None:
            raise PageError(f"no {selector}")
        return found

    def mouse(self, kind: str, x: float, y: float, *, down: bool = False) -> None:
        button = "none" if kind == "mouseMoved" and not down else "left"
        self.call(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=int(down), clickCount=1,
            pointerType="mouse",
        )  # fmt: skip

    def click(self, selector: str) -> None:
        """Click into the middle of an element with the mouse, once it is there."""
        self.wait_for(selector)
        box = self.box(selector)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, down=True)
        self.mouse("mouseReleased", x, y)

    def click_text(self, text: str, selector: str = "button") -> None:
        """Click the first such element with exactly this text."""
        found = f"Array.from(document.querySelectorAll({json.dumps(selector)})).find(e => e.innerText.trim() === "
        found += f"{json.dumps(text)} && !e.disabled)"
        self.wait(f"!!{found}")
        self.run(f"{found}.setAttribute('data-test-click', '')")
        try:
            self.click("[data-test-click]")
        finally:
            self.run(
                "document.querySelectorAll('[data-test-click]').forEach(e => e.removeAttribute('data-test-click'))"
            )

    def hover(self, selector: str, share: float = 0.5) -> None:
        box = self.box(selector)
        self.mouse("mouseMoved", box["x"] + box["width"] * share, box["y"] + box["height"] / 2)

    def drag(self, selector: str, by_px: float, steps: int = 5) -> None:
        """Take hold of an element's middle and pull it sideways."""
        box = self.box(selector)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, down=True)
        for step in range(1, steps + 1):
            self.mouse("mouseMoved", x + by_px * step / steps, y, down=True)
        self.mouse("mouseReleased", x + by_px, y)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key where the focus is."""
        modifiers = 8 if shift else 0
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = KEY_CODES.get(key, ord(key.upper()) if len(key) == 1 else 0)
        event = {"key": key, "modifiers": modifiers, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def write(self, text: str) -> None:
        """Type where the focus is."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def virtual_time(self, ms: float) -> None:
        """Let so many milliseconds pass for the page, as fast as requests are answered; it goes on so afterwards."""
        self.expired.clear()
        self.call("Emulation.setVirtualTimePolicy", policy="pauseIfNetworkFetchesPending", budget=ms)
        if not self.expired.wait(VIRTUAL_S):
            raise PageError(f"{ms:g} ms of virtual time took more than {VIRTUAL_S:g} s")
        # "advance" would let time run while a request is under way, and the page lose patience with it
        self.call("Emulation.setVirtualTimePolicy", policy="pauseIfNetworkFetchesPending")

    def memory(self) -> dict[str, float]:
        """What the page holds once all rubbish is gone: nodes, listeners, heap in bytes."""
        self.call("HeapProfiler.collectGarbage")
        counters = self.call("Memory.getDOMCounters")
        heap = self.call("Runtime.getHeapUsage")["usedSize"]
        return {"nodes": counters["nodes"], "listeners": counters["jsEventListeners"], "heap": heap}

    def screenshot(self, path: Path, *, jpeg: int | None = None) -> None:
        """What is seen, as a PNG, or as a JPEG of this quality."""
        options: dict[str, Any] = {"format": "png"} if jpeg is None else {"format": "jpeg", "quality": jpeg}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **options)["data"]))
