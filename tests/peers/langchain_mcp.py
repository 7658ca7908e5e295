"""Test `piccc mcp` with langchain-mcp-adapters: `python tests/peers/langchain_mcp.py PYTHON`.

The adapters need version 1 of the MCP SDK and the server needs version 2. So this program runs in a separate
environment, and starts the server with the given interpreter.
"""

from __future__ import annotations

import asyncio
import sys

from langchain_mcp_adapters.client import MultiServerMCPClient


async def main(python: str) -> None:
    """Generate an image, get its task, and call with invalid arguments."""
    server = {"transport": "stdio", "command": python, "args": ["-m", "piccc", "mcp", "--emulator"]}
    client = MultiServerMCPClient({"piccc": server})
    async with client.session("piccc") as session:
        from langchain_mcp_adapters.tools import load_mcp_tools

        tools = {tool.name: tool for tool in await load_mcp_tools(session)}

        async def call(name: str, **arguments: object) -> tuple[str, str, dict[str, object]]:
            message = await tools[name].ainvoke(
                {"type": "tool_call", "id": "1", "name": name, "args": arguments}
            )
            artifact = (message.artifact or {}).get("structured_content") or {}
            return message.status, message.content[0]["text"], artifact

        status, text, made = await call("generate_image", prompt="A mug")
        assert (status, made["status"]) == ("success", "completed"), text
        status, text, task = await call("get_media_task", task_id=made["task_id"])
        assert task["task_id"] == made["task_id"], text
        status, text, _ = await call("generate_image", prompt="A mug", resolution="9K")
        assert status == "error", text
        assert "Correct the arguments" in text
    print("langchain-mcp-adapters: ok")


asyncio.run(main(sys.argv[1]))
