"""Draws lines over rounds as SVG, with nothing but Python's own library."""
from html import escape

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 180, 64, 62
# Colours that are told apart by those who see no red or no green, too (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")


class Axes:
    """Where a value is on the page."""

    def __init__(self, x_most, y_most):
        self.x_most, self.y_most = x_most, y_most

    def x(self, value):
        return LEFT + value * (WIDTH - LEFT - RIGHT) / self.x_most

    def y(self, value):
        return HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM) / self.y_most


def _text(x, y, words, anchor="middle", **more):
    rest = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{rest}>{escape(words)}</text>'


def _grid(axes, x_step, y_step, x_name, y_name):
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in range(0, axes.y_most + 1, y_step):
        y = axes.y(value)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>'
        yield _text(LEFT - 9, y + 4, str(value), "end")
    for value in range(0, axes.x_most + 1, x_step):
        x = axes.x(value)
        yield f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 5}" stroke="#444"/>'
        yield _text(x, bottom + 20, str(value))
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#444"/>'
    yield _text((LEFT + right) / 2, HEIGHT - 18, x_name)
    middle = (TOP + bottom) / 2
    yield _text(20, middle, y_name, transform=f"rotate(-90 20 {middle:.1f})")


def _pieces(points):
    """Runs of points with no gap (a value that is not there) between them."""
    run = []
    for x, value in enumerate(points):
        if value is None:
            if run:
                yield run
            run = []
        else:
            run.append((x, value))
    if run:
        yield run


def _line(axes, number, name, points, dashed):
    colour = COLOURS[number % len(COLOURS)]
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    for run in _pieces(points):
        path = " ".join(f"{axes.x(x):.1f},{axes.y(value):.1f}" for x, value in run)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        if not dashed:
            for x, value in run:
                yield f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(value):.1f}" r="2.6" fill="{colour}"/>'
    y, x = TOP + 10 + 22 * number, WIDTH - RIGHT + 20
    yield f'<line x1="{x}" y1="{y}" x2="{x + 26}" y2="{y}" stroke="{colour}" stroke-width="2"{dash}/>'
    yield _text(x + 34, y + 4, name, "start")


def svg(title, subtitle, x_name, y_name, lines, *, y_most=100, x_step=2, y_step=20):
    """lines: (name, values by x = 0, 1, ..., dashed).  A value of None is a gap."""
    axes = Axes(max(len(values) for _, values, _ in lines) - 1, y_most)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
             f'height="{HEIGHT}" font-family="sans-serif" font-size="13" fill="#222">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
             _text(LEFT, 26, title, "start", font_size="17", font_weight="bold"),
             _text(LEFT, 46, subtitle, "start", fill="#555"),
             *_grid(axes, x_step, y_step, x_name, y_name)]
    for number, (name, values, dashed) in enumerate(lines):
        parts += _line(axes, number, name, values, dashed)
    return "\n".join([*parts, "</svg>", ""])
