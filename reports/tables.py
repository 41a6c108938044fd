"""Tables and pictures: how every script of several numbers shows them.

    show([["base", "44.5 ± 4.3"], ["math", "72.5 ± 1.0"]], ["trained on", "math"])      # Markdown, aligned
    mean_pm((57.7, 1.2))                                                                # '57.7 ± 1.2'
"""
import math
from pathlib import Path

from model import UserError, check_writable


def show(rows, head):
    """Print a table in Markdown, its columns aligned. rows: lists of strings, as many in each as in head."""
    rows = [head, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))) + " |" for row in rows]
    print("\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n")


def mean_pm(pair, sign=""):
    """A pair as text, '57.7 ± 1.2', a part of it that is NaN left out; sign "+": with its sign."""
    return "-" if math.isnan(pair[0]) else f"{pair[0]:{sign}.1f}" + ("" if math.isnan(pair[1]) else f" ± {pair[1]:.1f}")


def check_picture(file):
    """UserError, before the work, if --plot FILE (or None) is no picture that could be written."""
    if file and Path(file).suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--plot {file}: name a .png, .pdf or .svg file")
    check_writable(file)


def pyplot(what):
    """matplotlib.pyplot, drawing to files; where it is not installed None, and a line that `what` is not drawn."""
    try:
        import matplotlib
    except ImportError:
        return print(f"matplotlib is not installed, so {what} is not drawn: pip install matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot
    return matplotlib.pyplot
