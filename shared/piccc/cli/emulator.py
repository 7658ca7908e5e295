"""`piccc emulator`: serve until Ctrl-C."""

from __future__ import annotations

import signal
import threading

from rich.console import Console

from piccc.config import KEY_VARIABLE, URL_VARIABLE


def run(*, port: int, host: str, speed: float, seed: int) -> None:
    """Serve the emulator and print how to reach it; return at Ctrl-C or on a request to terminate."""
    from piccc.emulator import Emulator

    console = Console(highlight=False)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with Emulator(port=port, host=host, speed=speed, seed=seed) as emulator:
        console.print(
            f"The Piccc emulator is at [bold]{emulator.base_url}[/]; Ctrl-C stops it. For its clients:\n"
        )
        console.print(f"  export {URL_VARIABLE}={emulator.base_url}")
        console.print(f"  export {KEY_VARIABLE}={emulator.api_key}\n", soft_wrap=True)
        try:
            stopped.wait()
        except KeyboardInterrupt:
            console.print("\nStopped.")
