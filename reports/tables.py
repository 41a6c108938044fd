"""Tables and pictures: how numbers are shown. Used by report.py, analyze.py, rollback.py, merge.py and bench.py.

    show([["base", "44.5 ± 4.3"], ["math", "72.5 ± 1.0"]], ["trained on", "math"])      # Markdown, aligned
    mean_pm((57.7, 1.2))                                                                # '57.7 ± 1.2'
    draw({"assets/story.png": picture}, runs)                                           # picture(pyplot, runs)
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
from pathlib import Path


def table(rows, head):
    """A table in Markdown, its columns aligned. rows: lists of strings, as many in each as in head."""
    first, *others = widths = [max(map(len, column)) for column in zip(head, *rows)]
    form = "| " + " | ".join([f"{{:{first}}}", *(f"{{:>{width}}}" for width in others)]) + " |"
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "".join(line + "\n" for line in (form.format(*head), rule, *(form.format(*row) for row in rows)))


def show(rows, head):
    """Print a table."""
    print(table(rows, head))


def number(value, form, unit=""):
    """A number as text in a format, with its unit; '-' for NaN."""
    return "-" if math.isnan(value) else f"{value:{form}}{unit}"


def mean_pm(pair, sign="", digits=1):
    """A pair as text, '57.7 ± 1.2', a part of it that is NaN left out; sign "+": with its sign."""
    mean, half = pair
    return "-" if math.isnan(mean) else f"{mean:{sign}.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def draw(pictures, what):
    """Draw {file: function}, each as function(pyplot, what) does, without a display; a line says so without matplotlib.

    A function that opens no figure has nothing to draw.
    """
    if not pictures:
        return
    try:
        import matplotlib
    except ImportError:
        return print(f"matplotlib is not installed, so {' '.join(map(str, pictures))} is not drawn: pip install matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot
    for file, picture in pictures.items():
        picture(pyplot, what)
        if pyplot.get_fignums():
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            pyplot.savefig(file, dpi=110, bbox_inches="tight")
            pyplot.close()
            print(f"{file}: drawn")
