"""Seeds: files of numbers are read here, and scores put together over seeds. Used by report.py and evaluate.py.

    entries = read_scores("scores.json")               # {checkpoint: entry}, of evaluate.py --json
    score_row(seeds, domains)                          # [(mean, half) of each domain, and of their average]
    change(later, earlier, "math")                     # paired prompt by prompt and seed by seed
    won_back(refreshed, damaged, peak, "math")         # 100 * mean rise / mean fall, an interval of a ratio of means
"""
# seeds, later, earlier and the like are {seed: entry} of one recipe. An entry has, among others, a summary (grpo/scores.py)
# per domain. A pair is a mean and the half-width of its 95 % interval, in points. With one seed the interval is over prompts.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import json
from pathlib import Path

import torch

from domains import DOMAINS
from grpo.scores import average, mean_ci, paired
from model import UserError, nan_for_null


# ---- files ---------------------------------------------------------------------------------------------------------

def read_json(file, understand, words):
    """understand(value) of the value in a JSON file; UserError, "FILE holds no " and words, where that fails.

    What `understand` raises where the value is another than a script of ours wrote must be one of the errors below.
    """
    try:
        return understand(json.loads(Path(file).read_text()))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, RecursionError):
        raise UserError(f"{file} holds no {words}") from None


def scored(entry):
    """The domains of an entry: the keys whose value has the scores of prompts. ValueError if one is no whole summary."""
    found = [key for key, value in entry.items() if isinstance(value, dict) and "prompt_scores" in value]
    if not all(isinstance(entry[d]["prompt_scores"], dict) and {"score", "ci95"} <= entry[d].keys() for d in found):
        raise ValueError
    return found


def columns(entries):
    """The domains that all of some entries have, as columns of a table: the shipped ones first, then those of users."""
    first, *others = map(scored, entries)
    both = [domain for domain in first if all(domain in other for other in others)]
    return sorted(both, key=lambda domain: DOMAINS.index(domain) if domain in DOMAINS else len(DOMAINS))


def read_scores(file):
    """What evaluate.py wrote with --json: {checkpoint: entry}; UserError if the file holds something else."""
    def understand(report):
        for entry in report.values():
            entry |= {domain: nan_for_null(entry[domain]) for domain in scored(entry)}
            if not (isinstance(entry["evaluated"], dict) and isinstance(entry["recipe"], list) and "seed" in entry):
                raise ValueError
        return report
    return read_json(file, understand, "scores of evaluate.py --json: name another file")


# ---- statistics ----------------------------------------------------------------------------------------------------

def over_seeds(values):
    """A pair of {seed: (value, half-width over prompts)}: over seeds, or over prompts if there is one.

    NaN and NaN if there is none.
    """
    values = list(values.values())
    return values[0] if len(values) == 1 else mean_ci(torch.tensor([value for value, _ in values], dtype=torch.float64))


def score_row(seeds, domains):
    """One row of the table: a list of the pairs of each domain, then of their average."""
    per_seed = {seed: [(entry[d]["score"], entry[d]["ci95"]) for d in domains] for seed, entry in seeds.items()}
    return ([over_seeds({seed: row[i] for seed, row in per_seed.items()}) for i in range(len(domains))]
            + [over_seeds({seed: average(row) for seed, row in per_seed.items()})])


def change(later, earlier, *domains):
    """Change of the mean of some domains' scores from the recipe of `earlier` to that of `later`: a pair.

    Differences are taken prompt by prompt, seed by seed, over the seeds that both have. UserError: see
    scores.differences.
    """
    return over_seeds({seed: average([paired(later[seed][d], earlier[seed][d]) for d in domains])
                       for seed in later if seed in earlier})


def won_back(refreshed, damaged, peak, domain):
    """Share of the fall that a refresh undoes, a pair in %: mean rise / mean fall over the seeds that all three have.

    Rise: from damaged to refreshed; fall: from peak to damaged, in the score of a domain. The half-width is that of a
    ratio of means: of rise_i - share * fall_i over the mean fall; NaN with one seed.
    """
    of = lambda seeds, seed: seeds[seed][domain]["score"]
    rises, falls = (torch.tensor([of(a, seed) - of(damaged, seed) for seed in refreshed if seed in damaged and seed in peak],
                                 dtype=torch.float64) for a in (refreshed, peak))
    share = rises.mean() / falls.mean()
    return 100 * share.item(), 100 * mean_ci((rises - share * falls) / falls.mean())[1]
