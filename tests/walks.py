"""Count the source files that four everyday operations pass through: `python -m tests.walks`.

These are the files that a reader must open to follow an operation. Each walk runs once to warm up (lazy
imports, connections), then again under `sys.setprofile`. Only product files count, without the emulator."""

from __future__ import annotations

import math
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from langchain_core.messages import AIMessageChunk
from pydantic import BaseModel

from langchain_piccc import ChatPiccc, PicccImageTool, media_from
from llama_index_piccc import Piccc
from piccc import Client, Polling
from piccc.emulator import Emulator, Scripted

ROOT = Path(__file__).parents[1]
PACKAGES = tuple(str(ROOT / name) + "/" for name in ("shared/piccc", "langchain_piccc", "llama_index_piccc"))
EMULATOR = str(ROOT / "shared/piccc/emulator") + "/"
LIMITS = {"streamed token": 8, "chat call": 13, "media task": 17, "structured answer": 13}
"""The maximum number of files per walk."""
WORDS = " ".join(["word"] * 40)


class Mug(BaseModel):
    """A mug, for the structured answer."""

    color: str
    volume_ml: int


def files_of(walk: Callable[[], object]) -> list[str]:
    """Run a walk; return the product files whose functions ran, including in threads that it started."""
    seen: set[str] = set()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        walk()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # None removes it; typeshed wants a function
    ours = {name for name in seen if name.startswith(PACKAGES) and not name.startswith(EMULATOR)}
    return sorted(str(Path(name).relative_to(ROOT)) for name in ours)


def walks(emulator: Emulator, paced: Emulator, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each walk's name and files. `paced` sends tokens one by one, like a model."""
    slow = ChatPiccc(base_url=paced.base_url, api_key=paced.api_key)
    server = {"base_url": emulator.base_url, "api_key": emulator.api_key}
    model = ChatPiccc(**server)

    def steady() -> Iterator[AIMessageChunk]:
        paced.script([WORDS])
        chunks = slow.stream("Go on.")
        for _ in range(5):
            next(chunks)
        return chunks  # type: ignore[return-value]  # chunks of a chat model are AIMessageChunks

    for _ in steady():
        pass
    chunks = steady()
    yield "streamed token", files_of(lambda: next(chunks))
    for _ in chunks:
        pass

    model.invoke("Hello")
    yield "chat call", files_of(lambda: model.invoke("Hello"))

    client = Client(**server, ledger=folder / "tasks.db", polling=Polling(min=0.01, max=0.02))
    tool = PicccImageTool(client=client, model="piccc-image")

    def make(number: int) -> Path:
        call = {"name": tool.name, "args": {"prompt": "A mug"}, "id": f"call_{number}", "type": "tool_call"}
        message = tool.invoke(call)
        (made,) = media_from([message])
        return client.tasks.get(made.id).outputs[0].save(folder)

    make(1)
    yield "media task", files_of(lambda: make(2))

    llm = Piccc(**server)
    answer = Scripted('{"color": "red", "volume_ml": 250}')

    def predict() -> Mug:
        from llama_index.core.prompts import PromptTemplate

        emulator.script([answer])
        return llm.structured_predict(Mug, PromptTemplate("Describe a mug."))

    predict()
    yield "structured answer", files_of(predict)


def main() -> None:
    """Print each walk's file count and files; exit with 1 if a walk is too long."""
    too_long = False
    with Emulator(speed=math.inf) as emulator, Emulator() as paced, tempfile.TemporaryDirectory() as folder:
        for name, files in walks(emulator, paced, Path(folder)):
            too_long = too_long or len(files) > LIMITS[name]
            print(f"{name}: {len(files)} files (at most {LIMITS[name]})", *files, sep="\n  ")
    sys.exit(too_long)


if __name__ == "__main__":
    main()
