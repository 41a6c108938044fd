"""Story: what later training did to earlier domains, and a refresh for them, over seeds. Used by report.py, of scores.

With S_D(X) the held-out score of checkpoint X in domain D (evaluate.py) and A > B the model trained on A, then on B:

    I(B -> A) = S_A(A > B) - S_A(A)                       matrix: interference, all ordered pairs
    fall      = S_A(A > B > .. ) - S_A(.. > A)            seeds.change: from A's own training to the end of the sequence
    won back  = (S_A(refreshed) - S_A(damaged)) / -fall   seeds.won_back: 1 if the refresh undoes the fall

The paper (arXiv 2606.02398) states I for the loss, where damage is positive; here it is points of score, so damage is
negative. A checkpoint's `recipe` in run.json (base, code 100, math 100, ...) says where it belongs: checkpoints that
differ in nothing but the seed are one row.
"""
# runs: {recipe: {seed: entry}}, as of `read`; seeds: {seed: entry} of one recipe. A recipe is a tuple of stages, 'math 100'
# each, an entry one of evaluate.py. A pair: see seeds.py. domains: those that all have, the columns of the table.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
from collections import Counter

import torch

from model import UserError
from reports.seeds import change, columns, place, read_alike, score_row, won_back
from reports.tables import mean_pm, show
from theory.lineage import stage

PAPER = 66.49, 57.66, 66.04, 64.25, 66.39      # its Math at its peak, damaged, refreshed; the average before and after


def read(files):
    """`runs` from files of evaluate.py --json; UserError for scores that do not compare, or of which one seed has two."""
    runs = {}
    for name, entry in read_alike(files).items():
        seeds = runs.setdefault(tuple(entry["recipe"]), {})
        for other in seeds.values():
            if other["training"] != entry["training"]:
                raise UserError(f"{other['name']} and {name} have the same recipe, but differ in more than the seed: "
                                f"{other['training']} and {entry['training']}")
        if entry["seed"] in seeds:
            raise UserError(f"{seeds[entry['seed']]['name']} and {name} have the same recipe and seed: leave one out")
        seeds[entry["seed"]] = {**entry, "name": name}
    return runs


def shared_domains(runs):
    """The domains that all checkpoints have."""
    return columns(entry for seeds in runs.values() for entry in seeds.values())


def usual_steps(runs):
    """The number of steps that most stages have."""
    steps = Counter(stage(text)[1] for recipe in runs for text in recipe[1:])
    return max(steps, key=steps.get, default=0)


def label(recipe, usual):
    """'code > math > qa > cw > math (10)': steps in brackets where they are not the usual ones (an int)."""
    stages = [(text.rpartition(" ")[0], stage(text)[1]) for text in recipe[1:]]
    return " > ".join(how if steps in (usual, 0) else f"{how} ({steps})" for how, steps in stages) or recipe[0]


def order(recipe):
    """What recipes are sorted by: short ones first, then in the order of the domains, a user's or a rollback last."""
    return len(recipe), [(len(names), place(names[0]), steps) for names, steps in map(stage, recipe[1:])], recipe


def trained_only(recipe):
    """Whether a recipe is training alone, nothing protected and nothing rolled back: see lineage.stage."""
    return not any(":" in text for text in recipe[1:])


def pairs(runs, domains):
    """{(later, earlier): recipe} of all that were trained on one domain, then on one other; of several, the longest."""
    found = {}
    for recipe in sorted((r for r in runs if len(r) == 3 and trained_only(r)), key=lambda r: [stage(s)[1] for s in r[1:]]):
        earlier, later = (stage(s)[0] for s in recipe[1:])
        if len(later) == len(earlier) == 1 and later != earlier and recipe[:-1] in runs and earlier[0] in domains:
            found[later[0], earlier[0]] = recipe
    return found


def matrix(runs, domains):
    """{(later, earlier): pair}: I(later -> earlier), of `pairs`."""
    return {two: change(runs[recipe], runs[recipe[:-1]], two[1]) for two, recipe in pairs(runs, domains).items()}


def refreshes(runs, domains):
    """[(recipe, domain, recipe at its peak)] of every refresh, in `order`: its domain was trained before, others since."""
    found = []
    for recipe in sorted((r for r in runs if len(r) > 3), key=order):
        for domain in stage(recipe[-1])[0]:
            peaks = [recipe[:i + 1] for i in range(1, len(recipe) - 2) if domain in stage(recipe[i])[0]]
            if domain in domains and peaks and peaks[-1] in runs and recipe[:-1] in runs:
                found.append((recipe, domain, peaks[-1]))
    return found


def tables(runs):
    """Print the scores, what every refresh wins back beside the paper's, and the interference matrix."""
    domains, usual, most = shared_domains(runs), usual_steps(runs), max(map(len, runs.values()))
    print(f"score x 100 and its 95 % interval, over seeds, or over prompts where there is one seed; stages of {usual} steps "
          "unless they say otherwise\n")

    # A pair of plain stages that no longer sequence goes through belongs to the matrix alone, and of several steps of one
    # refresh the earlier ones belong to reports/sequences.py.
    longer = {recipe[:3] for recipe in runs if len(recipe) > 3}
    found = refreshes(runs, domains)
    last = {(recipe[:-1], recipe[-1].rpartition(" ")[0]): recipe for recipe, *_ in found}.values()
    shorter = {recipe for recipe, *_ in found} - {*last}
    rows = {recipe: score_row(runs[recipe], domains) for recipe in sorted(runs, key=order)
            if recipe not in shorter and (len(recipe) != 3 or not longer or recipe in longer or not trained_only(recipe))}
    best = max((recipe for recipe in rows if len(runs[recipe]) == most), key=lambda recipe: rows[recipe][-1][0])
    show([[("**{}**" if recipe == best else "{}").format(label(recipe, usual)), *map(mean_pm, row), str(len(runs[recipe]))]
          for recipe, row in rows.items()], ["trained on", *domains, "average", "seeds"])

    if found:
        rows = [refresh_row(runs, domains, *one, label(one[0], usual), best) for one in found if one[0] in last]
        show([*rows, paper_row()],
             ["refresh", "at its peak", "damaged", "refreshed", "fall", "won back", "average before", "and after",
              "the best has more", "other domains"])

    if cells := matrix(runs, domains):
        print("I(later -> earlier): change of the earlier expert's own score by the later training, points")
        show([[f"then {later}", *(mean_pm(cells.get((later, earlier), (math.nan, math.nan)), "+") for earlier in domains)]
              for later in domains if any(l == later for l, _ in cells)], ["", *(f"first {d}" for d in domains)])


def refresh_row(runs, domains, recipe, domain, peak, name, best):
    """Of a refresh: scores and averages on its way, what it won back, what the best of all has more, the others' changes."""
    after, before, first = runs[recipe], runs[recipe[:-1]], runs[peak]
    fall = change(before, first, domain)
    back = mean_pm(won_back(after, before, first, domain)) + " %" if sum(fall) < 0 else "-"      # beyond chance, or nothing
    others = [f"{d} {mean_pm(change(after, before, d), '+')}" for d in domains if d not in stage(recipe[-1])[0]]
    return [f"{domain} along {name}", *(mean_pm(score_row(some, [domain])[0]) for some in (first, before, after)),
            mean_pm(fall, "+"), back, *(mean_pm(score_row(some, domains)[-1]) for some in (before, after)),
            mean_pm(change(runs[best], after, *domains), "+"), ", ".join(others)]


def paper_row():
    """The same of the paper's refresh of Math."""
    peak, damaged, refreshed, *averages = PAPER
    return ["the paper's Math, Qwen3-4B", *map(str, PAPER[:3]), f"{damaged - peak:+.1f}",
            f"{100 * (refreshed - damaged) / (peak - damaged):.1f} %", *map(str, averages), "+0.0", "largely kept"]


def picture(plt, runs):
    """Draw the scores along the first refreshed sequence, intervals as bands; its stages without scores are left out."""
    domains = shared_domains(runs)
    if not (found := refreshes(runs, domains)):
        return print("no refresh among these checkpoints, so there is no sequence to draw")
    recipe = found[0][0]
    stages = [recipe[:i + 1] for i in range(len(recipe)) if recipe[:i + 1] in runs]
    scores = torch.tensor([score_row(runs[r], domains) for r in stages])                             # (stages, columns, 2)
    plt.figure(figsize=(8, 4.5))
    for name, (mean, half) in zip([*domains, "average"], scores.permute(1, 2, 0)):
        style = {"color": "black", "linestyle": "--"} if name == "average" else {}
        line, = plt.plot(mean, marker="o", label=name, **style)
        plt.fill_between(range(len(stages)), mean - half, mean + half, color=line.get_color(), alpha=0.15)
    plt.axvspan(len(stages) - 1.5, len(stages) - 0.5, color="gray", alpha=0.12)
    plt.xticks(range(len(stages)), [r[-1].replace(" ", "\n") + (" steps" if " " in r[-1] else "") for r in stages])
    plt.xlim(-0.2, len(stages) - 0.5), plt.ylabel("held-out score (avg@4 x 100)"), plt.grid(alpha=0.3)
    plt.title(f"trained one after the other; at the end, a refresh ({len(runs[recipe])} seeds)")
    plt.legend(loc="lower right")
