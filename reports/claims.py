"""Claims: what the paper says beside what was measured, for one run of analyze.py or over several seeds. Used by analyze.py
and report.py.

    found = claims(report)                             # of one run: a list of {claim, paper, value, unit, holds, of_base}
    show_claims(over_runs([report, other]))            # of several: mean ± 95 % t-interval, and in how many it holds

Each claim of the paper (arXiv 2606.02398) gets one number per run and a rule that says whether it holds. The paper often
says "about", "clearly" or "small": the limits that make such a word testable are ours, and stand in the claim.
"""
# report: the numbers of analyze.py --json, a dict; cells, of its gradient_cosine: {module: {pair: dict}}.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
from itertools import combinations
from pathlib import Path

import torch

from grpo.scores import mean_ci, t_quantile
from model import nan_for_null
from reports.seeds import read_json
from reports.tables import draw, show
from theory.routes import PARTS

HARM = 0.01  # a domain counts as damaged if its loss rises by more nats per completion: its likelihood falls by 1 %

# what a pair of "damage" has in a report of analyze.py
DAMAGE = {"name", "anchor", "domain", "checkpoint", "trained", "norm", "first", "second", "measured", "points", "times", "along",
          "reach", "eigen_shares"}


def claims(report):
    """The paper's claims beside the numbers of one run: a list of {claim, paper, value, unit, holds, of_base}, all computed.

    Claims of analyses that did not run are left out. value: a float, in the unit "%", "points" or "" for none. of_base:
    it was measured on the base, which runs may share, and not on experts.
    """
    found = []
    mean = lambda values: sum(values) / len(values)
    median = lambda values: torch.tensor(values, dtype=torch.float64).quantile(0.5).item()

    def claim(words, paper, value, unit, holds, of_base=False):
        found.append({"claim": words, "paper": paper, "value": value, "unit": unit, "holds": bool(holds), "of_base": of_base})
    sparse = list(report["sparsity"].values())
    share = 100 * mean([s["abs_and_rel"] for s in sparse])
    claim("parameters that moved by less than 1e-7, and less than 1e-3 of themselves", "77 to 89 %", share, "%", share >= 77)
    more = 100 * mean([s["bf16_unchanged"] - s["bf16_if_dense"] for s in sparse])
    claim("share unchanged in bf16 less that of a dense edit of this size: above 5 points", "-", more, "points", more > 5)
    domain = report.get("domains", {})
    pairs = [index for key, index in report["neuron_jaccard"].items()
             if len({domain.get(name) or name for name in key.split("|")}) == 2]  # experts of two domains
    if pairs:
        claim("Jaccard index of two domains' most edited neurons", "< 0.19 (random 0.053)", mean(pairs), "",
              mean(pairs) < 0.19)
    if report.get("route_jaccard"):
        routes = list(report["route_jaccard"].values())
        higher = mean([o["jaccard"] > o["edits"] for o in routes])
        claim("Jaccard index of their routes, higher than that of the edits in most pairs", "high",
              mean([o["jaccard"] for o in routes]), "", higher > 0.5, of_base=True)
    if "gradient_cosine" in report:
        cells = report["gradient_cosine"]
        whole = [abs(c["corrected"]) for c in cells["all"].values() if not math.isnan(c["corrected"])]
        if whole:                                   # none: the gradients are noise, and nothing can be said of their angle
            claim("cosine of two full policy gradients, its size, freed of noise: below 0.1", "about 0", mean(whole), "",
                  mean(whole) < 0.1, of_base=True)
        inner = [(c["cosine"], c["error"]) for m in blocks(cells) for c in cells[m].values() if c["cosine"] == c["cosine"]]
        if inner:
            t = t_quantile(PARTS - 1, 1 - 0.05 / len(inner))  # of so many modules one is low by chance
            for words, sign in (("negative", -1), ("positive", 1)):
                certain = [c for c, error in inner if sign * c > t * error]
                extreme = sign * max(sign * c for c in (certain or [c for c, _ in inner]))
                claim(f"cosine in the most {words} attention or MLP module: beyond error and {sign * 0.1:+.1f}",
                      f"clearly {words}", extreme, "", certain and sign * extreme > 0.1, of_base=True)
    harmed = [d for d in report.get("damage", []) if d["measured"] > HARM]
    if harmed:
        ratio = median([abs(d["first"] / d["second"]) for d in harmed])
        claim("damaged pairs: first-order over second-order term, median below 0.5", "small", ratio, "", ratio < 0.5)
        good = 100 * mean([d["reach"] == 1 for d in harmed])
        claim("damaged pairs predicted to 20 % of the terms' size all the way, over half", "all", good, "%", good > 50)
        worst = max(harmed, key=lambda d: d["measured"])
        ratio = worst["measured"] / (worst["first"] + worst["second"])
        claim("the largest damage over its prediction, within 20 %", "1", ratio, "", 1 / 1.2 < ratio < 1.2)
        claim("the largest damage: part of the way on which the prediction is good to 20 %", "all", worst["reach"], "",
              worst["reach"] == 1)
        curved = [d for d in harmed if d["second"] > 0]
        K = len(worst["eigen_shares"])
        largest = [d for d in curved if d is worst]
        for words, some in ((f"share of the second-order damage that {K} directions carry, median over half", curved),
                            (f"share of the largest damage that {K} directions carry, over half", largest)):
            if some:
                carried = median([d["eigen_shares"][-1] for d in some])
                claim(words, "low-dimensional", 100 * carried, "%", carried > 0.5)
        if curved:
            moved = median([d["norm_share"] for d in curved])
            claim(f"share of the squared norm of delta_B inside these {K} directions: below 5 %", "-", 100 * moved, "%",
                  moved < 0.05)
            control = median([max(d["random_share"], d["coordinate_share"]) for d in curved])
            claim(f"share of the damage that {K} random directions or largest coordinates carry: below 5 %", "-", 100 * control,
                  "%", control < 0.05)
    if "refresh" in report and report["refresh"]["taken"]["damage"][0] > HARM:
        for name, words in (("taken", "refresh as taken"), ("theorem", "refresh by gradient descent")):
            r = report["refresh"][name]
            left = {key: 100 * r[key][-1] / r[key][0] for key in ("in_anchor", "in_minimum", "outside", "damage")}
            words = f"{words} ({r['step'][-1]} steps)"
            claim(f"{words}: damage that is left, below a fifth", "recovers", left["damage"], "%", left["damage"] < 20)
            for key, where in (("in_anchor", "to theta_A"), ("in_minimum", "to the least L_A (ours)")):
                claim(f"{words}: distance in S {where} that is left, below half", "contracts", left[key], "%",
                      left[key] < 50)
            claim(f"{words}: distance outside S that is left, above 90 %", "stays", left["outside"], "%",
                  left["outside"] > 90)
        for key, words in (("in_anchor", "to theta_A"), ("in_minimum", "to the least L_A (ours)")):
            held = next((t for t in range(1, len(r["step"])) if r[key][t] > 1.001 * r["bound"][t] * r[key][0]),
                        len(r["step"])) - 1
            claim(f"descent steps in which the distance in S {words} obeys the theorem's bound", f"all {r['step'][-1]}",
                  held, "", held == r["step"][-1])
    return found


def blocks(cells):
    """The attention and MLP modules among those of a report, as a list: '3 attention', '3 mlp'."""
    return [m for m in cells if m.endswith((" attention", " mlp"))]


def show_claims(found):
    """Print the claims. A value is a number, or the (mean, half-width) over runs; `holds` a bool, or '4 of 5'."""
    def text(value, unit):
        mean, half = value if isinstance(value, tuple) else (value, math.nan)
        return f"{mean:.3g}" + ("" if math.isnan(half) else f" ± {half:.2g}") + f" {unit}".rstrip()
    verdict = lambda holds: holds if isinstance(holds, str) else "yes" if holds else "no"
    show([[c["claim"], c["paper"], text(c["value"], c["unit"]), verdict(c["holds"])] for c in found],
         ["claim", "paper", "here", "holds"])


def over_runs(reports):
    """The claims of several runs (seeds) as one list: values become (mean, half-width), `holds` 'x of y'.

    A value that all runs share, of their one base, stays a number, and `holds` says so.
    """
    together = {}
    for report in reports:
        for c in claims(report):                    # anew from the numbers, as they were measured
            together.setdefault(c["claim"], []).append(c)
    found = []
    for same in together.values():
        values, count = [c["value"] for c in same], sum(c["holds"] for c in same)
        if same[0]["of_base"] and len(set(values)) == 1 < len(values):     # of one base: one measurement, not several
            found.append({**same[0], "holds": f"{'yes' if count else 'no'} (one base)"})
        else:
            found.append({**same[0], "value": mean_ci(torch.tensor(values, dtype=torch.float64)),
                          "holds": f"{count} of {len(same)}"})
    return found


def read(files):
    """Reports, what analyze.py wrote with --json: a list of dicts; UserError if a file holds something else."""
    def understand(value):
        report = nan_for_null(value)
        claims(report)
        if not all(DAMAGE <= d.keys() and d["eigen_shares"] for d in report.get("damage", [])):
            raise ValueError
        return report
    return [read_json(file, understand, "analysis: write it with analyze.py --json") for file in files]


def tables(reports):
    """Print the claims of one run, or of several with intervals."""
    if len(reports) > 1:
        print(f"{len(reports)} runs: mean ± 95 % t-interval, and in how many the claim holds\n")
    show_claims(over_runs(reports) if len(reports) > 1 else claims(reports[0]))


# ---- pictures ----------------------------------------------------------------------------------------------------

def plot(directory, report):
    """neurons.png, gradients.png, damage.png and refresh.png of one run, as far as it measured them, to a directory.

    It is made if need be.
    """
    of = {"neuron_jaccard": neurons, "gradient_cosine": gradients, "damage": damage, "refresh": refresh}
    draw({Path(directory) / f"{picture.__name__}.png": picture for key, picture in of.items() if report.get(key)}, report)


def neurons(plt, report):
    """Draw how much the most edited neurons of any two experts have in common, as a matrix."""
    names = report["experts"]
    matrix = torch.full((len(names), len(names)), math.nan)
    for (i, a), (j, b) in combinations(enumerate(names), 2):
        matrix[i, j] = matrix[j, i] = report["neuron_jaccard"][f"{a}|{b}"]
    plt.figure(figsize=(4.5, 4))
    plt.imshow(matrix, vmin=0, cmap="viridis"), plt.colorbar(label="Jaccard index")
    random = next(iter(report["neuron_null"].values()))["random"]["expected"]
    plt.title(f"most edited neurons of two experts\n(random sets: {random:.3f})", fontsize=10)
    labels = [Path(name).name for name in names]
    plt.xticks(range(len(names)), labels), plt.yticks(range(len(names)), labels)
    for i in range(len(names)):
        for j in range(len(names)):
            if i != j:
                plt.text(i, j, f"{matrix[i, j]:.2f}", ha="center", va="center",
                         color="white" if matrix[i, j] < 0.6 * matrix.nan_to_num().max() else "black")


def gradients(plt, report):
    """Draw the cosines of two domains' policy gradients, module by module."""
    cells = {m: report["gradient_cosine"][m] for m in ["all", *blocks(report["gradient_cosine"])]}
    pairs = list(cells["all"])
    matrix = torch.tensor([[cells[m][p]["cosine"] for p in pairs] for m in cells])
    largest = max(0.1, matrix.nan_to_num().abs().max().item())
    plt.figure(figsize=(1.1 * len(pairs) + 2, 0.32 * len(cells) + 1.5))
    plt.imshow(matrix, vmin=-largest, vmax=largest, cmap="RdBu", aspect="auto")
    plt.colorbar(label="cosine (red: conflict)")
    plt.title("policy gradients of two domains at the base, by module", fontsize=10)
    plt.xticks(range(len(pairs)), [p.replace("|", "\n") for p in pairs]), plt.yticks(range(len(cells)), list(cells))


def damage(plt, report):
    """Draw the damage that was measured against its prediction, and the way to the largest."""
    plt.figure(figsize=(9.5, 4)), plt.subplot(1, 2, 1)
    for anchor in dict.fromkeys(d["anchor"] for d in report["damage"]):
        own = [d for d in report["damage"] if d["anchor"] == anchor]
        plt.scatter([d["first"] + d["second"] for d in own], [d["measured"] for d in own], label=Path(anchor).name)
    plt.axline((0, 0), slope=1, color="gray", linewidth=0.8)
    plt.xscale("symlog", linthresh=1e-2), plt.yscale("symlog", linthresh=1e-2)
    plt.xlabel("predicted: g.d + d'Hd / 2 (nats)"), plt.ylabel("measured damage (nats)"), plt.legend(title="loss of")
    plt.subplot(1, 2, 2)
    worst = max(report["damage"], key=lambda d: d["measured"])
    times = torch.tensor([0.0, *worst["times"]])
    plt.plot(times, [0.0, *worst["along"]], label="measured")
    plt.plot(times, times * worst["first"] + times**2 * worst["second"], "--", label="to second order")
    plt.axvline(worst["reach"], color="gray", linewidth=0.8, label="good to 20 % up to here")
    plt.title(f"the way to {worst['name']}", fontsize=10), plt.xlabel("t"), plt.legend(), plt.grid(alpha=0.3)


def refresh(plt, report):
    """Draw what is left of damage and distances, step by step, of the refresh that was taken and of the theorem's."""
    plt.figure(figsize=(9.5, 4))
    for i, (name, title) in enumerate((("taken", "as taken: AdamW along GRPO"), ("theorem", "by gradient descent on L_A"))):
        r = report["refresh"][name]
        plt.subplot(1, 2, i + 1)
        for key, words in (("in_anchor", "distance in S to theta_A"), ("in_minimum", "distance in S to the least L_A"),
                           ("outside", "distance outside S"), ("damage", "damage")):
            plt.plot(r["step"], [x / r[key][0] for x in r[key]], label=words)
        if name == "theorem":
            plt.plot(r["step"], r["bound"], "--", color="gray", label="the theorem's bound in S")
        plt.xlabel("step"), plt.title(f"refresh {title}", fontsize=10), plt.legend(fontsize=7), plt.grid(alpha=0.3)
    plt.subplot(1, 2, 1), plt.ylabel("part that is left")
