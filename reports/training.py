"""Training: how a run of train_grpo.py or refresh.py went, by the logs in its directory. Used by report.py.

    runs = read(["checkpoints/math"])
    tables(runs)                                       # some ten steps, and the held-out scores at both ends
    draw({"math.png": picture}, runs)                  # every step; several runs in the same panels

Of a step's B prompts x G completions (log.jsonl; train_grpo.log_line):

    reward                  mean of all that were graded, in [0, 1]
    entropy                 of the policy, in nats per token
    length                  tokens per completion
    truncated               share of completions that were cut off at the limit
    zero-variance groups    share of groups whose rewards are all equal, so that they teach nothing
    verifier errors         completions that could not be graded
    gradient norm           before clipping
    KL                      to the reference, in nats per token, with --beta
    sampler gap             mean of |log-probability in the loss - while sampling| per token: rounding, if all is well

held-out D is the score of domain D in points (validation.jsonl), with the half-width of its 95 % interval over prompts.
"""
# A run is a dict: its place (a path), steps {step: {column: number}} and scores {domain: {step: pair}} of its validations.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
from pathlib import Path

from grpo.directory import read_log
from model import UserError, nan_for_null, read_run
from reports.seeds import columns
from reports.tables import mean_pm, number, show

ROWS = 10
# of each column its key in log.jsonl, and its format
NUMBERS = {"reward": ("reward_mean", ".3f"), "entropy": ("entropy", ".3f"), "length": ("completion_length", ".1f"),
           "truncated": ("truncated", ".1%"), "zero-variance groups": ("zero_variance_groups", ".1%"),
           "verifier errors": ("verifier_errors", ".0f"),
           "gradient norm": ("grad_norm", ".3g"), "KL": ("kl", ".2g"), "sampler gap": ("sampler_gap", ".1g")}


def read(places):
    """The runs in some directories, a list of dicts; UserError for one that has no step in its log yet."""
    runs = []
    for place in places:
        log, found = ([*map(nan_for_null, read_log(Path(place) / name))] for name in ("log.jsonl", "validation.jsonl"))
        if not log:
            raise UserError(f"{place}/log.jsonl has no steps: nothing was trained there yet")
        steps = {line["step"]: {c: line.get(key, math.nan) for c, (key, _) in NUMBERS.items()} for line in log}
        scores = {d: {line["step"]: (line["scores"][d]["score"], line["scores"][d]["ci95"]) for line in found}
                  for d in (columns(line["scores"] for line in found) if found else [])}
        runs.append({"place": place, "steps": steps, "scores": scores})
    return runs


def measured(runs):
    """The columns of NUMBERS that some run has, a list: without a reference there is no KL."""
    return [c for c in NUMBERS if not all(math.isnan(line[c]) for run in runs for line in run["steps"].values())]


def tables(runs):
    """Print a table for each run: some ROWS steps, evenly spread, and the first and last validation."""
    for run in runs:
        steps, scores, shown = [*run["steps"]], run["scores"], measured([run])
        chosen = {steps[round(i * (len(steps) - 1) / (ROWS - 1))] for i in range(ROWS)}
        chosen |= {end(known) for known in scores.values() for end in (min, max)}
        print(f"{run['place']}: {' > '.join(read_run(run['place']).get('recipe', ['no checkpoint yet']))}")
        at = lambda step, column: run["steps"].get(step, {}).get(column, math.nan)
        show([[str(step), *(mean_pm(known.get(step, (math.nan, math.nan))) for known in scores.values()),
               *(number(at(step, c), NUMBERS[c][1]) for c in shown)] for step in sorted(chosen)],
             ["step", *(f"held-out {d}" for d in scores), *shown])


def picture(plt, runs):
    """Draw every number of every step, a panel each, a line for each run, and the held-out scores with their intervals."""
    panels = ["held-out score", *measured(runs)]
    _, axes = plt.subplots(math.ceil(len(panels) / 4), 4, figsize=(15, 3 * math.ceil(len(panels) / 4)), layout="constrained")
    for axis in axes.flat[len(panels):]:
        axis.axis("off")
    for panel, axis in zip(panels, axes.flat):
        axis.set_title(panel, fontsize=10), axis.set_xlabel("step"), axis.grid(alpha=0.3)
        for one in runs:
            name = Path(one["place"]).name
            if panel in NUMBERS:
                axis.plot([*one["steps"]], [line[panel] for line in one["steps"].values()], label=name)
                continue
            for domain, scores in one["scores"].items():
                axis.errorbar([*scores], *zip(*scores.values()), marker="o", capsize=3, label=f"{name}: {domain}")
        if panel in panels[:2] and axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
