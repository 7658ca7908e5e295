"""The chat models and what we assume of them: one table, overridable wherever it is used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a chat model can take and give.

    The names are documented by the provider. Every limit and ability here is **assumed**.

    Attributes:
        name: the model's public name.
        context_window: tokens that prompt and answer may have together.
        max_output_tokens: tokens that one answer may have.
        tools: whether it calls tools.
        json_schema: whether it keeps to a JSON Schema by itself.
        image_input: whether it reads images.
    """

    name: str
    context_window: int = 128_000
    max_output_tokens: int = 16_384
    tools: bool = True
    json_schema: bool = True
    image_input: bool = True


MODELS = {name: ModelInfo(name) for name in ("piccc-flash", "piccc-pro", "piccc-ultra")}
"""The documented chat models by their names; what is said of them is assumed."""
DEFAULT_MODEL = "piccc-pro"
DEFAULT_MAX_TOKENS = 4096
"""How many tokens an answer may have over the Anthropic route, which demands a limit, where nobody sets one.

It is ours, not the provider's: small enough for small servers, long enough for most answers. With reasoning,
its budget is added.
"""


def model_info(name: str) -> ModelInfo:
    """Return what is assumed of a model; a name that is not in the table gets the same assumptions."""
    return MODELS.get(name) or ModelInfo(name)
