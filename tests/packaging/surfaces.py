"""What each extra installs, and what must be missing without it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Surface:
    """What an extra makes usable; `extra` is empty for what every install includes."""

    extra: str
    program: str
    """The program in `programs/` that uses it."""
    modules: tuple[str, ...]
    """Packages whose modules can all be imported, except those listed with a `-`, which need more."""
    installs: frozenset[str]
    """Distributions that only this extra and `all` install."""
    entry: tuple[str, ...] = ()
    """Python arguments that fail without the extra, with an error that names it."""


SURFACES = (
    Surface(
        "",
        "with_nothing.py",
        (
            "piccc",
            "-piccc.cli",
            "-piccc.emulator",
            "-piccc.pytest_plugin",
            "-piccc.mcp_server",
            "-piccc.telemetry",
        ),
        frozenset({"certifi", "h11", "httpx", "pydantic", "tiktoken"}),
    ),
    Surface(
        "langchain",
        "with_langchain.py",
        ("langchain_piccc", "-langchain_piccc.middleware"),
        frozenset({"langchain-core"}),
        ("-c", "import langchain_piccc"),
    ),
    Surface(
        "llama-index",
        "with_llama_index.py",
        ("llama_index_piccc", "llama_index.llms.piccc"),
        frozenset({"llama-index-core", "llama-index-workflows"}),
        ("-c", "import llama_index_piccc"),
    ),
    Surface(
        "emulator",
        "with_emulator.py",
        ("piccc.emulator", "piccc.pytest_plugin"),
        frozenset({"av", "httptools", "snowballstemmer"}),
        ("-c", "import piccc.emulator"),
    ),
    Surface(
        "mcp",
        "with_mcp.py",
        ("piccc.mcp_server",),
        frozenset({"mcp"}),
        ("-c", "import piccc.mcp_server"),
    ),
    Surface(
        "otel",
        "with_otel.py",
        ("piccc.telemetry",),
        frozenset(),  # mcp installs opentelemetry-api too
        ("-c", "import piccc.telemetry"),
    ),
    Surface("rate", "with_rate.py", (), frozenset({"pyrate-limiter"})),
    Surface("redis", "with_redis.py", (), frozenset({"redis"})),
    Surface("postgres", "with_postgres.py", (), frozenset({"psycopg", "psycopg-binary"})),
    Surface("stores", "with_stores.py", (), frozenset({"obstore"})),
    Surface("cli", "with_cli.py", ("piccc.cli",), frozenset({"typer"}), ("-m", "piccc", "demo")),
    Surface(
        "all",
        "with_all.py",
        ("piccc", "langchain_piccc", "llama_index_piccc"),
        frozenset({"langchain", "langgraph"}),
    ),
)
NEEDS_MORE: dict[str, dict[tuple[str, ...], str]] = {
    "langchain": {("-c", "from langchain_piccc import PicccTasksMiddleware"): "langchain"},
    "cli": {
        ("-m", "piccc", "demo"): '"piccc[all]"',
        ("-m", "piccc", "emulator"): '"piccc[emulator]"',
    },
}
"""Python arguments that need more than the extra, and the requirement that the error says to install."""
ALSO_INSTALLED = {"emulator": ("pytest>=8,<10",), "all": ("pytest>=8,<10",)}
"""Packages that an extra's program needs besides the extra: pytest, for the fixture."""


def usable_surfaces(extra: str) -> tuple[Surface, ...]:
    """Return the surfaces that are usable with this extra."""
    usable = {"", extra}
    if extra == "mcp":  # `piccc mcp` is a command, and the MCP SDK installs OpenTelemetry's API
        usable |= {"cli", "otel"}
    return tuple(surface for surface in SURFACES if extra == "all" or surface.extra in usable)


def unusable_surfaces(extra: str) -> tuple[Surface, ...]:
    """Return the surfaces that are not usable with this extra."""
    return tuple(surface for surface in SURFACES if surface not in usable_surfaces(extra))
