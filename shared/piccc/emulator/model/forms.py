"""Forms: the short pieces that are asked for by name, from a haiku to the field of an object."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from piccc.emulator.model.clause import request_of, tidy
from piccc.emulator.model.words import is_wide, sentences, stem, stems

_TOPIC = re.compile(
    r"\b(?:about|for|on|of|regarding|celebrating|announcing|to (?:promote|announce|sell))\s+(.+)$",
    re.IGNORECASE | re.DOTALL,
)
_OBJECT = re.compile(r"(?:explain|describe|define|discuss|outline)\b", re.IGNORECASE)
_MANNER = re.compile(
    r"(?<!\s)\s*\b(?:in|as|with|using)\s+(?:(?:a )?json(?: object)?|markdown"
    r"|(?:about |around |at most |under |exactly )?(?:an?|one|two|three|four|five|ten|a few|\d+)[ -]"
    r"(?:short |simple )?"
    r"(?:words?|sentences?|lines?|paragraphs?|steps?|(?:bullet )?points?|bullets?)(?: or (?:less|fewer))?"
    r"|the style\b.*$)(?![\w-])[,:]?",
    re.IGNORECASE,
)
"""How something is to be told, which is no part of what is to be told."""


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks: the model, and the seed that picks among equal words."""

    model: str
    seed: int | None = None

    def pick(self, options: Sequence[str], text: str) -> str:
        """Return one of the options, always the same for a text."""
        return options[crc32(f"{self.model}|{self.seed or 0}|{text}".encode()) % len(options)]


def topic_of(text: str) -> str:
    """Give what a text wants to hear about, as a noun phrase."""
    plain = _MANNER.sub("", request_of(text))
    if is_wide(plain):
        about = re.search(
            r"(?:关于|为(?!什么|何)|给)(.+?)(?:写|的(?:文案|诗|故事|标题|笑话)|[，。？]|$)", plain
        )
        return tidy(
            about[1]
            if about
            else re.sub(r"^(?:(?:解释|说明|介绍)(?:一下)?|(?:写|讲|说|来)(?:一?[个首段条篇])?)", "", plain)
        ).rstrip("的")[:40]
    about = None if _OBJECT.match(plain) else _TOPIC.search(plain)
    words = (
        about[1]
        if about
        else re.sub(
            r"^(?:(?:what|who|how|why|when|where|which|is|are|do|does|did|tell|give|write|explain|describe|define|discuss|outline"
            r"|make|create|me|us|a|an|the|to|please|make up|invent)\b['’]?s?\s*)+",
            "",
            plain,
            flags=re.IGNORECASE,
        )
    )
    first = next(iter(sentences(words)), "").partition(";")[0]
    return tidy(first)[:80].rsplit(" ", 1 if len(first) > 80 else 0)[0] or plain[:80]


def written(text: str, voice: Voice) -> str:
    """Write the short form that is asked for, about its topic."""
    words = set(stems(text)) | {word for word in _WIDE_FORMS if word in text}
    form = next((form for form in _FORMS if stem(form) in words or form in words), None)
    if form is None or not (
        re.match(
            r"(?:please |can you |could you |i (?:want|need) )?(?:write|tell|give|compose|create|make"
            r"|draft|suggest|generate)\b",
            text,
            re.IGNORECASE,
        )
        or is_wide(text)
        or len(text.split()) < 8
    ):
        return ""
    topic = topic_of(text)
    if stem(form) in stems(topic) and len(stems(topic)) == 1:
        topic = "一天" if is_wide(text) else "an ordinary day"
    bare = re.sub(r"^(?:an?|the|my|our|some)\s+", "", topic, flags=re.IGNORECASE)
    said = voice.pick(_FORMS[form], text).format(topic=topic, bare=bare, Bare=bare[:1].upper() + bare[1:])
    return said[:1].upper() + said[1:]


_CAPTIONS = (
    "Meet the {bare}: made with care, ready for every day.",
    "{Bare}, simply beautiful. Take a closer look.",
    "Small things matter. Say hello to the new {bare}.",
)
_WIDE_CAPTIONS = (
    "全新{topic}，为每一天用心打造。",
    "遇见{topic}，遇见简单的美好。",
    "{topic}：细节之处，自有温度。",
)
_FORMS: dict[str, tuple[str, ...]] = {
    "haiku": (
        "Morning light arrives,\n{bare} in the quiet air,\nthe day holds its breath.",
        "A hush, then a breeze;\n{bare} between two heartbeats,\nevening turns the page.",
    ),
    "joke": (
        "Why did {topic} cross the road? To see whether the punchline was on the other side.",
        "What do you call {topic} with good timing? A joke that tells itself.",
    ),
    "poem": (
        "Of {topic} I would sing today,\nin simple words, a simple way;\nthe light is kind, the hour is "
        "long,\nand {topic} lends its name to song.",
    ),
    "story": (
        "Once there was {topic}. Nobody thought much of it, until one morning everything changed. By "
        "evening the whole town was talking, and they have not stopped since.",
    ),
    "slogan": ("{Bare}. Made to be loved.", "{Bare}: more of what matters.", "Think {bare}. Smile."),
    "tagline": ("{Bare}. Made to be loved.", "{Bare}: more of what matters."),
    "headline": ("{Bare}: what you need to know", "Why everyone is talking about {bare}"),
    "title": ("{Bare}, up close", "A short guide to {bare}"),
    "caption": _CAPTIONS,
    "tweet": _CAPTIONS,
    "post": _CAPTIONS,
    "blurb": _CAPTIONS,
    "greeting": ("Hello, and welcome to {topic}!", "Good to see you! Today is all about {topic}."),
    "文案": _WIDE_CAPTIONS,
    "标题": _WIDE_CAPTIONS,
    "诗": ("{topic}入梦来，\n清风拂面开。\n一盏灯如豆，\n照我到天白。",),
    "故事": ("从前，{topic}并不起眼。直到有一天，一切都变了，全城的人都在谈论它。",),
    "笑话": ("为什么{topic}从不迟到？因为它总在笑点上。",),
}
_FORM_STEMS = {stem(form) for form in _FORMS}
_WIDE_FORMS = [form for form in _FORMS if not form.isascii()]


def named(field: str, topic: str, text: str, voice: Voice) -> str:
    """Make up the text of a field from its name and the topic."""
    label = re.sub(r"[\W_]+", " ", field).strip()
    topic = topic if set(stems(topic)) - _FORM_STEMS else "everyday life"
    if is_wide(text):
        return f"{label}：{topic}" if label else topic
    for word in reversed(stems(field)):
        if word in _FIELDS:
            return voice.pick(_FIELDS[word], text).format(topic=topic, Topic=topic[:1].upper() + topic[1:])
    return f"{label[:1].upper()}{label[1:]} about {topic}" if label else topic


_PEOPLE = ("Ada Larsen", "Noor Haddad", "Mei Tanaka", "Tomás Rivera")
_FIELDS = {
    stem(word): options
    for words, options in (
        ("name artist author director person customer user", _PEOPLE),
        ("title headline subject", ("{Topic}, up close", "A short guide to {topic}")),
        (
            "setup question",
            ("What do you call {topic} with good timing?", "What did {topic} say to the moon?"),
        ),
        ("punchline", ("A joke that tells itself.", "You light up my night shift.")),
        ("reason explanation rationale justification", ("It fits {topic} best.", "It speaks of {topic}.")),
        ("city location place town", ("Paris", "Lisbon", "Kyoto")),
    )
    for word in words.split()
}
