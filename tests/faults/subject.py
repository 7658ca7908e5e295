"""One client before the faults, in a process and an environment of its own; the scoreboard starts it.

Reads lines of JSON `{"base_url", "is_stream"}` and answers each with `{"text"}` or `{"error", "is_typed"}`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tests.faults.replies import TIMEOUT

KEY = "pcc_test_scoreboard"
ERROR_TREES = {
    "anthropic",
    "langchain_anthropic",
    "langchain_core",
    "langchain_openai",
    "llama_index",
    "openai",
}
ERROR_TREES |= {"langchain_piccc", "llama_index_piccc", "piccc"}

Texts = Iterator[str]
Subject = tuple[Callable[[], str], Callable[[], Texts]]


def piccc(base_url: str, dialect: Any) -> Subject:
    from piccc import Client

    chat = Client(api_key=KEY, base_url=base_url, timeout=TIMEOUT, dialect=dialect).chat
    return lambda: chat.create("hi").text, lambda: chat.stream("hi").texts()


def langchain(model: Any) -> Subject:
    return lambda: str(model.invoke("hi").content), lambda: (str(part.content) for part in model.stream("hi"))


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
    return (
        lambda: str(model.complete("hi").text),
        lambda: (str(part.delta or "") for part in model.stream_complete("hi")),
    )


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
    """Return whether an error is of the client's own tree, so that a program can expect it."""
    roots = {each.__module__.partition(".")[0] for each in type(error).__mro__}
    return bool(roots & ERROR_TREES)


def outcome(subject: Subject, *, is_stream: bool) -> dict[str, Any]:
    """Make one call and say what came of it."""
    whole, streamed = subject
    try:
        return {"text": "".join(streamed()) if is_stream else whole()}
    except Exception as error:
        return {"error": f"{type(error).__module__}.{type(error).__qualname__}", "is_typed": is_typed(error)}


def main() -> None:
    """Answer line by line."""
    make = SUBJECTS[sys.argv[1]]
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(outcome(make(task["base_url"]), is_stream=task["is_stream"])), flush=True)


if __name__ == "__main__":
    main()
