"""Finished tasks as documents: what was made is found again by what it shows."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO

import pytest
from llama_index.core.schema import ImageDocument, MetadataMode
from llama_index.retrievers.bm25 import BM25Retriever
from PIL import Image

from llama_index_piccc import PicccTaskReader
from piccc.emulator import Emulator
from tests.llama_index.conftest import Async, Sync
from tests.llama_index.media import client, spec

Way = Sync | Async


@pytest.fixture
def filled(emulator: Emulator) -> Iterator[Emulator]:
    """Return an emulator whose account has two images, a video, and a task that failed."""
    own = spec(emulator)
    own.generate_image("A red kite over the sea", aspect_ratio="16:9")
    own.generate_video("Steam rises from a mug", resolution="480p", duration_seconds=1)
    own.generate_image("A ceramic mug on a table")
    emulator.fault("failed", route="POST *", times=1)
    own.generate_image("An image that fails")
    return emulator


def test_each_finished_output_is_a_document_newest_first(filled: Emulator, way: Way) -> None:
    documents = way.call(PicccTaskReader(client(filled)), "load_data")
    assert [document.text for document in documents] == [
        "A ceramic mug on a table",
        "Steam rises from a mug",
        "A red kite over the sea",
    ]
    assert [isinstance(document, ImageDocument) for document in documents] == [True, False, True]
    assert documents[1].metadata["duration_seconds"] == 1
    assert documents[2].metadata["aspect_ratio"] == "16:9"
    assert len({document.id_ for document in documents}) == 3


def test_one_type_and_a_limit_can_be_asked_for(filled: Emulator, way: Way) -> None:
    reader = PicccTaskReader(client(filled))
    assert [each.text for each in way.call(reader, "load_data", type="video")] == ["Steam rises from a mug"]
    assert [each.text for each in way.call(reader, "load_data", limit=1)] == ["A ceramic mug on a table"]


def test_tasks_can_be_named(filled: Emulator, way: Way) -> None:
    own = client(filled)
    ids = [task.id for task in own.tasks.list()][::-1]
    documents = way.call(PicccTaskReader(own), "load_data", task_ids=ids)
    assert [document.metadata["task_id"] for document in documents] == ids[:3]


def test_a_document_of_an_output_always_has_the_same_id(filled: Emulator, way: Way) -> None:
    reader = PicccTaskReader(client(filled))
    first, second = way.call(reader, "load_data"), way.call(reader, "load_data")
    assert [document.id_ for document in first] == [document.id_ for document in second]


def test_the_address_is_kept_but_nobody_reads_it(filled: Emulator, way: Way) -> None:
    for document in way.call(PicccTaskReader(client(filled)), "load_data"):
        assert document.metadata["url"].startswith("http")
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert "http" not in document.get_content(mode)


def test_images_are_not_fetched_unless_asked_for(filled: Emulator, way: Way) -> None:
    document = way.call(PicccTaskReader(client(filled)), "load_data", type="image", limit=1)[0]
    assert str(document.image_resource.url) == document.metadata["url"]
    assert not [each for each in filled.requests if each.path.startswith("/files/")]


def test_images_can_be_fetched_into_their_documents(filled: Emulator, way: Way) -> None:
    reader = PicccTaskReader(client(filled), fetch=True)
    document = way.call(reader, "load_data", type="image", limit=1)[0]
    with Image.open(BytesIO(base64.b64decode(document.image))) as image:
        assert image.size == (1024, 1024)
    assert [each.path.endswith(".png") for each in filled.requests if each.path.startswith("/files/")] == [
        True
    ]


def test_what_was_made_is_found_by_what_it_shows(filled: Emulator) -> None:
    documents = PicccTaskReader(client(filled)).load_data()
    found = BM25Retriever.from_defaults(nodes=documents, similarity_top_k=1).retrieve("a kite at the sea")
    assert [each.node.metadata["aspect_ratio"] for each in found] == ["16:9"]
