"""Deltas that arrived together, joined block by block. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from piccc.chat import Delta, RawDelta, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta


def coalesce(deltas: Sequence[Delta]) -> Sequence[Delta]:
    """Join the deltas of each block into one, in the order in which the blocks first occur."""
    if len(deltas) == 1:
        return deltas
    if len({delta.block for delta in deltas}) == 1:
        return [_join(deltas)]
    blocks: dict[int, list[Delta]] = {}
    for delta in deltas:
        blocks.setdefault(delta.block, []).append(delta)
    return [_join(group) if len(group) > 1 else group[0] for group in blocks.values()]


def _join(group: Sequence[Delta]) -> Delta:
    first = group[0]
    match first:
        case TextDelta():
            return TextDelta("".join([each.text for each in cast("list[TextDelta]", group)]), first.block)
        case RefusalDelta():
            return RefusalDelta(
                "".join([each.text for each in cast("list[RefusalDelta]", group)]), first.block
            )
        case ReasoningDelta():
            thoughts = cast("list[ReasoningDelta]", group)
            signature = "".join([each.signature for each in thoughts if each.signature]) or None
            text = "".join([each.text for each in thoughts])
            return ReasoningDelta(text, first.block, signature, first.redacted)
        case ToolCallDelta():
            arguments = "".join([each.arguments for each in cast("list[ToolCallDelta]", group)])
            return ToolCallDelta(first.index, arguments, first.id, first.name, first.block)
        case RawDelta():
            return first
