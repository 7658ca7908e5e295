"""Words: a text as comparable stems, so that `images`, `picture` and `画` meet."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache
from threading import Lock

# Named by its module: the package's own factory hands over to another engine where it finds one.
from snowballstemmer.english_stemmer import EnglishStemmer  # type: ignore[import-untyped]  # it ships no types

WIDE = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_WORD = re.compile(rf"{WIDE}+|(?:(?!{WIDE})[^\W_])+(?:['’][a-z]+)?")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_STEMMER, _ONE_AT_A_TIME = EnglishStemmer(), Lock()
_KEPT = 5_000
"""What is longer than a request is not remembered: it would only hold memory."""
ASKING = re.compile(
    r"^(?:what|who|when|where|why|how|which|is|are|do|does|did|can|tell me)\b|[?？]\s*$", re.IGNORECASE
)


def bag(text: str) -> frozenset[str]:
    """Give the set of the words of a text as they are."""
    return frozenset(text.split())


STOPWORDS = bag(
    "a an and are as at be been but by can could did do does for from had has have how i "
    "if in into is it its "
    "me my no not of on or our please should so some such than that the their them then there these they "
    "this "
    "those to up us use used using very was we were what when where which who whom whose why will with "
    "would you "
    "your about all also any just let like need want give given tell show know each per via only one "
    "的 了 是 在 我 你 请 吗 呢 什么 多少 一个 怎么 如何"
)

# Verbs and nouns that half of all tools share: they tell tools apart only when nothing else does.
GENERIC = bag("creat get run tool call function data new valu set return input output provid")

_GROUPS = (
    "image picture photo photograph illustration drawing draw painting sketch 图 图片 图像 照片 插画 画",
    "video film movie clip animation animate footage 视频 短片 影片 动画",
    "create make generate produce render build 生成 制作 创建 创作",
    "weather forecast temperature 天气 气温",
    "search find lookup google browse retrieve 搜索 查找 检索 搜一下",
    "add plus sum addition 加",
    "subtract minus subtraction difference 减",
    "multiply product multiplication 乘",
    "divide division quotient 除以",
    "calculate compute evaluate calculator math 计算",
    "translate translation 翻译",
    "email mail 邮件",
    "time clock 时间 几点",
    "delete remove erase 删除",
    "book reserve reservation 预订",
    "get fetch check read 获取 查询",
    "price cost 价格 多少钱",
    "status progress 状态 进度",
    "document doc page 文档 资料",
    "event meeting appointment schedule calendar 会议 日程",
    "audio sound music 声音 音乐",
)
_PHRASES = tuple(
    (re.compile(pattern, re.IGNORECASE), meaning)
    for pattern, meaning in (
        (r"\bhow (?:warm|hot|cold)\b|\b(?:is|will) it (?:be )?(?:rain|snow|sunny|warm|cold|hot)", "weather"),
        (r"\blook(?:ing)? (?:it |this |that )?up\b", "search"),
        (r"\btimes (?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b", "multipli"),
        (r"\d\s*[+*×÷]\s*\(|\d\s*%\s+of\s+\d", "calcul"),
    )
)
_OPERATORS = {"+": "add", "*": "multiply", "×": "multiply", "÷": "divide", "/": "divide", "-": "subtract"}
_ARITHMETIC = re.compile(
    r"(?<=\d)(?:\s*([+*×÷])\s*|\s+([-/])\s+"
    r"|(?<!\d{4})(?<![-/]\d)(?<![-/]\d\d)([-/])(?=\d{1,3}\s*(?:[=?？]|$)))(?=\d)"
)
"""The sign of a sum; a bare `-` or `/` may as well make a range, a date or a number to call."""


@lru_cache(maxsize=8192)
def stem(word: str) -> str:
    """Reduce one word to the stem of its group of synonyms."""
    plain = _plain(word)
    return _SYNONYMS.get(plain, plain)


def _plain(word: str) -> str:
    with _ONE_AT_A_TIME:  # the stemmer holds the word that it works on
        return str(_STEMMER.stemWord(word.lower().replace("’s", "").replace("'s", "")))


_SYNONYMS: dict[str, str] = {}
_WIDE_SYNONYMS: dict[str, str] = {}
for _group in _GROUPS:
    _first = _plain(_group.split()[0])
    for _member in _group.split():
        (_WIDE_SYNONYMS if re.match(WIDE, _member) else _SYNONYMS)[_plain(_member)] = _first


def stemmed(words: str) -> frozenset[str]:
    """Give the set of the stems of words, stopwords too."""
    return frozenset(stem(word) for word in words.split())


def stems(text: str) -> tuple[str, ...]:
    """Give the stems of a text's telling words in order; Chinese and Japanese come as pairs of characters."""
    return _remembered_stems(text) if len(text) <= _KEPT else _stems(text)


def _stems(text: str) -> tuple[str, ...]:
    found: list[str] = []
    for word in _WORD.findall(_CAMEL.sub(" ", text)):
        if re.match(WIDE, word):
            found += [meaning for sign, meaning in _WIDE_SYNONYMS.items() if sign in word]
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif word.lower() not in STOPWORDS:
            found.append(stem(word))
    found += [meaning for phrase, meaning in _PHRASES if phrase.search(text)]
    signs = [match[1] or match[2] or match[3] for match in _ARITHMETIC.finditer(text)]
    found += [_OPERATORS[sign] for sign in signs]
    return (*found, "calcul") if signs else tuple(found)


_remembered_stems = lru_cache(maxsize=2048)(_stems)


def is_wide(text: str) -> bool:
    """Tell whether a text is mostly Chinese, Japanese or Korean."""
    return 3 * len(re.findall(WIDE, text)) > len(re.findall(r"\w", text))


def rarity(groups: list[tuple[str, ...]]) -> dict[str, float]:
    """Weigh each stem by how few of the groups hold it."""
    counts = Counter(word for group in groups for word in set(group))
    return {word: math.log(1 + len(groups) / count) for word, count in counts.items()}


_CLOSING, _WIDE_CLOSING = r"[\"'”’)\]]", "[”’」』）]"
_SENTENCE_END = re.compile(
    rf"(?:(?<=[.!?])|(?<=[.!?]{_CLOSING})|(?<=[.!?]{_CLOSING}{_CLOSING}))\s+(?=[\"'“(\[]?[^\sa-z])"
    rf"|(?:(?<=[。！？；])|(?<=[。！？；]{_WIDE_CLOSING}))(?!{_WIDE_CLOSING})\s*|\n+"
)
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|e\.g|i\.e|etc|vs|Dr|Mr|Mrs|Ms|St|No|Fig|approx)\.$")


def sentences(text: str) -> list[str]:
    """Split a text at the ends of its sentences and lines."""
    found: list[str] = []
    joined = False
    for part in (part.strip() for part in _SENTENCE_END.split(text)):
        if part and joined:
            found[-1] += f" {part}"
        elif part:
            found.append(part)
        joined = bool(part and _ABBREVIATION.search(part))
    return found
