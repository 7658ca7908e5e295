"""Core's callbacks around our methods, where somebody listens: core makes an event of every single token."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation.event_handlers import NullEventHandler
from llama_index.core.llms import LLM
from llama_index.core.llms.callbacks import dispatcher, llm_chat_callback, llm_completion_callback
from llama_index_instrumentation.dispatcher import Dispatcher

Method = TypeVar("Method", bound=Callable[..., Any])


def _where_heard(callback: Callable[[Any], Any]) -> Callable[[Method], Method]:
    def wrap(method: Method) -> Method:
        signature = inspect.signature(method)
        told = callback(method)

        def choose(llm: LLM, *args: Any, **kwargs: Any) -> Any:
            return (told if _is_heard(llm) else method)(llm, *args, **kwargs)

        async def choose_async(llm: LLM, *args: Any, **kwargs: Any) -> Any:
            return await choose(llm, *args, **kwargs)

        chosen: Any = choose_async if inspect.iscoroutinefunction(method) else choose
        for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
            setattr(chosen, name, getattr(method, name))
        chosen.__signature__ = signature  # spans name the arguments by it
        wrapped: Method = chosen
        return wrapped

    return wrap


chat_callback = _where_heard(llm_chat_callback())
completion_callback = _where_heard(llm_completion_callback())


def _is_heard(llm: LLM) -> bool:
    manager = llm.callback_manager
    if llm.rate_limiter is not None or type(manager) is not CallbackManager or manager.handlers:
        return True  # core's callback is what asks the rate limiter
    return _has_listeners(dispatcher)


def _has_listeners(source: Dispatcher) -> bool:
    if any(type(handler) is not NullEventHandler for handler in source.event_handlers):
        return True
    return source.propagate and _has_listeners(source.parent)
