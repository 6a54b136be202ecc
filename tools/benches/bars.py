"""Draws groups of bars on a logarithmic scale as SVG, with nothing but Python's own library."""
import math
from html import escape

import plot

WIDTH, LEFT, RIGHT, TOP, BAR, GAP = 860, 150, 30, 90, 9, 12
LEAST, MOST = 0.01, 10  # what is beyond is cut off, and its number written beside it


def _x(value):
    part = math.log(min(max(value, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def _text(x, y, words, anchor="start", **more):
    rest = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{rest}>{escape(words)}</text>'


def svg(title, subtitle, groups):
    """groups: (name, {name of a bar: a ratio}).  Bars of one name have one colour in all groups."""
    names = list(dict.fromkeys(name for _, values in groups for name in values))
    colour = {name: plot.COLOURS[number % len(plot.COLOURS)] for number, name in enumerate(names)}
    body, y = [], TOP
    for group, values in groups:
        body.append(_text(LEFT - 8, y + len(values) * BAR / 2 + 4, group, "end"))
        for name, value in values.items():
            body.append(f'<rect x="{LEFT}" y="{y}" width="{_x(value) - LEFT:.1f}" height="{BAR - 1}" '
                        f'fill="{colour[name]}"/>')
            if not LEAST <= value <= MOST:
                body.append(_text(_x(value) + 3, y + BAR - 1, f"{value:.3g}", font_size="9"))
            y += BAR
        y += GAP
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 30}" width="{WIDTH}" '
            f'height="{y + 30}" font-family="sans-serif" font-size="12" fill="#222">',
            f'<rect width="{WIDTH}" height="{y + 30}" fill="#fff"/>',
            _text(20, 24, title, font_size="17", font_weight="bold"), _text(20, 43, subtitle, fill="#555")]
    for number, name in enumerate(names):
        x = 20 + number * (WIDTH - 40) / len(names)
        head += [f'<rect x="{x:.1f}" y="56" width="10" height="10" fill="{colour[name]}"/>',
                 _text(x + 14, 65, name, font_size="11")]
    for value in (0.01, 0.1, 1, 10):
        head += [f'<line x1="{_x(value):.1f}" y1="{TOP - 8}" x2="{_x(value):.1f}" y2="{y}" stroke="#ddd"/>',
                 _text(_x(value), y + 16, f"{value:g}", "middle")]
    one = _x(1)
    return "\n".join([*head, *body,
                      f'<line x1="{one:.1f}" y1="{TOP - 8}" x2="{one:.1f}" y2="{y}" stroke="#222"/>', "</svg>", ""])
