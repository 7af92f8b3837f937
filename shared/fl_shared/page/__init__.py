"""What the offline pages of both sides share: the style, the template engine, figures as inline SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure


def environment(*packages: str) -> Environment:
    """Templates of packages, beside this one's ``base.css``; what is filled in is escaped."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, package_path="") for package in (*packages, __name__)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def inline_svg(figure: Figure, *, key: str, variables: Mapping[str, str]) -> str:
    """The figure as an inline SVG element: ids prefixed by ``key``, colours as CSS ``variables``, no outside names."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    size = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index("<g id=") : text.rindex("</svg>")]
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", body)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    body = re.sub(r"<!--.*?-->\s*", "", body)  # of a text, what it says once more
    body = re.sub(r'(?<= d=")[^"]*', _short, body)
    for colour, variable in variables.items():
        body = body.replace(colour, f"var({variable})")
    return f'<svg {size.group() if size else ""} aria-hidden="true">{body}</svg>'


def _short(path: re.Match[str]) -> str:
    """A path to the hundredth of a point, in one line."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path.group()).replace(" \n", "").strip()
