"""Piccc AI where LlamaIndex users look for it; `llama_index_piccc` is the same."""

from llama_index_piccc import Piccc, PicccQuestionGenerator, PicccStructuredLLM

__all__ = ["Piccc", "PicccQuestionGenerator", "PicccStructuredLLM"]
