"""Mistakes that a type checker must report, one on each marked line."""

from langchain_piccc import ChatPiccc
from llama_index_piccc import Piccc
from piccc import Client

ChatPiccc(model=3)  # wrong
ChatPiccc(temperature="hot")  # wrong
ChatPiccc(dialect="gemini")  # wrong
Piccc(3)  # wrong
Piccc(max_tokens="many")  # wrong
client = Client(timeout="soon")  # wrong
client.chat.create("hi", response_format=42)  # wrong
client.chat.create("hi", temprature=0.2)  # wrong
client.chat.create(42)  # wrong
