"""Media tools in every kind of workflow: as many rows of the table as have each pair of its values."""

import pytest

from tests.llama_index.media_table import Row, rows, run
from tests.pairwise import pairwise

# core's agents are pydantic models whose workflow looks at all of its own attributes, old ones too.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The `.*` attribute:pydantic.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.PydanticDeprecatedSince211"),
]


@pytest.mark.parametrize("row", list(pairwise(rows())), ids="-".join)
async def test_each_request_is_paid_once_and_each_call_answered_by_its_own_task(row: Row) -> None:
    await run(row)
