"""The page at `/`, in a real browser."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from subprocess import DEVNULL
from typing import Any

import httpx
import pytest

from piccc.emulator import Emulator
from tests.emulator.wire import chat, connect, image, video


def test_the_page_loads_nothing_from_elsewhere(emulator: Emulator) -> None:
    reply = httpx.get(emulator.base_url, trust_env=False)
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    html = reply.text
    nonces = re.findall(r'nonce="([^"{]+)"', html)
    assert len(nonces) == 2
    assert f"script-src 'nonce-{nonces[0]}'" in reply.headers["content-security-policy"]
    assert not re.search(r"""(?:src|href)=["'](?!/|data:)|url\(|@import""", html)


def test_looking_is_not_a_call_and_needs_no_key(emulator: Emulator) -> None:
    for path in ("/", "/emulator/feed"):
        assert httpx.get(emulator.base_url + path, trust_env=False).status_code == 200
    assert emulator.requests == []


def test_the_feed_is_for_this_machine_only(emulator: Emulator) -> None:
    reply = httpx.get(emulator.base_url + "/emulator/feed", headers={"host": "evil.example"}, trust_env=False)
    assert reply.status_code == 403


def test_the_filter_finds_what_is_older_than_the_page_shows(emulator: Emulator, client: httpx.Client) -> None:
    for number in range(120):
        client.get(f"/v1/tasks/none{number}")
    calls = client.get("/emulator/feed").json()["calls"]
    assert [call["number"] for call in calls] == list(range(120, 20, -1))
    found = client.get("/emulator/feed", params={"filter": " GET  None7 404"}).json()["calls"]
    assert [call["path"].removeprefix("/v1/tasks/none") for call in found] == [
        *map(str, range(79, 69, -1)),
        "7",
    ]


def test_the_variables_name_models_that_are_accepted() -> None:
    with Emulator(models=["other-chat", "other-image"]) as emulator:
        shown = httpx.get(emulator.base_url + "/emulator/feed", trust_env=False).json()["variables"]
        assert shown == emulator.environment


def test_the_feed_never_shows_a_live_key() -> None:
    with Emulator(api_key="pcc_live_secret") as emulator:
        assert "secret" not in httpx.get(emulator.base_url + "/emulator/feed", trust_env=False).text


def fill(emulator: Emulator) -> None:
    """Chat, order an image and a video, and let a task be refused."""
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
@pytest.mark.asyncio(loop_scope="session")
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
        assert not await page.locator("#older").is_visible()
        assert "503" in rows[3]
        assert all(part in rows[4] for part in ("POST", "/v1/chat/completions", "piccc-pro", "200"))
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            "it must not scroll sideways"
        )
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(14, 17, 27)") == (scheme == "dark")
        assert faults == []


@pytest.mark.asyncio(loop_scope="session")
async def test_a_video_plays(browser: Any) -> None:
    async with Emulator(speed=math.inf) as emulator:
        fill(emulator)
        page = await browser.new_page()
        await page.goto(emulator.base_url)
        await until(page, "document.querySelector('.task video')?.readyState >= 2")
        await page.evaluate("document.querySelector('.task video').play()")
        await until(page, "document.querySelector('.task video').currentTime > 0.7")
        assert await page.evaluate("document.querySelector('.task video').duration") == 1


@pytest.mark.asyncio(loop_scope="session")
async def test_what_happens_while_one_looks_is_shown(browser: Any) -> None:
    async with Emulator(speed=math.inf) as emulator:
        page = await browser.new_page()
        await page.goto(emulator.base_url)
        await page.wait_for_selector("#no-tasks", state="visible")
        fill(emulator)
        await page.wait_for_selector(".task img")
        assert not await page.is_visible("#no-calls")
    await until(page, "document.getElementById('live').textContent === 'not running'")


ACTIONS = [
    {"action": "fault", "fault": "503", "route": "*", "times": None},
    {"action": "reply", "text": "Hello"},
    {"action": "reset"},
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("token", [{}, {"x-piccc-page-token": "guessed"}, {"x-api-key": "pcc_test_emulator"}])
def test_only_the_page_changes_anything(
    emulator: Emulator, client: httpx.Client, action: dict[str, Any], token: dict[str, str]
) -> None:
    client.get("/v1/models")
    reply = client.post("/emulator/actions", json=action, headers=token)
    assert reply.status_code == 403
    assert len(emulator.requests) == 1


def test_the_page_s_token_is_in_the_page_and_bad_actions_say_why(client: httpx.Client) -> None:
    token = re.findall(r'name="page-token" content="([^"]+)"', client.get("/").text)[0]
    headers = {"x-piccc-page-token": token}

    def act(**action: Any) -> httpx.Response:
        return client.post("/emulator/actions", json=action, headers=headers)

    assert act(action="reply", text="Hello").status_code == 200
    assert "unknown fault" in act(action="fault", fault="explode", route="", times=None).text
    assert "has no effect on the route" in act(action="fault", fault="503", route="GET /x", times=1).text
    for wrong in (
        {"action": "dance"},
        {"action": "remove-fault", "index": 7},
        {"action": "pause-fault", "index": 7, "is_paused": True},
        {"action": "redeliver", "event_id": "x"},
    ):
        assert act(**wrong).status_code == 400


@pytest.mark.asyncio(loop_scope="session")
async def test_a_person_opens_a_request_and_sends_it_again(browser: Any) -> None:
    async with Emulator(speed=math.inf) as emulator:
        with connect(emulator) as client:
            client.post("/v1/chat/completions", json=chat("What did I send?", surprise=1))
            client.post("/v1/chat/completions", json=chat(temperature=9))
        page = await browser.new_page(viewport={"width": 390, "height": 800})
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await page.goto(emulator.base_url)
        await page.get_by_role("button", name="Copy variables").click()
        await page.get_by_role("button", name="Copied").wait_for()
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert f"PICCC_BASE_URL={emulator.base_url}\n" in copied
        await page.get_by_label("Filter requests").fill("400 temperature")
        await until(page, "document.querySelectorAll('#calls tr').length === 1")
        await page.locator("#calls button").first.focus()
        await page.keyboard.press("Enter")
        details = page.locator("#details")
        await details.get_by_text("Field temperature.").wait_for()
        with connect(emulator) as client:
            client.post("/v1/chat/completions", json=chat(temperature=9))
        await until(page, "document.querySelectorAll('#calls tr').length === 2")
        await page.keyboard.press("Escape")
        await until(page, "document.activeElement.dataset.number === '2'")  # though its row is a new one
        await page.get_by_label("Filter requests").fill("piccc-pro 200")
        await until(page, "document.querySelector('#calls .pill').textContent === '200'")
        await page.locator("#calls button").first.click()
        await details.get_by_text("ignored fields: surprise").wait_for()
        text = await details.inner_text()
        for part in (
            "What did I send?",
            "charged",
            emulator.requests[0].request_id,
        ):
            assert part in text
        await details.get_by_role("button", name="Send again").click()
        await until(page, "document.querySelectorAll('#calls tr').length === 2")
        assert emulator.requests[-1].body == emulator.requests[0].body
        emulator.fault("disconnect")  # each time, for Chromium sends once more on a fresh connection
        await page.get_by_label("Filter requests").fill("")
        await page.locator("#calls button").first.click()
        await details.get_by_role("button", name="Send again").click()
        await details.wait_for(state="hidden")  # though no reply came
        assert emulator.requests[-1].fault == "disconnect"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("HEAD", "/v1/models", None),
        ("GET", "/v1/tasks/a%20b%3Fc%25d", None),
        ("GET", "/v1/tasks?limit=5&status=%20", None),
        ("POST", "/v1/chat/completions", b"{not 'json"),
        ("POST", "/v1/chat/completions", json.dumps(chat("it's `id` $HOME \\ \n")).encode()),
    ],
)
@pytest.mark.asyncio(loop_scope="session")
async def test_a_request_copied_as_curl_is_the_same_request(
    browser: Any, method: str, path: str, body: bytes | None
) -> None:
    async with Emulator(speed=math.inf) as emulator:
        with connect(emulator) as client:
            client.request(method, path, content=body)
        page = await browser.new_page()
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await page.goto(emulator.base_url)
        await page.locator("#calls button").click()
        await page.get_by_role("button", name="Copy as curl").click()
        await page.get_by_role("button", name="Copied").wait_for()
        copied = await page.evaluate("navigator.clipboard.readText()")
        command, variables = f"{copied} --silent --max-time 60", {**os.environ, **emulator.environment}
        shell = await asyncio.create_subprocess_exec("sh", "-c", command, stdout=DEVNULL, env=variables)
        assert await shell.wait() == 0
        await page.get_by_role("button", name="Send again").click()
        await until(page, "document.querySelectorAll('#calls tr').length === 3")
        first, *others = [
            (one.method, one.path, one.query, one.body, one.status) for one in emulator.requests
        ]
        assert others == [first, first]


@pytest.mark.asyncio(loop_scope="session")
async def test_a_person_switches_faults_and_writes_the_next_reply(browser: Any) -> None:
    async with Emulator(speed=math.inf) as emulator:
        page = await browser.new_page()
        await page.goto(emulator.base_url)
        await page.get_by_label("Fault", exact=True).fill("explode")
        await page.get_by_role("button", name="Add fault").click()
        await page.get_by_text("unknown fault 'explode'").wait_for()
        await page.get_by_label("Fault", exact=True).fill("503")
        await page.get_by_role("button", name="Add fault").click()
        await page.get_by_role("button", name="Remove 503").wait_for()
        with connect(emulator) as client:
            assert client.post("/v1/chat/completions", json=chat()).status_code == 503
            await page.get_by_text("hit 1", exact=True).wait_for()
            await page.get_by_role("switch", name="Inject 503").focus()
            await page.keyboard.press("Space")
            await page.get_by_text("hit 1, paused").wait_for()
            assert client.post("/v1/chat/completions", json=chat()).status_code == 200
            await page.keyboard.press("Space")  # the switch has kept the focus
            await page.get_by_text("hit 1", exact=True).wait_for()
            assert client.post("/v1/chat/completions", json=chat()).status_code == 503
            await page.get_by_role("button", name="Remove 503").click()
            await page.get_by_role("button", name="Remove 503").wait_for(state="detached")
            await page.get_by_label("Next chat reply").fill("As you wish.")
            await page.get_by_role("button", name="Queue reply").click()
            await page.get_by_text("1 queued").wait_for()
            reply = client.post("/v1/chat/completions", json=chat()).json()
            assert reply["choices"][0]["message"]["content"] == "As you wish."
        await page.locator("#chart").get_by_text("2 charged").wait_for()
        page.on("dialog", lambda dialog: dialog.accept())
        await page.get_by_role("button", name="Reset").click()
        await page.locator("#no-calls").wait_for()
        assert (emulator.requests, emulator.charges) == ([], [])


@pytest.mark.asyncio(loop_scope="session")
async def test_a_person_looks_at_a_task_and_delivers_its_webhook_again(browser: Any) -> None:
    async with Emulator(speed=math.inf) as emulator:
        with connect(emulator) as client:
            body = image("a mug", webhook={"url": "https://hooks.example/piccc"})
            task_id = client.post("/v1/images/tasks", json=body).json()["task_id"]
        page = await browser.new_page()
        await page.goto(emulator.base_url)
        await page.get_by_role("button", name="a mug").click()
        details = page.locator("#details")
        await details.get_by_text("1 attempts").wait_for()
        assert task_id in await details.inner_text()
        await until(page, "document.querySelector('#details img').naturalWidth === 1024")
        await details.get_by_role("button", name="Deliver again").click()
        for _ in range(400):
            if len(emulator.deliveries[0].attempts) == 2:
                break
            await asyncio.sleep(0.05)
        assert len(emulator.deliveries[0].attempts) == 2
