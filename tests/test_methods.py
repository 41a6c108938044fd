"""Claims about methods.py and forgetting.py on checkpoints and scores made by hand. Run by test_all.py."""
import contextlib
import io
import json
import math
import sys

import torch

from reports import forgetting
from reports import methods
import shared
from model import UserError, write_json

WORK = shared.WORK / "methods"
WORK.mkdir()


def entry(**scores):
    """Scores as evaluate.py writes them: a number per domain, of two prompts a point apart."""
    return {"evaluated": {"samples": 4}, "recipe": ["base"], "seed": 0, "training": {}} | {
        d: {"score": s, "ci95": 1.0, "prompt_scores": {"a": s - 0.5, "b": s + 0.5}, "ungraded": [], "prompts": 2}
        for d, s in scores.items()}


def made(name, steps, parent=None, merged=(), B=4, G=2):
    """A checkpoint directory with a lineage and a log: each step samples B G completions of 10 tokens in 3 seconds."""
    place = WORK / name
    place.mkdir(parents=True)
    write_json(place / "run.json", {"parent": parent and str(WORK / parent), "merged": [str(WORK / m) for m in merged],
                                    "args": {"prompts_per_step": B, "group_size": G}})
    (place / "config.json").write_text("{}"), (place / "model.safetensors").write_bytes(b"")
    line = {"completion_length": 10.0, "seconds_rollout": 1.0, "seconds_reward": 0.5, "seconds_update": 1.5}
    (place / "log.jsonl").write_text("".join(json.dumps({"step": i + 1, **line}) + "\n" for i in range(steps)))
    return str(place)


def called(main, *argv):
    out, old, sys.argv = io.StringIO(), sys.argv, ["script", *map(str, argv)]
    try:
        with contextlib.redirect_stdout(out):
            main()
    finally:
        sys.argv = old
    return out.getvalue()


def test_the_table_of_methods_has_costs_forgetting_and_recovery_as_worked_out_by_hand():
    scores = {}
    for seed, more in ((0, 0.0), (1, 2.0)):
        places = {"anchor": made(f"s{seed}-anchor", 10), "damaged": made(f"s{seed}-damaged", 5, f"s{seed}-anchor"),
                  "again": made(f"s{seed}-again", 2, f"s{seed}-damaged", B=8), "expert": made(f"s{seed}-expert", 7),
                  "merge": made(f"s{seed}-merge", 0, f"s{seed}-expert", (f"s{seed}-anchor", f"s{seed}-expert"))}
        for name, math_, qa in (("anchor", 80 + more, 50), ("damaged", 60 + more, 70), ("again", 75 + more, 69 - more),
                                ("expert", 40, 72), ("merge", 70, 71)):
            scores[places[name]] = entry(math=math_, qa=qa)
    write_json(WORK / "scores.json", scores)
    at = lambda name: f"{WORK}/s{{}}-{name}"
    argv = [WORK / "scores.json", "--domain", "math", "--anchor", at("anchor"), "--damaged", at("damaged"),
            f"again={at('again')}", f"merge={at('merge')}"]
    table = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
             for line in called(methods.main, *argv).splitlines() if line.startswith("|")}
    columns = table[""]
    got = lambda label, column: table[label][columns.index(column)]
    # 10 + 5 + 2 steps; (10 + 5) * 4 * 2 * 10 + 2 * 8 * 2 * 10 tokens = 1520; 3 seconds a step
    assert (got("again", "steps"), got("again", "seconds"), got("again", "tokens")) == ("17", "51", "0.00 M")
    assert methods.cost(str(WORK / "s0-again")) == (17, 1520.0, 51.0)
    # 10 of the anchor and 7 of the expert, each once
    assert got("merge", "steps") == "17" and got("anchor", "steps") == "10"
    # again: math is 5 below its best stage, the anchor; qa 1 and 3 below damaged: means 3 and 4
    assert got("again", "forgetting") == "3.5 ± 6.4" and got("anchor", "forgetting") == "-"
    assert got("damaged", "forgetting") == "10.0 ± 0.0"
    assert got("again", "math won back") == "75.0 ± 0.0 %" and got("damaged", "math won back") == "0.0 ± 0.0 %"
    assert got("merge", "forgetting") == "6.0 ± 6.4"                              # (10 + 1) / 2 and (12 + 1) / 2
    assert got("again", "others") == "-2.0 ± 12.7" and got("again", "average against damaged") == "+6.5 ± 6.4"
    assert got("again", "seeds") == "2"
    against = called(methods.main, *argv, "--against", "merge")
    assert "average against merge" in against
    less = {name: entry_ for name, entry_ in scores.items() if not name.endswith("-damaged")}
    write_json(WORK / "less.json", less)
    write_json(WORK / "math.json", {name: {k: v for k, v in one.items() if k != "qa"} for name, one in scores.items()})
    alone = called(methods.main, WORK / "math.json", *argv[1:])              # one domain: there are no others
    assert "| qa" not in alone.splitlines()[0]
    for wrong in ([WORK / "math.json", "--domain", "qa", *argv[3:]],
                  # its stage `damaged` has no scores
                  [WORK / "less.json", "--domain", "math", "--anchor", at("anchor"), "--damaged", at("again")],
                  [*argv, "x=nothing-{}"], [*argv, f"again={at('merge')}"], [*argv, "y=" + str(WORK / "s0-again")],
                  [*argv, "--against", "z"], argv[1:]):
        try:
            called(methods.main, *wrong)
            raise AssertionError(wrong)
        except UserError as error:
            assert "\n" not in str(error)


def test_rank_correlation_is_that_of_the_ranks_with_ties():
    assert math.isclose(forgetting.rank_correlation([1, 2, 3, 4], [10, 100, 1000, 1001]), 1)
    assert math.isclose(forgetting.rank_correlation([1, 2, 3], [3, 2, 1]), -1)
    # ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: covariance 4.5, variances 4.5 and 5
    assert math.isclose(forgetting.rank_correlation([5, 7, 7, 9], [0, 2, 1, 3]), 4.5 / math.sqrt(4.5 * 5))
    assert math.isnan(forgetting.rank_correlation([1, 1, 1], [1, 2, 3]))
    x = torch.randn(20, generator=torch.Generator().manual_seed(0))
    d = torch.argsort(torch.argsort(x)) - torch.argsort(torch.argsort(x.flip(0)))
    assert math.isclose(forgetting.rank_correlation(x.tolist(), x.flip(0).tolist()), 1 - 6 * (d**2).sum().item() / (20 * 399),
                        abs_tol=1e-9)


def test_the_table_of_predictors_ranks_within_a_seed():
    some = [{"kl_new": k, "kl_new_reverse": k, "kl_old": m, "norm": 1.0, "second": m, "measured": m, "fall": m} for k, m in
            ((3, 1), (2, 2), (1, 3), (0, 4))]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        forgetting.tables([some, some])
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in out.getvalue().splitlines()
            if line.startswith("|")}
    assert rows["second-order term"] == "+1.00 ± 0.00" and rows["KL on the new task, from before"] == "-1.00 ± 0.00"
    assert rows["second-order term minus KL on the new task (paired)"] == "+2.00 ± 0.00"
