"""Tables and pictures: how numbers are shown. Used by report.py, analyze.py, rollback.py, merge.py and bench.py.

    show([["base", "44.5 ± 4.3"], ["math", "72.5 ± 1.0"]], ["trained on", "math"])      # Markdown, aligned
    mean_pm((57.7, 1.2))                                                                # '57.7 ± 1.2'
    draw({"story.png": picture}, runs)                                                  # picture(pyplot, runs)
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
from pathlib import Path


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


def verdicts(found):
    """Print claims, (words, number as text, does it hold) each; nothing if there are none."""
    if found:
        show([[words, ours, "yes" if holds else "no"] for words, ours, holds in found], ["claim", "here", "holds"])


def draw(pictures, what):
    """Draw {file: function}, as function(pyplot, what) does, without a display; where matplotlib is missing, say so.

    A text that a function returns says why it has drawn nothing.
    """
    try:
        import matplotlib
    except ImportError:
        return print(f"matplotlib is not installed, so {' '.join(map(str, pictures))} is not drawn: pip install matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot
    for file, picture in pictures.items():
        if reason := picture(pyplot, what):
            print(reason)
            continue
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        pyplot.savefig(file, dpi=110, bbox_inches="tight")
        pyplot.close()
        print(f"{file}: drawn")
