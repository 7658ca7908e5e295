"""The namespace package `llama_index.readers.piccc`: the reader of finished tasks."""

from llama_index_piccc import PicccTaskReader

__all__ = ["PicccTaskReader"]
