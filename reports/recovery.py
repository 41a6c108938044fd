"""Recovery: what wins a damaged domain back, what becomes of the later ones, and at which price, over seeds.

    python recovery.py analysis/rollback-s*.json --plot assets/rollback.png      # files of rollback.py --json, one per seed

With S_D(X) the held-out score of checkpoint X in domain D (evaluate.py), A the damaged domain and B a later one:

    won back = (S_A(X) - S_A(damaged)) / (S_A(anchor) - S_A(damaged))      1 for the anchor itself
    kept     = (S_B(X) - S_B(anchor))  / (S_B(damaged) - S_B(anchor))      0 for the anchor: B's gain is gone with the damage

Both are ratios of means over seeds. Changes are taken seed by seed on the same rows and noise; with one seed, prompt by
prompt. A report is a dict, its rows are dicts: a label, scores by domain (evaluate.py), what a set costs. runs: {label:
{number of the report: row}}. A pair is a mean and the half-width of its 95 % interval.
"""
import argparse
import json
import math
from pathlib import Path

import torch

from theory.conflict import CONTROLS, SCORES
from domains import DOMAINS
from reports.intervals import change, score_row, won_back
from model import UserError, cli, nan_for_null
from reports.tables import check_picture, mean_pm, pyplot, show

FULL = "full rollback: the anchor"


def read(files):
    """Reports that rollback.py wrote with --json; UserError if a file holds none, or another domain or other rows."""
    reports = []
    for file in files:
        try:
            report = nan_for_null(json.loads(Path(file).read_text()))
            labels = [row["label"] for row in report["rows"]]
            scored = [d for d in DOMAINS if d in report["rows"][0]]
            numbers = all({"prompt_scores", "score", "ci95"} <= row[d].keys() for row in report["rows"] for d in scored)
            if not {"damaged", FULL} <= {*labels} or report["domain"] not in scored or not numbers \
                    or not {"later", "damaged", "settings"} <= report.keys():
                raise ValueError
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise UserError(f"{file} holds no report of rollback.py --json: name another file") from None
        reports.append(report)
        first = reports[0]
        same = all(report.get(key) == first.get(key) for key in ("domain", "settings"))
        if not same or labels != [row["label"] for row in first["rows"]]:
            raise UserError(f"{file} has other rows or settings than {files[0]}: run rollback.py alike for every seed")
        if any(report["damaged"] == other["damaged"] for other in reports[:-1]):
            raise UserError(f"{file} is about {report['damaged']}, as another file is: leave one of them out")
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
    domains = [d for d in DOMAINS if d in damaged[0]]
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
    if judged := claims(runs, domain, back, kept):
        show([[words, ours, "yes" if holds else "no"] for words, ours, holds in judged], ["claim", "here", "holds"])


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
    scores the one is judged whose loss on rows that it was not picked by is lowest.
    """
    sizes, found = {}, []                           # {fraction: {score: label}}
    for label, some in runs.items():
        if some[0].get("score") in (*SCORES, *CONTROLS) and some[0]["fraction"] <= 0.05:
            sizes.setdefault(some[0]["fraction"], {})[some[0]["score"]] = label
    for fraction, labels in sizes.items():
        chance = labels["random"]
        beyond_chance = lambda label: gained(*change(runs[label], runs[chance], domain))
        if label := labels.get("fisher"):
            found.append((f"{label}: wins back some of {domain}, beyond error and beyond chance (paper: recovers in part)",
                          mean_pm(back[label]) + " %",
                          gained(*change(runs[label], runs["damaged"], domain)) and beyond_chance(label)))
        best = min((label for score, label in labels.items() if score in SCORES),
                   key=lambda label: mean(runs[label], "loss"), default=None)
        if best:
            found += [(f"{best}: wins back at least {least} % of what full rollback does", mean_pm(back[best]) + " %",
                       back[best][0] >= least) for size, least in ((0.01, 50), (0.05, 90)) if fraction == size]
            found.append((f"{best}: at least three times what as large a random set does",
                          f"{back[best][0]:.1f} % against {mean_pm(back[chance])} %",
                          back[best][0] >= 3 * back[chance][0] and beyond_chance(best)))
            found += [(f"{best}: {d} keeps at least 95 % of its gain", mean_pm(pair) + " %", pair[0] >= 95)
                      for d, pair in kept[best].items()]
    return found


def plot(file, reports):
    """Held-out points of the damaged and the later domains against the size of the set, score by score, as a picture.

    file: a .png, .pdf or .svg. Without matplotlib a line is printed.
    """
    if not (plt := pyplot(file)):
        return
    runs, domain = by_label(reports), reports[0]["domain"]
    shown = [d for d in DOMAINS if d == domain or all(d in r["later"] for r in reports) and d in runs["damaged"][0]]
    _, axes = plt.subplots(1, len(shown), figsize=(4.3 * len(shown), 4), squeeze=False)
    for axis, d in zip(axes[0], shown):
        for label, style in (("damaged", ":"), (FULL, "--")):
            axis.axhline(score_row(runs[label], [d])[0][0], color="gray", linestyle=style, label=label)
        for score in dict.fromkeys(row["score"] for row in reports[0]["rows"] if "score" in row):
            points = [(some[0]["fraction"], *score_row(some, [d])[0])
                      for some in runs.values() if some[0].get("score") == score]
            x, mean, half = (torch.tensor(column) for column in zip(*points))
            line, = axis.plot(100 * x, mean, marker="o", label=score, linestyle="-" if score in SCORES else "-.")
            axis.fill_between(100 * x, mean - half, mean + half, color=line.get_color(), alpha=0.12)
        axis.set_xscale("log"), axis.set_xlabel("coordinates rolled back, %"), axis.grid(alpha=0.3)
        axis.set_title(f"{d}: {'damaged' if d == domain else 'trained later'}")
    axes[0][0].set_ylabel("held-out score (avg@4 x 100)"), axes[0][0].legend(fontsize=7)
    plt.savefig(file, dpi=110, bbox_inches="tight"), plt.close()
    print(f"{file}: drawn")


def main():
    """Print the tables and claims of reports that belong together, and draw them with --plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="reports, written by rollback.py --json")
    parser.add_argument("--plot", metavar="FILE",
                        help="draw the domains against the fraction rolled back (needs matplotlib)")
    args = parser.parse_args()
    check_picture(args.plot)
    reports = read(args.files)
    tables(reports)
    if args.plot:
        plot(args.plot, reports)


if __name__ == "__main__":
    cli(main)
