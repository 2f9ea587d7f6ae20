"""A page of HTML that loads nothing: its parts, its looks, and the one place where text becomes markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NewType

Markup = NewType("Markup", str)
"""HTML in which everything that came from a file is escaped."""


@dataclass(frozen=True)
class Panel:
    """A part of a page with a heading.

    Args:
        note: what one must know to read it.
        wide: whether it takes the whole width.
    """

    title: str
    body: Markup
    note: str = ""
    wide: bool = False


def escaped(text: str) -> Markup:
    """`text` as markup that shows it, also between quotes."""
    return Markup(html.escape(text))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> Markup:
    """A table; columns but the first are set as numbers, unless `numbers` is False."""
    cells = "".join(f'<th scope="col">{escaped(each)}</th>' for each in head)
    lines = "".join("<tr>" + "".join(f"<td>{escaped(each)}</td>" for each in row) + "</tr>\n" for row in rows)
    kind = ' class="numbers"' if numbers else ""
    return Markup(f"<table{kind}><thead><tr>{cells}</tr></thead>\n<tbody>\n{lines}</tbody></table>")


def tiles(figures: Iterable[tuple[str, str, str]]) -> Markup:
    """Headline figures: what it is, the figure, and a remark."""
    return Markup(
        '<dl class="tiles">'
        + "".join(
            f"<div><dt>{escaped(name)}</dt><dd>{escaped(figure)}<small>{escaped(remark)}</small></dd></div>\n"
            for name, figure, remark in figures
        )
        + "</dl>"
    )


def page(title: str, about: str, warnings: Iterable[str], head: Markup, panels: Iterable[Panel]) -> str:
    """The whole document."""
    parts = "".join(
        f"<section{' class=wide' if panel.wide else ''}><h2>{escaped(panel.title)}</h2>\n"
        + (f'<p class="note">{escaped(panel.note)}</p>\n' if panel.note else "")
        + f"{panel.body}</section>\n"
        for panel in panels
    )
    marks = "".join(f'<p class="warning">{escaped(text)}</p>\n' for text in warnings)
    lead = f"<p>{escaped(about)}</p>\n" if about else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)}</title>
<style>{_LOOKS}</style>
</head>
<body>
<header><h1>{escaped(title)}</h1>
{lead}{marks}{head}</header>
<main>
{parts}</main>
</body>
</html>
"""


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_LIGHT = """--ink:#1d2430;--muted:#667080;--line:#dfe3e8;--paper:#fdfdfe;--late:#e0b04c;--dropped:#a3acb8;
--s0:#2f6db3;--s1:#c8651b;--s2:#3d8a5f;--s3:#8057a8;--s4:#a8892a;--s5:#b83f5e;--s6:#3a8f9e;--s7:#7a6a5a"""

_DARK = """--ink:#e4e8ee;--muted:#99a3b1;--line:#333b47;--paper:#14181e;--late:#d9ad55;--dropped:#6b7582;
--s0:#74aef0;--s1:#f0a062;--s2:#74c79b;--s3:#b795dd;--s4:#d6bb62;--s5:#ee7f9a;--s6:#70c3d2;--s7:#b5a595"""

_LOOKS = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
@media print{{:root{{color-scheme:light;{_LIGHT}}}section{{break-inside:avoid}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;max-width:70rem;padding:1.5rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif;font-variant-numeric:tabular-nums}}
h1{{font-size:1.6rem;margin:.2rem 0}}
h2{{font-size:1rem;margin:0 0 .3rem}}
header p{{margin:.2rem 0 .6rem;max-width:50rem}}
main{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));
gap:2rem 2.5rem;margin-top:2rem}}
section{{min-width:0;overflow-x:auto}}
.wide{{grid-column:1/-1}}
.note,small{{color:var(--muted);font-size:.85rem;font-weight:400}}
.note{{margin:0 0 .4rem}}
.warning{{border-left:3px solid var(--s1);padding-left:.7rem}}
.tiles{{display:flex;flex-wrap:wrap;gap:1rem 2.5rem;margin:1.2rem 0 0}}
dt{{color:var(--muted);font-size:.85rem}}
dd{{margin:0;font-size:1.5rem;font-weight:600;line-height:1.25}}
dd small{{display:block}}
svg{{display:block;width:100%;height:auto}}
svg text{{font-family:inherit!important}}
table{{border-collapse:collapse;font-size:.9rem;width:100%}}
th,td{{text-align:left;padding:.2rem 1.2rem .2rem 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:break-word}}
th{{color:var(--muted);font-weight:500}}
.numbers td:not(:first-child),.numbers th:not(:first-child){{text-align:right}}
"""
