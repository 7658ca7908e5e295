"""The page at `/`, in a real browser."""

from __future__ import annotations

import asyncio
import math
import re
from importlib.resources import files
from typing import Any

import httpx
import pytest

from piccc.emulator import Emulator
from tests.emulator.wire import chat, connect, image, video


def test_the_page_loads_nothing_from_elsewhere(emulator: Emulator) -> None:
    reply = httpx.get(emulator.base_url, trust_env=False)
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    html = files("piccc.emulator").joinpath("page.html").read_text(encoding="utf-8")
    assert reply.text == html
    assert not re.search(r"""(?:src|href)=["'](?!/|data:)|url\(|@import""", html)


def test_looking_is_not_a_call_and_needs_no_key(emulator: Emulator) -> None:
    for path in ("/", "/emulator/feed"):
        assert httpx.get(emulator.base_url + path, trust_env=False).status_code == 200
    assert emulator.requests == []


def test_the_feed_is_for_this_machine_only(emulator: Emulator) -> None:
    reply = httpx.get(emulator.base_url + "/emulator/feed", headers={"host": "evil.example"}, trust_env=False)
    assert reply.status_code == 403


def test_the_feed_never_shows_a_live_key() -> None:
    with Emulator(api_key="pcc_live_secret") as emulator:
        assert "secret" not in httpx.get(emulator.base_url + "/emulator/feed", trust_env=False).text


def fill(emulator: Emulator) -> None:
    """Chat, order a picture and a film, and let a task be refused."""
    with connect(emulator) as client:
        client.post("/v1/chat/completions", json=chat("Hello <b>there</b>"))
        client.post("/v1/chat/completions", json=chat(), headers={"x-piccc-fault": "503"})
        client.post("/v1/images/tasks", json=image("a <i>mug</i>", aspect_ratio="16:9"))
        client.post("/v1/images/tasks", json=image(), headers={"x-piccc-fault": "moderated"})
        client.post("/v1/videos/tasks", json=video(resolution="480p", duration_seconds=1))


async def until(page: Any, condition: str) -> None:
    """Wait until a condition holds, by a script of the debugger's, which the page's policy allows."""
    look = f"const look = () => ({condition}) ? done() : setTimeout(look, 50); look();"
    await asyncio.wait_for(page.evaluate(f"() => new Promise((done) => {{ {look} }})"), 20)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
async def test_calls_tasks_and_the_gallery_are_seen(browser: Any, width: int, scheme: str) -> None:
    async with Emulator(speed=math.inf) as emulator:
        fill(emulator)
        page = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
        await page.goto(emulator.base_url)
        await until(page, "document.querySelector('.task img')?.naturalWidth === 1024")
        await until(page, "document.querySelector('.task video')?.videoHeight === 480")
        cards = await page.locator(".task").all_inner_texts()
        assert [("failed" in card, "a <i>mug</i>" in card) for card in cards] == [
            (False, False),
            (True, False),
            (False, True),
        ]
        rows = await page.locator("#calls tr").all_inner_texts()
        assert len(rows) == 5
        assert "503" in rows[3]
        assert all(part in rows[4] for part in ("POST", "/v1/chat/completions", "piccc-pro", "200"))
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            "it must not scroll sideways"
        )
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(14, 17, 27)") == (scheme == "dark")
        assert faults == []


async def test_a_film_plays(browser: Any) -> None:
    async with Emulator(speed=math.inf) as emulator:
        fill(emulator)
        page = await browser.new_page()
        await page.goto(emulator.base_url)
        await until(page, "document.querySelector('.task video')?.readyState >= 2")
        await page.evaluate("document.querySelector('.task video').play()")
        await until(page, "document.querySelector('.task video').currentTime > 0.7")
        assert await page.evaluate("document.querySelector('.task video').duration") == 1


async def test_what_happens_while_one_looks_is_shown(browser: Any) -> None:
    async with Emulator(speed=math.inf) as emulator:
        page = await browser.new_page()
        await page.goto(emulator.base_url)
        await page.wait_for_selector("#no-tasks", state="visible")
        fill(emulator)
        await page.wait_for_selector(".task img")
        assert not await page.is_visible("#no-calls")
    await until(page, "document.getElementById('live').textContent === 'not running'")
