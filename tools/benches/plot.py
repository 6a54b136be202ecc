"""Draws lines over rounds as SVG, with nothing but Python's own library: one panel above the other."""
from html import escape

WIDTH, LEFT, RIGHT = 760, 76, 110
TOP, BOTTOM, PANEL, GAP = 74, 56, 180, 46
# Colours that are told apart by those who see no red or no green, too (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999",
           "#8b6914", "#5d3a9b")


class Panel:
    """One pair of axes: where a value is on the page."""

    def __init__(self, number, x_most, y_most):
        self.top = TOP + number * (PANEL + GAP)
        self.bottom = self.top + PANEL
        self.x_most, self.y_most = x_most, y_most

    def x(self, value):
        return LEFT + value * (WIDTH - LEFT - RIGHT) / self.x_most

    def y(self, value):
        return self.bottom - value * PANEL / self.y_most

    def axes(self, name, x_step, y_step):
        right = WIDTH - RIGHT
        for value in range(0, self.y_most + 1, y_step):
            y = self.y(value)
            yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>'
            yield _text(LEFT - 9, y + 4, str(value), "end")
        for value in range(0, self.x_most + 1, x_step):
            x = self.x(value)
            yield f'<line x1="{x:.1f}" y1="{self.bottom}" x2="{x:.1f}" y2="{self.bottom + 5}" stroke="#444"/>'
            yield _text(x, self.bottom + 19, str(value))
        yield f'<path d="M{LEFT} {self.top}V{self.bottom}H{right}" fill="none" stroke="#444"/>'
        yield _text(LEFT + 2, self.top - 8, name, "start", font_weight="bold")

    def line(self, colour, points):
        for run in _pieces(points):
            path = " ".join(f"{self.x(x):.1f},{self.y(value):.1f}" for x, value in run)
            yield (f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
                   'stroke-linejoin="round" opacity="0.85"/>')
            for x, value in run:
                yield f'<circle cx="{self.x(x):.1f}" cy="{self.y(value):.1f}" r="2.8" fill="{colour}"/>'


def _text(x, y, words, anchor="middle", **more):
    rest = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{rest}>{escape(words)}</text>'


def _pieces(points):
    """Runs of points with no gap (a value that is not there) between them."""
    run = []
    for x, value in enumerate(points):
        if value is not None:
            run.append((x, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _legend(names):
    for number, name in enumerate(names):
        x, y, colour = WIDTH - RIGHT + 20, TOP + 10 + 22 * number, COLOURS[number % len(COLOURS)]
        yield f'<line x1="{x}" y1="{y}" x2="{x + 24}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
        yield f'<circle cx="{x + 12}" cy="{y}" r="2.8" fill="{colour}"/>'
        yield _text(x + 31, y + 4, name, "start")


def svg(title, subtitle, x_name, y_name, panels, *, y_most=100, x_step=2, y_step=20):
    """panels: (name, {name of a line: its values at 0, 1, ...}); a value of None is a gap.

    Lines of one name have one colour in all panels, and one entry in the legend.
    """
    names = list(dict.fromkeys(name for _, lines in panels for name in lines))
    x_most = max(len(values) for _, lines in panels for values in lines.values()) - 1
    height = TOP + len(panels) * (PANEL + GAP) - GAP + BOTTOM
    middle = (TOP + height - BOTTOM) / 2
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
             f'height="{height}" font-family="sans-serif" font-size="13" fill="#222">',
             f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
             _text(LEFT, 24, title, "start", font_size="17", font_weight="bold"),
             _text(LEFT, 43, subtitle, "start", fill="#555"),
             _text((LEFT + WIDTH - RIGHT) / 2, height - 14, x_name),
             _text(22, middle, y_name, transform=f"rotate(-90 22 {middle:.1f})"), *_legend(names)]
    for number, (panel_name, lines) in enumerate(panels):
        panel = Panel(number, x_most, y_most)
        parts += panel.axes(panel_name, x_step, y_step)
        for name, values in lines.items():
            parts += panel.line(COLOURS[names.index(name) % len(COLOURS)], values)
    return "\n".join([*parts, "</svg>", ""])
