"""Intervals: how sure a score is, and the difference of two scores.

    score, half = mean_ci(prompt_means)                     # t_{0.975, n-1} * std / sqrt(n), the 95 % interval's half-width
    change, half = paired(entry["math"], reference["math"])                # the same of differences, aligned by row id
    p, least = p_value(change, half, n - 1), detectable(half, n - 1)       # two-sided t-test; 80 % power at the 5 % level

The unit is the prompt: its k samples are averaged first, as they are no independent questions (clustered standard
errors, Miller, arXiv 2411.00640). Two checkpoints on the same prompts are compared prompt by prompt, as prompts differ
far more than checkpoints do.

half is always the half-width of a 95 % interval, NaN of a single value; dof, the degrees of freedom, an int >= 1, is one
less than the values. A summary is evaluate.py's of one domain: a dict with "prompt_scores", {row id: points 0-100}. A
pair is a mean and a half-width, in points.
"""
import math

import torch

from model import UserError


def inside(t, dof):
    """P(|T| < t), t >= 0, of a Student-t variable T of `dof` degrees of freedom: a float.

    A finite sum in theta = atan(t / sqrt(dof)) (Abramowitz & Stegun 26.7.3, 26.7.4).
    """
    theta = math.atan(t / math.sqrt(dof))
    odd, total = dof % 2, 0.0
    term = math.sin(theta) * (math.cos(theta) if odd else 1.0)
    for k in range(2 + odd, dof + 1, 2):
        total += term
        term *= math.cos(theta) ** 2 * (k - 1) / k
    return 2 / math.pi * (theta + total) if odd else total


def t_quantile(dof, confidence=0.95):
    """The t (up to 1000) for which a Student-t variable lies in (-t, t) with probability `confidence`; by bisection."""
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle, dof) < confidence else (low, middle)
    return high


def p_value(mean, half, dof):
    """Two-sided p-value of the t-test of a mean against 0, from the half-width of its 95 % interval; 1 for 0 +- 0."""
    if not half > 0:
        return math.nan if math.isnan(half) else float(mean == 0)
    return max(0.0, 1 - inside(abs(mean) / half * t_quantile(dof), dof))


def detectable(half, dof):
    """The least true difference that a test at the 5 % level finds with 80 % power, in half's unit; NaN where half is.

    (t_{0.975} + t_{0.8}) * se, where half is t_{0.975} * se, and P(|T| < t_{0.8}) = 0.6.
    """
    return math.nan if math.isnan(half) else half * (1 + t_quantile(dof, 0.6) / t_quantile(dof))


def mean_ci(values):
    """Mean and half-width of the 95 % t-interval of independent values (n,), NaNs left out: two floats."""
    values = values[~values.isnan()]
    if len(values) == 0:
        return math.nan, math.nan
    half = t_quantile(len(values) - 1) * values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), half


def pass_at(j, correct, k):
    """Unbiased estimate of the probability that one of j samples is correct, from `correct` of k >= j samples.

    Pass@j of Chen et al., arXiv 2107.03374.
    """
    return 1.0 - math.comb(k - correct, j) / math.comb(k, j)


def differences(scores, reference, domain=""):
    """Change of each prompt's score from `reference` (both summaries of a domain): points (n,) fp64, aligned by row id.

    A row that one of the two could not grade at all is left out; UserError for one that only one of them had. Summaries
    of older versions leave the ungraded rows out and say only how many: there, a missing row may be one of them.
    """
    for here, there in ((scores, reference), (reference, scores)):
        known = {*here["prompt_scores"], *here.get("ungraded", ())}
        if "ungraded" in here or here.get("prompts", 0) <= len(known):
            for id in (*there["prompt_scores"], *there.get("ungraded", ())):
                if id not in known:
                    raise UserError(f"{domain} row {id} was evaluated for one of the two checkpoints only: evaluate both on "
                                    "the same rows")
    now, then = scores["prompt_scores"], reference["prompt_scores"]
    return torch.tensor([now[id] - then[id] for id in now if id in then], dtype=torch.float64)


def paired(scores, reference):
    """Mean and half of `differences`, points: the change of one domain's score from `reference` (both summaries)."""
    return mean_ci(differences(scores, reference))


def average(entries):
    """Mean of the domains' (score, half) pairs, and its half from theirs, which are independent samples: two floats."""
    values, halves = zip(*entries)
    return sum(values) / len(values), math.sqrt(sum(half ** 2 for half in halves)) / len(halves)


def compare(entry, reference, names):
    """From `reference` to `entry` ({domain: summary} each) over the domains `names`: {domain or "average": dict}.

    difference, ci95 and detectable in points, p, and the number of prompts. The average's interval is that of
    `average`; its p and detectable take it for one of a t distribution of the fewest degrees of freedom among the
    domains, of which the Welch-Satterthwaite approximation has as many or more: the test errs towards finding nothing.
    UserError: see `differences`.
    """
    changes = [differences(entry[d], reference[d], d) for d in names]
    counts, line = [len(change) for change in changes], [mean_ci(change) for change in changes]
    found = {name: {"difference": mean, "ci95": half, "p": p_value(mean, half, n - 1), "prompts": n,
                    "detectable": detectable(half, n - 1)}
             for name, (mean, half), n in zip([*names, "average"], [*line, average(line)], [*counts, min(counts)])}
    found["average"]["prompts"] = sum(counts)
    return found


# ---- over seeds: seeds, later, earlier and the like are {seed: entry} of one recipe, an entry {domain: summary} --------

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
    intervals.differences.
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
