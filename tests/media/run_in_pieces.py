"""Run a batch that other processes run at the same time, and that the test kills repeatedly.

Arguments: the server's URL, its API key, the ledger's file and the number of rows.
"""

from __future__ import annotations

import sys

from piccc import Client
from piccc.media import account, batch
from tests.media.driven import QUICK


def main() -> None:
    """Run the batch; print the number of tasks and of errors."""
    base_url, api_key, ledger, rows = sys.argv[1:]
    # The default of a minute is for servers whose list lags behind; the emulator's does not.
    account.RESEND_SECONDS = batch.RESEND_SECONDS = 2.0
    client = Client(base_url=base_url, api_key=api_key, ledger=ledger, polling=QUICK)
    prompts = [f"fox {number}" for number in range(int(rows))]
    made = client.images.map(prompts, model="piccc-image", run="foxes", concurrency=8, lost="resend")
    print(len(made), len(made.errors))


if __name__ == "__main__":
    main()
