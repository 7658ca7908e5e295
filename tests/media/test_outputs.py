"""Outputs are saved completely or not at all, fetched only from safe URLs, and keep the API key secret."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from piccc.emulator import Emulator
from piccc.errors import (
    InvalidArgumentError,
    OutputError,
    OutputExpired,
    OutputTooLarge,
    OutputWrongType,
    PicccError,
)
from piccc.media.handles import as_image
from piccc.tasks import mime_type_of, suffix_of
from tests.media.driven import Connect
from tests.media.file_host import IMAGE, FileHost, serving

pytestmark = pytest.mark.usefixtures("no_delays")
KEY = "pcc_live_canary_1234567890"
LoadTask = Callable[..., Any]


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piccc.media.downloads.FIRST_BACKOFF", 0.001)
    monkeypatch.setattr("piccc.media.downloads.NOT_YET_SECONDS", 0.0)


@pytest.fixture
def host() -> Iterator[FileHost]:
    with serving(FileHost()) as running:
        yield running


@pytest.fixture
def load_task(connect: Connect, host: FileHost) -> LoadTask:
    """Return a function that loads a completed task whose output has a given URL."""

    def load(url: str | None = None, *, type: str = "image", **settings: Any) -> Any:
        client = connect(base_url=host.url, api_key=KEY, **settings)
        return client.tasks.load(json.dumps(completed(url or f"{host.url}/file/a.png", type=type)))

    return load


def completed(*urls: str, type: str = "image") -> dict[str, Any]:
    outputs = [{"url": url, "type": type} for url in urls]
    return {"task_id": "task_1", "status": "completed", "type": type, "result": {"outputs": outputs}}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_output_is_saved_under_the_given_name(load_task: LoadTask, tmp_path: Path) -> None:
    output = load_task().outputs[0]
    path = output.save(tmp_path / "new" / "fox.png")
    assert path == tmp_path / "new" / "fox.png"
    assert path.read_bytes() == IMAGE
    assert output.sha256 == hashlib.sha256(IMAGE).hexdigest()
    assert files(tmp_path / "new") == ["fox.png"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_files_in_a_directory_are_named_after_task_and_type(
    connect: Connect, host: FileHost, tmp_path: Path
) -> None:
    client = connect(base_url=host.url, api_key=KEY)
    task = client.tasks.load(json.dumps(completed(f"{host.url}/file/1", f"{host.url}/file/2")))
    assert [path.name for path in task.save(tmp_path / "new")] == ["task_1-1.png", "task_1-2.png"]
    assert files(tmp_path / "new") == ["task_1-1.png", "task_1-2.png"]


@pytest.mark.parametrize(
    "ids",
    [("a/1", "a_1", "a 1"), tuple(f"{'projects/p/operations/' * 5}{n}" for n in "123"), (".a", "a", "..a")],
)
def test_different_tasks_never_get_the_same_name(
    ids: tuple[str, ...], connect: Connect, host: FileHost, tmp_path: Path
) -> None:
    client = connect(base_url=host.url, api_key=KEY)
    for id in ids:
        body = {**completed(f"{host.url}/file/1"), "task_id": id}
        client.tasks.load(json.dumps(body)).outputs[0].save(tmp_path, overwrite=True)
    assert len(files(tmp_path)) == len(ids)


def test_a_download_resumes_wherever_it_is_cut(load_task: LoadTask, host: FileHost) -> None:
    task = load_task()
    for cut in range(0, len(IMAGE), 10):
        host.cut_after, host.cuts = cut, 1
        assert task.outputs[0].bytes() == IMAGE
        ranges = [headers.get("range") for headers in host.downloads[-2:]]
        assert ranges == [None, f"bytes={cut}-" if cut else None]


def test_a_connection_cut_after_every_ten_bytes_still_completes(
    load_task: LoadTask, host: FileHost, tmp_path: Path
) -> None:
    host.cut_after = 10
    assert load_task().outputs[0].save(tmp_path / "a.png").read_bytes() == IMAGE
    assert len(host.downloads) == -(-len(IMAGE) // 10)


def test_a_download_restarts_if_the_host_ignores_ranges(load_task: LoadTask, host: FileHost) -> None:
    host.cut_after, host.cuts, host.supports_ranges = 100, 2, False
    assert load_task().outputs[0].bytes() == IMAGE


def test_a_download_restarts_if_a_range_is_longer_than_declared(load_task: LoadTask, host: FileHost) -> None:
    host.cut_after, host.cuts, host.excess = 100, 1, b"and something else"
    assert load_task().outputs[0].bytes() == IMAGE
    assert [headers.get("range") for headers in host.downloads] == [None, "bytes=100-", None]


def test_a_download_restarts_if_the_file_changes(load_task: LoadTask, host: FileHost) -> None:
    host.cut_after, host.cuts = 100, 1

    def change() -> None:
        if len(host.downloads) == 2:
            host.etag, host.content = '"two"', IMAGE[:8] + bytes(600)

    host.on_request = change
    assert load_task().outputs[0].bytes() == IMAGE[:8] + bytes(600)


def test_a_wrong_content_length_raises_and_leaves_no_file(
    load_task: LoadTask, host: FileHost, tmp_path: Path
) -> None:
    host.declared_size = len(IMAGE) + 100
    with pytest.raises(OutputError, match=r"cut off|cannot be resumed"):
        load_task().outputs[0].save(tmp_path / "a.png")
    assert files(tmp_path) == []


def test_a_connection_that_always_breaks_raises_and_leaves_no_file(
    load_task: LoadTask, host: FileHost, tmp_path: Path
) -> None:
    host.cut_after = 0
    with pytest.raises(OutputError, match="fetch it again"):
        load_task().outputs[0].save(tmp_path / "a.png")
    assert files(tmp_path) == []
    assert len(host.downloads) <= 5


def test_a_file_that_declares_a_huge_size_is_rejected(
    load_task: LoadTask, host: FileHost, tmp_path: Path
) -> None:
    host.declared_size = 10**12
    with pytest.raises(OutputTooLarge):
        load_task().outputs[0].save(tmp_path / "a.png")
    assert files(tmp_path) == []


def test_a_decompression_bomb_is_rejected(load_task: LoadTask, host: FileHost, tmp_path: Path) -> None:
    host.content, host.headers = gzip.compress(IMAGE[:64] + bytes(50_000_000)), {"content-encoding": "gzip"}
    with pytest.raises(OutputTooLarge):
        load_task().outputs[0].save(tmp_path / "a.png", max_bytes=1_000_000)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"<!doctype html><h1>Moved</h1>" * 9, b'{"error": "gone"}', b"", b"MZ" * 99]
)
def test_content_that_is_not_an_image_is_rejected(
    load_task: LoadTask, host: FileHost, tmp_path: Path, content: bytes
) -> None:
    host.content = content
    with pytest.raises(OutputWrongType):
        load_task().outputs[0].save(tmp_path / "a.png")
    assert files(tmp_path) == []


def test_an_image_declared_as_video_is_rejected_unless_allowed(load_task: LoadTask, tmp_path: Path) -> None:
    with pytest.raises(OutputWrongType, match="should be a video, but"):
        load_task(type="video").outputs[0].save(tmp_path / "a.mp4")
    assert load_task(type="video").outputs[0].save(tmp_path / "a.mp4", any_type=True).read_bytes() == IMAGE


def test_an_expired_url_is_renewed_by_reading_the_task(load_task: LoadTask, host: FileHost) -> None:
    host.statuses = [403]
    host.task = completed(f"{host.url}/file/a.png?signature=fresh")
    task = load_task(f"{host.url}/file/a.png?signature=old")
    assert task.outputs[0].bytes() == IMAGE
    paths = [path for path, _ in host.requests]
    assert paths == ["/file/a.png?signature=old", "/v1/tasks/task_1", "/file/a.png?signature=fresh"]


def test_a_download_resumes_after_its_url_expires_midway(load_task: LoadTask, host: FileHost) -> None:
    host.cut_after, host.cuts = 100, 1
    host.task = completed(f"{host.url}/file/a.png?fresh")

    def expire() -> None:
        if len(host.downloads) == 2 and host.requests[-1][0] == "/file/a.png":
            host.statuses = [410]

    host.on_request = expire
    assert load_task().outputs[0].bytes() == IMAGE
    assert host.downloads[-1]["range"] == "bytes=100-"


def test_a_url_that_cannot_be_renewed_raises_output_expired(load_task: LoadTask, host: FileHost) -> None:
    host.statuses, host.task = [404] * 9, completed(f"{host.url}/file/a.png")
    with pytest.raises(OutputExpired) as raised:
        load_task().outputs[0].bytes()
    assert raised.value.task_id == "task_1"
    assert len(host.downloads) == 1


def test_an_output_that_is_not_available_yet_is_waited_for(
    load_task: LoadTask, host: FileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piccc.media.downloads.NOT_YET_SECONDS", 30.0)
    monkeypatch.setattr("piccc.media.downloads.NOT_YET_PAUSE", 0.001)
    host.statuses, host.task = [404] * 3, completed(f"{host.url}/file/a.png")
    assert load_task().outputs[0].bytes() == IMAGE


def test_a_missing_old_output_is_not_waited_for(
    connect: Connect, host: FileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piccc.media.downloads.NOT_YET_SECONDS", 30.0)
    old = {**completed(f"{host.url}/file/a.png"), "completed_at": time.time() - 2 * 3600}
    host.statuses, host.task = [404] * 9, old
    with pytest.raises(OutputExpired):
        connect(base_url=host.url, api_key=KEY).tasks.load(json.dumps(old)).outputs[0].bytes()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_any_rejection_of_an_expired_signature_renews_the_url(
    load_task: LoadTask, host: FileHost, status: int
) -> None:
    with serving(FileHost(statuses=[status])) as store:
        host.task = completed(f"{store.url}/file/a.png?fresh")
        assert load_task(f"{store.url}/file/a.png?old", private_outputs=True).outputs[0].bytes() == IMAGE
        assert [path for path, _ in store.requests] == ["/file/a.png?old", "/file/a.png?fresh"]


def test_a_401_from_the_servers_own_origin_is_retried_with_the_key(
    load_task: LoadTask, host: FileHost
) -> None:
    host.statuses = [401]
    assert load_task().outputs[0].bytes() == IMAGE
    assert [headers.get("authorization") for headers in host.downloads] == [None, f"Bearer {KEY}"]


def test_relative_urls_and_data_urls_are_supported(load_task: LoadTask) -> None:
    assert load_task("/file/a.png").outputs[0].bytes() == IMAGE
    content = base64.b64encode(IMAGE).decode()
    for inline in (
        f"data:image/png;base64,{content}",
        f"DATA:image/png;name=a.png;BASE64,{quote(content, safe='')}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(IMAGE).decode().rstrip('=')}",
    ):
        assert load_task(inline).outputs[0].bytes() == IMAGE
    with pytest.raises(OutputError, match="invalid base64"):
        load_task("data:image/png;base64,!").outputs[0].bytes()


@pytest.mark.parametrize(
    "location", ["http://[", "https://a..b/", f"https://{'a' * 70}.example.com/", "ftp://x/"]
)
def test_an_invalid_redirect_url_raises_output_error(
    load_task: LoadTask, host: FileHost, location: str
) -> None:
    host.redirect = location
    with pytest.raises(OutputError):
        load_task().outputs[0].bytes()


@pytest.mark.parametrize(
    "headers",
    [
        {"content-range": f"bytes 100-{'9' * 5000}/{'9' * 5000}"},
        {"content-range": "bytes 100-149/150"},
        {"content-range": "bytes 99-519/520"},
        {"content-range": "nonsense"},
    ],
)
def test_a_range_that_does_not_continue_the_file_restarts_the_download(
    load_task: LoadTask, host: FileHost, headers: dict[str, str], tmp_path: Path
) -> None:
    host.cut_after, host.cuts = 100, 1

    def falsify() -> None:
        host.headers = headers if len(host.downloads) == 2 else {}

    host.on_request = falsify
    assert load_task().outputs[0].save(tmp_path / "a.png").read_bytes() == IMAGE
    assert [request.get("range") for request in host.downloads] == [None, "bytes=100-", None]


@pytest.mark.parametrize("length", ["1" * 5000, "-1", "abc", "10", "419", "421"])  # of 420 remaining bytes
def test_a_wrong_content_length_of_a_resumed_download_does_no_harm(
    load_task: LoadTask, host: FileHost, length: str, tmp_path: Path
) -> None:
    host.cut_after, host.cuts = 100, 1

    def falsify() -> None:
        host.headers = {"content-length": length} if len(host.downloads) == 2 else {}

    host.on_request = falsify
    assert load_task().outputs[0].save(tmp_path / "a.png").read_bytes() == IMAGE
    assert files(tmp_path) == ["a.png"]


def test_outputs_keep_separate_files_when_their_urls_change(
    connect: Connect, host: FileHost, tmp_path: Path
) -> None:
    client = connect(base_url=host.url, api_key=KEY)
    task = client.tasks.load(json.dumps(completed(f"{host.url}/file/1?old", f"{host.url}/file/2?old")))
    first, second = task.outputs
    assert first.save(tmp_path).name == "task_1-1.png"
    host.task = completed(f"{host.url}/file/1?new", f"{host.url}/file/2?new")
    task.refresh()
    host.content = IMAGE + b"2"
    assert second.save(tmp_path).name == "task_1-2.png"


def test_saving_replaces_a_different_file_only_with_overwrite(
    load_task: LoadTask, host: FileHost, tmp_path: Path
) -> None:
    target, output = tmp_path / "a.png", load_task().outputs[0]
    assert output.save(target) == load_task().outputs[0].save(target) == target
    host.content = IMAGE + b"other"
    with pytest.raises(OutputError, match="overwrite=True") as caught:
        load_task().outputs[0].save(target)
    assert caught.value.task_id == load_task().id
    assert target.read_bytes() == IMAGE
    assert load_task().outputs[0].save(target, overwrite=True).read_bytes() == IMAGE + b"other"
    assert files(tmp_path) == ["a.png"]


def test_an_old_partial_file_of_a_killed_process_is_removed(load_task: LoadTask, tmp_path: Path) -> None:
    old, recent = tmp_path / ".task_1.aaaa.part", tmp_path / ".task_1.bbbb.part"
    for part in (old, recent):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    load_task().outputs[0].save(tmp_path)
    assert files(tmp_path) == [recent.name, "task_1.png"]


def test_a_full_disk_raises_output_error_and_leaves_no_file(
    load_task: LoadTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            load_task().outputs[0].save(tmp_path / "a.png")
    assert files(tmp_path) == []
    assert load_task().outputs[0].save(tmp_path / "a.png").read_bytes() == IMAGE


def test_a_device_is_written_in_place_and_has_nothing_beside_it(load_task: LoadTask) -> None:
    output = load_task().outputs[0]
    assert output.save("/dev/null") == Path("/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(InvalidArgumentError, match="beside it"):
        output.save("/dev/null", provenance=True)


@pytest.mark.parametrize("place", ["locked", "locked/new/", "file", "file/new", ""])
def test_a_batch_that_cannot_save_is_rejected_before_anything_is_sent(
    client: Any, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "file").touch()
    allowed = os.access  # root may write everywhere
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.F_OK and allowed(path, mode))
    with pytest.raises(InvalidArgumentError, match=r"writable|a folder|not a path"):
        client.images.map(["a fox"], model="piccc-image", save_to=place and f"{tmp_path}/{place}")
    assert emulator.requests == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_large_file_is_flushed_to_disk_while_it_downloads(
    load_task: LoadTask, host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    advised: list[tuple[int, int]] = []

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        advised.append((offset, offset + length))
        if fails:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("os.posix_fadvise", advise, raising=False)
    monkeypatch.setattr("os.POSIX_FADV_DONTNEED", 4, raising=False)
    host.content = IMAGE + bytes(5_000_000)
    assert load_task().outputs[0].save(tmp_path / "a.png").read_bytes() == host.content
    begins, ends = zip(*advised, strict=True)
    assert (begins[0], begins[1:]) == (0, ends[:-1]), "each byte is flushed once"
    assert 3_000_000 < ends[-1] <= len(host.content)


def test_an_unknown_output_type_is_ignored(connect: Connect, host: FileHost) -> None:
    client = connect(base_url=host.url, api_key=KEY)
    for name in ("image_url", "png", "file", "IMAGE"):
        task = completed(f"{host.url}/file/a.png")
        task["result"]["outputs"][0]["type"] = name
        assert client.tasks.load(json.dumps(task)).outputs[0].bytes() == IMAGE


def test_a_poster_image_of_a_video_task_is_saved(connect: Connect, host: FileHost, tmp_path: Path) -> None:
    poster = {"url": f"{host.url}/file/a.png", "mime_type": "image/png"}
    task = {**completed(type="video"), "result": {"outputs": [poster]}}
    client = connect(base_url=host.url, api_key=KEY)
    assert [path.suffix for path in client.tasks.load(json.dumps(task)).save(tmp_path)] == [".png"]


def test_a_busy_host_is_retried(load_task: LoadTask, host: FileHost) -> None:
    host.statuses = [503, 429]
    assert load_task().outputs[0].bytes() == IMAGE


def test_the_api_key_is_not_sent_to_output_hosts_or_redirects(load_task: LoadTask, host: FileHost) -> None:
    with serving(FileHost()) as other:
        host.redirect = f"{other.url}/file/a.png"
        assert load_task(private_outputs=True).outputs[0].bytes() == IMAGE
        assert load_task(f"{other.url}/file/a.png", private_outputs=True).outputs[0].bytes() == IMAGE
        assert len(other.downloads) == 2
        assert KEY not in repr(other.requests) + repr(host.downloads)


@pytest.mark.parametrize(
    "url",
    [
        "http://files.example.com/a.png",
        "https://127.0.0.1/a.png",
        "https://[::1]/a.png",
        "https://[::ffff:10.0.0.1]/a.png",
        "https://10.1.2.3/a.png",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/a.png",
        "https://0x7f.1/a.png",
        "https://[64:ff9b::a00:1]/a.png",
        "https://[2002:a00:1::]/a.png",
        "https://[2001:0:a00:1::1]/a.png",
        "file:///etc/passwd",
    ],
)
def test_private_and_unencrypted_urls_are_rejected(load_task: LoadTask, host: FileHost, url: str) -> None:
    with pytest.raises(OutputError, match=r"private network|not https"):
        load_task(url).outputs[0].bytes()
    host.redirect = url
    with pytest.raises(OutputError, match=r"private network|not https"):
        load_task().outputs[0].bytes()


def test_a_redirect_loop_raises_output_error(load_task: LoadTask, host: FileHost) -> None:
    host.redirect = f"{host.url}/file/again"
    with pytest.raises(OutputError, match="redirects"):
        load_task().outputs[0].bytes()


def test_provenance_records_the_request_and_omits_the_signed_url(
    connect: Connect, emulator: Emulator, tmp_path: Path
) -> None:
    client = connect(base_url=emulator.base_url, api_key=emulator.api_key)
    task = client.images.generate("狐狸", model="piccc-image", aspect_ratio="16:9", seed=3)
    path = task.outputs[0].save(tmp_path / "fox.png", provenance=True)
    record = json.loads((tmp_path / "fox.png.json").read_text("utf-8"))
    assert {
        name: record[name] for name in ("task_id", "prompt", "model", "aspect_ratio", "type", "mime_type")
    } == {
        "task_id": task.id,
        "prompt": "狐狸",
        "model": "piccc-image",
        "aspect_ratio": "16:9",
        "type": "image",
        "mime_type": "image/png",
    }
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["bytes"] == path.stat().st_size
    assert "signature" not in json.dumps(record)


def test_an_image_converts_to_pillow_and_to_a_base64_block(connect: Connect, emulator: Emulator) -> None:
    client = connect(base_url=emulator.base_url, api_key=emulator.api_key)
    output = client.images.generate("a fox", model="piccc-image").outputs[0]
    assert output.pil().size == (output.width, output.height) == (1024, 1024)
    block = output.base64_block(max_px=64)
    assert (block["type"], block["mime_type"]) == ("image", "image/png")
    assert Image.open(io.BytesIO(base64.b64decode(block["base64"]))).size == (64, 64)


def test_a_corrupt_image_raises_output_error(load_task: LoadTask) -> None:
    with pytest.raises(OutputError, match="cannot be read"):
        load_task().outputs[0].pil()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x00\x00\x18ftypmp42" + bytes(16), "The output of task t is a video, not an image."),
        (b"text", "The output of task t cannot be read as an image: its format is unknown."),
    ],
)
def test_content_that_is_not_an_image_is_described(content: bytes, message: str) -> None:
    with pytest.raises(OutputError) as raised:
        as_image(content, "t")
    assert raised.value.message == message


def test_a_failed_download_leaves_an_existing_file_unchanged(
    load_task: LoadTask, host: FileHost, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"before")
    host.content = b"no image"
    with pytest.raises(PicccError):
        load_task().outputs[0].save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"before"
    assert files(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    ("head", "mime_type", "suffix"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg", ".jpg"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp", ".webp"),
        (b"\x00\x00\x00\x18ftypisom", "video/mp4", ".mp4"),
        (b"\x00\x00\x00\x18ftypavif", "image/avif", ".avif"),
        (b"\x00\x00\x00\x18ftypqt  ", "video/quicktime", ".mov"),
        (b"\x1a\x45\xdf\xa3", "video/webm", ".webm"),
        (b"\x00\x00\x00\x18ftypheix", "image/heic", ".heic"),
        (b"\x00\x00\x00\x18moov", "video/quicktime", ".mov"),
        (b"BM\x36\x00\x0c\x00\x00\x00\x00\x00", "image/bmp", ".bmp"),
        (b"BMW is a maker of cars", None, ".bin"),
        (b"II* is a text", None, ".bin"),
        (b"%PDF-1.7", None, ".bin"),
    ],
)
def test_media_types_are_detected_from_the_first_bytes(
    head: bytes, mime_type: str | None, suffix: str
) -> None:
    assert mime_type_of(head) == mime_type
    assert suffix_of(mime_type) == suffix


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
