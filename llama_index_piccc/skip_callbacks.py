"""Skip core's instrumentation of a call if nothing listens to it.

For every token, core creates an event with a copy of the response and walks all its handlers. Without
listeners, that is a quarter of a streamed token's CPU time: in the LlamaIndex rows of `tests/benchmarks`
(one event per read), skipping it saves 29 % (sync), 27 % (async) and 17 % (100 streams).

If core changes the attributes read here, or with `Piccc(skip_callbacks=False)`, its own callbacks are used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation.event_handlers import NullEventHandler
from llama_index.core.llms import LLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import Dispatcher

Method = TypeVar("Method", bound=Callable[..., Any])


def _only_with_listeners(callback: Callable[[Any], Any]) -> Callable[[Method], Method]:
    def wrap(method: Method) -> Method:
        signature = inspect.signature(method)  # before core marks the method with `__wrapped__ = True`
        instrumented = callback(method)

        def choose(llm: LLM, *args: Any, **kwargs: Any) -> Any:
            return (instrumented if _needs_callbacks(llm) else method)(llm, *args, **kwargs)

        async def choose_async(llm: LLM, *args: Any, **kwargs: Any) -> Any:
            return await choose(llm, *args, **kwargs)

        wrapper: Any = choose_async if inspect.iscoroutinefunction(method) else choose
        for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
            setattr(wrapper, name, getattr(method, name))
        wrapper.__signature__ = signature  # spans take argument names from it
        wrapped: Method = wrapper
        return wrapped

    return wrap


chat_callback = _only_with_listeners(llm_chat_callback())
completion_callback = _only_with_listeners(llm_completion_callback())


def _needs_callbacks(llm: LLM) -> bool:
    manager = llm.callback_manager
    if not getattr(llm, "skip_callbacks", False) or llm.rate_limiter is not None:
        return True  # core's callback calls the rate limiter
    if type(manager) is not CallbackManager or manager.handlers:
        return True
    try:
        return _has_listeners(get_dispatcher("llama_index.core.llms.callbacks"))
    except AttributeError:
        return True


def _has_listeners(source: Dispatcher) -> bool:
    if any(type(handler) is not NullEventHandler for handler in source.event_handlers):
        return True
    return source.propagate and _has_listeners(source.parent)
