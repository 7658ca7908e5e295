"""Helpers of the media tool tests: fast-polling clients, tools and agents."""

from __future__ import annotations

from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.tools import FunctionTool

from llama_index_piccc import Piccc, PicccMediaToolSpec
from piccc import Client
from piccc.emulator import Emulator, Scripted
from tests.media.paid import QUICK

BOTH = Scripted(
    calls=[
        ("generate_image", {"prompt": "A kite"}),
        ("generate_video", {"prompt": "A kite rises", "resolution": "480p", "duration_seconds": 1}),
    ]
)
ONE = Scripted(calls=[("generate_image", {"prompt": "A kite"})])


def client(emulator: Emulator, **options: Any) -> Client:
    """Return a client that polls tasks almost without pauses."""
    return Client(base_url=emulator.base_url, api_key=emulator.api_key, **{"polling": QUICK, **options})


def spec(emulator: Emulator, **options: Any) -> PicccMediaToolSpec:
    """Return the tool spec on an emulator."""
    models = {"image_model": "piccc-image", "video_model": "piccc-video"}
    return PicccMediaToolSpec(options.pop("client", None) or client(emulator), **{**models, **options})


def tools(emulator: Emulator, **options: Any) -> dict[str, FunctionTool]:
    """Return the tools by name."""
    return {tool.metadata.get_name(): tool for tool in spec(emulator, **options).to_tool_list()}


def agent(emulator: Emulator, **options: Any) -> FunctionAgent:
    """Return an agent with all media tools."""
    llm = Piccc(base_url=emulator.base_url, api_key=emulator.api_key)
    return FunctionAgent(tools=list(tools(emulator, **options).values()), llm=llm)
