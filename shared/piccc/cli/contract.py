"""`piccc contract`: check assumptions about the API against a server."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from piccc._version import __version__
from piccc.cli.common import AsJSON, at_least, document, option, say, write
from piccc.config import redact, resolve, ways_out
from piccc.errors import ConfigurationError


def contract(
    spend: Annotated[
        float,
        typer.Option(metavar="MONEY", help="Maximum total cost; 0 sends only free requests.", **at_least(0)),
    ] = 0.0,
    only: Annotated[
        list[str] | None, option("--only", "ROWS", "Check only these rows, such as 'chat.*'; repeatable.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="The chat model.")] = "piccc-flash",
    chat_price: Annotated[
        float,
        typer.Option(metavar="MONEY", help="Assumed price of a short chat response.", **at_least(0)),
    ] = 0.01,
    image_price: Annotated[
        float, typer.Option(metavar="MONEY", help="Assumed price of an image.", **at_least(0))
    ] = 0.2,
    video_price: Annotated[
        float, typer.Option(metavar="MONEY", help="Assumed price of a video.", **at_least(0))
    ] = 2.0,
    video_seconds: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Length of the video.")] = 6,
    poll: Annotated[float, typer.Option(metavar="SECONDS", help="Polling interval.", **at_least(0.05))] = 2.0,
    as_json: AsJSON = False,
) -> None:
    """Check the documented API and piccc's assumptions about it against the server, cheapest first.

    Prints a Markdown report that says whether each statement holds, with the raw bytes where it does not.
    With your key this costs money, at most --spend at the assumed prices: the provider documents none.

    \b
    Examples:
      piccc contract
      piccc contract --spend 3 > report.md
      piccc contract --spend 0.5 --only 'chat.*' --json
    """
    from piccc._http.backends import run_sync
    from piccc.contract import Prices, Server, markdown
    from piccc.contract_rows import SAMPLES, rows_named

    config = resolve()
    if config.is_placeholder:
        raise ConfigurationError("No server is configured.", hint=ways_out())
    rows = rows_named(only or ())
    if not rows:
        raise typer.BadParameter(f"No row matches {', '.join(only or ())}.", param_hint="--only")
    server = Server(
        base_url=config.base_url,
        key=run_sync(config.key.ask()),
        models={
            "chat": model,
            "image": os.environ.get("PICCC_IMAGE_MODEL", ""),
            "video": os.environ.get("PICCC_VIDEO_MODEL", ""),
        },
        samples=SAMPLES,
        spend=spend,
        prices=Prices(chat_price, image_price, video_price),
        video_seconds=video_seconds,
        poll=poll,
    )
    findings = []
    for number, finding in enumerate(server.find(rows), 1):
        findings.append(finding)
        say(f"{number}/{len(rows)} {finding.row.name}: {finding.verdict}", "dim")
    if as_json:
        about = {"server": redact(config.base_url), "piccc": __version__, "spent": server.spent}
        document({**about, "rows": [finding.to_json() for finding in findings]})
    else:
        write(markdown(findings, config.base_url, server.spent))
