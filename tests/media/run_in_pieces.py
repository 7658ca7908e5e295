"""One process of a batch that several run at the same time, and that is killed again and again.

Arguments: the server's address, its key, the ledger's file, how many rows.
"""

from __future__ import annotations

import sys

from piccc import Client
from piccc.media import account, batch
from tests.media.driven import QUICK


def main() -> None:
    """Run the batch and say how many rows have a task."""
    base_url, api_key, ledger, rows = sys.argv[1:]
    # A minute is for servers whose list is late: the emulator's is not.
    account.RESEND_SECONDS = batch.RESEND_SECONDS = 2.0
    client = Client(base_url=base_url, api_key=api_key, ledger=ledger, polling=QUICK)
    prompts = [f"fox {number}" for number in range(int(rows))]
    made = client.images.map(prompts, model="piccc-image", run="foxes", concurrency=8, lost="resend")
    print(len(made), len(made.errors))


if __name__ == "__main__":
    main()
