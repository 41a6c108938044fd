"""Pages: the tables of README.md and RESULTS.md, each of which report.py prints by the command above it. Used by report.py.

    <!-- python report.py results/s?.json --columns math,average -->

stands above such a table, in the page alone, because no reader needs it. The command is run where report.py was started; of
the tables that it prints, the one with the head of that below takes its place, or the first one where none is there yet.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import re
import shlex
from glob import glob

from model import UserError
from reports.tables import table

TABLE = re.compile(r"^\|.+\n(?:\|.+\n)+", re.MULTILINE)
COMMENT = re.compile(rf"(<!-- python report\.py (.+?) -->\n+)({TABLE.pattern})?", re.MULTILINE)


def cells(text):
    """The cells of a table in Markdown: its head and its rows, lists of strings."""
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return head, rows


def cut(text, columns, words):
    """The tables in a text that have all of some columns, with their first one and these alone, and of the rows those whose
    first cell has one of some words. columns, words: lists of strings; of none, all.
    """
    found = []
    for head, rows in map(cells, TABLE.findall(text)):
        if {*columns} <= {*head}:
            keep = [0, *map(head.index, columns)] if columns else range(len(head))
            rows = [row for row in rows if not words or any(word in row[0] for word in words)]
            found.append(table([[row[i] for i in keep] for row in rows], [head[i] for i in keep]))
    return "\n".join(found)


def filled(page, printed):
    """A page with its tables made anew. printed: a function from a command's words to what it prints.

    UserError if a command prints no table with the head of the one that stands below it.
    """
    def anew(match):
        comment, command, old = match.groups()
        words = [file for word in shlex.split(command) for file in sorted(glob(word)) or [word]]
        found = TABLE.findall(printed(words))
        same = [new for new in found if not old or cells(new)[0] == cells(old)[0]]
        if not same:
            raise UserError(f"report.py {command} prints no table with the head {cells(old)[0] if old else ''}; it has "
                            f"{[cells(new)[0] for new in found]}")
        return comment + same[0]
    return COMMENT.sub(anew, page)
