"""Text relevance: word stems, and the sentences in a context that answer a question."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from threading import Lock

# Imported from its module, because the package's factory uses PyStemmer if it is installed.
from snowballstemmer.english_stemmer import EnglishStemmer  # type: ignore[import-untyped]  # no type annotations

WIDE = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_COMMON = (
    "a an and are as at be been but by can could did do does for from had has have how i if in into is it "
    "its me my no not of on or our please should so some such than that the their them then there these "
    "they this those to up us use used using very was we were what when where which who whom whose why will "
    "with would you your about all also any just let like need want give given tell show know each per only "
    "one via"
)
STOPWORDS = frozenset(_COMMON.split())
_SYNONYMS = (
    "image picture photo draw paint sketch 图片 图像 照片 画 | video film movie clip animate 视频 动画 | "
    "create make generate produce render 生成 制作 创建 | weather forecast temperature 天气 | "
    "search find lookup google 搜索 查找 | add plus sum 加 | subtract minus 减 | multiply times product 乘 | "
    "translate translation 翻译 | email mail 邮件 | status progress 状态 进度 | price cost 价格"
)
_WORD = re.compile(rf"{WIDE}+|(?:(?!{WIDE})[^\W_])+(?:['’][a-z]+)?")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_STEMMER, _LOCK = EnglishStemmer(), Lock()


@lru_cache(maxsize=8192)
def _stem(word: str) -> str:
    with _LOCK:  # the stemmer is stateful
        return str(_STEMMER.stemWord(re.sub("['’]s?$", "", word.lower())))


_GROUPS = [group.split() for group in _SYNONYMS.split(" | ")]
_STEMS = {_stem(word): _stem(group[0]) for group in _GROUPS for word in group}
_WIDE_STEMS = {word: stem for word, stem in _STEMS.items() if re.match(WIDE, word)}


@lru_cache(maxsize=512)
def stems(text: str) -> tuple[str, ...]:
    """Return a text's word stems in order, with synonyms unified and Chinese split into character pairs."""
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
    """Return each stem's inverse document frequency in the texts."""
    counts = Counter(stem for text in texts for stem in set(stems(text)))
    return {stem: math.log(1 + len(texts) / count) for stem, count in counts.items()}


_SENTENCE_END = re.compile(
    r"(?<=[.!?][\"'”’)])\s+|(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[DM]r\.)\s+(?=[^\sa-z])|(?<=[。！？；])(?![”’」』）])|\n+"
)
SUMMARY = re.compile(r"\b(?:summar\w+|overview|key points|tl;?dr)\b|总结|概括|摘要", re.I)
_NO_SENTENCE = re.compile(r"^(?:#|\w*(?:file|page|source|date)_\w+[ \t]*:).*$", re.MULTILINE)


def best_sentences(question: str, context: str) -> str:
    """Return up to three sentences that share most with a question, in text order; "" if none does."""
    # A line that continues in lower case was wrapped; headings and metadata are not sentences.
    parts = _SENTENCE_END.split(re.sub(r"(?<=[\w,])\n(?=[a-z])", " ", _NO_SENTENCE.sub("", context)))
    plain = (re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", part.strip()).strip("|> ") for part in parts)
    units = list(dict.fromkeys(one for one in plain if re.search(r"\w", one)))
    weights, scores = rarity(units), list[float]()
    summary = SUMMARY.search(question)
    wanted = {*weights} if summary else {*stems(question)}
    for text in units:
        shared = math.fsum(weights[stem] for stem in sorted(wanted & {*stems(text)}))
        scores.append(shared / (1 + 0.02 * len({*stems(text)})))
    floor = max(scores, default=0.0) * (0.3 if summary else 0.7)
    ranked = sorted((at for at, one in enumerate(scores) if one >= floor > 0), key=lambda at: -scores[at])[:3]
    return ("" if is_wide(context) else " ").join(units[at] for at in sorted(ranked))


_QUESTION = re.compile(
    r"(?im)^[ \t]*[#*<\[]*(?:the |original |user )*(?:query|question|问题)(?: is)?(?: as follows)?[\]>*]*"
    r"[ \t]*[:：\n][ \t]*([^\s<{].*)"
)
_FENCE = re.compile(r"(?m)^[ \t]*(?:-{3,}|={3,}|\"{3}|#{3,}|\*{3,})[ \t]*$")
_TAGGED = re.compile(r"(?is)<(context|documents?|sources?|text|passage)\b[^>]*>(.*?)</\1>")
_LABEL = re.compile(
    r"(?i)(?:^|\n)[^\n]{0,300}?(?:\b(?:context|documents?|sources?|passages?|text)\b|上下文|资料)"
    r"[^\n:：]{0,120}(?:[:：][ \t]|[:：.。]?[ \t]*\n)"
)


def from_context(text: str, system: str = "") -> str:
    """Answer from the context in the prompt or system message; "" if neither has one."""
    question, said = answered(text)
    if not question:
        return best_sentences(text, _block(system)) if system else ""
    return said or ("给出的内容没有提到这一点。" if is_wide(question) else "The context does not say.")


def answered(text: str) -> tuple[str, str]:
    """Return the question of a prompt with a context, and the sentences that answer it; "" if none do."""
    question, rest = _question(text)
    context = _block(rest) if question else ""
    if not context and SUMMARY.search(text[:200]):
        question, _, context = re.split(r"(\n|：|:\s)", f"{text}\n", maxsplit=1)
    return (question, best_sentences(question, context)) if context.strip() else ("", "")


def _question(text: str) -> tuple[str, str]:
    """Return the question (labelled, or the last or first line) and the text without it."""
    if labelled := [*_QUESTION.finditer(text)]:
        start, end = labelled[-1].span()
        return labelled[-1][1].strip(), max(text[:start], text[end:], key=len)
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for line in (lines[-1], lines[0]) if len(lines) > 1 else ():
        if re.search(r"[?？]\s*$", line) or SUMMARY.search(line):
            return line.strip(), text.replace(line, "", 1)
    return "", text


def _block(text: str) -> str:
    """Return the context in a prompt: between tags or rules, after a label, or the whole text if long."""
    if tagged := [match[2] for match in _TAGGED.finditer(text)]:
        return "\n".join(tagged)
    fences = list(_FENCE.finditer(text))
    if len(fences) > 1:
        return max((text[one.end() : two.start()] for one, two in pairwise(fences)), key=len).strip()
    label = next((match for match in _LABEL.finditer(text) if len(text) - match.end() > 20), None)
    return text[label.end() :].strip() if label else text if len(stems(text)) > 25 else ""
