"""One self-contained HTML file: no script, no request, every text escaped.

The policy in the file allows its own style sheet and nothing else, so that even a text that got
through the escaping could neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from itertools import groupby

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from evalkit.contrasts import Compared
from evalkit.report import plots, tables
from evalkit.report.gate import gated
from evalkit.text import printable
from evalkit.version import __version__

EXAMPLES = 10
SUMMARY = 100  # characters of a prompt shown while it is folded


def render(found: Compared) -> bytes:
    """The report as UTF-8 bytes, the same on every run."""
    comparisons = found.comparisons
    return page(
        "report.html.jinja",
        comparisons=comparisons,
        gated=gated(found.verdict),
        cells=tables.cells,
        head=tables.HEAD,
        sentence=tables.sentence,
        left_out=tables.left_out,
        contrast_lines=tables.contrast_lines(found),
        said=groupby(tables.said_of_each(comparisons), key=lambda pair: pair[0]),
        contrast_table=tables.contrast_table(found),
        examples=[c.examples(EXAMPLES) for c in comparisons],
        notices=list(dict.fromkeys(n for c in comparisons for n in c.notices)),
        figures=[
            inline_svg(plots.interval_figure(comparisons), "intervals", "Win rates with intervals"),
            inline_svg(plots.margin_figure(comparisons), "margins", "Distribution of the margins"),
        ],
    )


def page(template: str, **content: object) -> bytes:
    """A page of one of the templates here, which all extend `page.html.jinja` and its policy."""
    here = files("evalkit.report")
    style = here.joinpath("report.css").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(lambda name: here.joinpath(name).read_text("utf-8")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = printable
    environment.filters["text"] = visible_text
    environment.filters["line"] = lambda text: printable(" ".join(text.split())[:SUMMARY])
    environment.filters["amount"] = lambda x: f"{x:.3f}"
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    found = environment.get_template(template).render(
        **content, style=style, style_hash=style_hash, version=__version__
    )
    return found.encode()


def visible_text(text: str) -> Markup:
    """A text as it is, lines and tabs kept, with what would hide or reorder it made visible."""
    pieces = re.split("([\t\n])", text.replace("\r\n", "\n"))
    return Markup().join(
        piece if i % 2 else escape(printable(piece)) for i, piece in enumerate(pieces)
    )


def inline_svg(figure: Figure, prefix: str, title: str) -> Markup:
    """A figure as SVG that a strict policy lets through: no style element, no style attributes.

    Matplotlib repeats ids from figure to figure, so each gets a prefix; black becomes the page's
    own text colour and the white background none, for dark mode.
    """
    svg = plots.render(figure, "svg").decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.S)
    svg = re.sub(r'style="([^"]*)"', lambda m: _attributes(m[1]), svg)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = svg.replace("#000000", "var(--fg)").replace('fill="#ffffff"', 'fill="none"')
    label = f'<svg role="img" aria-label="{escape(title)}" '
    return Markup(svg.replace("<svg ", label, 1))  # noqa: S704 - matplotlib escapes its texts


def _attributes(style: str) -> str:
    """`fill: none; stroke: #000` as presentation attributes."""
    found = []
    for rule in filter(None, (part.strip() for part in style.split(";"))):
        key, _, value = rule.partition(":")
        if key == "font":  # a shorthand, which attributes do not have
            size = re.search(r"[\d.]+px", value)
            key, value = "font-size", size[0] if size else "9px"
        found.append(f'{key.strip()}="{value.strip().replace(chr(34), "")}"')
    return " ".join(found)
