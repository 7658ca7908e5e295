"""Small copies of pictures, for cards in notebooks: they are still there when an address has expired."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from piccc.media.download import Terms
from piccc.media.saving import load
from piccc.tasks import Output, Task
from piccc.transport.http import AsyncIO, BlockingIO
from piccc.transport.port import finish

if TYPE_CHECKING:
    from piccc.media.account import Account

SECONDS = 3.0
"""For how long a display may wait for the copies of all its pictures."""
AT_ONCE = 4
MOST_PREVIEWS = 60
"""How many pictures of one display are copied into it."""
MAX_BYTES = 16 * 1024**2
MAX_PIXELS = 20_000_000
MAX_COPY_BYTES = 40 * 1024
_SIZES = ((512, 80), (512, 50), (320, 50), (160, 50))


class Preview:
    """What a card can show of an output without its address: its copy, or the file that it was saved to.

    Attributes:
        data_url: the copy of a picture, None where there is none.
    """

    def __init__(self, account: Account, task: Task, output: Output) -> None:
        self._fetch = partial(_fetch, account, task, output)
        self._path: Path | None = None
        self._is_due = True
        self.data_url: str | None = None

    def saved(self, path: Path) -> None:
        """Take note of the file that the output was saved to."""
        self._path, self._is_due = path, self.data_url is None

    @property
    def file_url(self) -> str | None:
        """The saved file's path from the working directory, by which a notebook can load it; else None."""
        with suppress(OSError, ValueError):
            if self._path is not None and self._path.is_file():
                return quote(self._path.resolve().relative_to(Path.cwd().resolve()).as_posix())
        return None

    def take(self) -> bool:
        """Tell whether a copy is to be made; true once, and again when there is a new file."""
        is_due, self._is_due = self._is_due, False
        return is_due

    def make(self) -> None:
        """Make the copy; leave it where it cannot be made."""
        with suppress(Exception):  # whatever it is, the card shows the address instead
            self.data_url = shrunk(self._content)

    def _content(self) -> bytes:
        if self._path is not None and self._path.is_file():
            return self._path.read_bytes()
        return self._fetch()


def complete(previews: Iterable[Preview]) -> None:
    """Make the copies that are due, each once, waiting no longer than `SECONDS` for all of them."""
    due = [each for each in previews if each.data_url is None and each.take()][:MOST_PREVIEWS]
    if not due:
        return
    workers = ThreadPoolExecutor(min(AT_ONCE, len(due)), thread_name_prefix="piccc-preview")
    with suppress(RuntimeError):  # when Python shuts down, no thread can be started
        wait([workers.submit(each.make) for each in due], SECONDS)
    workers.shutdown(wait=False, cancel_futures=True)


def shrunk(read: Callable[[], bytes]) -> str:
    """Read a picture and return a small copy as a data: URL; raise whatever hinders it."""
    from PIL import Image, ImageOps

    picture: Image.Image = Image.open(io.BytesIO(read()))
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.size} is too large")
    picture.draft("RGB", (_SIZES[0][0], _SIZES[0][0]))
    picture = ImageOps.exif_transpose(picture)
    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    for side, quality in _SIZES:
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality)
        if buffer.tell() <= MAX_COPY_BYTES:
            break
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _fetch(account: Account, task: Task, output: Output) -> bytes:
    """Fetch an output in a thread, whose waits no event loop serves."""
    port = account.session.io
    if isinstance(port, AsyncIO):
        if port.client is not None:
            raise ValueError("the caller's own client may know ways that ours does not")
        account = account.over(BlockingIO())
    return finish(load(account, task, output, Terms(max_bytes=MAX_BYTES, timeout=SECONDS)))
