"""Sequences: one domain after the other beside all at once, which order is best, and what a late refresh costs. Used by
report.py, of scores.

With S_D(X) the held-out score of X in domain D, o a sequence of n domains, o_D its part up to D, and J the joint training:

    gap        = S_D(J) - S_D(o) = learned less + forgotten                       gaps, after arXiv 2608.18574
                 learned less = S_D(J) - S_D(o_D),  forgotten = S_D(o_D) - S_D(o)
    predicted  = 1/n (sum over D of S_D(D) + sum over A before B of c(A, B))      predictions: as if pairs decided all,
                 c(A, B) = S_A(A > B) - S_A(A) + S_B(A > B) - S_B(B)              Omni-Thinker (arXiv 2507.14783)
    steps back = the first refresh step after which A is at most MARGIN points    steps_back, beside the delay: steps of
                 below its peak                                                   other domains since (arXiv 2606.03087)

The margin is in points and not a share of the fall, because a contraction wins back 90 % of a small and of a large fall in
equally many steps. Every number is paired seed by seed.
"""
# runs, recipe, domains: see story.py. A pair: see seeds.py.
if __name__ == "__main__":
    raise SystemExit(__doc__)

from itertools import combinations, permutations, product

import torch

from model import UserError
from reports.seeds import change, over, won_back
from reports.story import label, pairs, read, refreshes, shared_domains, trained_only, usual_steps
from reports.tables import mean_pm, show
from theory.lineage import stage

MARGIN = 2.0       # points


def in_turn(recipe):
    """The domains of a recipe, a tuple, if its stages are plain training on one domain each, none twice; otherwise ()."""
    names = [name for text in recipe[1:] for name in stage(text)[0]]
    return tuple(names) if trained_only(recipe) and len({*names}) == len(names) == len(recipe) - 1 else ()


def gaps(runs, domains):
    """[(recipe of a sequence, that of the joint training, {seed: {domain: its summary right after its own stage}})]."""
    found, sequences = [], [r for r in runs if {*in_turn(r)} == {*domains}]
    joints = [r for r in runs if len(r) == 2 and {*stage(r[1])[0]} == {*domains} and trained_only(r)]
    for joint, recipe in product(joints, sequences):
        own = {d: runs.get(recipe[:i], {}) for i, d in enumerate(in_turn(recipe), 2)}
        if seeds := {*runs[recipe]}.intersection(*own.values()):
            found.append((recipe, joint, {seed: {d: own[d][seed][d] for d in domains} for seed in seeds}))
    return found


def predictions(runs, domains):
    """{order: {seed: predicted average score}} of every order, a tuple of domains, best first; {} if a pair is missing."""
    both = pairs(runs, domains)
    if len(domains) < 3 or any(pair not in both for pair in permutations(domains, 2)):
        return {}
    alone = {earlier: recipe[:-1] for (_, earlier), recipe in both.items()}
    score = lambda recipe, seed, d: runs[recipe][seed][d]["score"]

    def predicted(order, seed):
        changes = [score(both[b, a], seed, d) - score(alone[d], seed, d) for a, b in combinations(order, 2) for d in (a, b)]
        return sum([*changes, *(score(alone[d], seed, d) for d in order)]) / len(order)
    seeds = set.intersection(*({*runs[recipe]} for recipe in (*both.values(), *alone.values())))
    found = {order: {seed: predicted(order, seed) for seed in sorted(seeds)} for order in permutations(domains)}
    return dict(sorted(found.items(), key=lambda item: -sum(item[1].values())))


def extremes(files):
    """The best and the worst order, two tuples, as files of evaluate.py --json predict. UserError if a pair is missing."""
    runs = read(files)
    if not (found := [*predictions(runs, shared_domains(runs))]):
        raise UserError(f"{' '.join(map(str, files))}: these scores have not every pair of three domains or more")
    return found[0], found[-1]


def delays(runs, domains):
    """[(domain, peak, kept)] of refreshes of which several steps have scores; kept: {step: recipe}, of 0 the damaged one."""
    found = {}
    for recipe, domain, peak in refreshes(runs, domains):
        how, steps = recipe[-1].rpartition(" ")[0], stage(recipe[-1])[1]
        found.setdefault((recipe[:-1], how, domain, peak), {0: recipe[:-1]})[steps] = recipe
    return [(domain, peak, dict(sorted(kept.items()))) for (_, _, domain, peak), kept in found.items() if len(kept) > 2]


def steps_back(runs, domain, peak, kept):
    """A pair: the first kept step of a refresh with the domain at most MARGIN below its peak, or the last if none is."""
    seeds = {*runs[peak]}.intersection(*(runs[recipe] for recipe in kept.values()))
    score = lambda recipe, seed: runs[recipe][seed][domain]["score"]
    return over(next((t for t in kept if score(kept[t], seed) >= score(peak, seed) - MARGIN), max(kept)) for seed in seeds)


def delay(peak, kept):
    """Steps of training between a domain's peak and its refresh."""
    return sum(stage(text)[1] for text in kept[0][len(peak):])


def tables(runs):
    """Print the gaps to joint training, the orders that pairs predict, and the price of delay."""
    domains, usual = shared_domains(runs), usual_steps(runs)
    rows = []
    for recipe, joint, peaks in gaps(runs, domains):
        for words, more, less in (("gap", runs[joint], runs[recipe]), ("learned less", runs[joint], peaks),
                                  ("forgotten", peaks, runs[recipe])):
            changes = [change(more, less, *some) for some in (*([d] for d in domains), domains)]
            rows.append([f"{label(recipe, usual)}: {words}", *(mean_pm(pair, "+") for pair in changes)])
    if rows:
        print("what joint training has more, points: learned less, and forgotten since")
        show(rows, ["sequence", *domains, "average"])

    if found := predictions(runs, domains):
        average = lambda entry: sum(entry[d]["score"] for d in domains) / len(domains)
        ran = {in_turn(r): {seed: average(entry) for seed, entry in runs[r].items()} for r in runs}
        minus = lambda a, b: {seed: a[seed] - b[seed] for seed in a if seed in b}
        best, *_, worst = found
        rows = [(f"{place}: {' > '.join(order)}", found[order], ran.get(order, {})) for place, order in enumerate(found, 1)
                if order in (best, worst, *ran)]
        rows.append(("the best minus the worst", *(minus(by.get(best, {}), by.get(worst, {})) for by in (found, ran))))
        print(f"average of all domains, of {len(found)} orders as pairs predict it: the best, the worst, those that ran")
        show([[words, *(mean_pm(over(some.values())) for some in (predicted, measured)),
               mean_pm(over(minus(measured, predicted).values()), "+")] for words, predicted, measured in rows],
             ["order", "predicted", "measured", "more than predicted"])

    if found := delays(runs, domains):
        print(f"refresh steps until a domain is at most {MARGIN:g} points below its peak")
        rows = []
        for domain, peak, kept in found:
            start, end = runs[kept[0]], runs[kept[max(kept)]]
            rows.append([f"{domain} after {label(kept[0], usual)}", str(delay(peak, kept)),
                         mean_pm(change(start, runs[peak], domain), "+"), mean_pm(steps_back(runs, domain, peak, kept)),
                         str(max(kept)), mean_pm(won_back(end, start, runs[peak], domain)) + " %"])
        show(rows, ["refresh", "delay", "fall", "steps back", "of", "won back by all"])


def picture(plt, runs):
    """Draw how far below its peak a refreshed domain is, step by step, and the steps back against the delay."""
    if not (found := delays(runs, shared_domains(runs))):
        return
    _, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
    for domain, peak, kept in found:
        mean, half = torch.tensor([change(runs[recipe], runs[peak], domain) for recipe in kept.values()]).T
        line, = left.plot([*kept], mean, label=f"{delay(peak, kept)} steps later")
        left.fill_between([*kept], mean - half, mean + half, color=line.get_color(), alpha=0.12)
        mean, half = steps_back(runs, domain, peak, kept)
        right.errorbar(delay(peak, kept), mean, half, marker="o", capsize=3, color=line.get_color())
    left.axhline(-MARGIN, color="gray", linestyle=":"), left.set_xlabel("refresh steps"), left.grid(alpha=0.3)
    left.set_ylabel("points from the peak"), left.legend(fontsize=8), right.grid(alpha=0.3)
    right.set_ylabel(f"steps until {MARGIN:g} points from the peak"), right.set_ylim(0)
    right.set_xlabel("delay: steps of later training")
