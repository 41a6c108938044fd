"""Forgetting: how far the curvature of the old task predicts it, and whether anything else does. Used by report.py, of
analyses that analyze.py --json wrote with --later, one per seed, each with three pairs or more; analyze.py measures the KLs.

For experts of A that were trained on B, "RL's Razor" (arXiv 2509.04259) says that forgetting grows with how far the
policy moved on the *new* task's prompts, whatever A is; OSOL (arXiv 2609.06469) finds that it follows the reversal between
consecutive updates. The paper of this repository says that it is the second-order term of A's own loss. Each predicts one
number for each ordered pair and seed:

    KL_B     = E over x of B, o from pi_A(. | x), of  log pi_A(o | x) - log pi_AB(o | x)        kl, of "before" from "after"
    reversal = -cos(delta_A, delta_B);  cosine = cos(g_A, g_B), both at theta_A                 (analyze.py)
    second   = 1/2 delta_B' H_A delta_B                                                         (analyze.py)

and forgetting is measured as the rise of L_A in nats, and as the fall of A's score in points (both by analyze.py). How
well a predictor orders the pairs is Spearman's rank correlation within a seed (rank_correlation), then a mean and a 95 %
t-interval over seeds. Beside these: the KL in the other direction, the KL on the *old* task's prompts, and the norm of
delta_B.

The first table has the prediction itself, g_A . delta_B + second, beside the rise of L_A, for every pair and learning rate.

KL from samples: mean over completions of sum_t (e^d - d - 1), d = log pi_AB - log pi_A of a token: unbiased, never
negative (k3 of Schulman, "Approximating KL divergence", 2020).
"""
# seeds: for each of them the list of its pairs, entries of analyze.py's damage where B (`new`) was trained straight from A.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math

import torch

from grpo.rollout import micro_batches, token_logps
from reports.seeds import over
from reports.tables import mean_pm, number, show

BUDGET = 16384     # padded tokens per forward pass
PREDICTORS = {"KL on the new task, from before": "kl_new", "KL on the new task, from after": "kl_new_reverse",
              "KL on the old task, from before": "kl_old", "norm of delta_B": "norm",
              "cosine of both gradients at theta_A": "gradient_cosine", "reversal of the update before": "reversal",
              "second-order term": "second"}
OUTCOMES = {"rise of L_A (nats)": lambda d: d["measured"], "fall of A's score (points)": lambda d: -d["points"]}


@torch.no_grad()
def kl(rollout, other):
    """KL(pi || other) in nats per completion, pi the policy that sampled the rollout: a float, of its own samples.

    other: a model, on the rollout's device. The rollout is sampled at temperature 1, top_p 1. d is cut off at 20.
    """
    total = 0.0
    for index in micro_batches(rollout, range(len(rollout.ids)), BUDGET):
        part = rollout.select(index)
        d = torch.where(part.mask, token_logps(other, part) - part.logps, 0.0)                     # (n, T)
        total += (d.clamp(max=20).exp() - d - 1).sum().item()
    return total / len(rollout.ids)


def rank_correlation(x, y):
    """Spearman's: the correlation of the ranks of two lists, ties with their mean rank; NaN if one is constant."""
    def centred_ranks(values):
        values = torch.tensor(values, dtype=torch.float64)
        ranks = (values[:, None] > values).sum(1) + (values[:, None] == values).sum(1).double() / 2
        ranks[values.isnan()] = math.nan
        return ranks - ranks.mean()
    a, b = centred_ranks(x), centred_ranks(y)
    return ((a * b).sum() / (a.norm() * b.norm())).item()


def pairs(reports):
    """`seeds` of analyses: of those with three pairs or more, because two have no rank correlation to speak of."""
    found = [[d for d in report.get("damage", []) if "kl_new" in d] for report in reports]
    return [some for some in found if len(some) > 2]


def tables(seeds):
    """Print how far the prediction is right for each pair, and how well it and other numbers order the pairs of a seed."""
    alike = {}
    for d in sorted((d for some in seeds for d in some), key=lambda d: d["lr"] or 0):
        alike.setdefault((f"{d['domain']} -> {d['new']}", d["lr"]), []).append(d)
    print("rise of L_A (nats) by training on B, predicted to second order and measured; reach: up to which part of the\n"
          "way, and norm, this is right to 20 % of |g.d| + |d'Hd / 2|; change of A's score")
    columns = {"norm": ("", 2, lambda d: d["norm"]), "predicted": ("+", 3, lambda d: d["first"] + d["second"]),
               "measured": ("+", 3, lambda d: d["measured"]),
               "measured / predicted": ("", 2, lambda d: d["measured"] / (d["first"] + d["second"])),
               "reach": ("", 2, lambda d: d["reach"]), "up to norm": ("", 2, lambda d: d["reach"] * d["norm"]),
               "points": ("+", 1, lambda d: d["points"])}
    show([[name, number(rate or math.nan, ".0e"),
           *(mean_pm(over(map(value, some)), sign, digits) for sign, digits, value in columns.values())]
          for (name, rate), some in alike.items()], ["A -> B", "learning rate", *columns])

    print(f"rank correlation over {', '.join(str(len(some)) for some in seeds)} ordered pairs of {len(seeds)} seeds "
          "(mean, 95 %)\n")
    found = {label: [[rank_correlation([d[key] for d in some], [*map(outcome, some)]) for some in seeds]
                     for outcome in OUTCOMES.values()] for label, key in PREDICTORS.items()}
    found["second-order term minus KL on the new task (paired)"] = [
        [x - y for x, y in zip(*two)] for two in zip(found["second-order term"], found["KL on the new task, from before"])]
    show([[label, *(mean_pm(over(values), "+", 2) for values in row)] for label, row in found.items()], ["", *OUTCOMES])


def picture(plt, seeds):
    """Draw the measured damage against both predictors, a point per pair and seed, coloured by the later domain."""
    _, axes = plt.subplots(1, 2, figsize=(9.5, 4), sharey=True)
    labels = {"kl_new": "KL(before, after) on the new task (nats)", "second": "1/2 d'H_A d (nats)"}
    for axis, (key, words) in zip(axes, labels.items()):
        for new in dict.fromkeys(d["new"] for some in seeds for d in some):
            own = [d for some in seeds for d in some if d["new"] == new]
            axis.scatter([d[key] for d in own], [d["measured"] for d in own], label=f"then {new}", s=14)
        axis.set_xscale("symlog", linthresh=1e-2), axis.set_yscale("symlog", linthresh=1e-2)
        axis.set_xlabel(words), axis.grid(alpha=0.3)
    axes[0].set_ylabel("forgetting: rise of L_A (nats)"), axes[0].legend(fontsize=8)
