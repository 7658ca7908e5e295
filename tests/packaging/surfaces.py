"""What each extra brings, and what must be missing without it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Surface:
    """A part of the house that an extra opens; `extra` is empty for what every install has."""

    extra: str
    program: str
    """The program in `programs/` that uses it."""
    modules: tuple[str, ...]
    """Packages of which every module can be imported, and with a `-` those within them that need more."""
    brings: frozenset[str]
    """Distributions that come with this extra and with no other but `all`."""
    entry: tuple[str, ...] = ()
    """What Python is told to run so that, without the extra, it names the extra."""


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
        frozenset(),  # mcp brings opentelemetry-api too
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
    "langchain": {("-c", "from langchain_piccc import PicccTasksMiddleware"): "all"},
    "cli": {("-m", "piccc", "demo"): "all", ("-m", "piccc", "emulator"): "emulator"},
}
"""What an extra opens a part of, and which extra it then names for the rest."""
BESIDE = {"emulator": ("pytest>=8,<10",), "all": ("pytest>=8,<10",)}
"""What a user has beside an extra when its program makes sense: the fixture is for tests."""


def opened(extra: str) -> tuple[Surface, ...]:
    """Return the surfaces that can be used where this extra is installed."""
    usable = {"", extra}
    if extra == "mcp":  # `piccc mcp` is a command, and the SDK of MCP has OpenTelemetry's API
        usable |= {"cli", "otel"}
    return tuple(each for each in SURFACES if extra == "all" or each.extra in usable)


def closed(extra: str) -> tuple[Surface, ...]:
    """Return the others."""
    return tuple(each for each in SURFACES if each not in opened(extra))
