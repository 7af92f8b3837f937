"""Every number of a page, and whether the results hold it.

A number on the page is looked for in the form in which it stands there: 0.812 is 0.8123 of the results, 81.2 % is
0.8119, 1,234 is 1234. What a template says in its own words (a 95 % interval, at least 10 patients) is no result: it is
known by the word before or behind it in the sources. Ticks of axes and the
numbers of a checklist's items are left out: they say where, not what.
"""

from __future__ import annotations

import ast
import html
import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import fl_server.report
from fl_shared.metrics import table
from fl_shared.results import Results

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?:\s?%)?(?![\w])")
_CUT = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|<[^>]*>", re.DOTALL)
_VOID = {"meta", "br", "use", "path", "rect"}


class _Texts(HTMLParser):
    """The pieces of text of a page, and the words that stand for its pictures; ticks and styles left out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.found += [told["aria-label"] or ""] if "aria-label" in told else []
        if tag in _VOID:
            return
        name = told.get("id") or ""
        where = bool(re.search(r"-[xy]tick_\d+$", name)) or bool(
            {"axis", "ends", "item"} & set((told.get("class") or "").split())
        )
        skipped = tag in ("style", "title") or where or (bool(self._open) and self._open[-1][1])
        self._open.append((tag, skipped))
        if tag in ("p", "li", "td", "th", "div", "tr", "dd", "text", "h1", "h2", "h3", "h4", "caption"):
            self.found.append("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "aria-label" in dict(attrs):
            self.found.append(dict(attrs)["aria-label"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open or not self._open[-1][1]:
            self.found.append(data)


def strangers(page: str, results: Results) -> list[str]:
    """Numbers of the page, each with its words, that are neither in the results nor the page's own words."""
    reader = _Texts()
    reader.feed(page)
    said = " ".join(reader.found)
    values, phrases = sorted({*_values(json.loads(results.model_dump_json(by_alias=True)))}), _phrases()
    counted = _counted(results)
    unknown = []
    for line in (part for piece in said.split("\n") for part in [re.sub(r"\s+", " ", piece)]):
        for match in _NUMBER.finditer(line):
            before = (re.findall(r"\S+", line[: match.start()]) or [""])[-1]
            behind = (re.findall(r"\S+", line[match.end() :]) or [""])[0]
            if _is_told(match.group(), values) or _is_prose(match.group(), before, behind, phrases):
                continue
            whole = (
                re.search(r"\S*$", line[: match.start()])[0] + match.group() + re.match(r"\S*", line[match.end() :])[0]
            )
            if whole != match.group() and f" {whole} " in phrases:
                continue
            if any(phrase in line for phrase in counted if match.group() in phrase):
                continue
            unknown.append(f"{before} {match.group()} {behind}")
    return unknown


def _values(part: object) -> Iterator[float]:
    """All numbers of the results, those within their strings too."""
    if isinstance(part, bool) or part is None:
        return
    if isinstance(part, (int, float)):
        yield float(part)
    elif isinstance(part, str):
        for word in re.findall(r"-?\d+(?:\.\d+)?", part):
            yield float(word)
            yield abs(float(word))
    else:
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield from _values(key) if isinstance(key, str) else ()
            yield from _values(value)


def _is_told(word: str, values: list[float]) -> bool:
    """Whether a value of the results (ascending), written like this, is this word."""
    percent, plain = word.endswith("%"), word.rstrip("% ").replace(",", "")
    number, _, power = plain.partition("e")
    decimals = len(number.partition(".")[2]) - (int(power) if power else 0)
    wanted, scale = float(plain), 100 if percent else 1
    near = 0.5 * 10.0**-decimals * (1 + 1e-9) if decimals or percent else 1e-9
    first, last = (bisect_left(values, (wanted + end) / scale) for end in (-1.01 * near, 1.01 * near))
    return any(math.isclose(scale * value, wanted, rel_tol=0, abs_tol=near) for value in values[first : last + 1])


def _is_prose(word: str, before: str, behind: str, phrases: str) -> bool:
    """Whether the page's own sources say this number beside one of its neighbours."""
    return bool(before and f" {before} {word} " in phrases) or bool(behind and f" {word} {behind} " in phrases)


def _phrases() -> str:
    """All that the templates and the modules of the report say in words of their own."""
    folder = Path(fl_server.report.__file__).parent
    texts = [_CUT.sub(" ", html.unescape(path.read_text(encoding="utf-8"))) for path in folder.rglob("*.j2")]
    for path in (*folder.glob("*.py"), Path(table.__file__)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return " " + re.sub(r"\s+", " ", " ¦ ".join(texts)) + " "


def _counted(results: Results) -> list[str]:
    """What the page counts itself: its sites and its rounds."""
    told = []
    for role in ("train", "external"):
        number = sum(site.role == role for site in results.sites.values())
        told.append(f"{number} hospital")
    committed = sum(entry.outcome == "committed" for entry in results.rounds)
    told.append(f"{committed} of {len(results.rounds)} rounds")
    rounds = [entry for entry in results.rounds if entry.round > 0]
    for name, site in results.sites.items():
        if site.role == "train":
            taken = sum(name in r.sites and r.sites[name].status == "accepted" for r in rounds)
            told.append(f"{taken} of {len(rounds)}")
    if results.statistics:
        told.append(f"{sum(site.status == 'accepted' for site in results.statistics.sites.values())} sites")
    return told
