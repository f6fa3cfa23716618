# SPDX-License-Identifier: Apache-2.0
"""Lines over logarithmic axes, as SVG: enough for the figures of PERFORMANCE.md, the same bytes from the same figures."""
import math
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
COLORS = ("#1f5fa8", "#c0392b", "#2e8b57", "#8e44ad", "#b9770e", "#566573")


def ticks(low, high, base):
    """The powers of the base around what is shown."""
    first, last = math.floor(math.log(low, base) + 1e-9), math.ceil(math.log(high, base) - 1e-9)
    return [base ** power for power in range(first, max(last, first + 1) + 1)]


def plot(title, x_label, y_label, series, x_text, x_base=2):
    """series: {name: [(x, y)]}; a name that begins with 'raw' is drawn dashed. x_text(x) is what stands below."""
    points = [point for line in series.values() for point in line]
    columns = sorted({x for x, _ in points})
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points), 10)
    span = math.log(columns[-1] / columns[0], x_base) or 1

    def across(x):
        return LEFT + math.log(x / columns[0], x_base) / span * (WIDTH - LEFT - RIGHT)

    def down(y):
        part = math.log(y / y_ticks[0]) / math.log(y_ticks[-1] / y_ticks[0])
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
           f'font-size="12">', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>']
    for y in y_ticks:
        out.append(f'<path d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in columns:
        out.append(f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(x_text(x))}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_label)}</text>')
    out.append(f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">'
               f'{escape(y_label)}</text>')
    for number, (name, line) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        dashed = ' stroke-dasharray="5 4"' if name.startswith("raw") else ""
        path = " ".join(f"{'M' if i == 0 else 'L'}{across(x):.1f} {down(y):.1f}" for i, (x, y) in enumerate(line))
        legend = TOP + 10 + 20 * number
        out.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="2"{dashed}/>'
                   f'<path d="M{WIDTH - RIGHT + 14} {legend}h24" stroke="{color}" stroke-width="2"{dashed}/>'
                   f'<text x="{WIDTH - RIGHT + 44}" y="{legend + 4}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>", ""])
