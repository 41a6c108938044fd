"""Tables and pictures of a run, or over seeds, of the files that the other scripts wrote. Their content says which.

    python report.py checkpoints/math --plot pictures             # a run: reward, held-out score, entropy, length, ...
    python report.py results/s?.json --plot assets                # scores of evaluate.py --json: refreshes, damage, order
    python report.py results/rollback-s?.json --plot assets       # of rollback.py --json: won back, kept, at which price
    python report.py results/analysis-s?.json --plot assets       # of analyze.py --json: the paper's claims, forgetting
    python report.py results/s?.json --domain math --anchor checkpoints/s{}-code-math \\
        --damaged checkpoints/s{}-code-math-qa-cw refresh=checkpoints/s{}-refreshed          # a table of methods
    python report.py results/s?.json --columns math,average       # of the tables with these columns, them alone
    python report.py --fill README.md RESULTS.md                  # makes the tables of these pages anew

Every number over seeds is a mean ± the half-width of its 95 % t-interval; differences are taken seed by seed, on the same
rows. With one seed the interval is over prompts, and says nothing about other seeds. Equations and code:

    runs       reports/training.py                                            rollbacks  reports/recovery.py
    scores     reports/story.py, reports/sequences.py, reports/methods.py     analyses   reports/claims.py,
    pages      reports/pages.py                                                          reports/forgetting.py
"""
import contextlib
import io
import json
import os
from pathlib import Path

import domains
from grpo.settings import new_directory, parser, refuse
from model import UserError, cli

KINDS = ("runs", "scores", "rollbacks", "analyses")


def parse(argv=None):
    """The command line, with a list of files for each of KINDS. UserError for a file of none, or options that do not fit."""
    made, split = parser(__doc__), lambda text: text.split(",")
    made.add_argument("files", nargs="*", metavar="FILE, RUN or LABEL=CHECKPOINT", help="files written with --json, "
                      "directories of runs; for a table of methods also its rows")
    made.add_argument("--plot", type=new_directory, metavar="DIR", help="also draw it there, as run.png, story.png and so "
                      "on (needs matplotlib)")
    made.add_argument("--columns", type=split, default=[], help="only the tables that have all of these columns, with their "
                      "first column and these alone; with commas between them")
    made.add_argument("--rows", type=split, default=[], help="only the rows with one of these texts in their first column")
    made.add_argument("--fill", nargs="+", default=[], metavar="PAGE", help="write the tables below every comment "
                      "<!-- python report.py ... --> of these files anew")
    group = made.add_argument_group("a table of methods, from scores")
    group.add_argument("--domain", help="the damaged one")
    group.add_argument("--anchor", metavar="CKPT", help="before the damage, {} for the seed")
    group.add_argument("--damaged", metavar="CKPT", help="after it")
    group.add_argument("--against", metavar="LABEL", default="damaged",
                       help="row that the last column compares with (default %(default)s)")
    args = made.parse_intermixed_args(argv)         # rows may stand behind options

    rows = [word for word in args.files if "=" in word and not os.path.exists(word)]
    files = [word for word in args.files if word not in rows]
    kinds = {file: kind(file) for file in files}
    vars(args).update({name: [file for file in files if kinds[file] == name] for name in KINDS})
    args.patterns = patterns(args, rows)
    refuse((not files and not args.fill, "name a file, a run, or a page to --fill"),
           *((not os.path.isfile(page), f"--fill: there is no file {page}") for page in args.fill),
           (args.plot and os.path.splitext(args.plot)[1] and not os.path.isdir(args.plot),
            f"--plot {args.plot}: name a directory"))
    return args


def kind(file):
    """Which of KINDS a file or directory is, by its content; UserError if none."""
    if os.path.isfile(os.path.join(file, "log.jsonl")):
        return "runs"
    refuse((not os.path.exists(file), f"there is no file {file}"))
    with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError, IsADirectoryError), open(file) as opened:
        value = json.load(opened)
        for name, keys in (("rollbacks", {"rows", "domain", "later"}), ("analyses", {"sparsity", "neuron_jaccard"})):
            if keys <= value.keys():
                return name
        if value and all("evaluated" in entry for entry in value.values()):
            return "scores"
    raise UserError(f"{file} is nothing to report: no scores of evaluate.py --json, no report of rollback.py --json, no "
                    "analysis of analyze.py --json, and no directory of a run with its log.jsonl")


def patterns(args, words):
    """The rows of a table of methods, {label: path with {} for the seed}, or {}. words: LABEL=CHECKPOINT each."""
    given = [args.domain, args.anchor, args.damaged]
    if not words and not any(given):
        return {}
    found = {"anchor": args.anchor, "damaged": args.damaged, **dict(word.split("=", 1) for word in words)}
    refuse((not all(given), "a table of methods needs --domain, --anchor and --damaged"),
           (not args.scores, "no file of scores: name those that evaluate.py --json wrote, before the rows"),
           (len(found) < 2 + len(words), "two rows have one label: give each its own, other than anchor and damaged"),
           (args.against not in found, f"--against {args.against}: no such row; there are {', '.join(found)}"),
           *((str(path).count("{}") != 1, f"{label}: {path} does not say where the seed stands: write {{}} there, as in "
              "checkpoints/s{}-math") for label, path in found.items()))
    if args.domain.endswith(".py"):
        args.domain = domains.use(args.domain)
    return found


ARGS = cli(parse) if __name__ == "__main__" else None     # before PyTorch is imported: --help and mistakes answer at once

from model import write_text
from reports import claims, forgetting, methods, pages, recovery, sequences, story, training
from reports.tables import draw


def tables(args):
    """Print the tables of each kind that is there, and draw them with --plot."""
    def report(module, found, name):
        module.tables(found)
        if args.plot:
            draw({f"{args.plot}/{name}.png": module.picture}, found)

    if args.runs:
        report(training, training.read(args.runs), "run")
    if args.patterns:
        report(methods, methods.read(args.scores, args.patterns, args.domain, args.against), "methods")
    elif args.scores:
        runs = story.read(args.scores)
        report(story, runs, "story")
        report(sequences, runs, "delay")
    if args.rollbacks:
        report(recovery, recovery.read(args.rollbacks), "rollback")
    if args.analyses:
        found = claims.read(args.analyses)
        claims.tables(found)
        if args.plot:
            claims.plot(args.plot, found[0])
        if seeds := forgetting.pairs(found):
            report(forgetting, seeds, "forgetting")


def printed(args):
    """What `tables` prints, cut to --columns and --rows."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        tables(args)
    return pages.cut(out.getvalue(), args.columns, args.rows) if args.columns or args.rows else out.getvalue()


def main(args=None):
    """Print the tables, and --fill pages with those that their comments name."""
    args = args or parse()
    print(printed(args), end="")
    for page in args.fill:
        write_text(page, pages.filled(Path(page).read_text(), lambda words: printed(parse(words))))


if __name__ == "__main__":
    cli(lambda: main(ARGS))
