"""The namespace package `llama_index.question_gen.piccc`: the question generator."""

from llama_index_piccc import PicccQuestionGenerator

__all__ = ["PicccQuestionGenerator"]
