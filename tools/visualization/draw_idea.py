#!/usr/bin/env python
"""Draws the idea in one figure: the VisionLLaMA block, and how AS2DRoPE places images of any size on one grid.

    python tools/visualization/draw_idea.py [--out docs/figures/visionllama.png]

The positions are those of the library's own function, so the figure shows what the models compute. The ending of --out
chooses the format (.png, .svg, .pdf).
"""

import argparse
from pathlib import Path
from typing import Sequence, Tuple

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from mmvisionllama.layers import grid_positions

SIZE = (12.0, 6.0)  # inches; 900 pixels wide in the README makes 1 pt about 1 pixel
DPI = 150
PATCH = 16
ANCHOR = (224, 224)
#: image size (height, width) and its colour; the colours are told apart by colour-blind readers too (Okabe and Ito)
IMAGES = (((224, 224), '#0072b2'), ((512, 512), '#d55e00'), ((160, 352), '#009e73'))
INK, GREY, LINE = '#222222', '#666666', '#c8c8c8'


def draw_box(ax: Axes, y: float, height: float, text: str, fill: str, x: float = 0.0, width: float = 2.9) -> None:
    """A box with its centre at ``(x, y)``."""
    style = 'round,pad=0,rounding_size=0.12'
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, facecolor=fill, edgecolor=INK, linewidth=1.2))
    ax.text(x, y, text, ha='center', va='center', fontsize=12.5, color=INK)


def draw_arrow(ax: Axes, points: Sequence[Tuple[float, float]], colour: str = INK) -> None:
    """A line through ``points`` with a head at its end."""
    xs, ys = zip(*points)
    ax.plot(xs[:-1], ys[:-1], color=colour, linewidth=1.4, solid_capstyle='round')
    arrow = dict(arrowstyle='-|>', color=colour, linewidth=1.4, shrinkA=0, shrinkB=0, mutation_scale=12)
    ax.annotate('', points[-1], points[-2], arrowprops=arrow)


def draw_block(ax: Axes) -> None:
    """Equation 1, from the bottom up: x + MHSA(R, LN(x)), then x + SwiGLU(LN(x))."""
    norm, attention, ffn = '#eeeeee', '#dbe9f6', '#fbe6c9'
    draw_arrow(ax, [(0, -0.1), (0, 0.75)])
    draw_box(ax, 1.05, 0.6, 'LayerNorm', norm)
    draw_arrow(ax, [(0, 1.35), (0, 1.8)])
    draw_box(ax, 2.35, 1.1, 'self-attention,\nq and k rotated', attention)
    draw_arrow(ax, [(0, 2.9), (0, 3.4)])
    draw_arrow(ax, [(0, 3.8), (0, 4.75)])
    draw_box(ax, 5.05, 0.6, 'LayerNorm', norm)
    draw_arrow(ax, [(0, 5.35), (0, 5.8)])
    draw_box(ax, 6.1, 0.6, 'SwiGLU', ffn)
    draw_arrow(ax, [(0, 6.4), (0, 6.9)])
    draw_arrow(ax, [(0, 7.3), (0, 8.1)])
    for start, plus in ((0.3, 3.6), (4.3, 7.1)):
        draw_arrow(ax, [(0, start), (-1.9, start), (-1.9, plus), (-0.2, plus)])
        ax.add_patch(Circle((0, plus), 0.2, facecolor='white', edgecolor=INK, linewidth=1.2))
        ax.text(0, plus, '+', ha='center', va='center_baseline', fontsize=14, color=INK)
    ax.text(0, -0.2, 'patch tokens', ha='center', va='top', fontsize=11, color=GREY)
    draw_arrow(ax, [(3.3, 2.35), (1.47, 2.35)])
    ax.text(2.45, 2.5, 'angles of the\npositions', ha='center', va='bottom', fontsize=11, color=INK)
    ax.set(xlim=(-2.0, 3.4), ylim=(-0.75, 8.2), aspect='equal')
    ax.axis('off')


def draw_image(ax: Axes, size: Tuple[int, int], colour: str, largest: int) -> None:
    """An image as its patches, in a square that holds one of ``largest`` pixels; all have one scale."""
    height, width = size
    left, top = (largest - width) / 2, largest - height
    ax.add_patch(Rectangle((left, top), width, height, facecolor=colour, alpha=0.13, linewidth=0))
    for x in range(0, width + 1, PATCH):
        ax.plot([left + x] * 2, [top, top + height], color=colour, linewidth=0.5)
    for y in range(0, height + 1, PATCH):
        ax.plot([left, left + width], [top + y] * 2, color=colour, linewidth=0.5)
    ax.set(xlim=(-4, largest + 4), ylim=(largest + 4, -4), aspect='equal')
    ax.axis('off')


def draw_positions(ax: Axes, size: Tuple[int, int], colour: str) -> None:
    """The positions of an image's tokens on the anchor's grid."""
    grid, anchor = ([side // PATCH for side in sides] for sides in (size, ANCHOR))
    x, y = grid_positions(grid, anchor).unbind(-1)
    ax.vlines(range(anchor[1] + 1), 0, anchor[0], color=LINE, linewidth=0.6, zorder=0)
    ax.hlines(range(anchor[0] + 1), 0, anchor[1], color=LINE, linewidth=0.6, zorder=0)
    ax.scatter(x, y, s=10 if len(x) < 500 else 4.5, color=colour, linewidth=0)
    ax.set(xlim=(-0.3, anchor[1] + 0.3), ylim=(anchor[0] + 0.3, -0.3), aspect='equal')
    ax.set(xticks=(0, anchor[1]), yticks=(0, anchor[0]))
    ax.tick_params(labelsize=10, length=0, labelcolor=GREY)
    ax.spines[:].set_visible(False)


def factor(anchor: int, tokens: int) -> str:
    """What eq. 4 multiplies a coordinate by, as text."""
    return '1' if anchor == tokens else f'{anchor}/{tokens}'


def draw(path: Path) -> None:
    """Writes the figure."""
    figure = plt.figure(figsize=SIZE, facecolor='white')
    draw_block(figure.add_axes((0.0, 0.03, 0.31, 0.86)))
    figure.text(0.115, 0.93, 'The block (eq. 1)', ha='center', fontsize=14, color=INK)
    title = 'AS2DRoPE (eq. 4): images of any size on the grid of the training size'
    figure.text(0.655, 0.93, title, ha='center', fontsize=14, color=INK)
    largest = max(max(size) for size, _ in IMAGES)
    anchor = [side // PATCH for side in ANCHOR]
    for i, (size, colour) in enumerate(IMAGES):
        left, width = 0.345 + 0.22 * i, 0.2
        middle = left + width / 2
        rows, columns = (side // PATCH for side in size)
        draw_image(figure.add_axes((left, 0.53, width, 0.37)), size, colour, largest)
        draw_positions(figure.add_axes((left, 0.045, width, 0.37)), size, colour)
        text = f'{size[0]} × {size[1]}: {rows} × {columns} tokens'
        figure.text(middle, 0.495, text, ha='center', fontsize=11.5, color=colour)
        text = f'x · {factor(anchor[1], columns)},  y · {factor(anchor[0], rows)}'
        figure.text(
            middle, 0.445, text + (',  the anchor' if size == ANCHOR else ''), ha='center', fontsize=11.5, color=INK
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={'Software': None} if path.suffix == '.png' else None)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('docs/figures/visionllama.png'), help='file to write')
    args = parser.parse_args()
    draw(args.out)
    print(args.out)


if __name__ == '__main__':
    main()
