"""One client for the scoreboard, which starts it in a separate process and environment.

Reads JSON lines `{"base_url", "way", "calls", "environment"}`, and answers each with a list of `{"text"}` or
`{"error", "is_typed"}`, one per call of one client. The way is "whole", "stream" or "tools"; for "tools", the
text is the JSON of the tool call arguments that an agent would run.
"""

from __future__ import annotations

import json
import operator
import os
import sys
from collections.abc import Callable
from functools import reduce
from typing import Any

from tests.faults.replies import TIMEOUT

KEY = "pcc_test_scoreboard"
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ERROR_TREES = {
    "anthropic",
    "langchain_anthropic",
    "langchain_core",
    "langchain_openai",
    "llama_index",
    "openai",
}
ERROR_TREES |= {"langchain_piccc", "llama_index_piccc", "piccc"}

Subject = dict[str, Callable[[], str]]


def piccc(base_url: str, dialect: Any) -> Subject:
    from piccc import Client, Tool

    chat = Client(api_key=KEY, base_url=base_url, timeout=TIMEOUT, dialect=dialect).chat

    def tools() -> str:
        with chat.stream("hi", tools=[Tool("weather", parameters=WEATHER)]) as stream:
            for _ in stream:
                pass
        return json.dumps([call.parse() for call in stream.reply.tool_calls])

    return {
        "whole": lambda: chat.create("hi").text,
        "stream": lambda: "".join(chat.stream("hi").texts()),
        "tools": tools,
    }


def langchain(model: Any) -> Subject:
    def tools() -> str:
        bound = model.bind_tools([{"title": "weather", "description": "Weather.", **WEATHER}])
        message = reduce(operator.add, bound.stream("hi"))
        return json.dumps([call["args"] for call in message.tool_calls])

    return {
        "whole": lambda: str(model.invoke("hi").content),
        "stream": lambda: "".join(str(part.content) for part in model.stream("hi")),
        "tools": tools,
    }


def langchain_openai(base_url: str) -> Subject:
    from langchain_openai import ChatOpenAI

    return langchain(ChatOpenAI(model="piccc-pro", api_key=KEY, base_url=f"{base_url}/v1", timeout=TIMEOUT))


def langchain_anthropic(base_url: str) -> Subject:
    from langchain_anthropic import ChatAnthropic

    return langchain(
        ChatAnthropic(model="piccc-pro", api_key=KEY, base_url=base_url, max_tokens=64, timeout=TIMEOUT)
    )


def langchain_piccc(base_url: str) -> Subject:
    from langchain_piccc import ChatPiccc

    return langchain(ChatPiccc(model="piccc-pro", api_key=KEY, base_url=base_url, timeout=TIMEOUT))


def llama_index(model: Any) -> Subject:
    def tools() -> str:
        from llama_index.core.tools import FunctionTool

        def weather(city: str) -> str:
            """Weather."""
            return city

        *_, last = model.stream_chat_with_tools([FunctionTool.from_defaults(weather)], "hi")
        calls = model.get_tool_calls_from_response(last, error_on_no_tool_call=False)
        return json.dumps([call.tool_kwargs for call in calls])

    return {
        "whole": lambda: str(model.complete("hi").text),
        "stream": lambda: "".join(str(part.delta or "") for part in model.stream_complete("hi")),
        "tools": tools,
    }


def llama_index_openai_like(base_url: str) -> Subject:
    from llama_index.llms.openai_like import OpenAILike

    return llama_index(
        OpenAILike(
            model="piccc-pro", api_key=KEY, api_base=f"{base_url}/v1", is_chat_model=True, timeout=TIMEOUT
        )
    )


def llama_index_piccc(base_url: str) -> Subject:
    from llama_index_piccc import Piccc

    return llama_index(Piccc(model="piccc-pro", api_key=KEY, base_url=base_url, timeout=TIMEOUT))


SUBJECTS: dict[str, Callable[[str], Subject]] = {
    "piccc": lambda base_url: piccc(base_url, "openai"),
    "piccc, Anthropic dialect": lambda base_url: piccc(base_url, "anthropic"),
    "langchain-piccc": langchain_piccc,
    "llama-index-llms-piccc": llama_index_piccc,
    "langchain-openai": langchain_openai,
    "langchain-anthropic": langchain_anthropic,
    "llama-index-llms-openai-like": llama_index_openai_like,
}


def is_typed(error: Exception) -> bool:
    """Return whether an error is one of the client's own classes, which programs can expect."""
    roots = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return bool(roots & ERROR_TREES)


def outcome(call: Callable[[], str]) -> dict[str, Any]:
    """Make one call and return its outcome."""
    try:
        return {"text": call()}
    except Exception as error:
        return {"error": f"{type(error).__module__}.{type(error).__qualname__}", "is_typed": is_typed(error)}


def main() -> None:
    """Read tasks from stdin and print their outcomes."""
    make = SUBJECTS[sys.argv[1]]
    environment = dict(os.environ)
    for line in sys.stdin:
        task = json.loads(line)
        os.environ.clear()
        os.environ.update(environment | task["environment"])
        call = make(task["base_url"])[task["way"]]
        print(json.dumps([outcome(call) for _ in range(task["calls"])]), flush=True)


if __name__ == "__main__":
    main()
