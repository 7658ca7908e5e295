"""Speech: plain replies, in the user's language, that are the same for the same words, model and seed."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence

from piccc.emulator.model.forms import Voice, topic_of, written
from piccc.emulator.model.reading import Reading
from piccc.emulator.model.words import is_wide, sentences, stem, stems

_OPERATIONS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_SPOKEN = (
    ("plus", "+"),
    ("minus", "-"),
    ("times", "*"),
    ("multiplied by", "*"),
    ("divided by", "/"),
    ("加", "+"),
    ("减", "-"),
    ("乘以?", "*"),
    ("除以", "/"),
)
_SUM_ASKED = re.compile(
    r"(?:\b(?:what(?:'s|’s| is| does| are)|how much (?:is|are)|calculate|compute|evaluate|solve|work out"
    r"|(?:result|value|sum|product) of)|请问|计算|算一下|算算|求)\s*[:：]?\s*$",
    re.IGNORECASE,
)
_SUM_ALONE = re.compile(r"\s*(?:[=?？.!。]|等于|是多少|equals\b|is what\b|please\b|$)", re.IGNORECASE)
"""A sum is worked out where it is asked for or stands alone: elsewhere `3-5` is a range."""
_SAY = re.compile(
    r"^(?:(?:please|just|only|simply|can you|could you)\s+)*(?:(?:say|repeat(?: after me)?|echo|(?:reply"
    r"|respond|answer)(?: only| just)? with(?: only| just)?"
    r"(?: the (?:word|words|text|phrase|single word))?|output|print)\b"
    r"|请?(?:(?:重复|复述)(?:一[遍下])?|说(?:一遍|(?:一句)?\s*(?=[:：“「]))|(?:回复|回答)\s*(?=[:：“「])"
    r"|只(?:需|要)?(?:回复|输出))|请(?:说(?![明说出服话一])|回复(?=\s*\w+[.。]?$)))"
    r"\s*(?:only|exactly|the following|以下(?:内容|的话)?)?\s*[:：]?\s*(.+)$",
    re.IGNORECASE | re.DOTALL,
)
_GREETING = re.compile(
    r"^(?:hi|hello|hey|good (?:morning|afternoon|evening|day)|greetings|howdy|yo)\b"
    r"|^(?:你好|您好|嗨|早上好|晚上好|大家好)",
    re.IGNORECASE,
)
_THANKS = re.compile(r"^(?:many )?(?:thanks|thank you|thx|cheers)\b|^(?:谢谢|多谢|感谢)", re.IGNORECASE)
_WHO = re.compile(
    r"\b(?:who|what) are you(?=\s*(?:[?.!,;:]|$|and\b|exactly\b|really\b))|\bwhat(?:'s| is) your name\b"
    r"|\b(?:which|what) (?:(?:language|ai|kind of|type of) )*model (?:are you|is this|do you|am i)\b"
    r"|你是谁|你叫什么|[你这](?:是|用的是?)(?:什么|哪个|哪种)\w{0,4}模型|介绍一下?你自己",
    re.IGNORECASE,
)
_FACTS = (
    re.compile(
        r"\bmy ([a-z][\w '’]{1,30}?) (?:is|are|was)(?: called)? ([^.!?\n;]+?)(?=\s+and\s+(?:my|i)\b|[.!?\n;,]"
        r"|$)",
        re.IGNORECASE,
    ),
    re.compile(r"我的([^\s，。是]{1,8})是([^，。！？\n]+)"),
)
_NAMES = (
    re.compile(r"\b(?:[Cc]all me|[Ii] am(?: called)?|[Ii]'m|[Tt]his is) ([A-Z][\w'-]+(?: [A-Z][\w'-]+)?)"),
    re.compile(r"我(?:叫|是)(?!什么|谁)([^，。！？\s]{1,8})"),
)
_HOME = re.compile(r"\bi (?:live|am based|work) in ([A-Z][\w' -]+?)(?=[.,!?\n]|$| and\b)", re.IGNORECASE)
_WHO_AM_I = re.compile(r"\bwho am i\b|我(?:是谁|叫什么)", re.IGNORECASE)
_WHERE_AM_I = re.compile(r"\bwhere do i (?:live|work)\b", re.IGNORECASE)
_ASKED = re.compile(
    r"\b(?:what(?:'s| is| was| are)|do you (?:know|remember)|tell me|remember|recall)\b.{0,12}\bmy "
    r"([a-z][\w '’]{1,30}?)\s*(?:\?|$|again\b|was\b|is\b)",
    re.IGNORECASE,
)
_ASKED_WIDE = re.compile(r"我的([^\s，。是]{1,8}?)(?:是什么|是啥|叫什么|是多少|呢|是谁|吗)")
_AMOUNT = re.compile(
    r"\b(\d{1,9})[- ](?:word|sentence|line|paragraph|item|bullet)s?\b|(?<!\d)(\d{1,9})\s*字", re.IGNORECASE
)
_LONG = re.compile(
    r"\ban? (?:very )?(?:long|detailed|thorough|in-depth)\b|\bin detail\b|\bessay\b|详细|长文", re.IGNORECASE
)


def reply(text: str, earlier: Sequence[str], voice: Voice) -> str:
    """Reply to a user's words, knowing the earlier ones: the first of the rules that has something to say."""
    for rule in (_repeated, _remembered, _reckoned, _introduced, _counted, _composed, _greeted):
        said = rule(text.strip(), earlier, voice)
        if said:
            return said
    return _plainly(text.strip(), voice)


def reckon(expression: str) -> float | int | None:
    """Compute an expression of numbers; None when it is none, divides by zero or grows too large."""
    plain = expression.replace("×", "*").replace("÷", "/").replace("^", "**")
    try:
        value = _computed(ast.parse(plain.strip(), mode="eval").body)
        return int(value) if float(value).is_integer() else round(value, 10)
    except (
        SyntaxError,
        ValueError,
        ZeroDivisionError,
        OverflowError,
        TypeError,
        RecursionError,
        MemoryError,
    ):
        return None


def _computed(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _computed(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _computed(node.left), _computed(node.right)
        if isinstance(node.op, ast.Pow) and (abs(right) > 100 or abs(left) > 1e6):
            raise OverflowError
        return _OPERATIONS[type(node.op)](left, right)
    raise ValueError(ast.dump(node))


def _repeated(text: str, earlier: Sequence[str], voice: Voice) -> str:
    match = _SAY.match(text)
    if not match or re.match(r"(?:an?|some|something|the (?:answer|result))\b", match[1], re.IGNORECASE):
        return ""
    quoted = Reading(match[1]).quoted
    return str(quoted[0].value) if quoted else match[1].strip()


def _remembered(text: str, earlier: Sequence[str], voice: Voice) -> str:
    if re.search(r"\bwhat did i (?:just )?(?:say|ask|tell)", text, re.IGNORECASE) and earlier:
        return f"You said: {earlier[-1]}"
    key, at = _wanted(text)
    if not key:
        return ""
    told = [one for one in sentences(text[at:]) if not one.endswith(("?", "？"))]
    value = _facts([*earlier, text[:at], *told]).get(key.lower())
    if is_wide(text):
        return f"你的{'名字' if key == 'name' else key}是{value}。" if value else "你还没有告诉我。"
    if not value:
        return f"You have not told me your {key} yet."
    return f"You live in {value}." if key == "home" else f"Your {key} is {value}."


def _wanted(text: str) -> tuple[str, int]:
    """Give the fact that a text asks back for, and where it does; "" when it asks for none."""
    for key, pattern in (("home", _WHERE_AM_I), ("name", _WHO_AM_I), ("", _ASKED), ("", _ASKED_WIDE)):
        if match := pattern.search(text):
            return key or match[1].strip(), match.start()
    return "", 0


def _facts(texts: Sequence[str]) -> dict[str, str]:
    known: dict[str, str] = {}
    for text in texts:
        for pattern in _NAMES:
            for match in pattern.finditer(text):
                known["name"] = known["名字"] = match[1]
        if home := _HOME.search(text):
            known["home"] = home[1]
        for pattern in _FACTS:
            for match in pattern.finditer(text):
                known[match[1].lower()] = match[2].strip()
    return known


def _reckoned(text: str, earlier: Sequence[str], voice: Voice) -> str:
    spoken = text
    for word, sign in _SPOKEN:
        spoken = re.sub(rf"(?<=[\d)\s]){word}(?=[\s\d(])", sign, spoken, flags=re.IGNORECASE)
    for found in Reading(spoken).expressions:
        before = spoken[: found.start]
        alone = not re.search(r"\w", before) and _SUM_ALONE.match(spoken, found.end)
        value = reckon(found.value) if alone or _SUM_ASKED.search(before[-40:]) else None
        if value is not None:
            return f"{found.value.strip()} = {value}"
    return ""


def _introduced(text: str, earlier: Sequence[str], voice: Voice) -> str:
    if _WHO.search(text):
        return (
            f"我是 {voice.model}，由 piccc 模拟器按规则回答。"
            if is_wide(text)
            else f"I am {voice.model}, answering by rules in the piccc emulator."
        )
    if re.match(r"how (?:are you|is it going|do you do)\b", text, re.IGNORECASE) or text.startswith("你好吗"):
        return "我很好，谢谢！你呢？" if is_wide(text) else "I am well, thank you! How can I help?"
    if _THANKS.match(text):
        return (
            "不客气！还有什么可以帮你的吗？"
            if is_wide(text)
            else voice.pick(("You are welcome!", "Glad to help.", "Any time."), text)
        )
    return ""


def _counted(text: str, earlier: Sequence[str], voice: Voice) -> str:
    match = re.search(
        r"\bcount (?:from (\d{1,9}) )?(?:up )?to (\d{1,9})|从\s*(\d{1,9})\s*数到\s*(\d{1,9})",
        text,
        re.IGNORECASE,
    )
    if not match:
        return ""
    low, high = int(match[1] or match[3] or 1), int(match[2] or match[4])
    return ", ".join(str(number) for number in range(low, min(high, low + 999) + 1))


def _composed(text: str, earlier: Sequence[str], voice: Voice) -> str:
    return written(text, voice)


def _greeted(text: str, earlier: Sequence[str], voice: Voice) -> str:
    if not _GREETING.match(text) or len(stems(text)) > 6:
        return ""
    if is_wide(text):
        return voice.pick(("你好！有什么可以帮你的吗？", "你好，很高兴见到你！想聊点什么？"), text)
    return voice.pick(
        (
            "Hello! How can I help you today?",
            "Hi there! What shall we work on?",
            "Hello! What would you like to make?",
        ),
        text,
    )


_LISTED = frozenset(
    stems("tips ideas names reasons facts examples things ways items suggestions steps points words titles")
)


def _plainly(text: str, voice: Voice) -> str:
    """Say something about the topic, as long as was asked for, and do not pretend to know."""
    wide = is_wide(text)
    topic = topic_of(text) or ("这个话题" if wide else "that")
    amount = _AMOUNT.search(text)
    wanted = int(amount[1] or amount[2]) if amount else 200 if _LONG.search(text) else 0
    listed = next((one for one in Reading(text).numbers if stem(one.unit) in _LISTED), None)
    if listed is not None and not amount and 1 <= listed.value < 1e6:
        return _lengthened("", topic, int(listed.value), "item", wide)
    if not text:
        return "I am listening: tell me what you would like to do."
    asked = re.search(r"[?？]\s*$", text) is not None and not wide
    leads = _WIDE_LEADS if wide else _ASKED_LEADS if asked else _LEADS
    lead = voice.pick(leads, text).format(topic=sentences(text)[0] if asked else topic)
    if not wanted:
        return lead
    unit = (amount[0] if amount else "word").lower()
    return _lengthened(lead, topic, wanted, unit, wide)


_LEADS = (
    "You asked about “{topic}”. The emulator answers by rules, so take this as a placeholder for a model's "
    "own words.",
    "On “{topic}”: this reply is made by the emulator's rules; the real model would say more.",
    "Here is a short answer about “{topic}”. It comes from the emulator's rules, not from knowledge.",
)
_ASKED_LEADS = (
    "“{topic}” is a good question. The emulator answers by rules, not from knowledge: the real model "
    "knows more.",
    "You asked: “{topic}” This reply comes from the emulator's rules, which do not know the answer.",
)
_WIDE_LEADS = (
    "关于“{topic}”：这是模拟器按规则生成的回答，真实模型会说得更多。",
    "你问的是“{topic}”。模拟器按规则作答，这段话仅作占位。",
)
_MORE = (
    "Look first at where {topic} begins, for much follows from it.",
    "Then ask who needs {topic}, and what it should do for them.",
    "A small example says more about {topic} than a long definition.",
    "What is easy to miss about {topic} is often what matters most.",
    "Compare two ways, keep the simpler one, and write down why.",
    "In the end, {topic} is judged by how well it works in practice.",
)
_WIDE_MORE = (
    "先看{topic}从何而来。",
    "再想想谁需要{topic}，又为了什么。",
    "一个小例子往往胜过长篇定义。",
    "最容易忽略的，常常最重要。",
    "最后，{topic}要在实践中检验。",
)


def _lengthened(lead: str, topic: str, wanted: int, unit: str, wide: bool) -> str:
    more = [line.format(topic=topic) for line in (_WIDE_MORE if wide else _MORE)]
    if re.search(r"sentence|line|item|bullet|paragraph", unit):
        lines = [more[at % len(more)] for at in range(min(wanted, 500))]
        return (" " if "sentence" in unit else "\n\n" if "paragraph" in unit else "\n").join(lines)
    said, size = [lead], len(lead) if wide else len(lead.split())
    while size < min(wanted, 20_000):
        said.append(more[(len(said) - 1) % len(more)])
        size += len(said[-1]) if wide else len(said[-1].split())
    return ("" if wide else " ").join(said)
