"""Hints: what a name, a unit or a turn of phrase tells of the value that belongs to it."""

from __future__ import annotations

import re

from piccc.emulator.model.reading import NAME
from piccc.emulator.model.words import WIDE, stem, stemmed

SECONDS: dict[str, float] = {
    "second": 1,
    "sec": 1,
    "s": 1,
    "秒": 1,
    "秒钟": 1,
    "minut": 60,
    "min": 60,
    "分钟": 60,
    "hour": 3600,
    "h": 3600,
}
SECONDS |= {
    "小时": 3600,
    "day": 86400,
    "d": 86400,
    "天": 86400,
    "week": 604800,
    "周": 604800,
    "ms": 0.001,
    "millisecond": 0.001,
}
DURATION = stemmed(
    "duration length long timeout seconds minutes hours days wait delay interval period lasting"
)
COUNT = stemmed("n count number num quantity amount limit top max k size results batch")
COUNTED = stemmed("results items copies versions variations options hits matches entries rows")
FREE_TEXT = stemmed(
    "prompt query question q text input message content body description instruction instructions task "
    "request "
    "sentence phrase script keywords search idea scene caption"
)
QUOTABLE = stemmed("text input message content body sentence phrase query")
SCENE = stemmed("prompt description scene caption idea")
UNITS = {
    "age": "year years old yo 岁",
    "price": "$ € £ ¥ dollar euro usd eur 元 块",
    "amount": "$ € £ ¥ dollar euro usd eur 元 块",
    "budget": "$ € £ ¥ dollar euro usd eur 元 块",
    "percent": "% percent",
    "rate": "% percent",
    "discount": "% percent",
    "temperature": "°c °f c f degree degrees 度",
    "guests": "people person guest 人 位",
    "people": "people person guest 人 位",
    "party": "people person guest 人 位",
    "distance": "km m mile miles meter kilometers 公里 米",
    "height": "cm m px pixels 米",
    "width": "cm m px pixels 米",
    "weight": "kg g lb pounds 公斤 克",
    "count": "张 个 段 条 份 次",
    "n": "张 个 段 条 份 次",
}
ALIASES = {stem(name): {stem(unit) for unit in units.split()} for name, units in UNITS.items()}
WORDS_FOR = {
    "1:1": "square 方形 正方形",
    "16:9": "landscape widescreen horizontal 横屏 横版 宽屏",
    "9:16": "portrait vertical 竖屏 竖版",
    "21:9": "ultrawide cinematic 电影画幅",
    "celsius": "°C ℃ 摄氏",
    "fahrenheit": "°F ℉ 华氏",
    "en": "English 英语 英文",
    "zh": "Chinese 中文 汉语",
    "fr": "French 法语 法文",
    "de": "German 德语 德文",
    "es": "Spanish 西班牙语",
    "ja": "Japanese 日语 日文",
}
LANGUAGES = (
    r"English|Chinese|Mandarin|French|German|Spanish|Italian|Portuguese|Dutch|Russian|Japanese|Korean"
    r"|Arabic|Hindi|Turkish"
    r"|Polish|Swedish|Greek|Hebrew|Latin|Thai|Vietnamese|英[语文]|中文|汉语|法[语文]|德[语文]|西班牙[语文]|日[语文]|韩[语文]|俄[语文]"
)
END = (
    r"(?=\s*(?:[,.?!;:，。？！；)\n]|$|\s(?:and|or|for|with|on|at|in|to|from|using|please|right now|today"
    r"|tomorrow|tonight|now|is|was|by|then)\b))"
)
LOWER = rf"(?!(?:the|a|an|my|this|that|which|what|it|me)\b)[a-z][\w'-]*(?: [a-z][\w'-]*){{0,2}}?{END}"
PLACE = rf"({NAME}|{LOWER})"
HINTS: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    (
        stemmed("origin source start from departure departing"),
        (rf"\bfrom {PLACE}", r"\d\s?([A-Z]{3})\b", rf"从({WIDE}{{2,5}}?)(?:到|去|出发)"),
    ),
    (
        stemmed("destination target end arrival to recipient"),
        (
            rf"\b(?:into|to) ({LANGUAGES})\b",
            rf"\b(?:to|for) {PLACE}",
            rf"[到去]({WIDE}{{2,5}}?)(?:的|$|[，。])",
        ),
    ),
    (stemmed("language lang locale"), (rf"\b(?:into|in|to) ({LANGUAGES})\b", rf"({LANGUAGES})")),
    (
        stemmed("city location place town country region area address venue where"),
        (
            rf"\b(?:in|at|near|around) ({NAME})",
            rf"\b(?:for|of|to|from) ({NAME})",
            rf"\b(?:in|at|near|around) ({LOWER})",
            rf"(?:查询?一?下?|问一?下?|在|去)?((?!今天|明天|请|帮){WIDE}{{2,4}}?)(?:今天|明天|后天|现在|当前)?(?:的|今天|明天|现在)?(?:天气"
            rf"|气温|时间|人口|位置)",
            rf"[在去]({WIDE}{{2,4}}?)(?:的|有|$|[，。？])",
        ),
    ),
    (
        stemmed("name title label customer person user username client patient guest"),
        (
            rf"\b(?:named|called|titled|entitled|(?:my )?name(?:'s| is)|i am|i'm|customer|user|client|for) "
            rf"({NAME})",
            rf"(?:叫|名为|我是|名字是)({WIDE}{{2,4}})",
        ),
    ),
    (
        stemmed("body message content text"),
        (r"\b(?:saying|that says|which says|that reads)(?: that)?[:,]? (?![\"'“「])(.+?)[.!]?$",),
    ),
    (stemmed("author artist writer creator"), (rf"\bby ({NAME})",)),
    (
        stemmed("topic subject about theme"),
        (r"\b(?:about|on|regarding|concerning) (.+?)(?=[.?!,;\n]|$)", r"关于(.+?)(?:的|[，。？]|$)"),
    ),
    (stemmed("symbol ticker stock currency"), (r"\b([A-Z]{2,5})\b",)),
    (
        stemmed("style mood tone genre"),
        (
            r"\bin (?:an? |the )?([\w' -]{2,30}?) (?:style|mood|tone)\b",
            r"\bin the style of ([^,.;\n]+)",
            r"([\w-]+)[ -]style\b",
        ),
    ),
)
KINDS: tuple[tuple[frozenset[str], frozenset[str], tuple[str, ...]], ...] = (
    (stemmed("url uri link href website webpage"), frozenset({"uri", "iri", "uri-reference"}), ("urls",)),
    (stemmed("email mail recipient to cc bcc"), frozenset({"email", "idn-email"}), ("emails",)),
    (stemmed("datetime timestamp when start end at"), frozenset({"date-time"}), ("moments",)),
    (stemmed("date day deadline birthday when due"), frozenset({"date"}), ("dates", "days")),
    (stemmed("time when hour at"), frozenset({"time"}), ("times",)),
    (stemmed("aspect ratio"), frozenset(), ("ratios",)),
    (stemmed("resolution size quality dimensions"), frozenset(), ("resolutions",)),
    (stemmed("id ids uuid identifier reference order ticket task"), frozenset({"uuid"}), ("ids",)),
    (stemmed("file path filename directory"), frozenset(), ("files",)),
    (stemmed("expression formula equation calculation"), frozenset(), ("expressions",)),
    (stemmed("code sql snippet program"), frozenset(), ("code",)),
)
EXAMPLE = re.compile(
    r"(?:e\.g\.?|for example|such as|例如|比如)[,:，：]?\s*(\"[^\"]+\"|'[^']+'|[^,;.()，。；]+)",
    re.IGNORECASE,
)
HANDLES = stemmed("url uri link href id ids task uuid file")
MEDIA_URL = re.compile(
    r"(?:^|_)(?:image|video|audio|picture|photo|media|file|source|input|reference)s?(?:_|$)"
)
