"""Seeds: files of numbers are read here, and scores put together over seeds. Used by report.py and evaluate.py.

    entries = read_scores("scores.json")               # {checkpoint: entry}, of evaluate.py --json
    score_row(seeds, domains)                          # [pair of each domain, and of their average]
    change(later, earlier, "math")                     # paired prompt by prompt and seed by seed: a pair
    won_back(refreshed, damaged, peak, "math")         # 100 * mean rise / mean fall: a pair, in %
"""
# seeds, later, earlier and the like are {seed: entry} of one recipe. An entry has, among others, a summary (grpo/scores.py)
# per domain. A pair is a mean and the half-width of its 95 % interval, in points: of one seed over prompts.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import contextlib
import json
from pathlib import Path

import torch

from domains import DOMAINS
from grpo.scores import average, mean_ci, paired
from model import UserError, nan_for_null


# ---- files ---------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def opened(file, words):
    """The value of a JSON file; UserError, "FILE holds no " and words, if it has none, or if what is done with it fails."""
    try:
        yield json.loads(Path(file).read_text())
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, RecursionError):
        raise UserError(f"{file} holds no {words}") from None


def scored(entry):
    """The domains of an entry: the keys whose value has the scores of prompts. ValueError if one is no whole summary."""
    found = [key for key, value in entry.items() if isinstance(value, dict) and "prompt_scores" in value]
    if not all(isinstance(entry[d]["prompt_scores"], dict) and {"score", "ci95"} <= entry[d].keys() for d in found):
        raise ValueError
    return found


def place(domain):
    """Where a domain stands among others: the shipped ones first, then those of users."""
    return DOMAINS.index(domain) if domain in DOMAINS else len(DOMAINS)


def columns(entries):
    """The domains that all of some entries have, as columns of a table."""
    first, *others = map(scored, entries)
    return sorted((domain for domain in first if all(domain in other for other in others)), key=place)


def read_scores(file):
    """What evaluate.py wrote with --json: {checkpoint: entry}; UserError if the file holds something else."""
    with opened(file, "scores of evaluate.py --json: name another file") as report:
        for entry in report.values():
            entry |= {domain: nan_for_null(entry[domain]) for domain in scored(entry)}
            if not (isinstance(entry["evaluated"], dict) and isinstance(entry["recipe"], list) and "seed" in entry):
                raise ValueError
    return report


def read_alike(files):
    """The scores of several files, {checkpoint: entry}; UserError if their settings or rows differ, so that none compare."""
    entries = {name: entry for file in files for name, entry in read_scores(file).items()}
    first = next(iter(entries.values()))["evaluated"]
    for name, entry in entries.items():
        if entry["evaluated"] != first:
            raise UserError(f"{name} was evaluated with other settings or rows than the first one: evaluate all alike")
    return entries


# ---- statistics ----------------------------------------------------------------------------------------------------

def over(values):
    """A pair from one number per seed; its half-width is NaN of one seed, and so are both of none."""
    return mean_ci(torch.tensor([*values], dtype=torch.float64))


def score_row(seeds, domains):
    """One row of the table: a list of the pairs of each domain, then of their average; of one seed over prompts."""
    rows = [[(entry[d]["score"], entry[d]["ci95"]) for d in domains] for entry in seeds.values()]
    rows = [[*row, average(row)] for row in rows]
    return rows[0] if len(rows) == 1 else [over(mean for mean, _ in column) for column in zip(*rows)]


def change(later, earlier, *domains):
    """Change of the mean of some domains' scores from `earlier` to `later`, over the seeds that both have: a pair.

    Of one seed it is paired by prompt, if the prompts' scores are there. UserError: see scores.differences.
    """
    both = [seed for seed in later if seed in earlier]
    if len(both) == 1 and all(later[both[0]][d]["prompt_scores"] for d in domains):
        return average([paired(later[both[0]][d], earlier[both[0]][d]) for d in domains])
    return over(sum(later[seed][d]["score"] - earlier[seed][d]["score"] for d in domains) / len(domains) for seed in both)


def won_back(refreshed, damaged, peak, domain):
    """Share of the fall from peak to damaged that a refresh undoes, over the seeds that all three have: a pair in %.

    The half-width is that of a ratio of means: of rise_i - share * fall_i over the mean fall; NaN with one seed.
    """
    both = [seed for seed in refreshed if seed in damaged and seed in peak]
    scores = lambda seeds: torch.tensor([seeds[seed][domain]["score"] for seed in both], dtype=torch.float64)
    rises, falls = scores(refreshed) - scores(damaged), scores(peak) - scores(damaged)
    share = rises.mean() / falls.mean()
    return 100 * share.item(), 100 * mean_ci((rises - share * falls) / falls.mean())[1]
