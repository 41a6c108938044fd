"""The tables 1 to 8 of an analysis, each from the dict that analyze.py measured and --json holds. Used by analyze.py.

    show_sizes(report)                                 # prints; the columns are explained in the line above each table
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
from itertools import permutations
from pathlib import Path
from statistics import median_low

from reports.claims import blocks, ratio
from reports.tables import mean_pm, number, show
from theory.edits import layer_of, type_of

SUMMED = ("parameters", "L0", "L1", "L2", "Linf", "by_type", "by_layer")     # of edits.sparsity, beside its shares


def short(names):
    """Checkpoints in a table by their last directories: "math, qa" of "checkpoints/math|checkpoints/qa"."""
    return ", ".join(Path(name).name for name in names.split("|"))


def extremes(cells, of):
    """The attention or MLP modules (or others, without such) in which of(module), NaN left out, is least and greatest."""
    known = [module for module in cells if not math.isnan(of(module))] or ["all"]
    return [pick(blocks(known) or known, key=of) for pick in (min, max)]


def show_sizes(report):
    """1: share of the parameters that did not move, norms; mean size and effective rank by type of module and by layer."""
    sparsity, names = report["sparsity"], [*map(short, report["experts"])]
    first = sparsity[report["experts"][0]]
    columns = [key for key in first if key not in SUMMED]
    print(f"\n1. Size of the edits: share of {first['parameters']:,} parameters, and norms")
    show([[short(name), *(f"{100 * s[c]:.2f} %" for c in columns), *(f"{s[c]:.3g}" for c in ("L1", "L2", "Linf"))]
          for name, s in sparsity.items()], ["expert", *(c.replace("_", " ") for c in columns), "L1", "L2", "Linf"])
    print("Mean |delta| by type of module and by layer, and effective rank (sum s^2)^2 / sum s^4, median over matrices")
    rank = lambda own: number(median_low(own), ".1f") if own else "-"
    rows = []
    for group, word, member in (("by_type", "", type_of), ("by_layer", "layer ", layer_of)):
        for key in first[group]:
            sizes = [s[group][key] for s in sparsity.values()]
            ranks = [[r for tensor, r in own.items() if str(member(tensor)) == key and not math.isnan(r)]
                     for own in report["rank"].values()]
            rows.append([f"{word}{key}", *(f"{s['L1'] / s['parameters']:.2e}" for s in sizes), *map(rank, ranks)])
    show(rows, ["module", *names, *(f"rank {name}" for name in names)])


def show_neurons(report, top, neurons):
    """2: how much of the most edited `top`, a share, of so many neurons two experts have in common."""
    if not neurons:
        print("2. Neurons: no gate_proj, up_proj and down_proj in this architecture, so nothing to say of its channels")
    if report["neuron_null"]:
        print(f"2. Most edited {top:.0%} of {neurons} neurons, of all and of each layer: Jaccard index, beside random sets")
        with_range = lambda r: f"{r['expected']:.3f} ({r['low']:.3f} to {r['high']:.3f})"
        show([[short(pair), f"{o['jaccard']:.3f}", with_range(o["random"]), with_range(o["random_same_layers"]),
               f"{even['jaccard']:.3f}", with_range(even["random_same_layers"])]
              for (pair, o), even in zip(report["neuron_null"].items(), report["neuron_per_layer"].values())],
             ["pair", "Jaccard", "random (95 % range)", "random, as many per layer", "of each layer", "random"])


def show_directions(report):
    """3: cosines of two experts' edits, their conflict norm, and how much of its direction each keeps beside the other."""
    if not report["cosine"]:
        return
    print("3. Cosine of the edits: all parameters, lowest and highest module, neurons in both top sets; conflict norm (of "
          "random signs:\n   71 %); cosine of each edit and the sum of both, on the neurons that it changed most in each layer")
    by = {pair: cosine["by_module"] for pair, cosine in report["cosine"].items()}
    show([[short(pair), number(of["all"], "+.3f"), *(f"{number(of[m], '+.3f')} {m}" for m in extremes(of, of.get)),
           number(report["cosine"][pair]["shared_neurons"], "+.3f"),
           f"{report['conflict'][pair]['norm']:.2g} ({number(100 * report['conflict'][pair]['share'], '.0f', ' %')})",
           " ".join(number(report["direction_kept"].get("|".join(ends), math.nan), ".3f")
                    for ends in permutations(pair.split("|")))] for pair, of in by.items()],
         ["pair", "all", "lowest", "highest", "shared neurons", "conflict norm", "direction kept"])


def show_routes(report, top):
    """4: how much of their routes, a share `top` of all neurons, two domains have in common."""
    if "route_jaccard" not in report:
        return print("4. Routes: the modules of this model do not show the channels of its MLPs one by one\n")
    print(f"4. Routes: the {top:.0%} of the neurons most active on a domain's tokens, in the base model")
    show([[short(pair), *(f"{x:.3f}" for x in (o["jaccard"], o["edits"], o["random"]["expected"],
                                               o["random_same_layers"]["expected"])), number(cosine, "+.3f")]
          for (pair, o), cosine in zip(report["route_jaccard"].items(), report["route_cosine"].values())],
         ["pair", "routes' Jaccard", "edits'", "random", "random, per layer", "cosine of edits on shared route"])


def show_gradients(report):
    """5: cosines of two domains' policy gradients."""
    print("5. Cosine of policy gradients at the base, ± 95 % (jackknife); ceiling: what equal gradients would show through "
          "so many samples;\n   without noise: cosine / ceiling")
    rows, found = [], report["gradient_cosine"]
    for pair, whole in found["all"].items():
        cosine = lambda m: mean_pm((found[m][pair]["cosine"], found[m][pair]["ci95"]), "+", 3)
        rows.append([short(pair), cosine("all"), number(whole["ceiling"], ".3f"), number(whole["corrected"], "+.3f"),
                     *(f"{cosine(m)} {m}" for m in extremes(found, lambda m: found[m][pair]["cosine"]))])
    show(rows, ["pair", "all", "ceiling", "without noise", "most conflicting", "most synergistic"])


def show_damage(report):
    """6: what later training did to the loss of earlier domains, beside what its expansion says."""
    print("6. Damage: change of L_A (nats per correct completion of A's own) by delta_B, and its expansion; reach: the t up "
          "to which this is\n   right to 20 % of |g.d| + |d'Hd / 2|; change of minus the expected reward, by its own "
          "quadratic and by importance weights; of the score.\n   Beside these, what is known without A's curvature: "
          "cosine of both domains' policy gradients at theta_A; reversal, -cos(delta_A, delta_B)")
    show([[d["name"], number(d["lr"] or math.nan, ".0e"), f"{d['norm']:.2f}",
           *(number(d[key], "+.4f") for key in ("first", "second", "measured", "remainder")), f"{d['reach']:.2f}",
           number(d["surrogate_first"] + d["surrogate_second"], "+.4f"), number(d["surrogate"], "+.4f"),
           mean_pm((d["points"], d["points_ci95"]), "+"), number(d["gradient_cosine"], "+.3f"), number(d["reversal"], "+.3f")]
          for d in report["damage"]],
         ["A -> B, or A + B's edit", "lr", "norm", "g.d", "d'Hd / 2", "measured", "remainder", "reach", "reward predicted",
          "weighted", "points", "cos(g_A, g_B)", "reversal"])


def show_subspace(report):
    """7: the leading eigenvalues, and what share of the second-order damage their eigenvectors carry."""
    print("7. Conflict subspace (ours: leading eigenvectors of H_A, the same for every B), by Lanczos")
    K = len(next(iter(report["subspace"].values()))["eigenvalues"])
    show([[short(a), f"{s['eigenvalues'][0]:.1f}", f"{s['eigenvalues'][-1]:.2f}", f"{s['trace']:.0f}",
           number(max(map(ratio, s["residuals"], map(abs, s["eigenvalues"]))), ".0e")]
          for a, s in report["subspace"].items()],
         ["A", "largest", f"number {K}", "trace", "Hv - lv over l, worst"])
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < K] + [K]
    percent = lambda x, form: number(100 * x, form, " %")
    print(f"Share of the second-order damage in the first k of them; in {K} random directions; in the {K} largest "
          f"coordinates;\nand what share of |delta_B|^2 lies in the first {K}")
    show([[d["name"], *(percent(d["eigen_shares"][k - 1], ".0f") for k in ks), percent(d["random_share"], ".1g"),
           percent(d["coordinate_share"], ".1g"), percent(d["norm_share"], ".2g"),
           *(str(d[key] or f"> {K}") for key in ("k_for_50", "k_for_90"))] for d in report["damage"]],
         ["A -> B, or A + B's edit", *(f"k = {k}" for k in ks), "random", "largest", "of the norm^2", "k for 50 %",
          "k for 90 %"])


def show_refresh(report):
    """8: how far the refreshed model is from theta_A, inside S and outside, and what damage is left."""
    r = report["refresh"]
    print(f"8. Refresh on {r['domain']} from {short(r['anchor'])} + delta_B: distance in S to theta_A, and to the least L_A "
          f"in S, \n   {r['shift']:.3f} from it; distance outside S; L_A - L_A(theta_A).\n   As taken: AdamW, whose steps "
          "have one size in every coordinate, along sampled GRPO gradients: no single alpha.\n   As in the theorem: "
          f"gradient descent on L_A, alpha = 1 / lambda_1 = {r['alpha']:.2g}, mu = {r['mu']:.3g}, the least curvature in S.")
    rows = []
    for name, path in (("taken", r["taken"]), ("theorem", r["theorem"])):
        for t, step in enumerate(path["step"]):
            if name == "taken" or step % 10 == 0:
                bound = path["bound"][t] if name == "theorem" else math.nan
                to_anchor, to_least = path["in_anchor"], path["in_minimum"]
                rows.append([f"{name} {step}", f"{to_anchor[t]:.4f}", f"{to_least[t]:.4f}",
                             number(bound * to_anchor[0], ".4f"), number(bound * to_least[0], ".4f"),
                             f"{path['outside'][t]:.4f}", f"{path['damage'][t]:+.4f}"])
    show(rows, ["step", "in S, to theta_A", "to the least L_A", "bound", "bound", "outside S", "damage left"])
