"""What LangChain may expect of a model, from our table of assumptions."""

from __future__ import annotations

from langchain_core.language_models import ModelProfile

from piccc.models import model_info


def profile_of(model: str) -> ModelProfile:
    """Return the profile of a model; every limit and ability in it is assumed, not documented."""
    info = model_info(model)
    return ModelProfile(
        name=info.name,
        max_input_tokens=info.context_window,
        max_output_tokens=info.max_output_tokens,
        text_inputs=True,
        text_outputs=True,
        image_inputs=info.image_input,
        image_url_inputs=info.image_input,
        image_tool_message=info.image_input,
        tool_calling=info.tools,
        tool_choice=info.tools,
        structured_output=info.json_schema,
    )
