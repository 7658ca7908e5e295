"""The namespace package `llama_index.llms.piccc`: the same names as `llama_index_piccc`."""

from llama_index_piccc import Piccc, PicccQuestionGenerator, PicccStructuredLLM

__all__ = ["Piccc", "PicccQuestionGenerator", "PicccStructuredLLM"]
