"""Relevance of texts: words as stems, and the sentences of a given context that answer a question."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache
from threading import Lock

# Named by its module: the package's own factory hands over to another engine where it finds one.
from snowballstemmer.english_stemmer import EnglishStemmer  # type: ignore[import-untyped]  # it ships no types

WIDE = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"


def bag(text: str) -> frozenset[str]:
    """Return the words of a text as they are."""
    return frozenset(text.split())


STOPWORDS = bag(
    "a an and are as at be been but by can could did do does for from had has have how i if in into is it "
    "its me my no not of on or our please should so some such than that the their them then there these "
    "they this those to up us use used using very was we were what when where which who whom whose why "
    "will with would you your about all also any just let like need want give given tell show know each "
    "per via only one "
)
_SYNONYMS = (
    "image picture photo draw paint sketch 图片 图像 照片 插画 画",
    "video film movie clip animate 视频 短片 影片 动画",
    "create make generate produce render 生成 制作 创建",
    "weather forecast temperature warm cold 天气 气温",
    "search find lookup google 搜索 查找",
    "add plus sum 加",
    "subtract minus 减",
    "multiply times product 乘",
    "translate translation 翻译",
    "email mail 邮件",
    "status progress 状态 进度",
    "price cost 价格",
)
_WORD = re.compile(rf"{WIDE}+|(?:(?!{WIDE})[^\W_])+(?:['’][a-z]+)?")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_STEMMER, _LOCK = EnglishStemmer(), Lock()


@lru_cache(maxsize=8192)
def _stem(word: str) -> str:
    with _LOCK:  # the stemmer keeps the word that it works on as state
        return str(_STEMMER.stemWord(re.sub("['’]s?$", "", word.lower())))


_STEMS: dict[str, str] = {}
_WIDE_STEMS: dict[str, str] = {}
for _group in _SYNONYMS:
    _first, *_others = _group.split()
    for _word in (_first, *_others):
        (_WIDE_STEMS if re.match(WIDE, _word) else _STEMS)[_stem(_word)] = _stem(_first)


@lru_cache(maxsize=512)
def stems(text: str) -> tuple[str, ...]:
    """Return the stems of a text's words in order, without stop words, one stem for all synonyms.

    Chinese and Japanese have no spaces: their text comes as pairs of neighbouring characters.
    """
    found: list[str] = []
    for word in _WORD.findall(_CAMEL.sub(" ", text)):
        if re.match(WIDE, word):
            found += [stem for sign, stem in _WIDE_STEMS.items() if sign in word]
            found += [word[at : at + 2] for at in range(max(1, len(word) - 1))]
        elif word.lower() not in STOPWORDS:
            found.append(_STEMS.get(_stem(word), _stem(word)))
    return tuple(found)


def is_wide(text: str) -> bool:
    """Return whether a text is mostly Chinese, Japanese or Korean."""
    return 3 * len(re.findall(WIDE, text)) > len(re.findall(r"\w", text))


def rarity(texts: list[str]) -> dict[str, float]:
    """Weigh each stem by how few of the texts have it (inverse document frequency)."""
    counts = Counter(stem for text in texts for stem in set(stems(text)))
    return {stem: math.log(1 + len(texts) / count) for stem, count in counts.items()}


_SENTENCE_END = re.compile(
    r"(?<=[.!?][\"'”’)])\s+|(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[DM]r\.)\s+(?=[^\sa-z])|(?<=[。！？；])(?![”’」』）])|\n+"
)


def sentences(text: str) -> list[str]:
    """Split a text at the ends of its sentences and lines."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


SUMMARY = re.compile(r"\b(?:summar\w+|overview|key points|tl;?dr)\b|总结|概括|摘要", re.I)
_SOURCE = re.compile(r"[ \t]*(?:source |document |\[)(\d+)\]?\s*[:：.]", re.I)
_METADATA = re.compile(r"^\w*(?:file|page|source|date)_\w+[ \t]*:.*$", re.MULTILINE)


def best_sentences(question: str, context: str, *, cites: bool = False) -> str:
    """Return up to three sentences that share most with a question, in their order; "" when none does."""
    units = _units(context)
    weights = rarity([text for text, _ in units])
    summary = SUMMARY.search(question) is not None
    wanted = set(weights) if summary else set(stems(question))
    number = re.search(r"\bhow (?:many|much|long|old|often)\b|\bwhen\b|多少|多久|几", question, re.I)
    scores = []
    for text, _ in units:
        shared = math.fsum(weights[stem] for stem in sorted(wanted & set(stems(text))))
        bonus = 0.7 if shared and number and re.search(r"\d", text) else 0.0
        scores.append((shared + bonus) / (1 + 0.02 * len(set(stems(text)))))
    floor = max(scores, default=0.0) * (0.3 if summary else 0.7)
    ranked = sorted((at for at, one in enumerate(scores) if one >= floor > 0), key=lambda at: -scores[at])[:3]
    said = [units[at][0] + (f" [{units[at][1]}]" if cites and units[at][1] else "") for at in sorted(ranked)]
    return ("" if is_wide(context) else " ").join(dict.fromkeys(said))


def _units(context: str) -> list[tuple[str, str]]:
    """Split a text into sentences, each with the number of its source."""
    found: list[tuple[str, str]] = []
    paragraph, source = list[str](), ""
    for line in (*_METADATA.sub("", context).splitlines(), ""):
        plain = re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", line.strip()).strip("|> ")
        number = _SOURCE.match(line)
        own = number or plain != line.strip() or re.match("#|$", plain)
        # A long line, or one before a small letter, was wrapped in the middle of a sentence.
        if own or not (plain[0].islower() or (paragraph and len(paragraph[-1]) > 60)):
            found += [(one, source) for one in sentences(" ".join(paragraph)) if re.search(r"\w", one)]
            paragraph = []
        if number:
            source, plain = number[1], line[number.end() :].strip()
        paragraph += [plain] if plain and not plain.startswith("#") else []
    return found
