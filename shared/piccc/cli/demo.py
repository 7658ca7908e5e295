"""`piccc demo`: streaming, an agent that makes an image and a video, and a question about documents."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from piccc.cli.common import AsJSON, document
from piccc.cli.media import Bars
from piccc.config import KEY_VARIABLE, URL_VARIABLE
from piccc.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from piccc.client import Client
    from piccc.media.handles import TaskHandle

CAPTION = "Write a launch caption for a handmade ceramic mug."
ORDER = (
    'Make a square 1K image "a handmade ceramic mug on a wooden table, morning light", '
    'and then a 6 second 720p video in 16:9 "the mug turns slowly while steam rises".'
)
QUESTION = "What happens to a request that may have been billed?"
EMULATOR_SPEED = 4.0


@dataclass
class Show:
    """The demo's settings and results so far."""

    console: Console
    client: Client
    folder: Path
    models: dict[str, str]
    settings: dict[str, Any]
    made: list[tuple[TaskHandle, Path]] = field(default_factory=list)
    tokens: int = 0


def demo(
    live: Annotated[
        bool, typer.Option("--live", help="Use the real API, set by PICCC_API_KEY and PICCC_BASE_URL.")
    ] = False,
    folder: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="Folder for the image and the video.")
    ] = Path("piccc-demo"),
    as_json: AsJSON = False,
) -> None:
    """Show streaming, an agent with media tools, and a question answered from documents.

    Without --live it needs no key and no network: it uses the emulator.

    \b
    Examples:
      piccc demo --to shown/
    """
    # With --json, stdout contains only the JSON document.
    console = Console(highlight=False, stderr=as_json)
    began = time.monotonic()
    _check_packages(live=live)
    with _show(console, live=live, folder=folder) as show:
        _stream_a_caption(show)
        _let_an_agent_work(show)
        _ask_the_readme(show)
        _summary(show, time.monotonic() - began)
        if as_json:
            made = [{**task.to_dict(), "files": [str(path)]} for task, path in show.made]
            document({"tasks": made, "tokens": show.tokens})


@contextmanager
def _show(console: Console, *, live: bool, folder: Path) -> Iterator[Show]:
    from piccc.client import Client
    from piccc.media.schedule import Polling

    if live:
        if missing := [name for name in (KEY_VARIABLE, URL_VARIABLE) if not os.environ.get(name)]:
            raise ConfigurationError(
                f"--live needs {' and '.join(missing)}.",
                hint="Set them, or omit --live to use the emulator.",
            )
        models = {kind: os.environ.get(f"PICCC_{kind.upper()}_MODEL", "") for kind in ("image", "video")}
        with Client() as client:
            yield Show(console, client, folder, models, {})
        return
    from piccc.emulator import Emulator

    with Emulator(speed=EMULATOR_SPEED) as emulator:
        settings: dict[str, Any] = {"base_url": emulator.base_url, "api_key": emulator.api_key}
        polling = Polling(min=0.2, max=0.5)  # the advised 2 to 5 s is for the provider's server
        models = {"image": "piccc-image", "video": "piccc-video"}
        with Client(**settings, polling=polling) as client:
            console.print("[dim]Using the emulator: no key or network needed.[/]")
            yield Show(console, client, folder, models, settings)


def _check_packages(*, live: bool) -> None:
    names = ["langchain", "langchain_piccc", "llama_index_piccc"]
    try:
        for name in names if live else [*names, "piccc.emulator"]:
            import_module(name)
    except ImportError as error:
        raise MissingExtraError("The demo needs every extra.", hint='pip install "piccc[all]"') from error


def _stream_a_caption(show: Show) -> None:
    from langchain_piccc import ChatPiccc

    _heading(show, "A caption, token by token (LangChain)", CAPTION)
    for chunk in ChatPiccc(model="piccc-pro", **show.settings).stream(CAPTION):
        show.console.print(chunk.text, end="")
        if chunk.usage_metadata:
            show.tokens += chunk.usage_metadata["total_tokens"]
    show.console.print("\n")


def _let_an_agent_work(show: Show) -> None:
    from langchain.agents import create_agent

    from langchain_piccc import ChatPiccc, PicccImageTool, PicccVideoTool

    _heading(show, "An agent with an image tool and a video tool (LangChain)", ORDER)
    with Bars(show.console) as bars:
        options: dict[str, Any] = {"client": show.client, "on_update": bars.update}
        tools = [
            PicccImageTool(model=show.models["image"] or None, **options),
            PicccVideoTool(model=show.models["video"] or None, **options),
        ]
        agent: Any = create_agent(ChatPiccc(model="piccc-pro", **show.settings), tools)
        result = agent.invoke({"messages": [("user", ORDER)]})
    for message in result["messages"]:
        if message.type == "ai":
            show.tokens += (message.usage_metadata or {}).get("total_tokens", 0)
        elif message.type == "tool":
            _save(show, message)
    show.console.print(f"{result['messages'][-1].text}\n")


def _save(show: Show, message: Any) -> None:
    if not message.artifact:
        show.console.print(f"[red]{message.text}[/]")
        return
    task = show.client.tasks.get(message.artifact["task_id"])
    suffix = {"image": ".png", "video": ".mp4"}[task.type]
    path = task.outputs[0].save(show.folder / f"{task.type}{suffix}", overwrite=True)
    show.made.append((task, path))


def _ask_the_readme(show: Show) -> None:
    from llama_index.core import Document, SimpleKeywordTableIndex
    from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
    from llama_index.core.node_parser import MarkdownNodeParser

    from llama_index_piccc import Piccc, ensure_nltk_data

    ensure_nltk_data()
    _heading(show, "A question about this project's README (LlamaIndex)", QUESTION)
    readme = Document(text=str(metadata.metadata("piccc").json["description"]))
    counter = TokenCountingHandler()
    llm = Piccc(model="piccc-pro", callback_manager=CallbackManager([counter]), **show.settings)
    index = SimpleKeywordTableIndex.from_documents(
        [readme], llm=llm, transformations=[MarkdownNodeParser()], max_keywords_per_chunk=100
    )
    answer = index.as_query_engine(llm=llm, retriever_mode="simple").query(QUESTION)
    show.tokens += counter.total_llm_token_count
    show.console.print(f"{answer}\n")


def _summary(show: Show, seconds: float) -> None:
    table = Table(title="Results", title_justify="left")
    for column in ("task", "type", "size", "file", "bytes"):
        table.add_column(column, overflow="fold")
    for task, path in show.made:
        output = task.outputs[0]
        size = f"{output.width}×{output.height}"
        if output.duration_seconds:
            size += f", {output.duration_seconds:g} s"
        table.add_row(task.id, task.type, size, str(path), f"{path.stat().st_size:,}")
    show.console.print(table)
    show.console.print(f"Ran {len(show.made)} tasks and used {show.tokens:,} tokens in {seconds:.1f} s.")


def _heading(show: Show, title: str, prompt: str) -> None:
    show.console.rule(f"[bold]{title}[/]", align="left")
    show.console.print(f"[dim]> {prompt}[/]")
