"""Recovery: what wins a damaged domain back, what becomes of the later ones, and at which price, over seeds. Used by
rollback.py, and by report.py of its --json, a file per seed.

With S_D(X) the held-out score of checkpoint X in domain D (evaluate.py), A the damaged domain and B a later one:

    won back = (S_A(X) - S_A(damaged)) / (S_A(anchor) - S_A(damaged))      1 for the anchor itself
    kept     = (S_B(X) - S_B(anchor))  / (S_B(damaged) - S_B(anchor))      0 for the anchor: B's gain is gone with the damage

Both are seeds.won_back, ratios of means over seeds.
"""
# A report is a dict, its rows are dicts: a label, scores by domain (evaluate.py), and the cost of a set. runs: {label:
# {number of the report: row}}; some: of one label. A pair: see seeds.py.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math

import torch

from model import UserError, nan_for_null
from reports.seeds import change, columns, opened, score_row, won_back
from reports.tables import mean_pm, number, show
from theory.conflict import CONTROLS

FULL = "full rollback: the anchor"


def read(files):
    """Reports that rollback.py wrote with --json; UserError if a file holds none, or another domain or other rows."""
    reports, alike = [], []
    for file in files:
        with opened(file, "report of rollback.py --json: name another file") as value:
            report = nan_for_null(value)
            labels = [row["label"] for row in report["rows"]]
            alike.append((report["domain"], report["settings"], labels))
            if not ({"damaged", FULL} <= {*labels} and report["domain"] in columns(report["rows"])
                    and {"later", "damaged"} <= report.keys()):
                raise ValueError
        if alike[-1] != alike[0]:
            raise UserError(f"{file} has other rows or settings than {files[0]}: run rollback.py alike for every seed")
        if any(report["damaged"] == other["damaged"] for other in reports):
            raise UserError(f"{file} is about {report['damaged']}, as another file is: leave one of them out")
        reports.append(report)
    return reports


def by_label(reports):
    """The rows of all reports, label by label: `runs`."""
    return {rows[0]["label"]: dict(enumerate(rows)) for rows in zip(*(report["rows"] for report in reports))}


def gained(mean, half):
    """Whether a change, a pair, is a rise beyond its 95 % interval; not where that is NaN."""
    return mean > half


def mean(some, key):
    """Mean over seeds of a number, `key`, that rows may lack: a float, NaN if all do."""
    values = [row[key] for row in some.values() if row.get(key) is not None]
    return sum(values) / len(values) if values else math.nan


def tables(reports):
    """Print scores, shares and claims of one report or several; no share where nothing had fallen, or been gained."""
    runs, domain = by_label(reports), reports[0]["domain"]
    damaged, full = runs["damaged"], runs[FULL]
    domains = columns([row for report in reports for row in report["rows"]])
    seeds, over = (f"{len(reports)} seeds", "seeds") if len(reports) > 1 else ("1 seed", "prompts")
    print(f"\n{seeds}: points, and the paired change from damaged (95 % over {over})")
    table = []
    for label, some in runs.items():
        changes = [change(some, damaged, *which) for which in (*([d] for d in domains), domains)]
        table.append([label, *(mean_pm(now) if label == "damaged" else f"{now[0]:.1f} ({mean_pm(by, '+')})"
                               for now, by in zip(score_row(some, domains), changes))])
    show(table, ["", *domains, "average"])
    if not gained(*change(full, damaged, domain)):
        fall = mean_pm(change(damaged, full, domain), "+")
        return print(f"{domain} has not fallen by more than chance ({fall}): there is nothing to win back\n")

    later = [d for d in domains if all(d in report["later"] for report in reports) and gained(*change(damaged, full, d))]
    back = {label: won_back(some, damaged, full, domain) for label, some in runs.items()}
    kept = {label: {d: won_back(some, full, damaged, d) for d in later} for label, some in runs.items()}
    print(f"Of the fall of {domain}, won back, also per share of || delta || that is undone; of later gains, kept; of the "
          "rise of L_A on\nother rows and of the damage in S, left; seconds to pick")
    table, least = [], mean(full, "loss")
    rise = mean(damaged, "loss") - least
    for label, some in runs.items():
        share, norm, loss, in_s, seconds = (mean(some, key) for key in ("share", "norm_share", "loss", "in_S", "seconds"))
        per_norm = [x / (100 * norm) for x in back[label]] if norm else (math.nan, math.nan)
        left = (loss - least) / rise if rise else math.nan
        share, norm, left, in_s = (number(100 * x, ".3g", " %") for x in (share, norm, left, in_s))
        table.append([label, share, norm, mean_pm(back[label]) + " %", mean_pm(per_norm),
                      *(mean_pm(kept[label][d]) + " %" for d in later), left, in_s, number(seconds, ".0f")])
    show(table, ["", "coordinates", "of the norm", "won back", "per norm", *(f"{d} kept" for d in later), "L_A left",
                 "S left", "seconds"])
    if found := claims(runs, domain, back, kept):
        show(found, ["claim", "here", "holds"])


def claims(runs, domain, back, kept):
    """What the paper says, and more than that, of sets of up to 5 %: (words, number and why it fails, yes or no) each.

    domain: the damaged one. back, kept: won back {label: pair} and kept {label: {later domain: pair}}, in %. Of several
    scores the one is judged whose loss on rows that it was not picked by is lowest.
    """
    found, percentage = [], lambda pair: mean_pm(pair) + " %"
    more = lambda label, other: gained(*change(runs[label], runs[other], domain))

    def claim(words, ours, needs):                  # needs: {why it does not hold otherwise: bool}
        missed = [why for why, holds in needs.items() if not holds]
        found.append((words, ", ".join([ours, *missed]), "no" if missed else "yes"))

    for fraction in dict.fromkeys(some[0].get("fraction", 1) for some in runs.values()):
        labels = {some[0]["score"]: label for label, some in runs.items() if some[0].get("fraction") == fraction}
        scores = [label for score, label in labels.items() if score not in CONTROLS]
        if fraction > 0.05 or "random" not in labels or not scores:             # a saved set alone, or controls
            continue
        chance, best = labels["random"], min(scores, key=lambda label: mean(runs[label], "loss"))
        if label := labels.get("fisher"):
            claim(f"{label}: wins back some of {domain}, beyond error and beyond chance (paper: recovers in part)",
                  percentage(back[label]),
                  {"within its error": more(label, "damaged"), "no more than chance": more(label, chance)})
        if least := {0.01: 50, 0.05: 90}.get(fraction):
            claim(f"{best}: wins back at least {least} % of what full rollback does", percentage(back[best]),
                  {f"less than {least} %": back[best][0] >= least})
        claim(f"{best}: at least three times what as large a random set does",
              f"{back[best][0]:.1f} % against {percentage(back[chance])}",
              {"less than three times": back[best][0] >= 3 * back[chance][0], "no more than chance": more(best, chance)})
        for d, pair in kept[best].items():
            claim(f"{best}: {d} keeps at least 95 % of its gain", percentage(pair), {"less than 95 %": pair[0] >= 95})
    return found


def picture(plt, reports):
    """Draw held-out points of the damaged and the later domains against the size of the set, score by score."""
    runs, domain = by_label(reports), reports[0]["domain"]
    shown = [d for d in columns(reports[0]["rows"]) if d == domain or all(d in report["later"] for report in reports)]
    _, axes = plt.subplots(1, len(shown), figsize=(4.3 * len(shown), 4), squeeze=False)
    for axis, d in zip(axes[0], shown):
        for label, style in (("damaged", ":"), (FULL, "--")):
            axis.axhline(score_row(runs[label], [d])[0][0], color="gray", linestyle=style, label=label)
        points = {}                                 # score: [(fraction, mean, half)]
        for some in runs.values():
            if "score" in some[0]:
                points.setdefault(some[0]["score"], []).append((some[0]["fraction"], *score_row(some, [d])[0]))
        for score, found in points.items():
            x, mean, half = torch.tensor(found).T
            line, = axis.plot(100 * x, mean, marker="o", label=score, linestyle="-." if score in CONTROLS else "-")
            axis.fill_between(100 * x, mean - half, mean + half, color=line.get_color(), alpha=0.12)
        axis.set_xscale("log"), axis.set_xlabel("coordinates rolled back, %"), axis.grid(alpha=0.3)
        axis.set_title(f"{d}: {'damaged' if d == domain else 'trained later'}")
    axes[0][0].set_ylabel("held-out score (avg@4 x 100)"), axes[0][0].legend(fontsize=7)
