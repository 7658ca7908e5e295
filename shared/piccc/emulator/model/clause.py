"""Clauses: the user's words without the asking, so that `a red fox` remains of `please draw me a red fox`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from piccc.emulator.model.words import WIDE, bag, is_wide, stem, stemmed, stems

_QUOTED = re.compile(r"[\"“]([^\"“”]*)[\"”]", re.DOTALL)
_POLITE = re.compile(
    r"^(?:please|pls|kindly|hey|hi|hello|ok|okay|now|then|also|and|next|finally|first(?:ly)?|second(?:ly)?"
    r"|after that"
    r"|(?:can|could|would|will) (?:you|i|we)|i(?:'d| would)? (?:want|like|need|love)(?: you)?(?: to)?"
    r"|we need(?: to)?|help me(?: to)?|let's|let us|go ahead and|try to|(?:use|using|call|run|invoke) "
    r"(?:the )?[\w ]*tool (?:to|and|for|with)"
    r"|请问?|帮我|给我|麻烦你?|能不能|可以|我想要?|然后|接着|再)(?![\w-])[\s,:，：]*|^(?:请|帮我|给我|麻烦|我想要|我想|然后|接着|再|(?:用|根据|基于"
    r"|把|将)(?:它|其|这[张个段](?:图片?|视频|照片)?|结果|上面的?(?:图片?|视频)?))",
    re.IGNORECASE,
)
_FREE_VERB = re.compile(
    r"^(?:draw|paint|sketch|illustrate|photograph|picture|film|animate|render|visuali[sz]e|depict)\s+(?:me "
    r"|us )?(?!of\b)"
    r"|^(?:search|look|query|google|browse)(?:\s+(?:the\s+)?(?:web|internet|online|docs|documents?|documentation"
    r"|database|knowledge base))*"
    r"(?:\s+(?:for|up|about|on|in))*\s+|^(?:find|look up)(?: me)?(?: out)?(?: (?:about|information (?:on"
    r"|about)))?\s+"
    r"|^(?:画|绘制|拍|搜索|搜一下|查找|查一下|查询)(?:一?[张幅个段]|出)?",
    re.IGNORECASE,
)
_MAKING = re.compile(
    r"^(?:create|make|generate|produce|render|design|draw|paint|sketch|write|build|shoot|film|do|give"
    r"|show|send|get|fetch|have|turn out)"
    r"[\s,]+(?:(?:me|us)\s+)?|^(?:生成|制作|创建|创作|画|做|写|拍|来|要)",
    re.IGNORECASE,
)
_LINK = (
    r"(?:\s*[:：]\s*|\s+(?:of|showing|that shows?|depicting|with|featuring|in which|where|about|from"
    r"|for|on)\s+)"
)
_WIDE_HEAD = re.compile(
    r"^(?:[一二两三四五六七八九十\d]*[张幅段个条部]?)(?:[^：:，,]{0,12}?)(?:图片|图像|照片|插画|视频|短片|图)[：:，,]\s*"
)
_WIDE_TAIL = re.compile(r"的?(?:图片|图像|照片|插画|视频|短片|图)$")
_DANGLING = bag(
    "in at with for of and the a an by as to please now using long aspect ratio resolution size format "
    "quality duration lasting second seconds thanks"
)
_EDGE = " \t\n,;:，、；：([-.!?。！？"
_LEADING = re.compile(
    r"^(?:[\s,;:，、；：)\]-]+|(?:of|about|showing|featuring)\s+|用\s+|(?:内容|主题|画面)(?:是|为))+",
    re.IGNORECASE,
)
_AROUND = (
    r"(?:\b(?:the\s+)?(?:top|first|last)\s+)?(?:\b(?:in|at|with|for|of|lasting|an?|the|as|to)\s{1,3}){0,4}"
    r"(?:(?:aspect[ _-]?ratio|resolution|duration|size|quality)\s*(?:of|is|:|=|to)?\s*)?"
)
_AFTER = r"(?:[\s-]*(?:resolution|aspect ratio|format|ratio|quality|long|in length|orientation|mode))*"
_LIGHT = frozenset(
    stems(
        "turn convert make use base result animate bring life do go image video picture work previous output"
    )
)
_NOUNS = stemmed("image video weather email time price status document event audio")
"""What names a tool without being its verb: `video games` are not `games`."""
_FOLLOWING = re.compile(
    r"^(?:(?:the|this|these)\s+)?(?:following\b\s*)?(?:text|sentence|phrase|words?|message|paragraph)?\s*[:：]\s*",
    re.IGNORECASE,
)
_NUMBER = r"(?:-?\d\S*|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b)"
_TAKEN = re.compile(
    rf"\b(subtract|deduct|take(?=\s+{_NUMBER}\s+from\s+(?:{_NUMBER}|it\b|that\b)))\s+(\S+)\s+from\s+([^\s,]+)",
    re.IGNORECASE,
)
_BLANK = "\x00"


def without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Cut spans out of a text, together with the words that only introduce them."""
    for start, end in spans:
        text = text[:start] + _BLANK * (end - start) + text[end:]
    text = re.sub(r"\s{2,}", " ", text)
    text = re.sub(
        rf"[(\[（]?\s{{0,3}}{_AROUND}{_BLANK}+{_AFTER}\s*[)\]）]?(?:\s*[,，、;](?=\s*{_BLANK}))?",
        _BLANK,
        text,
        flags=re.IGNORECASE,
    )
    text = re.sub(rf"\s*[,，、;]?\s*(?:and\s+)?{_BLANK}(?=\s*(?:$|[,，、;.。!?]))", "", text)
    text = re.sub(r"(?:\s*[,，](?=\s*[,，]))+", "", text.replace(_BLANK, " "))
    return re.sub(r"\s{2,}", " ", text).strip()


def request_of(text: str) -> str:
    """Drop the politeness at both ends of a request."""
    text = text.strip()
    if (whole := _QUOTED.fullmatch(text)) is not None:
        text = whole[1]
    while (shorter := _POLITE.sub("", text, count=1)) != text and shorter:
        text = shorter
    return tidy(text)


def tidy(text: str) -> str:
    """Drop what dangles at the ends: signs, and words that introduce nothing."""
    text = _LEADING.sub("", text.strip()).rstrip(_EDGE)
    while text and (last := text.rsplit(maxsplit=1)[-1]).lower() in _DANGLING and len(last) < len(text):
        text = text[: -len(last)].rstrip(_EDGE)
    return text


def subject_of(text: str, tool: Collection[str] = ()) -> str:
    """Give what a request is about: without politeness, its verb, and the noun that names the tool.

    `tool` holds the stems of the tool's name. Gives "" when nothing is left, as of `turn it into a video`.
    """
    whole = request_of(text)
    rest = tidy(_wide_subject(whole) if is_wide(whole) else _subject(whole, tool))
    return rest if set(stems(rest)) - _LIGHT - set(tool) or is_wide(rest) else ""


def ordered(text: str) -> str:
    """Put numbers in the order that a tool takes them: `subtract 2 from 9` starts with the nine."""
    return _TAKEN.sub(r"\1 from \3 the number \2", text)


def _wide_subject(text: str) -> str:
    rest = _MAKING.sub("", _FREE_VERB.sub("", text, count=1), count=1)
    headless = _WIDE_HEAD.sub("", rest, count=1) or rest
    headless = re.sub(rf"^[一二两三四五六七八九十\d]+[张幅段个条部](?={WIDE}|$)", "", headless)
    return _WIDE_TAIL.sub("", headless)


def _subject(text: str, tool: Collection[str]) -> str:
    made = _MAKING.sub("", text, count=1)
    for head in re.finditer(r"(?<![A-Za-z-])([A-Za-z-]+)" + _LINK, made):
        if head.start() <= 40 and stem(head[1]) in tool and stems(made[head.end() :]):
            return made[head.end() :]
    free = _FREE_VERB.sub("", text, count=1)
    if free != text:
        return free
    if made != text:
        return made if any(one in tool for one in stems(text[: len(text) - len(made)])) else text
    verb, _, rest = text.partition(" ")
    names_tool = stem(verb) in tool and stem(verb) not in _NOUNS
    if not names_tool or re.match(_LINK, f" {rest}", re.IGNORECASE):
        return text
    return _FOLLOWING.sub("", rest) or text
