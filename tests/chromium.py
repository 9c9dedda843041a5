"""A headless Chromium, driven by its DevTools protocol over a WebSocket: what the tests of the page need, and no more."""

import asyncio
import base64
import itertools
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import aiohttp

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PATIENCE_S = 20.0  # for a condition of the page; none of the tests waits for this to pass
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--window-size=1280,900",
)
FAKE_DEVICE = "--use-fake-device-for-media-stream"
ALLOW = "--use-fake-ui-for-media-stream"


def microphone_flags(recording: Path) -> List[str]:
    """A microphone that plays a WAV file once and is silent from then on, and that every page may use."""
    return [FAKE_DEVICE, ALLOW, f"--use-file-for-fake-audio-capture={recording}%noloop"]


class Chromium:
    """One browser with an empty profile. Use as an async context manager; leaving it ends its processes."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags

    async def __aenter__(self) -> "Chromium":
        self._profile = tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
        self._process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *FLAGS,
            *self._flags,
            f"--user-data-dir={self._profile.name}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # so that its helpers can be ended with it
        )
        self._http = aiohttp.ClientSession()
        self._numbers = itertools.count(1)
        self._answers: Dict[int, "asyncio.Future[Any]"] = {}
        self._pages: Dict[str, "Page"] = {}
        try:
            self._socket = await self._http.ws_connect(await self._address(), max_msg_size=0)
        except BaseException:
            await self._end()
            raise
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._socket.close()
        await self._reader
        await self._end()

    async def _end(self) -> None:
        await self._http.close()
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._profile.cleanup()

    async def _address(self) -> str:
        """Where its DevTools listen, which it writes into the profile."""
        told = Path(self._profile.name) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._process.returncode is not None:
                raise RuntimeError(f"{CHROMIUM} ended with {self._process.returncode}.")
            if told.exists() and len(lines := told.read_text().split()) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            await asyncio.sleep(0.05)
        raise RuntimeError(f"{CHROMIUM} did not say where it listens.")

    async def command(self, method: str, session: Optional[str] = None, **parameters: Any) -> Any:
        """Runs a DevTools command; returns its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(message)
        try:
            return await asyncio.wait_for(self._answers[number], PATIENCE_S)
        finally:
            del self._answers[number]

    async def open(self, url: str, width: int = 1280, height: int = 900, features: Sequence[Dict[str, str]] = ()) -> "Page":
        """A new page at `url`, loaded. `features`: media features such as ``prefers-color-scheme``."""
        target = await self.command("Target.createTarget", url="about:blank")
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"])
        self._pages[attached["sessionId"]] = page
        for domain in ("Page", "Runtime", "Log"):
            await page.command(f"{domain}.enable")
        await page.resize(width, height)
        await page.command("Emulation.setEmulatedMedia", features=list(features))
        await page.command("Page.navigate", url=url)
        await page.until("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page

    async def _read(self) -> None:
        async for frame in self._socket:
            message = json.loads(frame.data)
            answer = self._answers.get(message.get("id", 0))
            if answer is not None and not answer.done():
                if "error" in message:
                    answer.set_exception(RuntimeError(message["error"]["message"]))
                else:
                    answer.set_result(message["result"])
            elif message.get("sessionId") in self._pages:
                self._pages[message["sessionId"]].note(message)
        for answer in self._answers.values():
            answer.cancel()


class Page:
    """One page of the browser.

    Attributes:
        problems: Exceptions and violations of the content security policy, as they came.
    """

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session
        self.problems: List[str] = []

    async def command(self, method: str, **parameters: Any) -> Any:
        return await self._browser.command(method, self._session, **parameters)

    def note(self, message: Dict[str, Any]) -> None:
        if message["method"] == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        if message["method"] == "Log.entryAdded" and message["params"]["entry"]["source"] in ("security", "javascript"):
            self.problems.append(message["params"]["entry"]["text"])

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON has it."""
        done = await self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(f"{expression}: {done['exceptionDetails']['exception'].get('description')}")
        return done["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Waits until a JavaScript expression is true; returns its value.

        Raises:
            AssertionError: It did not become true; says what the page showed instead.
        """
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                if value := await self.evaluate(condition):
                    return value
            except RuntimeError as error:  # the page is just being replaced, or has not got that element yet
                last = str(error)
            else:
                last = "it was false"
            await asyncio.sleep(0.05)
        shown = await self.evaluate("document.body ? document.body.innerText : '(nothing)'")
        raise AssertionError(f"The page never came to {condition} ({last}). It shows:\n{shown}\nProblems: {self.problems}")

    async def sees(self, selector: str, words: str) -> None:
        """Waits until some element that matches holds the words."""
        one = f"[...document.querySelectorAll({json.dumps(selector)})].some(e => e.textContent.includes({json.dumps(words)}))"
        await self.until(one)

    async def middle(self, selector: str) -> Dict[str, float]:
        """Where an element's middle is, scrolled into view."""
        return await self.until(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e || e.hidden) return null;"
            "e.scrollIntoView({block: 'nearest', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            "return {x: r.x + r.width / 2, y: r.y + r.height / 2}; })()"
        )

    async def mouse(self, kind: str, at: Dict[str, float]) -> None:
        """`kind`: mousePressed or mouseReleased."""
        await self.command("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    async def click(self, selector: str) -> None:
        at = await self.middle(selector)
        await self.mouse("mousePressed", at)
        await self.mouse("mouseReleased", at)

    async def key(self, kind: str, key: str, code: int) -> None:
        """`kind`: keyDown or keyUp."""
        text = {" ": " ", "Enter": "\r"}.get(key, "") if kind == "keyDown" else ""
        await self.command("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)

    async def press_key(self, key: str, code: int) -> None:
        await self.key("keyDown", key, code)
        await self.key("keyUp", key, code)

    async def type(self, text: str) -> None:
        """Types into what has the focus, and sends it by Enter."""
        await self.command("Input.insertText", text=text)
        await self.press_key("Enter", 13)

    async def resize(self, width: int, height: int) -> None:
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    async def screenshot(self, path: Path) -> None:
        shot = await self.command("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))
