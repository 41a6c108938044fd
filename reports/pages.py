"""Pages: the tables of README.md and RESULTS.md, each of which report.py prints by the command above it. Used by report.py.

    <!-- python report.py results/s?.json --columns math,average -->

stands above such a table, as a comment that no reader sees. The command is run where report.py was started. Of the tables
that it prints, the one with the same head takes the old table's place; where the page has none yet, the first is put there.
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
    """The tables in a text that have all of `columns`, cut to their first column, these, and the rows with one of `words`
    in their first cell. columns, words: lists of strings; an empty list keeps all.
    """
    found = []
    for head, rows in map(cells, TABLE.findall(text)):
        if {*columns} <= {*head}:
            keep = [0, *map(head.index, columns)] if columns else range(len(head))
            rows = [row for row in rows if not words or any(word in row[0] for word in words)]
            found.append(table([[row[i] for i in keep] for row in rows], [head[i] for i in keep]))
    return "\n".join(found)


def filled(page, printed):
    """A page, a string, with new tables. printed: a command's words -> what it prints. UserError if a head is gone."""
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
