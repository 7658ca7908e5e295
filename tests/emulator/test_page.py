"""The emulator's page at `/`, in a real browser."""

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


def test_the_page_loads_no_external_resources(emulator: Emulator) -> None:
    response = httpx.get(emulator.base_url, trust_env=False)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    html = response.text
    nonces = re.findall(r'nonce="([^"{]+)"', html)
    assert len(nonces) == 2
    assert f"script-src 'nonce-{nonces[0]}'" in response.headers["content-security-policy"]
    assert not re.search(r"""(?:src|href)=["'](?!/|data:)|url\(|@import""", html)


def test_viewing_the_page_needs_no_key_and_is_not_recorded(emulator: Emulator) -> None:
    for path in ("/", "/emulator/feed"):
        assert httpx.get(emulator.base_url + path, trust_env=False).status_code == 200
    assert emulator.requests == []


def test_the_feed_rejects_foreign_host_headers(emulator: Emulator) -> None:
    response = httpx.get(
        emulator.base_url + "/emulator/feed", headers={"host": "evil.example"}, trust_env=False
    )
    assert response.status_code == 403


def test_the_filter_also_searches_calls_older_than_the_page_shows(
    emulator: Emulator, client: httpx.Client
) -> None:
    for number in range(120):
        client.get(f"/v1/tasks/none{number}")
    calls = client.get("/emulator/feed").json()["calls"]
    assert [call["number"] for call in calls] == list(range(120, 20, -1))
    matching = client.get("/emulator/feed", params={"filter": " GET  None7 404"}).json()["calls"]
    assert [call["path"].removeprefix("/v1/tasks/none") for call in matching] == [
        *map(str, range(79, 69, -1)),
        "7",
    ]


def test_the_page_shows_the_emulators_environment_variables() -> None:
    with Emulator(models=["other-chat", "other-image"]) as emulator:
        variables = httpx.get(emulator.base_url + "/emulator/feed", trust_env=False).json()["variables"]
        assert variables == emulator.environment


def test_the_feed_never_shows_a_live_key() -> None:
    with Emulator(api_key="pcc_live_secret") as emulator:
        assert "secret" not in httpx.get(emulator.base_url + "/emulator/feed", trust_env=False).text


def send_examples(emulator: Emulator) -> None:
    """Send two chat requests and three task submissions, with a failed one of each."""
    with connect(emulator) as client:
        client.post("/v1/chat/completions", json=chat("Hello <b>there</b>"))
        client.post("/v1/chat/completions", json=chat(), headers={"x-piccc-fault": "503"})
        client.post("/v1/images/tasks", json=image("a <i>mug</i>", aspect_ratio="16:9"))
        client.post("/v1/images/tasks", json=image(), headers={"x-piccc-fault": "moderated"})
        client.post("/v1/videos/tasks", json=video(resolution="480p", duration_seconds=1))


async def wait_until(page: Any, condition: str) -> None:
    """Wait until a condition holds, through the debugger, which the page's CSP does not restrict."""
    look = f"const look = () => ({condition}) ? done() : setTimeout(look, 50); look();"
    await asyncio.wait_for(page.evaluate(f"() => new Promise((done) => {{ {look} }})"), 20)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.asyncio(loop_scope="session")
async def test_the_page_shows_calls_tasks_and_outputs(browser: Any, width: int, scheme: str) -> None:
    async with Emulator(speed=math.inf) as emulator:
        send_examples(emulator)
        page = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        await page.goto(emulator.base_url)
        await wait_until(page, "document.querySelector('.task img')?.naturalWidth === 1024")
        await wait_until(page, "document.querySelector('.task video')?.videoHeight === 480")
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
            "the page must not scroll sideways"
        )
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(14, 17, 27)") == (scheme == "dark")
        assert errors == []


@pytest.mark.asyncio(loop_scope="session")
async def test_a_video_plays_on_the_page(browser: Any) -> None:
    async with Emulator(speed=math.inf) as emulator:
        send_examples(emulator)
        page = await browser.new_page()
        await page.goto(emulator.base_url)
        await wait_until(page, "document.querySelector('.task video')?.readyState >= 2")
        await page.evaluate("document.querySelector('.task video').play()")
        await wait_until(page, "document.querySelector('.task video').currentTime > 0.7")
        assert await page.evaluate("document.querySelector('.task video').duration") == 1


@pytest.mark.asyncio(loop_scope="session")
async def test_the_page_updates_live(browser: Any) -> None:
    async with Emulator(speed=math.inf) as emulator:
        page = await browser.new_page()
        await page.goto(emulator.base_url)
        await page.wait_for_selector("#no-tasks", state="visible")
        send_examples(emulator)
        await page.wait_for_selector(".task img")
        assert not await page.is_visible("#no-calls")
    await wait_until(page, "document.getElementById('live').textContent === 'not running'")


ACTIONS = [
    {"action": "fault", "fault": "503", "route": "*", "times": None},
    {"action": "reply", "text": "Hello"},
    {"action": "reset"},
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("token", [{}, {"x-piccc-page-token": "guessed"}, {"x-api-key": "pcc_test_emulator"}])
def test_actions_need_the_pages_token(
    emulator: Emulator, client: httpx.Client, action: dict[str, Any], token: dict[str, str]
) -> None:
    client.get("/v1/models")
    response = client.post("/emulator/actions", json=action, headers=token)
    assert response.status_code == 403
    assert len(emulator.requests) == 1


def test_actions_with_the_token_work_and_bad_ones_are_explained(client: httpx.Client) -> None:
    token = re.findall(r'name="page-token" content="([^"]+)"', client.get("/").text)[0]
    headers = {"x-piccc-page-token": token}

    def act(**action: Any) -> httpx.Response:
        return client.post("/emulator/actions", json=action, headers=headers)

    assert act(action="reply", text="Hello").status_code == 200
    assert "unknown fault" in act(action="fault", fault="explode", route="", times=None).text
    assert "has no effect on the route" in act(action="fault", fault="503", route="GET /x", times=1).text
    for action in (
        {"action": "dance"},
        {"action": "remove-fault", "index": 7},
        {"action": "pause-fault", "index": 7, "is_paused": True},
        {"action": "redeliver", "event_id": "x"},
    ):
        assert act(**action).status_code == 400


@pytest.mark.asyncio(loop_scope="session")
async def test_a_request_can_be_filtered_inspected_and_sent_again(browser: Any) -> None:
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
        await wait_until(page, "document.querySelectorAll('#calls tr').length === 1")
        await page.locator("#calls button").first.focus()
        await page.keyboard.press("Enter")
        details = page.locator("#details")
        await details.get_by_text("Field temperature.").wait_for()
        with connect(emulator) as client:
            client.post("/v1/chat/completions", json=chat(temperature=9))
        await wait_until(page, "document.querySelectorAll('#calls tr').length === 2")
        await page.keyboard.press("Escape")
        await wait_until(page, "document.activeElement.dataset.number === '2'")  # kept on re-render
        await page.get_by_label("Filter requests").fill("piccc-pro 200")
        await wait_until(page, "document.querySelector('#calls .pill').textContent === '200'")
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
        await wait_until(page, "document.querySelectorAll('#calls tr').length === 2")
        assert emulator.requests[-1].body == emulator.requests[0].body
        emulator.fault("disconnect")  # every time, as Chromium retries on a fresh connection
        await page.get_by_label("Filter requests").fill("")
        await page.locator("#calls button").first.click()
        await details.get_by_role("button", name="Send again").click()
        await details.wait_for(state="hidden")  # even without a response
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
async def test_the_copied_curl_command_sends_the_same_request(
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
        await wait_until(page, "document.querySelectorAll('#calls tr').length === 3")
        first, *others = [
            (record.method, record.path, record.query, record.body, record.status)
            for record in emulator.requests
        ]
        assert others == [first, first]


@pytest.mark.asyncio(loop_scope="session")
async def test_faults_and_the_next_reply_can_be_set_on_the_page(browser: Any) -> None:
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
            await page.keyboard.press("Space")  # the switch kept the focus
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
async def test_a_task_can_be_inspected_and_its_webhook_redelivered(browser: Any) -> None:
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
        await wait_until(page, "document.querySelector('#details img').naturalWidth === 1024")
        await details.get_by_role("button", name="Deliver again").click()
        for _ in range(400):
            if len(emulator.deliveries[0].attempts) == 2:
                break
            await asyncio.sleep(0.05)
        assert len(emulator.deliveries[0].attempts) == 2
