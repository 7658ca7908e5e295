"""The namespace package `llama_index.tools.piccc`: the media tools, their events, and what they made."""

from llama_index_piccc import (
    PicccMediaToolSpec,
    PicccTaskFinished,
    PicccTaskProgress,
    PicccTaskSubmitted,
    media_from,
)

__all__ = [
    "PicccMediaToolSpec",
    "PicccTaskFinished",
    "PicccTaskProgress",
    "PicccTaskSubmitted",
    "media_from",
]
