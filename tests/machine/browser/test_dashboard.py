# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The dashboard in a browser, of a real syshaxd with an API key, over two simulated instances."""

import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults.bed import Bed
from tests.machine.browser.chromium import Page, browser

pytestmark = pytest.mark.timeout(180)

WRONG = "sk-syshax-" + "w" * 43


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """A daemon that logs each request."""
    folder = tmp_path_factory.mktemp("d")
    bed = Bed(folder, changes={"gateway": {"access_log": str(folder / "access.log")}})
    try:
        bed.start()
        bed.wait_ready()
        yield bed
    finally:
        bed.stop()


@pytest.fixture(scope="module")
def key(bed: Bed) -> str:
    made = bed.ctl("keys", "create", "watcher", "--access", "monitor")
    assert made.returncode == 0, made.stderr
    return made.stdout.splitlines()[0]


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with browser(tmp_path / "profile") as page:
        yield page


def is_live(text: str) -> bool:
    return "live" in text.splitlines()


async def test_it_asks_for_a_key_and_tells_a_wrong_one(bed: Bed, key: str, page: Page) -> None:
    await page.open(f"{bed.url}/dashboard")
    text = await page.until(lambda text: "key" in text, "the page says that it needs a key")
    assert [(prompt["scheme"], prompt["realm"]) for prompt in page.prompts] == [("basic", "sysHAX")]
    assert "an API key is required" in text
    assert "syshaxctl keys create" in text
    await page.open(f"{bed.url}/dashboard", WRONG)
    text = await page.until(lambda text: "not valid" in text, "the page says that the key is wrong")
    assert len(page.prompts) == 2, "it asks again"
    assert WRONG not in text
    await page.picture(bed.folder / "wrong.png", 900, 300)
    user = bed.ctl("keys", "create", "user").stdout.splitlines()[0]
    await page.open(f"{bed.url}/dashboard", user, key)
    await page.until(is_live, "a key that is not for this page is not kept either")
    assert len(page.prompts) == 2


async def test_with_the_key_it_shows_the_host_and_keeps_nothing(bed: Bed, key: str, page: Page, tmp_path: Path) -> None:
    await page.open(f"{bed.url}/dashboard", WRONG, key)
    text = await page.until(is_live, "the page shows the daemon's status")
    assert len(page.prompts) == 2, "the browser keeps the key for the page's own questions"
    for shown in ("gpu", "cpu", "READY", "NUMA topology", "Latest decisions"):
        assert shown.lower() in text.lower()
    await page.picture(bed.folder / "live.png", 1280, 1000)
    asked = len(page.urls)
    while len(page.urls) < asked + 2:
        await page.until(is_live, "it goes on asking")
    places = {
        "the address": await page.run("location.href"),
        "the page": await page.run("document.documentElement.outerHTML"),
        "cookies": await page.run("document.cookie"),
        "storage": await page.run("JSON.stringify([{...localStorage}, {...sessionStorage}])"),
        "the addresses asked for": " ".join(page.urls),
        "the console": " ".join(page.said),
        "syshaxd's log": bed.log.read_text(),
        "the access log": (bed.folder / "access.log").read_text(),
        "the metrics": bed.ctl("status", "-o", "json").stdout,
    }
    kept = {f"the browser's {path.name}": path.read_bytes() for path in _files(tmp_path / "profile")}
    for where, content in ({name: text.encode() for name, text in places.items()} | kept).items():
        for secret in (key, WRONG, base64.b64encode(f"anyone:{key}".encode()).decode()):
            assert secret.encode() not in content, f"the key is in {where}"
    assert "/dashboard" in places["the access log"], "refusals are logged"


async def test_a_revoked_key_shows_no_more(bed: Bed, key: str, page: Page) -> None:
    made = bed.ctl("keys", "create", "guest", "--access", "monitor")
    await page.open(f"{bed.url}/dashboard", made.stdout.splitlines()[0])
    await page.until(is_live, "the page shows the daemon's status")
    bed.ctl("keys", "revoke", "guest")

    def is_refused(text: str) -> bool:  # a slow answer alone makes the page say the same
        return "no answer for" in text and len(page.prompts) > 1

    await page.until(is_refused, "the page says that it gets no more, and the browser asks for another key")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
