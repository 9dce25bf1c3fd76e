"""A plan as text, Markdown, JSON, HTML and a curve."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from evalkit.plan import Plan
from evalkit.report.layout import (
    Writers,
    aligned,
    escape,
    images,
    json_document,
    markdown_signature,
    markdown_table,
)
from evalkit.report.plan.tables import lines, sentence, table, title
from evalkit.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA_VERSION = 1


def to_text(plan: Plan) -> str:
    """For a terminal: the answer first, then the table, notices and the signature."""
    said = [sentence(plan), title(plan), "", *aligned(table(plan)), "", *lines(plan)]
    said += [f"note: {notice}" for notice in plan.notices]
    said.append(f"signature: {plan.signature}")
    return "".join(f"{printable(line)}\n" for line in said)


def to_markdown(plan: Plan) -> bytes:
    """The same as Markdown; text is escaped."""
    said = [f"{escape(printable(line))}\n" for line in (sentence(plan), title(plan))]
    said += [*markdown_table(table(plan)), ""]
    said += [f"- {escape(printable(line))}" for line in lines(plan)]
    said += [f"- note: {escape(printable(notice))}" for notice in plan.notices]
    return ("\n".join([*said, markdown_signature(plan.signature)]) + "\n").encode()


def to_json(plan: Plan) -> bytes:
    """Everything the plan holds, the same bytes on every run; rates are fractions."""
    options = {**asdict(plan.options), "ties": str(plan.options.ties)}
    document = {
        "schema_version": SCHEMA_VERSION,
        "checkpoints": plan.checkpoints,
        "references": plan.references,
        "reward_model": plan.reward_model,
        "pilot": {
            "prompts": plan.prompts,
            "completions": plan.completions,
            "components": _components(plan),
        },
        "options": options,
        "designs": [
            {**asdict(d), "total": d.total, "cheapest": d is plan.cheapest} for d in plan.designs
        ],
        "grid": plan.grid,
        "ceiling": plan.ceiling,
        "notices": plan.notices,
        "signature": str(plan.signature),
        "exit_code": 0,
    }
    return json_document(document)


def _components(plan: Plan) -> dict[str, object]:
    c = plan.components
    sides = {name: side and side._asdict() for name, side in (("a", c.a), ("b", c.b))}
    return {"mean": c.mean, "between": c.between, "by_reference": c.by_reference, **sides}


def to_html(plan: Plan) -> bytes:
    """One self-contained page, under the policy that all pages share."""
    from evalkit.report.html import inline_svg, page
    from evalkit.report.plan.plots import figure

    return page(
        "plan.html.jinja",
        plan=plan,
        sentence=sentence(plan),
        title=title(plan),
        table=table(plan),
        lines=lines(plan),
        figure=inline_svg(figure(plan), "plan", "Detectable difference by prompts"),
    )


def _figure(plan: Plan) -> Figure:
    from evalkit.report.plan.plots import figure
    from evalkit.report.plots import captioned

    return captioned(figure(plan), [sentence(plan), title(plan), *lines(plan), *plan.notices])


WRITERS = Writers[Plan](
    {
        ".json": to_json,
        ".md": to_markdown,
        **images(_figure),
        ".html": to_html,
    }
)
check_output, write = WRITERS.check, WRITERS.write
