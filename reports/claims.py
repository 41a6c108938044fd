"""Claims: what the paper says beside what was measured, for one run of analyze.py or over several seeds. Used by analyze.py
and report.py.

    found = claims(report)                             # of one run: a list of dicts, see claim
    found = over_runs([report, other])                 # of several: mean ± 95 % t-interval, and in how many it holds
    tables([report])                                   # prints them
    plot("assets", report)                             # draws damage and refresh

Each claim of the paper (arXiv 2606.02398) gets one number per run and a rule that says whether it holds. The paper often
says "about", "clearly" or "small": the limits that make such a word testable are ours, and stand in the claim.
"""
# report: a dict, the numbers of analyze.py --json. cells: its gradient_cosine, {module: {pair: dict}}.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
from itertools import chain
from pathlib import Path

import torch

from grpo.scores import mean_ci, t_quantile
from model import nan_for_null
from reports.seeds import opened
from reports.tables import draw, number, show
from theory.routes import PARTS

HARM = 0.01  # a domain counts as damaged if its loss rises by more nats per completion: its likelihood falls by 1 %
# keys of an entry of `damage` that no claim reads, but pictures or forgetting.py
DAMAGE = {"name", "anchor", "domain", "checkpoint", "trained", "norm", "points", "times", "along"}
# what of a refresh is followed: (what, the paper's word, the claim, and the limits in % between which it holds at the end)
LEFT = {"damage": ("damage", "recovers", "below a fifth", -math.inf, 20),
        "in_anchor": ("distance in S to theta_A", "contracts", "below half", -math.inf, 50),
        "in_minimum": ("distance in S to the least L_A (ours)", "contracts", "below half", -math.inf, 50),
        "outside": ("distance outside S", "stays", "above 90 %", 90, math.inf)}

mean = lambda values: sum(values) / len(values)
ratio = lambda a, b: a / b if b else math.nan
median = lambda values: torch.tensor(values, dtype=torch.float64).quantile(0.5).item()


def claims(report):
    """The claims on one run, a list of dicts as of `claim`; those of analyses that did not run are left out."""
    return [*of_experts(report), *of_gradients(report.get("gradient_cosine", {"all": {}})),
            *of_damage(report.get("damage", [])), *of_refresh(report.get("refresh"))]


def claim(words, paper, value, holds, unit="", of_base=False):
    """A claim. value: a float. unit: "%", "points" or "". of_base: the number is of the base, which runs may share."""
    return {"claim": words, "paper": paper, "value": value, "unit": unit, "holds": bool(holds), "of_base": of_base}


def of_experts(report):
    """How sparse the edits are, and which neurons two domains share, by edits and by routes."""
    sparse = report["sparsity"].values()
    x = 100 * mean([s["abs_and_rel"] for s in sparse])
    yield claim("parameters that moved by less than 1e-7, and less than 1e-3 of themselves", "77 to 89 %", x, x >= 77, "%")
    x = 100 * mean([s["bf16_unchanged"] for s in sparse])
    yield claim("parameters unchanged in bf16: above 70 %", "79, 72 % (2609.39405)", x, x > 70, "%")
    x = 100 * mean([s["bf16_unchanged"] - s["bf16_if_dense"] for s in sparse])
    yield claim("share unchanged in bf16 less that of a dense edit of this size: above 5 points", "-", x, x > 5, "points")
    if all("abs_below_1e-5" in s for s in sparse):
        x = 100 * mean([1 - s["abs_below_1e-5"] for s in sparse])
        yield claim("parameters moved by more than 1e-5: below 30 %", "25, 21, 24 % (2607.22039)", x, x < 30, "%")
    if energy := [x for x in report.get("energy", {}).values() if not math.isnan(x)]:
        x = 100 * mean(energy)
        yield claim("energy of an edit in the first eighth of its singular values (256 of 2048): below half",
                    "46, 39 % (2609.39405)", x, x < 50, "%")
    domain = report.get("domains", {})
    per_layer = {pair: index["jaccard"] for pair, index in report.get("neuron_per_layer", {}).items()}
    for found, words, printed in ((report["neuron_jaccard"], "", "< 0.19 (random 0.053)"),
                                  (per_layer, " of each layer: below 0.19", "0.154 (2609.39405)")):
        if pairs := [index for pair, index in found.items()
                     if len({domain.get(name) or name for name in pair.split("|")}) == 2]:      # experts of two domains
            x = mean(pairs)
            yield claim(f"Jaccard index of two domains' most edited neurons{words}", printed, x, x < 0.19)
    if routes := [*report.get("route_jaccard", {}).values()]:
        higher = mean([o["jaccard"] > o["edits"] for o in routes])
        yield claim("Jaccard index of their routes, higher than that of the edits in most pairs", "high",
                    mean([o["jaccard"] for o in routes]), higher > 0.5, of_base=True)


def of_gradients(cells):
    """The angle between two domains' policy gradients; nothing where they are noise alone."""
    if whole := [abs(c["corrected"]) for c in cells["all"].values() if not math.isnan(c["corrected"])]:
        yield claim("cosine of two full policy gradients, its size, freed of noise: below 0.1", "about 0", mean(whole),
                    mean(whole) < 0.1, of_base=True)
    inner = [(c["cosine"], c["error"]) for m in blocks(cells) for c in cells[m].values() if not math.isnan(c["cosine"])]
    for words, sign in (("negative", -1), ("positive", 1)) if inner else ():
        t = t_quantile(PARTS - 1, 1 - 0.05 / len(inner))    # Bonferroni: among many modules one is extreme by chance
        certain = [c for c, error in inner if sign * c > t * error]
        extreme = sign * max(sign * c for c in certain or [c for c, _ in inner])
        yield claim(f"cosine in the most {words} attention or MLP module: beyond error and {sign * 0.1:+.1f}",
                    f"clearly {words}", extreme, certain and sign * extreme > 0.1, of_base=True)


def of_damage(pairs):
    """Whether damage is of second order and lies in few directions, judged on the pairs that are harmed."""
    if not (harmed := [d for d in pairs if d["measured"] > HARM]):
        return
    x = median([abs(ratio(d["first"], d["second"])) for d in harmed])
    yield claim("damaged pairs: first-order over second-order term, median below 0.5", "small", x, x < 0.5)
    x = 100 * mean([d["reach"] == 1 for d in harmed])
    yield claim("damaged pairs predicted to 20 % of the terms' size all the way, over half", "all", x, x > 50, "%")
    worst = max(harmed, key=lambda d: d["measured"])
    x = ratio(worst["measured"], worst["first"] + worst["second"])
    yield claim("the largest damage over its prediction, within 20 %", "1", x, 1 / 1.2 < x < 1.2)
    x = worst["reach"]
    yield claim("the largest damage: part of the way on which the prediction is good to 20 %", "all", x, x == 1)
    curved, K = [d for d in harmed if d["second"] > 0], len(worst["eigen_shares"])
    if not curved:
        return
    for words, limit, some in (("second-order", "median over half", curved),
                               ("largest", "over half", [d for d in curved if d is worst])):
        if some:
            x = 100 * median([d["eigen_shares"][-1] for d in some])
            yield claim(f"share of the {words} damage that {K} directions carry, {limit}", "low-dimensional", x, x > 50, "%")
    x = 100 * median([d["norm_share"] for d in curved])
    yield claim(f"share of the squared norm of delta_B inside these {K} directions: below 5 %", "-", x, x < 5, "%")
    x = 100 * median([max(d["random_share"], d["coordinate_share"]) for d in curved])
    yield claim(f"share of the damage that {K} random directions or largest coordinates carry: below 5 %", "-", x, x < 5,
                "%")


def of_refresh(paths):
    """What a refresh of a harmed domain leaves, and whether the descent obeys the theorem's bound."""
    if not paths or paths["taken"]["damage"][0] <= HARM:
        return
    for name, words in (("taken", "refresh as taken"), ("theorem", "refresh by gradient descent")):
        path, steps = paths[name], paths[name]["step"][-1]
        for key, (what, paper, limit, above, below) in LEFT.items():
            left = ratio(100 * path[key][-1], path[key][0])
            yield claim(f"{words} ({steps} steps): {what} that is left, {limit}", paper, left, above < left < below, "%")
    for key in ("in_anchor", "in_minimum"):
        broken = [t for t in range(1, len(path["step"])) if path[key][t] > 1.001 * path["bound"][t] * path[key][0]]
        held = min(broken, default=len(path["step"])) - 1
        yield claim(f"descent steps in which the {LEFT[key][0]} obeys the theorem's bound", f"all {steps}", held,
                    held == steps)


def blocks(cells):
    """The attention and MLP modules among those of a report, as a list: '3 attention', '3 mlp'."""
    return [m for m in cells if m.endswith((" attention", " mlp"))]


# ---- over runs -----------------------------------------------------------------------------------------------------

def read(files):
    """The reports in files of analyze.py --json, a list without copies; UserError if a file holds something else."""
    reports = []
    for file in files:
        with opened(file, "analysis: write it with analyze.py --json") as value:
            report = nan_for_null(value)
            claims(report)
            if any(not DAMAGE <= d.keys() for d in report.get("damage", [])):
                raise ValueError
            reports += [report] * (report not in reports)
    return reports


def over_runs(reports):
    """The claims of several runs as one list: value is a pair, holds 'x of y'. A number of the one base stays a number."""
    together = {}
    for c in chain.from_iterable(map(claims, reports)):     # made anew from the numbers: rules may have changed since
        together.setdefault(c["claim"], []).append(c)
    for same in together.values():
        values, count = [c["value"] for c in same], sum(c["holds"] for c in same)
        if same[0]["of_base"] and len(set(values)) == 1 < len(values):      # one measurement, not several
            same[0]["holds"] = f"{'yes' if count else 'no'} (one base)"
        else:
            same[0] |= {"value": mean_ci(torch.tensor(values, dtype=torch.float64)), "holds": f"{count} of {len(same)}"}
    return [same[0] for same in together.values()]


def tables(reports):
    """Print the claims of one run, or of several with intervals."""
    if len(reports) > 1:
        print(f"{len(reports)} runs: mean ± 95 % t-interval, and in how many the claim holds\n")
    rows = []
    for c in over_runs(reports) if len(reports) > 1 else claims(reports[0]):
        value, half = c["value"] if isinstance(c["value"], tuple) else (c["value"], math.nan)
        here = number(value, ".3g") + ("" if math.isnan(half) else f" ± {half:.2g}") + f" {c['unit']}".rstrip()
        rows.append([c["claim"], c["paper"], here, {True: "yes", False: "no"}.get(c["holds"], c["holds"])])
    show(rows, ["claim", "paper", "here", "holds"])


# ---- pictures of a run ---------------------------------------------------------------------------------------------

def plot(directory, report):
    """Draw damage.png and refresh.png of one run, those that it measured, in a directory."""
    draw({f"{directory}/{picture.__name__}.png": picture for picture in (damage, refresh) if report.get(picture.__name__)},
         report)


def damage(plt, report):
    """Draw the measured damage against its prediction, and how the largest grows along delta_B."""
    pairs = report["damage"]
    plt.figure(figsize=(9.5, 4)), plt.subplot(1, 2, 1)
    for anchor in dict.fromkeys(d["anchor"] for d in pairs):
        own = [d for d in pairs if d["anchor"] == anchor]
        plt.scatter([d["first"] + d["second"] for d in own], [d["measured"] for d in own], label=Path(anchor).name)
    plt.axline((0, 0), slope=1, color="gray", linewidth=0.8)
    plt.xscale("symlog", linthresh=1e-2), plt.yscale("symlog", linthresh=1e-2)
    plt.xlabel("predicted: g.d + d'Hd / 2 (nats)"), plt.ylabel("measured damage (nats)"), plt.legend(title="loss of")
    plt.subplot(1, 2, 2)
    worst = max(pairs, key=lambda d: d["measured"])
    times = torch.tensor([0.0, *worst["times"]])
    plt.plot(times, [0.0, *worst["along"]], label="measured")
    plt.plot(times, times * worst["first"] + times**2 * worst["second"], "--", label="to second order")
    plt.axvline(worst["reach"], color="gray", linewidth=0.8, label="good to 20 % up to here")
    plt.title(f"the way to {worst['name']}", fontsize=10), plt.xlabel("t"), plt.legend(), plt.grid(alpha=0.3)


def refresh(plt, report):
    """Draw what is left of damage and distances, step by step, in the refresh as taken and in the theorem's."""
    plt.figure(figsize=(9.5, 4))
    for i, (name, title) in enumerate((("taken", "as taken: AdamW along GRPO"), ("theorem", "by gradient descent on L_A"))):
        r = report["refresh"][name]
        plt.subplot(1, 2, i + 1)
        for key in ("in_anchor", "in_minimum", "outside", "damage"):
            plt.plot(r["step"], [x / r[key][0] for x in r[key]], label=LEFT[key][0].removesuffix(" (ours)"))
        if name == "theorem":
            plt.plot(r["step"], r["bound"], "--", color="gray", label="the theorem's bound in S")
        plt.xlabel("step"), plt.title(f"refresh {title}", fontsize=10), plt.legend(fontsize=7), plt.grid(alpha=0.3)
    plt.subplot(1, 2, 1), plt.ylabel("part that is left")
