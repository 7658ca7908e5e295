"""Use what [mcp] adds: generate an image through `piccc mcp` with the official client."""

from __future__ import annotations

import asyncio
import os
import sys

from mcp import Client, StdioServerParameters, stdio_client


async def main() -> None:
    """Start the command as a host does, and call a tool."""
    command = StdioServerParameters(command=sys.executable, args=["-m", "piccc", "mcp"], env=dict(os.environ))
    async with Client(stdio_client(command)) as host:
        result = await host.call_tool("generate_image", {"prompt": "A mug"})
        assert not result.is_error, result


asyncio.run(main())
