"""Methods: every remedy and every prevention beside each other, on the same checkpoints, seeds and rows. Used by report.py,
of scores and of rows LABEL=CHECKPOINT, where {} stands for the seed, and by evaluate.py, which notes what each cost.

With S_D(X) the held-out score of X in domain D, A the damaged domain, and the stages of X all checkpoints that it was
trained or merged from, X included (run.json):

    forgetting(X) = mean over D of  max over stages Z of S_D(Z) - S_D(X)          after Chaudhry et al., arXiv 1801.10112
    won back(X)   = (S_A(X) - S_A(damaged)) / (S_A(anchor) - S_A(damaged))        seeds.won_back, of means over seeds
    others(X)     = mean over D other than A of  S_D(X) - S_D(damaged)            seeds.change, paired

The cost of X is that of all training since the base, each stage once: steps, completion tokens sampled, and the seconds
that these steps took (log.jsonl). Picking coordinates, a Fisher matrix and a merge's sweep are no training, and left out.
Forgetting is at least 0, because X is one of its stages, and a little too high, because the largest of several noisy scores
is. It is NaN where X was trained in one go, because nothing came before.
"""
# table: {label: {column: pair over seeds (see seeds.py), or the number of seeds}}. A checkpoint's name is a normalised path.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
import os
import re
from pathlib import Path

from grpo.directory import read_log
from model import UserError, check_directory, read_run
from reports.seeds import change, columns, over, read_alike, score_row, won_back
from reports.tables import mean_pm, show


def stages(name):
    """The stages of a checkpoint, itself first: {directory: `cost` of its own training}."""
    names = [os.path.normpath(name)]
    for place in names:                             # and those that are added on the way
        run = read_run(place)
        parts = map(os.path.normpath, filter(None, [run.get("parent"), *run.get("lineage", []), *run.get("merged", [])]))
        names += [part for part in dict.fromkeys(parts) if part not in names]
    return {place: cost(place) for place in names}


def cost(place):
    """[steps, completion tokens sampled, seconds] of a checkpoint's own training: 0 if it had none, NaN if it is gone."""
    try:
        check_directory(place)                      # a run.json names directories as seen from where it was trained
    except UserError:
        return [math.nan] * 3
    run, kept = read_run(place), Path(place).name.startswith("step-")       # a step that a run kept: the cost up to then
    lines = [line for line in read_log(Path(place, ".." * kept, "log.jsonl")) if line["step"] <= run["steps"]]
    rows = run["args"]["prompts_per_step"] * run["args"]["group_size"] if lines else 0
    return [len(lines), sum(line["completion_length"] * rows for line in lines),
            sum(line[f"seconds_{part}"] for line in lines for part in ("rollout", "reward", "update"))]


def forgetting(entry, entries, domains):
    """Forgetting of an entry, in points; NaN if it was trained in one go. UserError if one of its stages has no scores."""
    if missing := [place for place in entry["stages"] if place not in entries]:
        raise UserError(f"{missing[0]}, a stage of one of these checkpoints, has no scores: evaluate it too")
    if sum(steps != 0 for steps, *_ in entry["stages"].values()) < 2:
        return math.nan
    peak = lambda d: max(entries[place][d]["score"] for place in entry["stages"])
    return sum(peak(d) - entry[d]["score"] for d in domains) / len(domains)


def read(files, patterns, domain, against):
    """The table of files of evaluate.py --json. patterns: {label: path with {} for the seed}; domain: the damaged one.

    against: the label that the last column compares with. UserError where rows differ in their seeds, or lack the domain.
    """
    entries = {os.path.normpath(name): entry for name, entry in read_alike(files).items()}
    rows = {}                                       # {label: {seed: entry}}
    for label, pattern in patterns.items():
        form = re.compile(re.escape(os.path.normpath(pattern)).replace(r"\{\}", r"(\d+)"))
        rows[label] = {int(found[1]): entries[found[0]] for found in map(form.fullmatch, entries) if found}
        if not rows[label] or rows[label].keys() != rows["anchor"].keys():
            raise UserError(f"{label}: the files have scores of {pattern} for the seeds {[*rows[label]]}, of the anchor for "
                            f"{[*rows['anchor']]}; a paired table needs the same")
    domains = columns(entry for row in rows.values() for entry in row.values())
    if domain not in domains:
        raise UserError(f"{domain} is not among the domains that all these checkpoints have: {', '.join(domains) or 'none'}")
    if old := [name for name, entry in entries.items() if "stages" not in entry]:
        raise UserError(f"the scores of {old[0]} do not say what it cost: run evaluate.py --json on them once more")
    others, names = [d for d in domains if d != domain], ("steps", "tokens", "seconds", *domains, "average")
    costs = lambda row: zip(*(map(sum, zip(*entry["stages"].values())) for entry in row.values()))
    return {label: {
        **dict(zip(names, [*map(over, costs(row)), *score_row(row, domains)])),
        "forgetting": over(forgetting(entry, entries, domains) for entry in row.values()),
        f"{domain} won back": won_back(row, rows["damaged"], rows["anchor"], domain),
        "others": change(row, rows["damaged"], *others) if others else (math.nan, math.nan),
        f"average against {against}": change(row, rows[against], *domains), "seeds": len(row)}
        for label, row in rows.items()}


def text(column, value):
    """A number of the table as it is printed."""
    if column == "seeds":
        return str(value)
    if column in ("steps", "tokens", "seconds"):
        return f"{value[0] / 1e6:.2f} M" if column == "tokens" else f"{value[0]:.0f}"
    return mean_pm(value, "+" * column.startswith(("others", "average against"))) + " %" * column.endswith("won back")


def tables(table):
    """Print the table: of each row its cost, its scores in the domains that all rows have, and the numbers above."""
    show([[label, *(text(*cell) for cell in row.items())] for label, row in table.items()], ["", *table["damaged"]])


def picture(plt, table):
    """Draw what each row wins back against its cost, and against the change of the other domains."""
    back = next(column for column in table["damaged"] if column.endswith("won back"))
    words = {"seconds": "seconds of all training since the base", "others": "change of the other domains (points)"}
    _, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axis, column in zip(axes, words):
        for i, (label, row) in enumerate(table.items()):
            (x, x_half), (y, y_half) = row[column], row[back]
            axis.errorbar(x, y, y_half, x_half, marker="o^s"[i // 10 % 3], color=f"C{i % 10}", capsize=2, label=label)
        axis.set_xlabel(words[column]), axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"{back} (%)"), axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
