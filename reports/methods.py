"""Methods: every remedy and every prevention beside each other, on the same checkpoints, seeds and rows. Used by report.py,
of scores and of rows LABEL=CHECKPOINT, where {} stands for the seed.

With S_D(X) the held-out score of X in domain D, A the damaged domain, and the stages of X all that it was trained or
merged from, itself included (run.json):

    forgetting(X) = mean over D of  max over stages Z of S_D(Z) - S_D(X)          after Chaudhry et al., arXiv 1801.10112
    won back(X)   = (S_A(X) - S_A(damaged)) / (S_A(anchor) - S_A(damaged))        seeds.won_back, of means over seeds
    others(X)     = mean over D other than A of  S_D(X) - S_D(damaged)            seeds.change, paired

Cost is all training that X needed since the base, each stage once: steps, completion tokens sampled, and the seconds
that these steps took (log.jsonl). Picking coordinates, a Fisher matrix or a merge's sweep are not training and not in
it. Mean +- the half-width of the 95 % t-interval over seeds. Forgetting is never negative, because X is one of its
stages, and never quite 0, because the largest of several noisy scores is too high; it is left out where X was trained in
one go, because nothing came before.
"""
# A checkpoint's name is its directory, normalised. entries: {name: its scores}, {domain: summary} each, of all
# checkpoints in the files. A row is {seed: (name, its scores)}.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
import os
import re
from pathlib import Path

import torch

from grpo.directory import read_log
from grpo.scores import mean_ci
from model import UserError, check_directory, read_run
from reports.seeds import change, columns, read_scores, score_row, won_back
from reports.tables import mean_pm, show


def read(files, patterns):
    """The rows {label: row} of patterns {label: path with {} for the seed}, and all entries of files of evaluate.py --json.

    UserError where rows differ in their seeds, or scores in their settings.
    """
    entries = {os.path.normpath(name): entry for file in files for name, entry in read_scores(file).items()}
    if len({str(entry["evaluated"]) for entry in entries.values()}) > 1:
        raise UserError("the files hold scores of other rows or settings: evaluate all checkpoints alike")
    rows = {label: row(entries, pattern) for label, pattern in patterns.items()}
    seeds = {label: sorted(some) for label, some in rows.items()}
    if uneven := next((label for label in rows if seeds[label] != seeds["damaged"]), None):
        raise UserError(f"{uneven} has seeds {seeds[uneven]}, damaged has {seeds['damaged']}: a paired table needs the same")
    return rows, entries


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


def tables(rows, entries, domain, against):
    """Print the table of rows, {label: row}: what they cost, their scores in all domains that all have, and what came of it.

    domain: the damaged one; against: the label that the last column compares with. UserError if some checkpoint lacks it.
    """
    domains = columns([entry for some in rows.values() for _, entry in some.values()])
    if domain not in domains:
        raise UserError(f"{domain} is not among the domains that all these checkpoints have: {', '.join(domains) or 'none'}")
    scores = {label: {seed: entry for seed, (_, entry) in some.items()} for label, some in rows.items()}
    others = [d for d in domains if d != domain]
    lines = []
    for label, some in rows.items():
        costs = torch.tensor([cost(name) for name, _ in some.values()], dtype=torch.float64).mean(0).tolist()
        lost = mean_ci(torch.tensor([forgetting(name, entries, domains) for name, _ in some.values()], dtype=torch.float64))
        back = won_back(scores[label], scores["damaged"], scores["anchor"], domain)
        lines.append([label, f"{costs[0]:.0f}", f"{costs[1] / 1e6:.2f} M", f"{costs[2]:.0f}",
                      *map(mean_pm, score_row(scores[label], domains)), mean_pm(lost), mean_pm(back) + " %",
                      mean_pm(change(scores[label], scores["damaged"], *others), "+") if others else "-",
                      mean_pm(change(scores[label], scores[against], *domains), "+"), str(len(some))])
    show(lines, ["", "steps", "tokens", "seconds", *domains, "average", "forgetting", f"{domain} won back", "others",
                 f"average against {against}", "seeds"])
