"""Forgetting: what predicts it, the change of behaviour on the new task or the curvature of the old one? Used by report.py
--forgetting, of analyses that analyze.py --json wrote with --later, one per seed.

For experts of A that were trained on B, "RL's Razor" (arXiv 2509.04259) says that forgetting grows with how far the
policy moved on the *new* task's prompts, whatever A is. The paper of this repository says that it is the second-order
term of A's own loss. Both predict one number each, for each ordered pair and seed:

    KL_B   = E over x of B, o from pi_A(. | x), of  log pi_A(o | x) - log pi_AB(o | x)        kl, of "before" from "after"
    second = 1/2 delta_B' H_A delta_B                                                         (analyze.py)

and forgetting is measured as the rise of L_A in nats, and as the fall of A's score in points (both by analyze.py). How
well a predictor orders the pairs is Spearman's rank correlation within a seed (rank_correlation), then a mean and a 95 %
t-interval over seeds. Beside these two: the KL in the other direction, the KL on the *old* task's prompts, and the norm
of delta_B.

KL from samples: mean over completions of sum_t (e^d - d - 1), d = log pi_AB - log pi_A of a token: unbiased, never
negative (k3 of Schulman, "Approximating KL divergence", 2020).
"""
# seeds: for each of them the list of its pairs, a dict each: analyze.py's entry of the damage, and what is added here.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import torch
from tqdm import tqdm

import domains
from grpo.rollout import micro_batches, token_logps
from grpo.scores import mean_ci, respond
from grpo.startup import load
from model import UserError, check_directory, read_run
from reports import claims
from reports.tables import mean_pm, show

BUDGET = 16384     # padded tokens per forward pass
PREDICTORS = {"KL on the new task, from before": "kl_new", "KL on the new task, from after": "kl_new_reverse",
              "KL on the old task, from before": "kl_old", "norm of delta_B": "norm", "second-order term": "second"}
OUTCOMES = {"rise of L_A (nats)": "measured", "fall of A's score (points)": "fall"}


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
    """Spearman's: the correlation of the ranks of two lists, ties with their mean rank; a float, NaN if one is constant."""
    def centred_ranks(values):
        values = torch.tensor(values, dtype=torch.float64)
        ranks = (values[:, None] > values).sum(1) + (values[:, None] == values).sum(1).double() / 2
        return ranks - ranks.mean()
    a, b = centred_ranks(x), centred_ranks(y)
    return ((a * b).sum() / (a.norm() * b.norm())).item()


def read(files, args):
    """`seeds` of analyses; samples the KLs. args: of report.parse. UserError for less than three pairs, or none at all."""
    seeds = [direct(report) for report in claims.read(files)]
    for file, pairs in zip(files, seeds):
        if len(pairs) < 3:
            raise UserError(f"{file} has {len(pairs)} pairs of an expert and what was trained from it: a rank correlation "
                            "needs three; run analyze.py with --later")
    names = {*domains.DOMAINS, *(d[key] for pairs in seeds for d in pairs for key in ("domain", "new"))}
    data = domains.sources(args.data, sorted(names))
    return [[measured(d, data, args) for d in tqdm(pairs, desc="KL", unit="pair", leave=False, delay=3)] for pairs in seeds]


def direct(report):
    """One seed's ordered pairs, entries of the damage where B (`new`) was trained straight from A; loads their domains."""
    found = []
    for d in report.get("damage", []):
        run = read_run(d["checkpoint"])
        new = run.get("domain") or ""               # of a merge or a rollback: none
        if d["trained"] and run.get("parent") == d["anchor"] and new and "," not in new:
            domains.follow(run), domains.follow(read_run(d["anchor"]))
            found.append({**d, "new": new})
    return found


def measured(d, data, args):
    """A pair with its fall (points), kl_new, kl_new_reverse and kl_old (nats per completion). data: {domain: source}."""
    check_directory(d["checkpoint"])
    before, tokenizer = load(d["anchor"], args.device)
    after, _ = load(d["checkpoint"], args.device)

    def sample(model, domain):
        rows = domains.evaluation_rows(domain, data.get(domain), args.fields, args.prompts, "train")
        return respond(model, tokenizer, domain, rows, samples=args.samples, temperature=1.0,
                       max_completion_length=args.max_completion_length)[0]
    return {**d, "fall": -d["points"], "kl_new": kl(sample(before, d["new"]), after),
            "kl_new_reverse": kl(sample(after, d["new"]), before), "kl_old": kl(sample(before, d["domain"]), after)}


def tables(seeds):
    """Print every predictor's rank correlation with every outcome, and the two that compete side by side."""
    print(f"rank correlation over {', '.join(str(len(pairs)) for pairs in seeds)} ordered pairs of {len(seeds)} seeds "
          "(mean, 95 %)\n")
    found = {p: [torch.tensor([rank_correlation([d[p] for d in pairs], [d[o] for d in pairs]) for pairs in seeds],
                              dtype=torch.float64) for o in OUTCOMES.values()] for p in PREDICTORS.values()}
    rows = {label: found[p] for label, p in PREDICTORS.items()}
    rows["second-order term minus KL on the new task (paired)"] = [a - b for a, b in zip(found["second"], found["kl_new"])]
    show([[label, *(mean_pm(mean_ci(values), "+", 2) for values in row)] for label, row in rows.items()], ["", *OUTCOMES])


def picture(plt, seeds):
    """Draw the measured damage against both predictors, a point per pair and seed, coloured by the later domain."""
    _, axes = plt.subplots(1, 2, figsize=(9.5, 4), sharey=True)
    labels = {"kl_new": "KL(before, after) on the new task (nats)", "second": "1/2 d'H_A d (nats)"}
    for axis, (key, words) in zip(axes, labels.items()):
        for new in dict.fromkeys(d["new"] for pairs in seeds for d in pairs):
            own = [d for pairs in seeds for d in pairs if d["new"] == new]
            axis.scatter([d[key] for d in own], [d["measured"] for d in own], label=f"then {new}", s=14)
        axis.set_xscale("symlog", linthresh=1e-2), axis.set_yscale("symlog", linthresh=1e-2)
        axis.set_xlabel(words), axis.grid(alpha=0.3)
    axes[0].set_ylabel("forgetting: rise of L_A (nats)"), axes[0].legend(fontsize=8)
