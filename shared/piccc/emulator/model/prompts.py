"""Framework prompts that describe the reply's format in words.

`reply` checks every conversation before the general rules in `respond`. The patterns here quote the
frameworks' wording and change with it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from piccc.emulator.conversation import ModelRequest
from piccc.emulator.model.context import STOPWORDS, answered, best_sentences, rarity, stems
from piccc.emulator.model.schema import is_schema, json_objects, mapping

_CHOICE = re.compile(
    r"^[ \t]*\((\d{1,9})\)\s*(.+?)(?=\n[ \t]*\(\d+\)|\n-{3,}|\n\n\n|\Z)", re.MULTILINE | re.DOTALL
)
_ABOUT = re.compile(
    r"\b(?:question|query)\s*(?:[:：]\s*)?['\"“](.+?)['\"”]\s*$", re.IGNORECASE | re.MULTILINE
)
_MOST = re.compile(r"no more than (\d{1,9})|up to (\d{1,9})|top (\d{1,9})", re.IGNORECASE)
_LABELLED = re.compile(r"format:?\s*['\"“](\w+):\s*<(\w+)>['\"”]", re.IGNORECASE)
_QUERIES = re.compile(r"\bgenerate (\d{1,9}) (?:search )?(?:queries|questions)\b", re.IGNORECASE)
_STANDALONE = re.compile(
    r"<?(?:follow[ -]?up|new) (?:input|message|question)>?(?:\s*:[ \t]*|[ \t]*\n)(\S.*?)\s*$",
    re.IGNORECASE | re.MULTILINE,
)


# Framework prompts are never shorter, but users' messages often are. Longer ones exceed any context window.
_SHORTEST, _LONGEST = 40, 1_000_000


def reply(request: ModelRequest) -> str | None:
    """Reply to a known framework prompt, or return None."""
    users = [turn for turn in request.turns if turn.role == "user"]
    if not users or request.tools or request.schema is not None or request.json_mode:
        return None
    text = users[-1].text
    if not _SHORTEST <= len(text) <= _LONGEST:
        return None
    return next((said for form in _FORMS if (said := form(text))), None) or _passages_ranked(request) or None


def schema_in(text: str) -> dict[str, Any] | None:
    """Return the last JSON Schema for an object in a text."""
    if "{" not in text:
        return None
    text = _plain(text)
    found = [one for one, _, _ in json_objects(text)] if re.search(r"(?i)\bjson\b", text) else []
    return next((one for one in reversed(found) if is_schema(one)), None)


def without_schema(text: str) -> str:
    """Return a prompt without its schema and the lines that introduce it."""
    text = _plain(text)
    for _, start, end in reversed([*json_objects(text)] if schema_in(text) else []):
        text = text[:start] + "schema" + text[end:]
    return "\n".join(
        line for line in text.splitlines() if not re.search(r"(?i)json|schema|```", line)
    ).strip()


def _plain(text: str) -> str:
    """Undo the braces that LlamaIndex doubles in the schema of `LLMTextCompletionProgram`."""
    doubled = re.search(r"JSON schema to follow:\n\{\{", text) is not None
    return text.replace("{{", "{").replace("}}", "}") if doubled else text


def ranked(text: str) -> list[tuple[int, str]]:
    """Return a prompt's numbered choices with their words, the best match for its question first."""
    choices = [(int(match[1]), match[2].strip()) for match in _CHOICE.finditer(text)]
    question = _ABOUT.search(text)
    if not choices or question is None:
        return []
    scores = _scores(question[1], dict(choices))
    most = next((int(one) for match in _MOST.finditer(text) for one in match.groups() if one), 1)
    order = sorted(choices, key=lambda choice: (-scores[choice[0]], choice[0]))
    return [order[0], *(one for one in order[1:most] if scores[one[0]] > 0.5 * scores[order[0][0]])]


def _scores(question: str, texts: dict[int, str]) -> dict[int, float]:
    """Return how much each text shares with a question; rare words count most."""
    weights, wanted = rarity(list(texts.values())), {*stems(question)}
    return {
        at: math.fsum(weights[one] for one in sorted(wanted & {*stems(text)})) for at, text in texts.items()
    }


def _between(text: str, start: str, end: str) -> str:
    """Return the text between the first `start` and the last `end` after it, or "" if either is missing.

    Patterns with `.*` on both sides would take quadratic time on long prompts.
    """
    body, found, _ = text.partition(start)[2].rpartition(end)
    return body if found else ""


def structured(text: str, shape: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the object that a framework's prompt asks for, recognized by its schema, or None."""
    names = frozenset(mapping(shape, "properties"))
    form = _STRUCTURED.get(names)
    return form(text, shape) or None if form else None


def _single_selection(text: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    selections = _multi_selection(text, shape)
    return selections["selections"][0] if selections else {}


def _multi_selection(text: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    chosen = [{"index": number, "reason": f"It fits best: {words}"} for number, words in ranked(text)]
    return {"selections": chosen} if chosen else {}


def _relevant_documents(text: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Fill `StructuredLLMRerank`'s list of documents with a relevance from 1 to 10."""
    found = _relevances(text)
    return {"documents": [{"document_number": at, "relevance": score} for at, score in found]}


def _refined_object(text: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Fill LlamaIndex's structured answer filter: satisfied if the context answers the query."""
    question, said = answered(text)
    existing = _EXISTING.search(text)
    if not question:
        return {}
    kept = existing[1].strip() if existing else "The context does not say."
    return {"query_satisfied": bool(said), "answer": said or kept}


def _offered_tools(text: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Fill the selection of LangChain's `LLMToolSelectorMiddleware`: the tools that a request needs."""
    items = mapping(mapping(mapping(shape, "properties"), "tools"), "items")
    offered = [one for one in items.get("anyOf", [items]) if isinstance(one, Mapping) and "const" in one]
    texts = {at: f"{one['const']} {one.get('description', '')}" for at, one in enumerate(offered)}
    scores = _scores(text, texts)
    top = max(scores.values(), default=0.0)
    order = sorted(scores, key=lambda at: -scores[at])
    chosen = [offered[at]["const"] for at in order if scores[at] >= 0.5 * top]
    return {"tools": chosen} if offered else {}


def _critique(text: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Fill `GuidelineEvaluator`'s judgement: the first guideline that a response breaks, if any."""
    response = _between(text, "\nResponse: ", "\nGuidelines: ")
    guidelines = text.rpartition("\nGuidelines: ")[2].partition("\nNow please provide")[0]
    if not response:
        return {}
    query = re.search(r"\nQuery: (.*)\n", text)
    for guideline in re.split(r"(?<=[.!?])\s+|\n+", guidelines):
        if guideline.strip() and not _keeps(response, guideline, query[1] if query else ""):
            return {"passing": False, "feedback": f"The response breaks this guideline: {guideline.strip()}"}
    return {"passing": True, "feedback": "The response keeps to the guidelines."}


_AT_MOST = re.compile(
    r"(?i)(?:at most|no more than|fewer than|less than|under|up to|shorter than) (\d{1,4}) (word|sentence)"
)
_AT_LEAST = re.compile(r"(?i)(?:at least|more than|over|longer than) (\d{1,4}) (word|sentence)")
_NOT = re.compile(r"(?i)\b(?:not|never|avoid|without|no)\b")
_VAGUE = re.compile(
    r"(?i)\b(?:maybe|perhaps|somehow|probably|possibly|kind of|sort of|it depends|various|things?)\b"
)


def _keeps(response: str, guideline: str, query: str) -> bool:
    """Return whether a response follows a guideline; unknown kinds of guideline count as followed."""
    counts = {"word": len(response.split()), "sentence": len(re.findall(r"[.!?](?:\s|$)", response)) or 1}
    if most := _AT_MOST.search(guideline):
        return counts[most[2].lower()] <= int(most[1])
    if least := _AT_LEAST.search(guideline):
        return counts[least[2].lower()] >= int(least[1])
    denied = _NOT.search(guideline) is not None
    if quoted := re.findall(r"['\"“‘]([^'\"”’]+)['\"”’]", guideline):
        return all((one.lower() in response.lower()) is not denied for one in quoted)
    if re.search(r"(?i)\bvague|ambiguous", guideline):
        return not _VAGUE.search(response)
    if re.search(r"(?i)\bnumbers?\b|\bstatistics?\b|\bfigures?\b|\bdigits?\b", guideline):
        return (re.search(r"\d", response) is not None) is not denied
    if re.search(r"(?i)\bquestions?\b", guideline) and re.search(r"(?i)\bask|end\b|contain", guideline):
        return ("?" in response) is not denied
    if re.search(r"(?i)\bpolite|\bcourteous|\bthanks?\b", guideline):
        return (
            re.search(r"(?i)\b(?:please|thanks?|thank you|kindly|welcome|sorry|happy to)\b", response)
            is not None
        )
    if re.search(r"(?i)\bpunctuation\b|\bfull stop\b|\bcomplete sentence", guideline):
        return response.strip()[-1:] in (".", "!", "?")
    if re.search(r"(?i)\bfully answer|\banswers? the (?:query|question)|\brelevant", guideline):
        return bool({*stems(query)} & {*stems(response)}) or not query
    return True


def _graph(text: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Fill `SchemaLLMPathExtractor`'s triplets, using its schema's types."""
    body = _between(text, "\n-------\n", "\n-------")
    defined = mapping(shape, "$defs")
    kinds = {name: _enum(mapping(defined, name)) for name in ("Entity", "Relation")}
    if not body or not kinds.keys() <= defined.keys():
        return {}
    most = re.search(r"limit to the output (\d{1,9})", text)
    found = []
    for subject, verb, target in _triplets(body):
        named = kinds["Relation"] or [re.sub(r"\W+", "_", verb).upper()]
        fits = {kind: len({*stems(_spaced(kind))} & {*stems(verb)}) for kind in named}
        relation = max(fits, key=lambda kind: fits[kind])
        if kinds["Relation"] and not fits[relation]:
            continue  # not in the schema
        if verb.endswith(" by") and not relation.endswith("_BY"):
            subject, target, verb = target, subject, verb.removesuffix(" by")
        types = kinds["Entity"] or ["ENTITY"]
        found.append(
            {
                "subject": {"type": _entity_type(subject, types, before=verb), "name": subject},
                "relation": {"type": relation},
                "object": {"type": _entity_type(target, types, after=verb), "name": target},
            }
        )
    return {"triplets": found[: int(most[1]) if most else None]}


def _enum(entity: Mapping[str, Any]) -> list[str]:
    kind = mapping(mapping(entity, "properties"), "type")
    return [str(one) for one in kind.get("enum", [kind["const"]] if "const" in kind else [])]


def _spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower()


_ENTITIES = (  # type names, what its entities look like, and the verbs after and before them
    (
        "TIME DATE YEAR",
        r"\d{4}$|\d+ o'clock|\b(?:January|February|March|April|May|June|July|August|September|October"
        r"|November|December|\w+day)\b",
        "",
        "",
    ),
    ("ORGANIZATION COMPANY", r"[A-Z]", r"\b(?:located|based|acquired|part of)", r"\b(?:at|for|of)$|found"),
    ("LOCATION CITY COUNTRY PLACE", r"[A-Z]", "(?!)", r"\b(?:in|near|from)$"),
    ("PRODUCT TECHNOLOGY PROJECT", "", "(?!)", r"\b(?:on|uses?|made|built)$"),
    ("PERSON", r"[A-Z][a-z]+(?: [A-Z][a-z]+)+$", "", ""),
    ("LOCATION CITY COUNTRY PLACE", r"[A-Z][a-z]+$", "", ""),
)


def _entity_type(name: str, kinds: list[str], *, before: str = "", after: str = "") -> str:
    """Guess a type from a name's form and the verb next to it; fall back to the last, vaguest type."""
    for names, looks, verbs_after, verbs_before in _ENTITIES:
        kind = next((kind for kind in names.split() if kind in kinds), None)
        pattern, verb = (verbs_before, after) if after else (verbs_after, before)
        if kind and re.match(looks, name) and re.search(pattern, verb):
            return kind
    return kinds[-1]


_STRUCTURED: dict[frozenset[str], Callable[[str, Mapping[str, Any]], dict[str, Any]]] = {
    frozenset({"index", "reason"}): _single_selection,
    frozenset({"selections"}): _multi_selection,
    frozenset({"documents"}): _relevant_documents,
    frozenset({"query_satisfied", "answer"}): _refined_object,
    frozenset({"tools"}): _offered_tools,
    frozenset({"passing", "feedback"}): _critique,
    frozenset({"triplets"}): _graph,
}


def _selected(text: str) -> str:
    chosen = ranked(text)
    if not chosen:
        return ""
    reasons = [(number, f"It fits the question best: {words.rstrip('.')}.") for number, words in chosen]
    if re.search(r"\"?choice\"?\s*:", text):
        return json.dumps(
            [{"choice": number, "reason": reason} for number, reason in reasons], ensure_ascii=False
        )
    numbers = ", ".join(str(number) for number, _ in reasons)
    label = re.search(r"['\"“](\w+):\s*<numbers?>", text)
    return f"{label[1]}: {numbers}\n{reasons[0][1]}" if label else f"{numbers}. {reasons[0][1]}"


def _sub_questions(text: str) -> str:
    """Ask each tool listed as JSON in a prompt, in the format of the prompt's own example."""
    objects = [one for one, _, _ in json_objects(text)]
    examples = [(key, rows[0]) for one in objects for key, rows in one.items() if _is_rows(rows)]
    offered = [one for one in objects if one and all(isinstance(value, str) for value in one.values())]
    if not examples or not offered:
        return ""
    key, row = examples[-1]
    tool = next((name for name in row if "tool" in name.lower()), None)
    asked = next((name for name in row if name != tool), None)
    question = _last_question(text)
    if tool is None or asked is None or not question:
        return ""
    rows = [{asked: part, tool: name} for name, part in _shared_out(offered[-1], question)]
    return f"```json\n{json.dumps({key: rows}, ensure_ascii=False, indent=4)}\n```"


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _shared_out(tools: dict[str, str], question: str) -> Iterator[tuple[str, str]]:
    """Yield each tool that a question concerns, and the question to ask it."""
    weights = rarity([f"{name} {told}" for name, told in tools.items()])
    wanted = set(stems(question))
    scores = {
        name: math.fsum(weights[word] for word in wanted & set(stems(f"{name} {told}")))
        for name, told in tools.items()
    }
    top = max(scores.values())
    for name in tools:
        if scores[name] >= 0.5 * top:
            own = (wanted & set(stems(name))) if len(tools) > 1 else set()
            focus = next((word for word in re.findall(r"\w+", question) if set(stems(word)) & own), "")
            yield name, f"{question.rstrip(' ?？.')} ({focus})?" if focus and top > 0 else question


def _last_question(text: str) -> str:
    labelled = re.findall(r"<?(?:user )?question>?\s*(?:[:：]\s*)?(\S.*)", text, re.IGNORECASE)
    return labelled[-1].strip() if labelled else ""


def _verdict(text: str) -> str:
    """Answer a YES or NO prompt: whether the context contains the words of the information."""
    if not re.search(r"\b(?:either )?YES or NO\b|\bYES/ ?NO\b", text):
        return ""
    told = re.findall(
        r"(?:^|\n)(?:information|statement|response|answer|claim|query and response)"
        r"\s*:\s*(.+?)(?=\n[ \t]*\w+[ \t]*:|\Z)",
        text,
        re.IGNORECASE | re.DOTALL,
    )
    given = re.findall(
        r"(?:^|\n)context\s*:\s*(.+?)(?=\n[ \t]*(?:answer|information)[ \t]*:|\Z)",
        text,
        re.IGNORECASE | re.DOTALL,
    )
    if not told or not given:
        return ""
    claim = next((one for one in reversed(told) if one.strip()), "")
    return "YES" if _holds(given[-1], claim) else "NO"


def _holds(context: str, claim: str) -> bool:
    """Return whether a context has all words of a claim; a long claim may differ in one word."""
    words = {*stems(claim)}
    missing = words - {*stems(context)}
    return (
        bool(words) and len(missing) <= len(words) // 8 and not any(re.search(r"\d", one) for one in missing)
    )


def _labelled(text: str) -> str:
    match = _LABELLED.search(text)
    if not match or "keyword" not in match[2].lower():
        return ""
    blocks = [block for block in re.split(r"-{5,}", text) if block.strip()]
    body = blocks[1] if len(blocks) > 1 else text
    most = next((int(one) for found in _MOST.finditer(text) for one in found.groups() if one), 10)
    # LlamaIndex's `KnowledgeGraphIndex` stores whole subjects, with only the first letter capitalized.
    asked = [one.capitalize() for one in _phrases(body)] if "A question is provided" in text else []
    return f"{match[1]}: {', '.join((asked or _frequent(body))[:most])}"


def _queries(text: str) -> str:
    match = _QUERIES.search(text)
    asked = re.findall(r"(?:query|question)[ \t]*:[ \t]*(\S.*?)\s*$", text, re.IGNORECASE | re.MULTILINE)
    if not match or not asked:
        return ""
    plain = asked[-1].rstrip("?？. ")
    ways = (
        "{}",
        "{} explained",
        "{} example",
        "{} reference",
        "how to: {}",
        "{} overview",
        "{} best practice",
        "{} in detail",
    )
    return "\n".join(ways[at % len(ways)].format(plain) for at in range(min(int(match[1]), 50)))


def _standalone(text: str) -> str:
    asked = _STANDALONE.findall(text)
    return asked[-1] if asked and re.search(r"standalone", text, re.IGNORECASE) else ""


_EXISTING = re.compile(r"(?i)(?:existing|original) answer\s*[:：]\s*(\S.*)")


def _refined(text: str) -> str:
    """Refine an answer: keep it unless the new context shares more with the question."""
    existing = _EXISTING.search(text)
    question, said = answered(text) if existing else ("", "")
    if not existing or not question:
        return ""
    shared = [len({*stems(question)} & {*stems(one)}) for one in (said, existing[1])]
    return said if shared[0] > shared[1] else existing[1].strip()


def _cited(text: str) -> str:
    """Answer with the source's number if sources are numbered and citations requested."""
    sources = re.findall(
        r"(?ms)^(?:Source|Document) (\d+):\s*(.*?)(?=^(?:Source|Document) \d+:|^---|\Z)", text
    )
    if not sources or not re.search(r"(?i)\bcit(?:e|ing|ation)", text):
        return ""
    _, said = answered(text)
    own = next((number for number, words in reversed(sources) if said and said in words), "")
    return f"{said} [{own}]" if own else said


def _consulted(text: str) -> str:
    """Return LlamaIndex's `Doc: 9, Relevance: 7` for documents that share words with the question."""
    found = _relevances(text) if "Doc: 9, Relevance: 7" in text else []
    return "\n".join(f"Doc: {at}, Relevance: {score}" for at, score in found)


def _relevances(text: str) -> list[tuple[int, int]]:
    """Score a prompt's documents from 1 to 10, best first, without those that share nothing."""
    shown = text.split("Let's try this now:")[-1]
    listed = re.findall(r"(?ms)^Document (\d+):\s*(.*?)(?=^Document \d+:|^Question: )", shown)
    question = re.findall(r"(?m)^Question: (.*)", shown)
    scores = _scores(question[-1] if question else "", {int(number): words for number, words in listed})
    top = max(scores.values(), default=0.0)
    order = sorted((at for at in scores if scores[at] > 0.3 * top), key=lambda at: -scores[at])
    return [(at, max(1, round(10 * scores[at] / top))) for at in order]


def _passages_ranked(request: ModelRequest) -> str:
    """Return RankGPT's `[2] > [1]` for passages sent one per message."""
    users = [turn.text for turn in request.turns if turn.role == "user"]
    asked = re.match(r"Search Query: (.*?)\. ?\nRank the \d+ passages above", users[-1], re.DOTALL)
    shown = (
        [match for text in users[:-1] if (match := re.match(r"(?s)\[(\d+)\] (.*)", text))] if asked else []
    )
    scores = _scores(asked[1] if asked else "", {int(match[1]): match[2] for match in shown})
    return " > ".join(f"[{at}]" for at in sorted(scores, key=lambda at: -scores[at]))


_CORRECTNESS = re.compile(r"(?s)## User Query\n(.*)\n## Reference Answer\n(.*)\n## Generated Answer\n(.*)")


def _graded(text: str) -> str:
    """Return LlamaIndex's correctness verdict: a line with a score from 1 to 5, then the reason."""
    if not (parts := _CORRECTNESS.search(text)):
        return ""
    query, reference, said = parts.groups()
    if _holds(f"{query} {reference}", said) and stems(said):
        return "5.0\nThe answer says what the reference says."
    shared = {*stems(said)} & {*stems(f"{query} {reference}")}
    return "2.0\nThe answer differs from the reference." if shared else "1.0\nThe answer is not relevant."


def _scored(text: str) -> str:
    """Return LlamaIndex's `[RESULT]` for the relevance of a response (out of 2) or a context (out of 4)."""
    parts = re.search(r"(?s)Query: ?\n (.*?)\n(Response|Context): ?\n (.*)\nFeedback:$", text.strip())
    if not parts or "[RESULT]" not in text:
        return ""
    wanted = {*stems(parts[1])}
    part = len(wanted & {*stems(parts[3])}) / max(len(wanted), 1)
    points = (part > 0) + (part >= 0.5)
    return f"The {parts[2].lower()} shares {part:.0%} of the query's words. [RESULT] " + (
        f"{2.0 * points}" if parts[2] == "Context" else f"{points}"
    )


_ANSWERS = r"\[The Start of Assistant {0}.s Answer\]\s*(.*?)\s*\[The End of Assistant {0}.s Answer\]"


def _compared(text: str) -> str:
    """Return LlamaIndex's `[[A]]`, `[[B]]` or `[[C]]` for the answer closer to the reference."""
    answers = [re.search(_ANSWERS.format(name), text, re.DOTALL) for name in "AB"]
    told = text.partition("[The Start of Assistant A")[0]
    marks = [
        (_holds(told, one[1]), len({*stems(told)} & {*stems(one[1])})) for one in answers if one is not None
    ]
    if len(marks) < 2:
        return ""
    winner = "C" if marks[0] == marks[1] else "AB"[marks[1] > marks[0]]
    return f"Compared by the words that they share with the question and the reference. [[{winner}]]"


_VERB = re.compile(
    r"\b(?:(?:is|are|was|were|has|have|had|can|will|does|do)\b(?: \w+(?:ed|en|ing|wn|rn|lt|nt|de)\b)?"
    r"|[a-z]\w+(?:ed|s)\b)"
    r"(?: (?:part of|by|in|on|at|of|for|to|from|with|into|under|near|as)\b)?"
)


def _triplets(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield each sentence's subject, verb and object, without characters that would break the lists."""
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        words = re.sub(r"[()\[\],;\"]", " ", sentence).strip(" .!?")
        skipped = re.match(r"(?:(?:[Tt]he|[Aa]n?|[Ii]ts|[Oo]ur) )?\S+", words)
        verb = _VERB.search(words, skipped.end()) if skipped else None
        if verb is None:  # no recognizable verb: use the word after the subject
            verb = re.compile(r"\b\w+\b").search(words, skipped.end()) if skipped else None
        if verb and words[: verb.start()].strip() and words[verb.end() :].strip():
            parts = (words[: verb.start()], verb[0], words[verb.end() :])
            subject, relation, target = (
                re.sub(r"^(?:the|an?) ", "", " ".join(one.split()), flags=re.I) for one in parts
            )
            yield subject, relation, target


def _triplets_listed(text: str) -> str:
    """Return LlamaIndex's knowledge triplets, one per line, or as `DynamicLLMPathExtractor`'s JSON."""
    body, _, label = text.rpartition("\nText:")[2].strip().rpartition("\n")
    if "triplets" not in text or label not in ("Triplets:", "Output:"):
        return ""
    most = next((int(one) for match in _MOST.finditer(text) for one in match.groups() if one), 10)
    triplets = [*_triplets(body)][:most]
    if label == "Triplets:":
        return "\n".join(f"({', '.join(one)})" for one in triplets) or "None."
    allowed = [re.search(rf"{kind} Types: (.+)", text) for kind in ("Entity", "Relation")]
    entities, relations = ([one.strip() for one in kind[1].split(",")] if kind else [] for kind in allowed)
    known = [one for one in entities if one.isupper()] or ["ENTITY"]
    rows = []
    for subject, relation, target in triplets:
        label = next((one for one in relations if {*stems(_spaced(one))} & {*stems(relation)}), "")
        row = {"head": subject, "head_type": _entity_type(subject, known, before=relation)}
        row |= {"relation": label or re.sub(r"\W+", "_", relation).upper()}
        rows.append({**row, "tail": target, "tail_type": _entity_type(target, known, after=relation)})
    return json.dumps(rows, ensure_ascii=False)


_TABLE = re.compile(r"(?m)^Table '(?P<name>[^']+)' has columns: (?P<columns>.*)$")
_COLUMN = re.compile(r"(?:^|, )([^,()]+) \(([A-Za-z]+)")
_PLAIN_NAME = re.compile(
    r"(?i)(?!(?:all|and|as|asc|by|case|check|column|default|desc|distinct|end|from|group|having|in|index|is|join|key"
    r"|like|limit|not|null|on|or|order|primary|references|select|set|table|to|union|user|values|when|where)\b)[a-z_]\w*"
)
_ORDERS = (
    (
        r"highest|largest|biggest|most|longest|tallest|oldest|maximum|greatest|best|top|latest|newest|heaviest|richest|fastest"
        r"|deepest",
        "DESC",
    ),
    (r"lowest|smallest|least|fewest|shortest|youngest|minimum|cheapest|earliest|lightest|worst", "ASC"),
)
_SUMS = ((r"average|mean", "AVG"), (r"total|sum|altogether", "SUM"))
_BOUNDS = (
    (
        r"(?:more|greater|larger|higher|longer|older|bigger|heavier) than|over|above|after|exceed(?:s|ing)?",
        ">",
    ),
    (r"(?:less|fewer|smaller|lower|shorter|younger|cheaper|lighter) than|under|below|before", "<"),
    (r"at least", ">="),
    (r"at most", "<="),
)
_NUMERIC = re.compile(r"(?i)INT|NUM|DEC|REAL|FLOAT|DOUBLE|SERIAL")


def _sql(text: str) -> str:
    """Return a query over the schema in LlamaIndex's text-to-SQL prompts."""
    if "SQLQuery" not in text or not (shown := [*_TABLE.finditer(text)]):
        return ""
    question = [*re.finditer(r"(?m)^Question: (.+)$", text)][-1][1].strip()
    tables = {
        _quoted(one["name"]): [
            (_quoted(name), bool(_NUMERIC.match(kind))) for name, kind in _COLUMN.findall(one["columns"])
        ]
        for one in shown
    }
    described = {at: _described(name, columns) for at, (name, columns) in enumerate(tables.items())}
    scores = _scores(question, described)
    name, columns = [*tables.items()][max(scores, key=lambda at: (scores[at], -at))]
    return f"SELECT {_selected_columns(question, name, columns)}"


def _quoted(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def _described(name: str, columns: list[tuple[str, bool]]) -> str:
    return " ".join(_spaced(one) for one in (name, *(column for column, _ in columns)))


def _selected_columns(question: str, table: str, columns: list[tuple[str, bool]]) -> str:
    """Return the rest of a query: columns, table, conditions and order."""
    words = {*stems(question)}
    numbers = [name for name, numeric in columns if numeric] or [columns[0][0]]
    texts = [name for name, numeric in columns if not numeric] or [columns[0][0]]
    named = [name for name, _ in columns if {*stems(_spaced(name))} & words]
    keys = [name for name in numbers if not re.fullmatch(r"(?:.* )?id", _spaced(name))] or numbers
    measured = next((name for name in named if name in keys), keys[0])
    where, used = _conditions(question, texts, numbers, measured)
    clause = f" WHERE {' AND '.join(where)}" if where else ""
    order = next((way for pattern, way in _ORDERS if re.search(rf"(?i)\b(?:{pattern})\b", question)), None)
    summed = next((way for pattern, way in _SUMS if re.search(rf"(?i)\b(?:{pattern})\b", question)), None)
    wanted = [name for name in named if name not in used]
    if summed:
        return f"{summed}({measured}) FROM {table}{clause}"
    if order:
        shown = [name for name in wanted if name != measured] or [texts[0]]
        return f"{', '.join(shown)} FROM {table}{clause} ORDER BY {measured} {order} LIMIT 1"
    counted = re.match(r"(?i)how many (\w+)", question)
    if counted and not any({*stems(counted[1])} & {*stems(_spaced(name))} for name in keys):
        return f"COUNT(*) FROM {table}{clause}"
    fresh = [name for name in texts if name not in used]
    return f"{', '.join(wanted or (fresh or texts)[:1])} FROM {table}{clause}"


def _conditions(
    question: str, texts: list[str], numbers: list[str], measured: str
) -> tuple[list[str], set[str]]:
    """Return the conditions in a question, and the columns that they use."""
    found, used, rest = list[str](), set[str](), question
    for pattern, sign in _BOUNDS:
        for match in re.finditer(rf"(?i)\b(?:{pattern})\s+(\d[\d,]*(?:\.\d+)?)", rest):
            year = next((name for name in numbers if "year" in name.lower()), None)
            column = year if year and re.fullmatch(r"(?:1[5-9]|20)\d\d", match[1]) else measured
            found.append(f"{column} {sign} {match[1].replace(',', '')}")
            used.add(column)
        rest = re.sub(rf"(?i)\b(?:{pattern})\s+\d[\d,.]*", " ", rest)
    year = next((name for name in numbers if "year" in name.lower()), None)
    if year and (at := re.search(r"\b(?:1[5-9]|20)\d\d\b", rest)):
        found.append(f"{year} = {at[0]}")
        used.add(year)
    inner = r"(?<=\w )([A-Z][\w'-]*(?: [A-Z][\w'-]*)*)"  # not the first word of the question
    for match in re.finditer(rf"'([^']+)'|\"([^\"]+)\"|{inner}", rest):
        value = next(one for one in match.groups() if one)
        before = rest[: match.start()]
        column = _tied(before, rest[match.end() :], [name for name in texts if name not in used] or texts)
        found.append(f"{column} = '{value.replace(chr(39), chr(39) * 2)}'")
        used.add(column)
    return found, used


_PLACES = {*stems("country city town place location region state origin where dept department")}
_AUTHORS = {*stems("author artist director writer by maker brand owner customer")}


def _tied(before: str, after: str, texts: list[str]) -> str:
    """Return a value's column: one named next to it, else one that the preceding word suggests."""
    near = {*stems(" ".join(before.split()[-3:])), *stems(" ".join(after.split()[:1]))}
    if tied := [name for name in texts if {*stems(_spaced(name))} & near]:
        return tied[0]
    word = (before.split() or [""])[-1].lower()
    kinds = _PLACES if word in ("in", "from", "at") else _AUTHORS if word == "by" else set[str]()
    return next((name for name in texts if {*stems(_spaced(name))} & kinds), texts[0])


def _sql_told(text: str) -> str:
    """Answer a question from a query's result."""
    if "\nSQL Response: " not in text or not text.rstrip().endswith("\nResponse:"):
        return ""
    result = text.rpartition("\nSQL Response: ")[2].rpartition("\nResponse:")[0]
    plain = re.sub(r"[\[\]()]|,(?=\))", "", result).strip(" ,")
    return f"The result is {plain}." if plain else "The query has no result."


def _content(text: str) -> str:
    """Return the content of LlamaIndex's `[Excerpt from document]`, without metadata."""
    return _between(text, "\nExcerpt:\n-----\n", "\n-----") or text


def _titled(text: str) -> str:
    """Return a title: the first candidate, or the most telling words of a text's first sentence."""
    if candidates := text.rpartition(". Based on the above candidate titles")[0]:
        return candidates.split(", ")[0].strip()
    if not (body := text.rpartition(". Give a title that summarizes")[0]):
        return ""
    first = re.split(r"(?<=[.!?])\s|\n", _content(body.removeprefix("Context: ")).strip())[0]
    words = [word for word in re.findall(r"[\w'’-]+", first) if word.lower() not in STOPWORDS]
    return " ".join(word[:1].upper() + word[1:] for word in words[:8]) or first[:60]


_KEYWORDS = re.compile(r"\. Give (\d{1,4}) unique keywords for this document\.")


def _keywords(text: str) -> str:
    found = _KEYWORDS.search(text)
    return ", ".join(_frequent(_content(text[: found.start()]))[: int(found[1])]) if found else ""


def _synonyms(text: str) -> str:
    """Return a query's words and phrases in the format of `LLMSynonymRetriever`."""
    if "separated by '^' symbols" not in text or "QUERY: " not in text:
        return ""
    return "^".join(_phrases(text.rpartition("QUERY: ")[2].partition("\n")[0])[:50])


def _phrases(text: str) -> list[str]:
    """Return a question's phrases that start and end with meaningful words."""
    words = re.findall(r"[\w'’-]+", text[:1000])[:40]
    ends = [at for at, word in enumerate(words) if word.lower() not in STOPWORDS]
    parts = (" ".join(words[one : two + 1]) for one in ends for two in reversed(ends) if one <= two)
    return list(dict.fromkeys(parts))


def _frequent(text: str) -> list[str]:
    """Return a text's words without stop words, most frequent first."""
    words = [word.lower() for word in re.findall(r"[^\W\d_]{3,}", text) if word.lower() not in STOPWORDS]
    return [word for word, _ in Counter(words).most_common()]


_QUESTIONS = re.compile(r"Given the contextual information, generate (\d{1,4}) questions")


def _questions(text: str) -> str:
    """Return one question per line, each answered by a sentence in the context."""
    if not (found := _QUESTIONS.search(text)):
        return ""
    body = _content(text[: found.start()].partition("Here is the context:")[2].strip())
    triplets = [*_triplets(body)] or [(body[:60], "is", "")]
    count = min(int(found[1]), 50)
    asked = ("What is said about {0}?", "What {1} {2}?", "Which facts about {0} and {2} are given?")
    lines = [asked[at // len(triplets) % 3].format(*triplets[at % len(triplets)]) for at in range(count)]
    return "\n".join(f"{at + 1}. {line}" for at, line in enumerate(lines))


def _summary(text: str) -> str:
    body = _between(text, "Here is the content of the section:\n", "\nSummarize the key topics")
    if not body and "Write a summary of the following." in text:
        body = _between(text, "as many key details as possible.\n", "SUMMARY:")
    body = _content(body).strip()
    return (best_sentences("summary", body) or body[:300]) if body else ""


def _replaced_history(text: str) -> str:
    """Fill the sections that LangChain's `SummarizationMiddleware` asks for."""
    if "## SESSION INTENT" not in text:
        return ""
    parts = [part.partition(">") for part in text.partition("<messages>")[2].split('<message type="')[1:]]
    said = [(who.strip('"'), words.partition("</message>")[0].strip()) for who, _, words in parts]
    asked = [words for who, words in said if who == "human" and words]
    spoken = [" ".join(words.split()) for _, words in said if words]
    files = dict.fromkeys(re.findall(r"\b[\w./-]*\w\.[a-z][a-z0-9]{1,4}\b(?!/)", " ".join(spoken)))
    sections = {
        "SESSION INTENT": asked[0] if asked else "None",
        "SUMMARY": "\n".join(f"- {words[:300]}" for words in spoken[-12:]) or "None",
        "ARTIFACTS": "\n".join(f"- {name}" for name in files) or "None",
        "NEXT STEPS": asked[-1] if len(asked) > 1 else "None",
    }
    return "\n\n".join(f"## {name}\n{words}" for name, words in sections.items())


_PERSONAL = (
    ("EMAIL", r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    ("IBAN", r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    ("CREDIT_CARD_NUMBER", r"\b(?:\d{4}[ -]){3}\d{4}\b"),
    ("PHONE", r"(?<!\w)(?:\+|\(\+?)?\d[\d ()-]{6,20}\d\b"),
    (
        "DATE_TIME",
        r"\b(?:January|February|March|April|May|June|July|August|September|October|November|December)"
        r" \d{1,2}(?:st|nd|rd|th)?\b|\b\d{4}-\d\d-\d\d\b",
    ),
    # A sentence's first word is always capitalized, so it counts only as part of a two-word name.
    (
        "NAME",
        r"(?:(?<=[.!?] )|^)(?!(?:Dear|Hello|Hi) )[A-Z][a-z]+ [A-Z][a-z]+\b(?! [A-Z])"
        r"|(?<=[\w,;:] )[A-Z][a-z]+ [A-Z][a-z]+\b",
    ),
    ("NAME", r"(?<=I am )[A-Z][a-z]+|(?<=Hello )[A-Z][a-z]+|(?<=Dear )[A-Z][a-z]+|(?<=\bHi )[A-Z][a-z]+"),
)


def _masked(text: str) -> str:
    """Mask personal data in the last context of `PIINodePostprocessor`, and return the mapping as JSON."""
    if "\nTask: Mask out the PII" not in text:
        return ""
    shown = text.rpartition("\nTask: Mask out the PII")[0].rpartition("\nContext:\n")[2]
    masked, tags = shown, dict[str, str]()
    for kind, pattern in _PERSONAL:
        for value in dict.fromkeys(re.findall(pattern, masked)):
            tag = f"{kind}{1 + sum(one.startswith(kind) for one in tags)}"
            tags[tag] = value
            masked = masked.replace(value, f"[{tag}]")
    return f"{masked}\nOutput Mapping:\n{json.dumps(tags, ensure_ascii=False)}"


_FORMS = (
    *(_selected, _sub_questions, _consulted, _graded, _scored, _compared),
    *(_verdict, _labelled, _triplets_listed, _sql, _sql_told, _titled, _keywords, _synonyms, _questions),
    *(_replaced_history, _summary, _masked, _queries, _standalone, _refined, _cited),
)
