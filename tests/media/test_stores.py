"""Outputs in object stores are complete or absent, and named as files would be."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from piccc.emulator import Emulator
from piccc.errors import BatchStopped, ConfigurationError, OutputError, OutputExpired, OutputWrongType
from piccc.media import stores
from piccc.media.ledgers.sqlite import SQLiteLedger
from tests.media.driven import Connect
from tests.media.file_host import IMAGE, FileHost, serving

obstore = pytest.importorskip("obstore", reason="pip install 'piccc[stores]'")
moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
LARGE = IMAGE + bytes(stores.SINGLE_BYTES)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Bucket:
    """A bucket on the test's S3 server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._store: Any = obstore.store.from_url("s3://bucket")

    def content(self) -> dict[str, bytes]:
        """Return all objects by key."""
        keys = [item["path"] for page in obstore.list(self._store) for item in page]
        return {key: bytes(obstore.get(self._store, key).bytes()) for key in keys}

    def type_of(self, key: str) -> str:
        return str(obstore.get(self._store, key).attributes["Content-Type"])

    def unfinished(self) -> int:
        """Return how many multipart uploads were neither completed nor aborted."""
        return httpx.get(f"{self._url}/bucket?uploads").text.count("<UploadId>")


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    settings = {"AWS_ENDPOINT_URL": s3, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    settings |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    stores._store.cache_clear()
    httpx.post(f"{s3}/moto-api/reset")
    httpx.put(f"{s3}/bucket")
    yield Bucket(s3)
    stores._store.cache_clear()


@pytest.fixture
def host() -> Iterator[FileHost]:
    with serving(FileHost()) as running:
        yield running


def task_of(connect: Connect, host: FileHost, count: int = 1, **settings: Any) -> Any:
    outputs = [{"url": f"{host.url}/file/{number}.png", "type": "image"} for number in range(count)]
    body = {"task_id": "t 1", "status": "completed", "type": "image", "prompt": "fox", "outputs": outputs}
    return connect(base_url=host.url, api_key="unused", **settings).tasks.load(json.dumps(body))


URLS = {
    "s3://bucket/a/b.png": "a/b.png",
    "s3://bucket/a/": "a/t_1-c69f0dcd.png",
    "s3://bucket": "t_1-c69f0dcd.png",
    "S3://bucket/ü b%20.png": "ü b%20.png",
}


@pytest.mark.parametrize("url", URLS)
def test_an_object_gets_the_given_name_or_a_default(
    connect: Connect, host: FileHost, bucket: Bucket, url: str
) -> None:
    task = task_of(connect, host)
    assert task.outputs[0].save(url) == f"s3://bucket/{URLS[url]}"
    assert bucket.content() == {URLS[url]: IMAGE}
    assert bucket.type_of(URLS[url]) == "image/png"


@pytest.mark.parametrize("content", [IMAGE, LARGE], ids=["single request", "multipart"])
def test_a_different_object_is_replaced_only_with_overwrite(
    connect: Connect, host: FileHost, bucket: Bucket, content: bytes
) -> None:
    host.content = content
    task_of(connect, host).outputs[0].save("s3://bucket/a.png")
    task_of(connect, host).outputs[0].save("s3://bucket/a.png")
    host.content = content + b"!"
    with pytest.raises(OutputError, match="different content") as caught:
        task_of(connect, host).outputs[0].save("s3://bucket/a.png")
    assert caught.value.task_id
    assert bucket.content() == {"a.png": content}
    task_of(connect, host).outputs[0].save("s3://bucket/a.png", overwrite=True, provenance=True)
    objects = bucket.content()
    assert objects["a.png"] == content + b"!"
    assert json.loads(objects["a.png.json"])["prompt"] == "fox"


def test_a_failed_or_wrongly_typed_download_leaves_no_object(
    connect: Connect, host: FileHost, bucket: Bucket
) -> None:
    host.content = LARGE
    host.cut_after, host.supports_ranges = stores.SINGLE_BYTES, False
    with pytest.raises(OutputError):
        task_of(connect, host).outputs[0].save("s3://bucket/a.png", timeout=1.0)
    host.cut_after, host.content = None, b"<html>" * 100
    with pytest.raises(OutputWrongType):
        task_of(connect, host).outputs[0].save("s3://bucket/a.png")
    assert bucket.content() == {}
    assert bucket.unfinished() == 0


def test_a_store_failure_raises_output_error_and_names_the_object(
    connect: Connect, host: FileHost, bucket: Bucket
) -> None:
    with pytest.raises(OutputError, match=r"s3://nowhere/a\.png"):
        task_of(connect, host).outputs[0].save("s3://nowhere/a.png")
    for key in ("a//b.png", "a/../b.png"):
        with pytest.raises(OutputError, match="could not be written"):
            task_of(connect, host).outputs[0].save(f"s3://bucket/{key}")


def test_all_outputs_of_a_task_are_saved_under_one_url(
    connect: Connect, host: FileHost, bucket: Bucket
) -> None:
    saved = task_of(connect, host, count=2).save("s3://bucket/x")
    assert saved == ["s3://bucket/x/t_1-c69f0dcd-1.png", "s3://bucket/x/t_1-c69f0dcd-2.png"]
    assert sorted(bucket.content()) == ["x/t_1-c69f0dcd-1.png", "x/t_1-c69f0dcd-2.png"]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/a.png",
        "https://host/a.png",
        "redis://host/a",
        "memory:///a",
        "s3://",
        "s3:///a.png",
        "s3://key:secret@bucket/a.png",
        "az://container/a.png",
        "file://elsewhere/a.png",
        Path("s3://bucket/a.png"),
    ],
)
def test_unsupported_urls_are_rejected_before_anything_is_sent(
    connect: Connect, emulator: Emulator, url: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    client = connect(base_url=emulator.base_url, api_key=emulator.api_key)
    with pytest.raises(ConfigurationError) as raised:
        client.images.map(["a fox"], model="piccc-image", save_to=url)
    assert not emulator.requests
    assert "secret" not in str(raised.value)
    with pytest.raises(ConfigurationError):
        client.tasks.load('{"task_id": "a", "outputs": ["https://h/a.png"]}').outputs[0].save(url)
    assert os.listdir(tmp_path) == []  # noqa: PTH208  names


def test_a_file_url_saves_to_its_path(connect: Connect, host: FileHost, tmp_path: Path) -> None:
    saved = task_of(connect, host).outputs[0].save(f"file://{tmp_path}/a%20b.png")
    assert saved == tmp_path / "a b.png"
    assert saved.read_bytes() == IMAGE


def test_a_batch_saves_to_a_url_and_returns_the_locations(
    connect: Connect, emulator: Emulator, bucket: Bucket
) -> None:
    client, seen = connect(base_url=emulator.base_url, api_key=emulator.api_key), []
    rows = [f"fox {number}" for number in range(5)]

    def on_result(task: Any) -> None:
        seen.append(task.id)
        assert any(task.id in key for key in bucket.content())

    batch = client.images.map(rows, model="piccc-image", save_to="s3://bucket/foxes", on_result=on_result)
    assert sorted(batch.files) == list(range(5))
    assert sorted(url for urls in batch.files.values() for url in urls) == sorted(
        f"s3://bucket/{key}" for key in bucket.content()
    )
    assert len(seen) == 5


def test_a_store_failure_stops_the_batch_and_a_rerun_completes_it(
    connect: Connect,
    emulator: Emulator,
    bucket: Bucket,
    tmp_path: Path,
    s3: str,
) -> None:
    client = connect(
        base_url=emulator.base_url, api_key=emulator.api_key, ledger=SQLiteLedger(tmp_path / "run.db")
    )
    settings: dict[str, Any] = {"model": "piccc-image", "run": "foxes", "save_to": "s3://bucket/"}
    rows = [f"fox {number}" for number in range(10)]
    httpx.post(f"{s3}/moto-api/reset")  # deletes the bucket
    with pytest.raises(BatchStopped) as raised:
        client.images.map(rows, **settings, submissions=2, concurrency=2)
    assert isinstance(raised.value.__cause__, OutputError)
    assert len(emulator.charges) <= 3
    httpx.put(f"{s3}/bucket")
    batch = client.images.map(rows, **settings)
    assert len(batch) == len(batch.files) == len(bucket.content()) == len(emulator.charges) == 10


def test_a_missing_output_does_not_fail_the_batch(
    connect: Connect, emulator: Emulator, tmp_path: Path
) -> None:
    client = connect(base_url=emulator.base_url, api_key=emulator.api_key)
    emulator.fault("410", route="GET /files/*", times=1)
    batch = client.images.map(["a", "b", "c"], model="piccc-image", save_to=tmp_path)
    assert (len(batch), len(batch.files)) == (3, 2)
    assert [type(error) for error in batch.errors.values()] == [OutputExpired]


def test_a_store_used_in_a_forked_child_raises_instead_of_hanging(
    connect: Connect, host: FileHost, bucket: Bucket
) -> None:
    task_of(connect, host).outputs[0].save("s3://bucket/a.png")
    if child := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        return
    try:
        stores.location_of("s3://bucket/b.png")
    except ConfigurationError:
        os._exit(7)
    os._exit(1)
