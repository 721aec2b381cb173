# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A headless Chromium with one page, by its DevTools protocol."""

import asyncio
import base64
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.fakes.waiting import until

_START_S = 60.0
_ANSWER_S = 30.0
_SWITCHES = (
    *("--headless=new", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
)
_AS_ROOT = "--no-sandbox"  # Chromium's sandbox needs another user


class Page:
    """What a person at the browser sees and does."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self._tasks: set[asyncio.Task[Any]] = set()
        self.urls: list[str] = []
        """What it has asked for."""
        self.said: list[str] = []
        """Lines of the console."""
        self.keys: list[str] = []
        """Keys to type where the browser asks for a password, one each time; none left: cancel."""
        self.prompts: list[dict[str, Any]] = []
        """How often it asked, and with which scheme and realm."""

    async def prepare(self) -> None:
        """Watches what it does from now on."""
        await self.ask("Fetch.enable", handleAuthRequests=True)
        for domain in ("Page", "Runtime", "Log"):
            await self.ask(f"{domain}.enable")

    async def close(self) -> None:
        """Watches no more."""
        self._reader.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._reader, *self._tasks, return_exceptions=True)

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_ANSWER_S):
            told = await answer
        assert "error" not in told, f"{method}: {told['error']}"
        result: dict[str, Any] = told["result"]
        return result

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            else:
                self._on_event(told["method"], told["params"])

    def _on_event(self, method: str, told: dict[str, Any]) -> None:
        match method:
            case "Fetch.requestPaused":
                self.urls.append(told["request"]["url"])
                self._begin("Fetch.continueRequest", requestId=told["requestId"])
            case "Fetch.authRequired":
                self.prompts.append(told["authChallenge"])
                reply: dict[str, str] = {"response": "CancelAuth"}
                if self.keys:
                    reply = {"response": "ProvideCredentials", "username": "anyone", "password": self.keys.pop(0)}
                self._begin("Fetch.continueWithAuth", requestId=told["requestId"], authChallengeResponse=reply)
            case "Runtime.consoleAPICalled" | "Log.entryAdded" | "Runtime.exceptionThrown":
                self.said.append(json.dumps(told))

    def _begin(self, method: str, **parameters: Any) -> None:
        task = asyncio.create_task(self.ask(method, **parameters))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def open(self, url: str, *keys: str) -> None:
        """Opens a page; types these keys where it is asked for one."""
        self.keys, self.prompts, self.urls, self.said = [*keys], [], [], []
        await self.ask("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        result = (await self.ask("Runtime.evaluate", expression=script, returnByValue=True))["result"]
        return result.get("value")

    async def text(self) -> str:
        """What can be read on the page."""
        return str(await self.run("document.body ? document.body.innerText : ''"))

    async def until(self, state: Callable[[str], bool], what: str) -> str:
        """Waits for a state of the page's text; returns the text."""
        text = ""
        try:
            async with asyncio.timeout(_ANSWER_S):
                while not state(text := await self.text()):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {_ANSWER_S:g} s: {what}; the page shows: {text}") from None
        return text

    async def picture(self, path: Path, width: int, height: int) -> None:
        """Writes a picture of the page in a window of this size, in pixels."""
        await self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        shot = await self.ask("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Page]:
    """A browser that keeps what it stores in this folder."""
    program = shutil.which("chromium")
    assert program, "chromium is missing: run tests/machine/browser/setup.sh"
    argv = [*_SWITCHES, *([_AS_ROOT] if os.geteuid() == 0 else []), f"--user-data-dir={profile}", "about:blank"]
    process = await asyncio.create_subprocess_exec(program, *argv, stderr=asyncio.subprocess.DEVNULL)
    try:
        port = await asyncio.to_thread(_port, profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                address = json.loads(await answer.text())["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=0) as socket:
                page = Page(socket)
                try:
                    await page.prepare()
                    yield page
                finally:
                    await page.close()
    finally:
        process.terminate()
        await process.wait()


def _port(file: Path) -> int:
    """Where it listens: Chromium tells it by this file."""
    lines = until(lambda: file.exists() and file.read_text().splitlines(), _START_S, "chromium has started")
    return int(lines[0])
