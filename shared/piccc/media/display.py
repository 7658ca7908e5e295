"""Show tasks in notebooks: cards, galleries and previews."""

from __future__ import annotations

import base64
import io
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlsplit

from piccc._http.backends import AsyncBackend, SyncBackend, run_sync
from piccc.media.downloads import DownloadOptions, load
from piccc.tasks import Output, Task, mime_type_of

if TYPE_CHECKING:
    from PIL import Image

    from piccc.media.account import Account

OnUpdate = Callable[[Task], object]
SECONDS = 3.0
"""Maximum time that a display waits for all its image copies."""
AT_ONCE = 4
MAX_PREVIEWS = 60
"""Maximum number of images and posters copied into one display."""
MAX_BYTES = 16 * 1024**2
MAX_PIXELS = 20_000_000
MAX_COPY_BYTES = 40 * 1024
_SIZES = ((512, 80), (512, 50), (320, 50), (160, 50))
_CONTAINERS = {"video/mp4": "mp4", "video/quicktime": "mp4", "video/webm": "webm"}
"""FFmpeg's names for the containers that posters are taken from.

FFmpeg must never guess the format: it accepts playlists as videos and opens the files and URLs in them.
"""


class Preview:
    """A view of an output that needs no URL of the server: an embedded copy, or the saved file.

    Attributes:
        data_url: the copy of the image or of the video's poster, or None.
    """

    def __init__(self, account: Account, task: Task, output: Output) -> None:
        self._fetch = partial(_fetch, account, task)
        self._output = output
        self._path: Path | None = None
        self._is_due = True
        self.data_url: str | None = None

    def saved(self, path: Path) -> None:
        """Record the file that the output was saved to."""
        self._path, self._is_due = path, self.data_url is None

    @property
    def file_url(self) -> str | None:
        """The saved file's path relative to the working directory, which a notebook can load, or None."""
        with suppress(OSError, ValueError):
            if self._path is not None and self._path.is_file():
                return quote(self._path.resolve().relative_to(Path.cwd().resolve()).as_posix())
        return None

    def take(self) -> bool:
        """Return whether to make a copy: once, and again when a new file was saved."""
        is_due, self._is_due = self._is_due, False
        return is_due

    def make(self) -> None:
        """Try to make the copy."""
        output, is_video = self._output, _is_video(self._output)
        if is_video and output.thumbnail_url:
            thumbnail = Output(output.thumbnail_url, "image", task_id=output.task_id, place=output.place)
            with suppress(Exception):
                self.data_url = shrunk(lambda: io.BytesIO(self._fetch(thumbnail)))
                return
        with suppress(Exception):  # on any failure, the card uses the URL instead
            self.data_url = (poster if is_video else shrunk)(self._content)

    def _content(self) -> BinaryIO:
        if self._path is not None and self._path.is_file():
            return self._path.open("rb")
        return io.BytesIO(self._fetch(self._output))


def complete(previews: Iterable[Preview]) -> None:
    """Make all missing copies, each once, waiting at most `SECONDS` in total."""
    due = [preview for preview in previews if preview.data_url is None and preview.take()][:MAX_PREVIEWS]
    if not due:
        return
    workers = ThreadPoolExecutor(min(AT_ONCE, len(due)), thread_name_prefix="piccc-preview")
    with suppress(RuntimeError):  # no thread can be started while Python shuts down
        wait([workers.submit(preview.make) for preview in due], SECONDS)
    workers.shutdown(wait=False, cancel_futures=True)


def shrunk(read: Callable[[], BinaryIO]) -> str:
    """Read an image and return a small copy as a data: URL; raise on any failure."""
    from PIL import Image, ImageOps

    with read() as file, Image.open(file) as image:
        _check_size(image.width, image.height)
        image.draft("RGB", (_SIZES[0][0], _SIZES[0][0]))
        return _encoded(ImageOps.exif_transpose(image))


def poster(read: Callable[[], BinaryIO]) -> str:
    """Read a video and return its first frame as a data: URL; raise on any failure.

    The decoder, PyAV, comes with `piccc[emulator]`; without it nothing is read.
    """
    import av

    with read() as file:
        container = _CONTAINERS[mime_type_of(file.read(64)) or ""]
        file.seek(0)
        with av.open(file, "r", format=container) as video:
            _check_size(video.streams.video[0].width, video.streams.video[0].height)
            frame: Any = next(video.decode(video=0))  # `to_image` has no annotations
            return _encoded(frame.to_image())


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too many")


def _encoded(image: Image.Image) -> str:
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    for side, quality in _SIZES:
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality)
        if buffer.tell() <= MAX_COPY_BYTES:
            break
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _fetch(account: Account, task: Task, output: Output) -> bytes:
    """Fetch an output in a thread, with a blocking backend."""
    backend = account.session.io
    if isinstance(backend, AsyncBackend):
        if backend.client is not None:
            raise ValueError("the caller's own HTTP client may have settings that ours lacks")
        account = account.over(SyncBackend())
    return run_sync(load(account, task, output, DownloadOptions(max_bytes=MAX_BYTES, timeout=SECONDS)))


_COLORS = {"completed": "#2a7", "failed": "#c33", "cancelled": "#888", "expired": "#888"}
_RUNNING_COLOR = "#37b"
_PROMPT_LENGTH = 120
_MEDIA = "width:100%;border-radius:6px"


def mimebundle(task: Task) -> dict[str, str]:
    """Return a task as HTML, with copies of its images and posters of its videos, and as plain text."""
    _complete([task])
    return {"text/html": card(task), "text/plain": line(task)}


def output_bundle(output: Output, prompt: str) -> dict[str, str]:
    """Return an output as HTML, an image or a player, and as plain text."""
    if _shows_html() is not False and (preview := _preview(output)) is not None:
        complete([preview])
    size = f" {output.width} x {output.height}" if output.width and output.height else ""
    text = f"{output.mime_type or output.type or 'output'}{size}, of task {output.task_id}"
    html = _media(output, prompt)
    return {"text/plain": text} | (
        {"text/html": f'<div style="max-width:512px">{html}</div>'} if html else {}
    )


def line(task: Task) -> str:
    """Return a one-line summary of a task."""
    progress = "" if task.progress is None or task.is_terminal else f" {task.progress:.0f}%"
    return f"{task.type or 'task'} {task.id}: {task.status}{progress}"


def card(task: Task, width: int = 420) -> str:
    """Return a task as an HTML card: its status and progress, then its images and videos."""
    color = _COLORS.get(task.status, _RUNNING_COLOR)
    prompt = task.prompt if len(task.prompt) <= _PROMPT_LENGTH else f"{task.prompt[:_PROMPT_LENGTH]}…"
    frame = f"max-width:{width}px;border:1px solid #8886;border-radius:8px;padding:10px;margin:4px 0"
    parts = [
        f'<div style="{frame}">',
        f'<div><b style="color:{color}">{escape(task.status)}</b> <code>{escape(task.id)}</code></div>',
        f'<div style="opacity:.8">{escape(prompt)}</div>' if prompt else "",
        _bar(task),
        f"<div>{escape(task.error_message)}</div>" if task.error_message else "",
        *(_media(output, task.prompt) for output in task.outputs),
        "</div>",
    ]
    return "".join(parts)


def gallery(tasks: Iterable[Task]) -> str:
    """Return tasks as rows of HTML cards, with copies of their images."""
    tasks = list(tasks)
    _complete(tasks)
    cards = "".join(card(task, width=260) for task in tasks)
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{cards}</div>'


class Card:
    """A task's card in a notebook, which can be updated in place."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return mimebundle(self._task)

    def show(self) -> str:
        """Show the card and return its display id."""
        display_id = secrets.token_hex(8)
        import_module("IPython.display").display(self, display_id=display_id)
        return display_id

    def update(self, display_id: str) -> None:
        """Update the card with this display id."""
        import_module("IPython.display").display(self, display_id=display_id, update=True)


class _Bar:
    """A task's progress bar in a notebook."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        text = line(self._task)
        return {"text/html": f"<div>{escape(text)}{_bar(self._task)}</div>", "text/plain": text}


_showing = threading.Lock()


@contextmanager
def progress(wanted: bool | None, on_update: OnUpdate | None) -> Iterator[OnUpdate | None]:
    """Provide a callback that also shows progress: a bar in a notebook, a line on a terminal.

    With None, progress is shown only if there is no `on_update`. Nothing is shown in a log, or while another
    task's progress is shown, because the lines would overwrite each other.
    """
    is_notebook = _shows_html() is True
    stderr = sys.stderr
    can_show = is_notebook or (stderr is not None and stderr.isatty())
    is_shown = (on_update is None if wanted is None else wanted) and can_show
    if not is_shown or not _showing.acquire(blocking=False):
        yield on_update
        return
    display_id, width = secrets.token_hex(8), 0

    def show(task: Task) -> None:
        nonlocal width
        if is_notebook:
            options = {"update": True} if width else {}
            import_module("IPython.display").display(_Bar(task), display_id=display_id, **options)
            width = 1
        else:
            text = line(task)
            stderr.write(f"\r{text:<{width}}")
            stderr.flush()
            width = max(width, len(text))
        if on_update is not None:
            on_update(task)

    try:
        yield show
    finally:
        _showing.release()
        if width and not is_notebook:
            stderr.write(f"\r{'':<{width}}\r")
            stderr.flush()


def _bar(task: Task) -> str:
    if task.is_terminal or task.progress is None:
        return ""
    return f'<progress max="100" value="{task.progress:.0f}" style="width:100%"></progress>'


def _complete(tasks: Iterable[Task]) -> None:
    if _shows_html() is False:
        return
    outputs = [output for task in tasks for output in task.outputs]
    complete(preview for output in outputs if (preview := _preview(output)) is not None)


def _shows_html() -> bool | None:
    """Return whether IPython shows HTML, which its terminal does not; None outside IPython."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return None if shell is None else "text/html" in shell.display_formatter.active_types


def _preview(output: Output) -> Preview | None:
    # Outputs not bound to a client have no preview.
    return getattr(output, "preview", None)


def _is_video(output: Output) -> bool:
    return output.type == "video" or (output.mime_type or "").startswith("video/")


def _media(output: Output, prompt: str) -> str:
    preview = _preview(output)
    local_url = preview and (preview.file_url if _is_video(output) else preview.data_url)
    if not local_url and urlsplit(output.url).scheme not in ("http", "https"):
        return ""
    url = escape(local_url or output.url, quote=True)
    if _is_video(output):
        # The poster outlives the URL. Without one, the fragment makes the browser show the first frame.
        poster = f' poster="{preview.data_url}"' if preview and preview.data_url else ""
        return f'<video src="{url}#t=0.01"{poster} controls loop preload="metadata" style="{_MEDIA}"></video>'
    return f'<img src="{url}" alt="{escape(prompt, quote=True)}" loading="lazy" style="{_MEDIA}">'
