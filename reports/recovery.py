"""Recovery: what wins a damaged domain back, what becomes of the later ones, and at which price, over seeds. Used by
rollback.py, and by report.py of its --json, a file per seed.

With S_D(X) the held-out score of checkpoint X in domain D (evaluate.py), A the damaged domain and B a later one:

    won back = (S_A(X) - S_A(damaged)) / (S_A(anchor) - S_A(damaged))      1 for the anchor itself
    kept     = (S_B(X) - S_B(anchor))  / (S_B(damaged) - S_B(anchor))      0 for the anchor: B's gain is gone with the damage

Both are seeds.won_back, ratios of means over seeds. Changes are taken seed by seed on the same rows and noise; with one
seed, prompt by prompt.
"""
# A report is a dict, its rows are dicts: a label, scores by domain (evaluate.py), and the cost of a set. runs: {label:
# {number of the report: row}}. A pair is a mean and the half-width of its 95 % interval.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math

import torch

from model import UserError, nan_for_null
from reports.seeds import change, columns, read_json, score_row, scored, won_back
from reports.tables import mean_pm, show, verdicts
from theory.conflict import CONTROLS

FULL = "full rollback: the anchor"


def read(files):
    """Reports that rollback.py wrote with --json; UserError if a file holds none, or another domain or other rows."""
    def understand(value):
        report = nan_for_null(value)
        rows = report["rows"]
        domains = scored(rows[0])
        if not ({"damaged", FULL} <= {row["label"] for row in rows} and all(scored(row) == domains for row in rows)
                and report["domain"] in domains and {"later", "damaged", "settings"} <= report.keys()):
            raise ValueError
        return report

    reports, labels = [], lambda report: [row["label"] for row in report["rows"]]
    for file in files:
        report = read_json(file, understand, "report of rollback.py --json: name another file")
        first = (reports or [report])[0]
        if any(report.get(key) != first.get(key) for key in ("domain", "settings")) or labels(report) != labels(first):
            raise UserError(f"{file} has other rows or settings than {files[0]}: run rollback.py alike for every seed")
        if any(report["damaged"] == other["damaged"] for other in reports):
            raise UserError(f"{file} is about {report['damaged']}, as another file is: leave one of them out")
        reports.append(report)
    return reports


def by_label(reports):
    """The rows of all reports, label by label: `runs`."""
    runs = {}
    for i, report in enumerate(reports):
        for row in report["rows"]:
            runs.setdefault(row["label"], {})[i] = row
    return runs


def gained(mean, half):
    """Whether a change, a pair, is a rise beyond its 95 % interval; not where that is NaN."""
    return mean > half


def tables(reports):
    """Print scores, shares and claims of one report or several; no share where nothing had fallen, or been gained."""
    runs, domain = by_label(reports), reports[0]["domain"]
    damaged, full = runs["damaged"], runs[FULL]
    domains = columns([row for report in reports for row in report["rows"]])
    print(f"\n{len(reports)} seed{'s' * (len(reports) > 1)}: points, and the paired change from damaged (95 % over "
          f"{'seeds' if len(reports) > 1 else 'prompts'})")
    table = []
    for label, some in runs.items():
        changes = [change(some, damaged, *which) for which in (*([d] for d in domains), domains)]
        table.append([label, *(mean_pm(now) if label == "damaged" else f"{now[0]:.1f} ({mean_pm(by, '+')})"
                               for now, by in zip(score_row(some, domains), changes))])
    show(table, ["", *domains, "average"])
    if not gained(*change(full, damaged, domain)):
        return print(f"{domain} has not fallen by more than chance ({mean_pm(change(damaged, full, domain), '+')}): there is "
                     "nothing to win back\n")

    later = [d for d in domains if all(d in r["later"] for r in reports) and gained(*change(damaged, full, d))]
    back = {label: won_back(some, damaged, full, domain) for label, some in runs.items()}
    kept = {label: {d: won_back(some, full, damaged, d) for d in later} for label, some in runs.items()}
    print(f"Of the fall of {domain}, won back, also per share of || delta || that is undone; of later gains, kept; of the "
          "rise of L_A on\nother rows and of the damage in S, left; seconds to pick")
    table, loss_of_damaged, loss_of_anchor = [], mean(damaged, "loss"), mean(full, "loss")
    for label in runs:
        share, norm, loss, in_s, seconds = (
            mean(runs[label], key) for key in ("share", "norm_share", "loss", "in_S", "seconds"))
        rise = loss_of_damaged - loss_of_anchor
        per_norm = [x / (100 * norm) for x in back[label]] if norm else [math.nan, math.nan]
        table.append([label, percent(share), percent(norm), mean_pm(back[label]) + " %", mean_pm(per_norm),
                      *(mean_pm(kept[label][d]) + " %" for d in later),
                      percent((loss - loss_of_anchor) / rise if rise else math.nan),
                      percent(in_s), "-" if math.isnan(seconds) else f"{seconds:.0f}"])
    show(table, ["", "coordinates", "of the norm", "won back", "per norm", *(f"{d} kept" for d in later), "L_A left",
                 "S left", "seconds"])
    verdicts(claims(runs, domain, back, kept))


def mean(some, key):
    """Mean over seeds of a number, `key`, that rows may lack: a float, NaN if all do. some: of `runs`, one label."""
    values = [row[key] for row in some.values() if row.get(key) is not None]
    return sum(values) / len(values) if values else math.nan


def percent(share):
    """A share (0 to 1) as text in %, '-' for NaN."""
    return "-" if math.isnan(share) else f"{100 * share:.3g} %"


def claims(runs, domain, back, kept):
    """What the paper says, and more than that, of sets of up to 5 %: a list of (words, number as text, does it hold).

    domain: the damaged one. back, kept: won back {label: pair} and kept {label: {later domain: pair}}, in %. Of several
    scores the one is judged whose loss on rows that it was not picked by is lowest. Where a claim does not hold, the text
    says why.
    """
    sizes, found = {}, []                           # {fraction: {score: label}}
    for label, some in runs.items():
        if some[0].get("fraction", 1) <= 0.05:
            sizes.setdefault(some[0]["fraction"], {})[some[0]["score"]] = label

    def claim(words, number, needs):                # needs: {why it does not hold otherwise: bool}
        missed = [why for why, holds in needs.items() if not holds]
        found.append((words, ", ".join([number, *missed]), not missed))

    for fraction, labels in sizes.items():
        if "random" not in labels:                  # a saved set alone
            continue
        chance, percentage = labels["random"], lambda pair: mean_pm(pair) + " %"
        more = lambda label, other: gained(*change(runs[label], runs[other], domain))
        if label := labels.get("fisher"):
            claim(f"{label}: wins back some of {domain}, beyond error and beyond chance (paper: recovers in part)",
                  percentage(back[label]),
                  {"within its error": more(label, "damaged"), "no more than chance": more(label, chance)})
        best = min((label for score, label in labels.items() if score not in CONTROLS),
                   key=lambda label: mean(runs[label], "loss"), default=None)
        if not best:
            continue
        for size, least in ((0.01, 50), (0.05, 90)):
            if fraction == size:
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
    runs = by_label(reports)
    domain, rows = reports[0]["domain"], reports[0]["rows"]
    shown = [d for d in columns(rows) if d == domain or all(d in report["later"] for report in reports)]
    _, axes = plt.subplots(1, len(shown), figsize=(4.3 * len(shown), 4), squeeze=False)
    for axis, d in zip(axes[0], shown):
        for label, style in (("damaged", ":"), (FULL, "--")):
            axis.axhline(score_row(runs[label], [d])[0][0], color="gray", linestyle=style, label=label)
        for score in dict.fromkeys(row["score"] for row in rows if "score" in row):
            points = [(some[0]["fraction"], *score_row(some, [d])[0])
                      for some in runs.values() if some[0].get("score") == score]
            x, mean, half = (torch.tensor(column) for column in zip(*points))
            line, = axis.plot(100 * x, mean, marker="o", label=score, linestyle="-." if score in CONTROLS else "-")
            axis.fill_between(100 * x, mean - half, mean + half, color=line.get_color(), alpha=0.12)
        axis.set_xscale("log"), axis.set_xlabel("coordinates rolled back, %"), axis.grid(alpha=0.3)
        axis.set_title(f"{d}: {'damaged' if d == domain else 'trained later'}")
    axes[0][0].set_ylabel("held-out score (avg@4 x 100)"), axes[0][0].legend(fontsize=7)
