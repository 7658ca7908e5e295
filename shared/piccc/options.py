"""Errors for unknown and malformed options, which name the word that is meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from piccc.errors import ConfigurationError, InvalidArgumentError

if TYPE_CHECKING:
    from pydantic import ValidationError

_ALIASES = {
    "max_completion_tokens": "max_tokens",
    "model_name": "model",
    "piccc_api_key": "api_key",
    "request_timeout": "timeout",
    "stop_sequences": "stop",
}
"""Names that other models have in the frameworks, and that our models accept too."""
# What the SDKs and integrations of other providers call it -> what it may be called here.
_CALLED_HERE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("model_name", "model_id", "engine", "deployment_name"), ("model",)),
    **dict.fromkeys(
        ("apikey", "key", "token", "piccc_api_key", "openai_api_key", "anthropic_api_key", "auth_token"),
        ("api_key",),
    ),
    **dict.fromkeys(
        (
            "api_base",
            "base_path",
            "endpoint",
            "url",
            "openai_api_base",
            "anthropic_api_url",
            "piccc_api_base",
        ),
        ("base_url",),
    ),
    **dict.fromkeys(("request_timeout", "default_request_timeout", "timeout_s"), ("timeout",)),
    **dict.fromkeys(("retries", "num_retries", "max_retry"), ("max_retries",)),
    **dict.fromkeys(
        ("max_completion_tokens", "max_output_tokens", "max_new_tokens", "max_tokens_to_sample"),
        ("max_tokens",),
    ),
    **dict.fromkeys(("stop_sequences", "stop_words"), ("stop",)),
    **dict.fromkeys(("model_kwargs", "additional_kwargs", "body"), ("extra_body",)),
    **dict.fromkeys(("headers", "extra_headers"), ("default_headers", "extra_headers")),
    **dict.fromkeys(
        ("async_client", "async_http_client", "http_async_client"), ("http_async_client", "http_client")
    ),
    **dict.fromkeys(("reasoning", "thinking"), ("reasoning_effort",)),
    **dict.fromkeys(("system_prompt", "system_message"), ("system",)),
    "functions": ("tools",),
    "function_call": ("tool_choice",),
    "allowance": ("spend_limit",),
}
_NOTES = {
    "n": "one call gives one answer: make several calls",
    "best_of": "one call gives one answer: make several calls",
    "stream_usage": "usage is always reported",
    "is_chat_model": "not needed: each of the models is one",
    "is_function_calling_model": "not needed: each of the models is one",
    "reuse_client": "not needed: connections are shared",
    "use_responses_api": "there is no Responses API",
    "organization": "send it in default_headers",
    "openai_organization": "send it in default_headers",
    "openai_proxy": "set HTTPS_PROXY, or pass an http_client of your own",
    "proxy": "set HTTPS_PROXY, or pass an http_client of your own",
    "proxies": "set HTTPS_PROXY, or pass an http_client of your own",
    "verify": "set SSL_CERT_FILE, or pass an http_client of your own",
}
_IN_THE_BODY = (
    *("frequency_penalty", "logit_bias", "logprobs", "min_p", "modalities", "prediction", "presence_penalty"),
    *("prompt_cache_key", "repetition_penalty", "safety_identifier", "service_tier", "store", "top_k"),
    *("top_logprobs", "user", "verbosity"),
)
"""Parameters of chat APIs that are none of ours, and go to the server as they are."""


def with_our_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under our names, also what other models call otherwise; our own name wins."""
    return {
        ours if (ours := _ALIASES.get(name, name)) not in given else name: value
        for name, value in given.items()
    }


def refuse_typos(names: Iterable[str], known: Collection[str]) -> None:
    """Refuse what is nearly a known name; a server ignores what it does not know, and bills for the call."""
    for name in names:
        if alike := get_close_matches(name, known, n=1, cutoff=0.85):  # above top_k and top_p
            raise InvalidArgumentError(
                f"{name} is not an option. Did you mean {alike[0]}?",
                hint=f"If your server really knows it, give it as extra_body={{{name!r}: …}}.",
            )


def describe_unknown(names: Iterable[str], known: Collection[str], per_call: Collection[str] = ()) -> str:
    """List unknown names, each with what it is called here; `per_call` are options of each call instead."""
    return ", ".join(f"{name}{_note(name, known, per_call)}" for name in sorted(names))


def _note(name: str, known: Collection[str], per_call: Collection[str]) -> str:
    body = next((each for each in ("extra_body", "additional_kwargs") if each in known), None)
    if name in _IN_THE_BODY and body:
        return f" (pass {body}={{'{name}': ...}})"
    alike = get_close_matches(name, [*known, *per_call], n=1, cutoff=0.75)
    for each in (name, *_CALLED_HERE.get(name.lower(), ()), *alike):
        if each in known:
            return f" (called {each} here)" if name.lower() in _CALLED_HERE else f" (do you mean {each}?)"
        if each in per_call:
            return f" ({each} is an option of each call)"
    return f" ({_NOTES[name]})" if name in _NOTES else ""


def wrong_settings(owner: str, error: ValidationError, known: Collection[str]) -> ConfigurationError:
    """Return the error for settings that pydantic refused, without what was given: it may be a key."""
    unknown: list[str] = []
    malformed: dict[str, list[str]] = {}
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        name = str(each["loc"][0]) if each["loc"] else ""
        if each["type"] == "extra_forbidden":
            unknown.append(name)
        else:
            malformed.setdefault(name, []).append(each["msg"].removeprefix("Value error, "))
    said = [f"{owner} does not know {describe_unknown(unknown, known)}."] if unknown else []
    said += [f"{owner}: {name}: {' / '.join(dict.fromkeys(texts))}." for name, texts in malformed.items()]
    hint = f"It knows {', '.join(sorted(known))}." if unknown else "Correct the setting."
    return ConfigurationError(" ".join(said), hint=hint)
