"""Methods: every remedy and every prevention beside each other, on the same checkpoints, seeds and rows. Used by report.py,
of scores and of rows LABEL=CHECKPOINT, where {} stands for the seed.

With S_D(X) the held-out score of X in domain D, A the damaged domain, and the stages of X all that it was trained or
merged from, itself included (run.json):

    forgetting(X) = mean over D of  max over stages Z of S_D(Z) - S_D(X)          after Chaudhry et al., arXiv 1801.10112
    won back(X)   = (S_A(X) - S_A(damaged)) / (S_A(anchor) - S_A(damaged))        seeds.won_back, of means over seeds
    others(X)     = mean over D other than A of  S_D(X) - S_D(damaged)            seeds.change, paired

Cost is all training that X needed since the base, each stage once: steps, completion tokens sampled, and the seconds
that these steps took (log.jsonl). Picking coordinates, a Fisher matrix or a merge's sweep are not training and not in
it. Forgetting is never negative, because X is one of its stages, and never quite 0, because the largest of several noisy
scores is too high; it is left out where X was trained in one go, because nothing came before.
"""
# A checkpoint's name is its directory, normalised. entries: {name: its scores}, {domain: summary} each, of all
# checkpoints in the files. rows: {label: {seed: name}}.
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
    """The rows of patterns {label: path with {} for the seed}, and all entries of files of evaluate.py --json.

    UserError where a row has no scores, rows differ in their seeds, or scores in their settings.
    """
    entries = {os.path.normpath(name): entry for file in files for name, entry in read_scores(file).items()}
    if len({str(entry["evaluated"]) for entry in entries.values()}) > 1:
        raise UserError("the files hold scores of other rows or settings: evaluate all checkpoints alike")
    rows = {}
    for label, pattern in patterns.items():
        form = re.compile(re.escape(os.path.normpath(pattern)).replace(r"\{\}", r"(\d+)"))
        rows[label] = {int(match[1]): match[0] for match in map(form.fullmatch, entries) if match}
        if not rows[label]:
            raise UserError(f"no scores of {pattern} in these files: evaluate.py --json writes them")
    for label, row in rows.items():
        if row.keys() != rows["damaged"].keys():
            raise UserError(f"{label} has seeds {[*row]}, damaged has {[*rows['damaged']]}: a paired table needs the same")
    return rows, entries


def ancestors(name):
    """All that a checkpoint comes from by run.json, itself first: directories, each once. UserError for no checkpoint."""
    found = [os.path.normpath(name)]
    for place in found:                             # and those that are added on the way
        check_directory(place)                      # run.json names it relative to where it was trained
        run = read_run(place)
        parts = map(os.path.normpath, filter(None, [run.get("parent"), *run.get("lineage", []), *run.get("merged", [])]))
        found += [part for part in dict.fromkeys(parts) if part not in found]
    return found


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
    """Points below the best of its stages, mean over domains; NaN if trained in one go. UserError if one has no scores."""
    places = ancestors(name)
    if missing := [place for place in places if place not in entries]:
        raise UserError(f"{name} comes from {missing[0]}, which has no scores: evaluate it too, with the same settings")
    if sum((Path(place) / "log.jsonl").is_file() for place in places) < 2:
        return math.nan
    scores = torch.tensor([[entries[place][d]["score"] for d in domains] for place in places], dtype=torch.float64)
    return (scores.amax(0) - scores[0]).mean().item()


def tables(rows, entries, domain, against):
    """Print the table: what each row cost, its scores in all domains that all have, and what came of it.

    domain: the damaged one; against: the label that the last column compares with. UserError if some checkpoint lacks it.
    """
    scores = {label: {seed: entries[name] for seed, name in row.items()} for label, row in rows.items()}
    domains = columns(entry for row in scores.values() for entry in row.values())
    if domain not in domains:
        raise UserError(f"{domain} is not among the domains that all these checkpoints have: {', '.join(domains) or 'none'}")
    others, lines = [d for d in domains if d != domain], []
    fp64 = lambda values: torch.tensor(list(values), dtype=torch.float64)
    for label, row in rows.items():
        steps, tokens, seconds = fp64(map(cost, row.values())).mean(0).tolist()
        lost = mean_ci(fp64(forgetting(name, entries, domains) for name in row.values()))
        back = won_back(scores[label], scores["damaged"], scores["anchor"], domain)
        lines.append([label, f"{steps:.0f}", f"{tokens / 1e6:.2f} M", f"{seconds:.0f}",
                      *map(mean_pm, score_row(scores[label], domains)), mean_pm(lost), mean_pm(back) + " %",
                      mean_pm(change(scores[label], scores["damaged"], *others), "+") if others else "-",
                      mean_pm(change(scores[label], scores[against], *domains), "+"), str(len(row))])
    show(lines, ["", "steps", "tokens", "seconds", *domains, "average", "forgetting", f"{domain} won back", "others",
                 f"average against {against}", "seeds"])
