"""Methods: every remedy and every prevention beside each other, on the same checkpoints, seeds and rows.

    python methods.py checkpoints/s?.json --domain math --anchor checkpoints/s{}-code-math \\
        --damaged checkpoints/s{}-code-math-qa-cw refresh=checkpoints/s{}-refreshed joint=checkpoints/s{}-mixed

Reads scores that evaluate.py wrote with --json. A row is LABEL=CHECKPOINT, where {} stands for the seed. With S_D(X)
the held-out score of X in domain D, A the damaged domain, and the stages of X all that it was trained or merged from,
itself included (run.json):

    forgetting(X) = mean over D of  max over stages Z of S_D(Z) - S_D(X)          after Chaudhry et al., arXiv 1801.10112
    won back(X)   = (S_A(X) - S_A(damaged)) / (S_A(anchor) - S_A(damaged))        of means over seeds
    others(X)     = mean over D other than A of  S_D(X) - S_D(damaged)            paired, as is `average against`

Cost is all training that X needed since the base, each stage once: steps, completion tokens sampled, and the seconds
that these steps took (log.jsonl). Picking coordinates, a Fisher matrix or a merge's sweep are not training and not in
it. Mean +- the half-width of the 95 % t-interval over seeds. As X is one of its stages, forgetting is never negative, and as the
largest of several noisy scores is too high, never quite 0; it is left out where X was trained in one go, as nothing
came before.

A checkpoint's name is its directory, normalised. entries: {name: its scores}, {domain: summary} each, of all
checkpoints in the files. A row is {seed: (name, its scores)}.
"""
import argparse
import math
import os
import re
from pathlib import Path

import torch

from domains import DOMAINS, check_domain
from evaluate import read_scores
from reports.intervals import change, mean_ci, score_row, won_back
from model import UserError, check_directory, cli, read_run
from grpo.resume import read_log
from reports.tables import mean_pm, show


def row(entries, pattern):
    """The row of a pattern, a path with {} where the seed stands. UserError if no checkpoint with scores fits it."""
    form = re.compile(re.escape(os.path.normpath(pattern)).replace(r"\{\}", r"(\d+)"))
    found = {int(match[1]): (name, entry) for name, entry in entries.items() if (match := form.fullmatch(name))}
    if not found:
        raise UserError(f"no scores of {pattern} in these files: evaluate.py --json writes them")
    return found


def ancestors(name, seen=None):
    """All that a checkpoint comes from, itself first: a list of directories, each once.

    By the parents and merged parts in run.json. seen: those listed already, for the recursion. UserError if one is no
    checkpoint.
    """
    seen = [] if seen is None else seen
    if os.path.normpath(name) not in seen:
        seen.append(os.path.normpath(name))
        check_directory(name)                       # run.json names it relative to where it was trained
        run = read_run(name)
        for other in filter(None, [run.get("parent"), *run.get("lineage", []), *run.get("merged", [])]):
            ancestors(other, seen)
    return seen


def cost(name):
    """Training since the base that a checkpoint needed: (steps, completion tokens sampled, seconds)."""
    steps, tokens, seconds = 0, 0.0, 0.0
    for place in ancestors(name):
        args = read_run(place).get("args", {})
        for line in read_log(Path(place) / "log.jsonl"):
            steps += 1
            tokens += line["completion_length"] * args["prompts_per_step"] * args["group_size"]
            seconds += sum(line[key] for key in ("seconds_rollout", "seconds_reward", "seconds_update"))
    return steps, tokens, seconds


def forgetting(name, entries, domains):
    """Points by which a checkpoint is below the best of its stages, mean over domains; NaN if it was trained in one go.

    UserError if one of its stages has no scores.
    """
    places = ancestors(name)
    if missing := [place for place in places if place not in entries]:
        raise UserError(f"{name} comes from {missing[0]}, which has no scores: evaluate it too, with the same settings")
    if sum((Path(place) / "log.jsonl").is_file() for place in places) < 2:
        return math.nan
    stages = [entries[place] for place in places]
    return sum(max(stage[d]["score"] for stage in stages) - stages[0][d]["score"] for d in domains) / len(domains)


def table(rows, anchor, damaged, against, domain, entries):
    """The rows of the table, lists of strings, and the domains that all have, which are its columns of scores.

    rows: {label: row}; anchor, damaged, against: rows; domain: the damaged one. UserError if some checkpoint lacks it.
    """
    domains = [d for d in DOMAINS if all(d in entry for some in rows.values() for _, entry in some.values())]
    if domain not in domains:
        raise UserError(f"{domain} is not among the domains that all these checkpoints have: {', '.join(domains) or 'none'}")
    only = lambda some: {seed: entry for seed, (_, entry) in some.items()}
    lines = []
    for label, some in rows.items():
        costs = torch.tensor([cost(name) for name, _ in some.values()], dtype=torch.float64).mean(0).tolist()
        lost = mean_ci(torch.tensor([forgetting(name, entries, domains) for name, _ in some.values()], dtype=torch.float64))
        others = [d for d in domains if d != domain]
        back = won_back(only(some), only(damaged), only(anchor), domain)
        lines.append([label, f"{costs[0]:.0f}", f"{costs[1] / 1e6:.2f} M", f"{costs[2]:.0f}",
                      *map(mean_pm, score_row(only(some), domains)), mean_pm(lost), mean_pm(back) + " %",
                      mean_pm(change(only(some), only(damaged), *others), "+") if others else "-",
                      mean_pm(change(only(some), only(against), *domains), "+"), str(len(some))])
    return lines, domains


def main():
    """Print the table; UserError where rows differ in their seeds, or scores in their settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE or LABEL=CHECKPOINT",
                        help="scores of evaluate.py --json, and the rows")
    parser.add_argument("--domain", required=True, help="the damaged one")
    parser.add_argument("--anchor", required=True, metavar="CKPT", help="before the damage, {} for the seed")
    parser.add_argument("--damaged", required=True, metavar="CKPT", help="after it")
    parser.add_argument("--against", metavar="LABEL", default="damaged",
                        help="row that the last column compares with (default %(default)s)")
    args = parser.parse_intermixed_args()          # rows may stand behind options
    check_domain(args.domain)
    files = [word for word in args.files if "=" not in word]
    if not files:
        raise UserError("no file of scores: name those that evaluate.py --json wrote, before the rows")
    patterns = {"anchor": args.anchor, "damaged": args.damaged}
    for word in (word for word in args.files if "=" in word):
        label, _, pattern = word.partition("=")
        if label in patterns:
            raise UserError(f"two rows are called {label!r}: give each a label of its own")
        patterns[label] = pattern
    for label, pattern in patterns.items():
        if pattern.count("{}") != 1:
            raise UserError(f"{label}: {pattern} does not say where the seed stands: write {{}} there, as in "
                            "checkpoints/s{}-math")
    if args.against not in patterns:
        raise UserError(f"--against {args.against}: no such row; there are {', '.join(patterns)}")
    entries = {os.path.normpath(name): entry for file in files for name, entry in read_scores(file).items()}
    if len({str(entry["evaluated"]) for entry in entries.values()}) > 1:
        raise UserError("the files hold scores of other rows or settings: evaluate all checkpoints alike")
    rows = {label: row(entries, pattern) for label, pattern in patterns.items()}
    seeds = {label: sorted(some) for label, some in rows.items()}
    if uneven := next((label for label in rows if seeds[label] != seeds["damaged"]), None):
        raise UserError(f"{uneven} has seeds {seeds[uneven]}, damaged has {seeds['damaged']}: a paired table needs the same")
    lines, domains = table(rows, rows["anchor"], rows["damaged"], rows[args.against], args.domain, entries)
    show(lines, ["", "steps", "tokens", "seconds", *domains, "average", "forgetting", f"{args.domain} won back", "others",
                 f"average against {args.against}", "seeds"])


if __name__ == "__main__":
    cli(main)
