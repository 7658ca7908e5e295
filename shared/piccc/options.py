"""Errors for unknown and malformed options, with suggestions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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
"""Option names of other providers' models in the frameworks, which our models accept too."""
# Names used by other providers' SDKs and integrations -> our possible names.
_OUR_NAMES: dict[str, tuple[str, ...]] = {
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
    "n": "each call returns one answer: make several calls",
    "best_of": "each call returns one answer: make several calls",
    "stream_usage": "usage is always reported",
    "is_chat_model": "not needed: all models are chat models",
    "is_function_calling_model": "not needed: all models support function calling",
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
"""Parameters of chat APIs that are not options here but can be sent to the server unchanged."""

OptionTypes = Mapping[str, tuple[Any, type | None, str]]
"""Types of a call's options: of the value, of its items, and in words."""

OPTION_TYPES: OptionTypes = {
    "model": (str, None, "a string"),
    "stop": (Sequence, str, "a string or a list of strings"),
    "tools": (Sequence, None, "a list of tools"),
    "parallel_tool_calls": (bool, None, "True or False"),
    "replay_reasoning": (bool, None, "True or False"),
    "extra_body": (Mapping, str, "a mapping of names to values"),
    "extra_headers": (Mapping, str, "a mapping of names to values"),
}


def check_options(options: Mapping[str, Any], types: OptionTypes = OPTION_TYPES) -> None:
    """Raise InvalidArgumentError for an option of the wrong type; None is never wrong."""
    for name in options.keys() & types.keys():
        value, (kind, item_kind, description) = options[name], types[name]
        if value is None:
            continue
        if not isinstance(value, kind) or (item_kind and not all(isinstance(i, item_kind) for i in value)):
            raise InvalidArgumentError(
                f"{name} is not {description}.", hint="Nothing was sent. Correct the option."
            )


def with_our_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Replace other models' names for settings with ours; if both are given, ours wins."""
    return {
        ours if (ours := _ALIASES.get(name, name)) not in given else name: value
        for name, value in given.items()
    }


def refuse_typos(names: Iterable[str], known: Collection[str]) -> None:
    """Reject names that nearly match a known one: the server would ignore them and still bill the call."""
    from difflib import get_close_matches  # rarely needed

    for name in names:
        if matches := get_close_matches(name, known, n=1, cutoff=0.85):  # so that top_k is not top_p
            raise InvalidArgumentError(
                f"{name} is not an option. Did you mean {matches[0]}?",
                hint=f"If your server supports it, pass extra_body={{{name!r}: …}}.",
            )


def describe_unknown(names: Iterable[str], known: Collection[str], per_call: Collection[str] = ()) -> str:
    """List unknown names with suggestions; `per_call` are options that are passed to each call instead."""
    return ", ".join(f"{name}{_note(name, known, per_call)}" for name in sorted(names))


def _note(name: str, known: Collection[str], per_call: Collection[str]) -> str:
    body = next((each for each in ("extra_body", "additional_kwargs") if each in known), None)
    if name in _IN_THE_BODY and body:
        return f" (pass {body}={{'{name}': ...}})"
    from difflib import get_close_matches

    matches = get_close_matches(name, [*known, *per_call], n=1, cutoff=0.75)
    for each in (name, *_OUR_NAMES.get(name.lower(), ()), *matches):
        if each in known:
            return f" (called {each} here)" if name.lower() in _OUR_NAMES else f" (did you mean {each}?)"
        if each in per_call:
            return f" (pass {each} to each call)"
    return f" ({_NOTES[name]})" if name in _NOTES else ""


def wrong_settings(owner: str, error: ValidationError, known: Collection[str]) -> ConfigurationError:
    """Return the error for settings that pydantic rejected, without their values: one may be a key."""
    unknown: list[str] = []
    malformed: dict[str, list[str]] = {}
    for each in error.errors(include_url=False, include_input=False):
        own = each.get("ctx", {}).get("error")
        if not each["loc"] and isinstance(own, ConfigurationError):
            return own  # of a check of all settings together, with its hint
        name = str(each["loc"][0]) if each["loc"] else ""
        if each["type"] == "extra_forbidden":
            unknown.append(name)
        else:
            malformed.setdefault(name, []).append(each["msg"].removeprefix("Value error, "))
    problems = [f"Unknown {owner} options: {describe_unknown(unknown, known)}."] if unknown else []
    problems += [f"{owner}: {name}: {' / '.join(dict.fromkeys(texts))}." for name, texts in malformed.items()]
    hint = f"Its options are {', '.join(sorted(known))}." if unknown else "Correct the setting."
    return ConfigurationError(" ".join(problems), hint=hint)
