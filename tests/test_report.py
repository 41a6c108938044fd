"""Claims about report.py and reports/: kinds of files told apart; the tables of runs, of scores, of methods and of what
predicts forgetting worked out by hand. Rollbacks are in test_rollback.py, the paper's claims in test_analyze.py.

Run by test_all.py.
"""
import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys

import torch

import report
import shared
from model import write_json
from reports import forgetting, methods, recovery, seeds, story, training
from shared import ROOT, run, undisturbed, undisturbed_refresh

WORK = shared.WORK / "report"
WORK.mkdir()


# ---- what is it? -------------------------------------------------------------------------------------------------

def written(name, value):
    (WORK / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return WORK / name


def test_what_a_file_is_is_told_by_its_content_and_what_is_none_is_a_line_that_names_it():
    rollback = written("rollback.json", {"rows": [], "domain": "math", "later": []})
    analysis = written("analysis.json", {"sparsity": {}, "neuron_jaccard": {}})
    kinds = {undisturbed(): "runs", two_seeds()[0]: "scores", rollback: "rollbacks", analysis: "analyses"}
    assert {file: report.kind(file) for file in kinds} == kinds
    args = report.parse([*map(str, kinds)])
    assert {name: getattr(args, name) for name in report.KINDS} == {name: [str(file)] for file, name in kinds.items()}
    (WORK / "empty").mkdir()
    for none in (WORK / "empty", written("none.txt", "text"), written("list.json", [1]), written("empty.json", {}),
                 written("number.json", 3), written("deep.json", "[" * 100_000), written("odd.json", {"a": 1}),
                 WORK / "gone"):
        code, out, err = run(report.main, two_seeds()[0], none)
        assert code == 2 and not out and err.count("\n") == 1 and none.name in err, err


def test_each_kind_gets_its_tables_and_pictures_in_one_order_whatever_the_order_of_the_files():
    place, files = WORK / "pictures", [two_seeds()[0], undisturbed()]
    outputs = [run(report.main, *some, "--plot", place) for some in (files, files[::-1])]
    assert outputs[0] == outputs[1] and outputs[0][0] == 0, outputs
    text = outputs[0][1]
    assert text.index("| step |") < text.index("| trained on ")
    drawn = {"run.png", "story.png"} if "drawn" in text else set()
    assert {path.name for path in place.glob("*")} == drawn or "pip install matplotlib" in text
    for argv, words in (([*files, "--plot", WORK / "one.png"], "name a directory"),
                        ([files[0], "--plot", files[0]], "name a directory"),
                        ([files[0], "--json", WORK / "x.json"], "--forgetting"),
                        ([files[0], "--forgetting"], "name analyses"), ([files[0], "--domain", "math"], "needs --domain")):
        code, out, err = run(report.main, *argv)
        assert code == 2 and words in err and not out and err.count("\n") == 1, (argv, err)


def test_every_picture_is_drawn_without_a_display_and_where_matplotlib_is_missing_a_line_says_so():
    bare = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    file = WORK / "bare" / "run.png"
    done = subprocess.run([sys.executable, str(ROOT / "report.py"), str(undisturbed()), "--plot", str(file.parent)], env=bare,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install matplotlib" in done.stdout or file.read_bytes()[:4] == b"\x89PNG"
    installed = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "matplotlib"}
    try:
        sys.modules["matplotlib"] = None            # as if it were not installed
        code, out, _ = run(report.main, undisturbed(), "--plot", WORK / "none")
    finally:
        del sys.modules["matplotlib"]
        sys.modules.update(installed)
    assert code == 0 and "| step |" in out and "pip install matplotlib" in out and not (WORK / "none").exists()


def test_a_domain_of_a_users_own_is_a_column_behind_those_that_are_shipped():
    one = {"score": 50.0, "ci95": 1.0, "prompt_scores": {"a": 45.0, "b": 55.0}}
    with_sort = {"sort": one, "evaluated": {"judge": None}, "average": {"score": 1.0}, "qa": one, "math": one}
    assert seeds.scored(with_sort) == ["sort", "qa", "math"]
    assert seeds.columns([with_sort, {**with_sort, "code": one}]) == ["math", "qa", "sort"]
    scores = written("sort.json", {"x": {"recipe": ["base", "sort 9"], "seed": 0, "training": {}, **with_sort}})
    code, out, err = run(report.main, scores)
    assert code == 0 and [cell.strip() for cell in out.splitlines()[2].split("|")[2:-1]] == [
        "math", "qa", "sort", "average", "seeds"], (out, err)
    rows = [{"label": label, **{d: {**one, "score": 50.0 + up, "prompt_scores": {"a": 45.0 + up, "b": 55.0 + up}}
                                for d in ("sort", "math")}} for label, up in (("damaged", 0), (recovery.FULL, 10))]
    rolled = written("sorted.json", {"domain": "sort", "later": [], "damaged": "x", "settings": {}, "rows": rows})
    code, out, err = run(report.main, rolled, "--plot", WORK / "sorted")
    assert code == 0 and "Of the fall of sort, won back" in out, (out, err)


# ---- runs --------------------------------------------------------------------------------------------------------

def test_the_table_of_a_run_has_ten_steps_evenly_spread_and_the_validations_at_both_ends():
    place = WORK / "handmade"
    place.mkdir()
    line = lambda step: {"step": step, "reward_mean": step / 100 if step > 1 else None, "entropy": 0.5,
                         "completion_length": 7.25, "truncated": 0.125, "zero_variance_groups": 0.5, "grad_norm": 2.0, "kl": None}
    (place / "log.jsonl").write_text("".join(json.dumps(line(step)) + "\n" for step in range(1, 92)) + '{"step": 9')
    score = lambda points: {"score": points, "ci95": 1.5, "prompt_scores": {}}
    (place / "validation.jsonl").write_text("".join(
        json.dumps({"step": step, "scores": {"sort": score(step), "math": score(40 + step)}}) + "\n" for step in (0, 11, 50, 91)))
    write_json(place / "run.json", {"recipe": ["base", "math 91"]})
    code, out, err = run(report.main, place)
    assert code == 0 and out.startswith(f"{place}: base > math 91\n"), err
    head, _, *rows = ([cell.strip() for cell in row.split("|")[1:-1]] for row in out.splitlines()[1:] if row)
    assert head == ["step", "held-out math", "held-out sort", "reward", "entropy", "length", "truncated",
                    "zero-variance groups", "gradient norm"]               # no KL, no sampler gap: this run has none
    assert [row[0] for row in rows] == ["0", "1", "11", "21", "31", "41", "51", "61", "71", "81", "91"]
    assert rows[0] == ["0", "40.0 ± 1.5", "0.0 ± 1.5"] + ["-"] * 6                                     # before training
    assert rows[1][1:5] == ["-", "-", "-", "0.500"]                                                   # nothing was graded
    assert rows[2][1:] == ["51.0 ± 1.5", "11.0 ± 1.5", "0.110", "0.500", "7.2", "12.5%", "50.0%", "2"]
    assert rows[3][1:3] == ["-", "-"] and rows[-1][1] == "131.0 ± 1.5"
    (place / "log.jsonl").write_text("")
    code, out, err = run(report.main, place)
    assert code == 2 and "nothing was trained" in err and err.count("\n") == 1


def test_runs_of_the_trainer_and_of_a_refresh_are_reported_from_their_logs():
    code, out, err = run(report.main, undisturbed(), undisturbed_refresh())
    assert code == 0, err
    plain, refresh = out.split("\n\n")[:2]
    assert "talker > math 7" in plain and "held-out" not in plain and "sampler gap" in plain     # it had no validation
    assert len(plain.splitlines()) == 3 + 7 and len(refresh.splitlines()) == 3 + 1 + 5
    log = shared.read_jsonl(undisturbed() / "log.jsonl")
    rewards = [row.split("|")[2].strip() for row in plain.splitlines()[3:]]
    assert rewards == [f"{line['reward_mean']:.3f}" for line in log]
    scores = shared.read_jsonl(undisturbed_refresh() / "validation.jsonl")
    assert training.read([undisturbed_refresh()])[0]["scores"]["math"] == {
        line["step"]: (line["scores"]["math"]["score"], line["scores"]["math"]["ci95"]) for line in scores}


# ---- scores: the story -------------------------------------------------------------------------------------------

def of_a_seed(file, seed, points):
    """A file of scores of one seed. points: {recipe without its base: (math, code)}; prompts a and b score 10 apart."""
    entries = {}
    for recipe, pair in points.items():
        entries["/".join(["x", str(seed), *recipe])] = {"evaluated": {"samples": 4}, "weights": [1, 1],
                                                       "seed": seed, "training": {"lr": 1},
            "recipe": ["base", *recipe]} | {d: {"score": x, "ci95": 1.0, "prompt_scores": {"a": x - 5, "b": x + 5}}
                                            for d, x in zip(("math", "code"), pair)}
    (WORK / file).write_text(json.dumps(entries))
    return WORK / file


def two_seeds():
    M, C, R = "math 100", "code 100", "math 10"
    stages = [(M,), (C,), (M, C), (C, M), (M, C, R)]
    return [of_a_seed("s0.json", 0, dict(zip(stages, [(80, 50), (40, 90), (60, 90), (78, 86), (76, 86)]))),
            of_a_seed("s1.json", 1, dict(zip(stages, [(84, 52), (42, 92), (65, 92), (82, 92), (84, 88)])))]


def test_interference_and_recovery_are_the_numbers_worked_out_by_hand():
    runs = story.read(two_seeds())
    t1 = 12.7062                                           # two seeds: one degree of freedom; half = t1 * |difference| / 2
    cells = story.matrix(runs, ["math", "code"])
    near = lambda pair, mean, half: abs(pair[0] - mean) < 1e-6 and abs(pair[1] - half) < 1e-3
    assert set(cells) == {("code", "math"), ("math", "code")}
    assert near(cells["code", "math"], (-20 - 19) / 2, t1 * 1 / 2) and near(cells["math", "code"], (-4 + 0) / 2, t1 * 4 / 2)
    (recipe, domain, peak), = story.refreshes(runs, ["math", "code"])
    assert (recipe[1:], domain, peak[1:]) == (("math 100", "code 100", "math 10"), "math", ("math 100",))
    share = seeds.won_back(runs[recipe], runs[recipe[:-1]], runs[peak], domain)
    assert near(share, 100 * 35 / 39, 100 * t1 * (19 - 35 / 39 * 19) / 19.5)  # 1.95 and -1.95 over
    row = seeds.score_row(runs[recipe], ["math", "code"])
    assert near(row[0], 80, t1 * 8 / 2) and near(row[2], (81 + 86) / 2, t1 * 5 / 2)
    code, out, err = run(report.main, *two_seeds())
    assert code == 0, err
    for line in ("| **math > code > math (10)** |", "-19.5 ± 6.4", "89.7 ± 127.0 % |",
                 "the paper's Math: 66.49 -> 57.66 -> 66.04, average 64.25 -> 66.39", "code -4.0 ± 0.0", "over seeds"):
        assert line in out, (line, out)
    verdicts = re.findall(r"\| +(yes|no) \|", out)
    assert verdicts == ["yes", "yes", "yes", "no", "yes"]


def test_one_seed_has_intervals_over_prompts_and_scores_that_do_not_compare_are_refused():
    one = two_seeds()[0]
    code, out, _ = run(report.main, one)
    assert code == 0 and "-20.0 ± 0.0" in out and "80.0 % |" in out, out
    other_lr = of_a_seed("lr.json", 2, {("math 100",): (1, 1)})
    other_lr.write_text(other_lr.read_text().replace('"lr": 1', '"lr": 2'))
    (WORK / "nothing.json").write_text("{}")
    twin = of_a_seed("twin.json", 0, {("math 100",): (1, 1)})
    twin.write_text(twin.read_text().replace("x/0", "elsewhere"))
    other = of_a_seed("other.json", 2, {("math 100",): (1, 1)})
    other.write_text(other.read_text().replace('"samples": 4', '"samples": 8'))
    for files, words in (((one, twin), "same recipe and seed"), ((one, other), "other settings"),
                         ((WORK / "none.json",), "none.json"), ((one, other_lr), "more than the seed"),
                         ((WORK / "nothing.json",), "no scores"), ((one, "--plot", "x.foo"), "name a directory")):
        code, _, err = run(report.main, *files)
        assert code == 2 and words in err and "Traceback" not in err, err


def test_only_seeds_that_both_checkpoints_have_are_compared_and_untested_domains_left_out():
    M, C, R = "math 100", "code 100", "math 10"
    files = [two_seeds()[0], of_a_seed("s7.json", 7, {(M, C): (0, 0), (M, C, R): (99, 99)})]        # of seed 7, no expert
    runs = story.read(files)
    base = ("base",)
    assert story.matrix(runs, ["math", "code"])["code", "math"] == (-20, 0)
    assert seeds.won_back(runs[base + (M, C, R)], runs[base + (M, C)], runs[base + (M,)], "math")[0] == 80
    alone = of_a_seed("alone.json", 7, {(M,): (1, 1)})
    assert math.isnan(seeds.change(story.read([alone])[base + (M,)], runs[base + (M,)], "math")[0])
    code_only = WORK / "code-only.json"
    code_only.write_text(json.dumps({name: {k: v for k, v in entry.items() if k != "math"}
                                     for name, entry in json.loads(files[0].read_text()).items()}))
    spaced = WORK / "spaced.json"
    spaced.write_text(files[0].read_text().replace('"base"', '"my base"'))
    for file in (code_only, spaced):
        code, out, err = run(report.main, file)
        assert code == 0 and "math > code > math (10)" in out, err


def test_an_alternating_refresh_is_judged_domain_by_domain_and_what_did_not_fall_has_nothing_to_win_back():
    M, C, B = "math 100", "code 100", "math/code 20"
    file = of_a_seed("turns.json", 0, {(M,): (80, 50), (M, C): (60, 90), (M, C, "qa 100"): (60, 90),
                                       (M, C, "qa 100", B): (78, 90)})
    code, out, err = run(report.main, file)
    assert code == 0 and "| its refresh takes at most 10 % of its 100 steps |" in out and "10 % |" in out, (out, err)
    assert "code had not fallen by more than chance" in out and "90.0 % |" in out
    assert re.findall(r"\| +(yes|no) \|", out) == ["yes"] * 5      # of math alone


def test_the_picture_is_drawn_where_matplotlib_is_installed_and_its_absence_is_said():
    file = WORK / "drawn" / "story.png"
    code, out, err = run(report.main, *two_seeds(), "--plot", file.parent)
    assert code == 0 and "math > code > math (10)" in out, err
    try:
        import matplotlib  # noqa: F401
        assert file.read_bytes()[:4] == b"\x89PNG"
    except ImportError:
        assert "pip install matplotlib" in out and not file.exists()


# ---- scores: methods; analyses: what predicts forgetting ----------------------------------------------------------

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
             for line in run(report.main, *argv)[1].splitlines() if line.startswith("|")}
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
    assert "average against merge" in run(report.main, *argv, "--against", "merge")[1]
    less = {name: entry_ for name, entry_ in scores.items() if not name.endswith("-damaged")}
    write_json(WORK / "less.json", less)
    write_json(WORK / "math.json", {name: {k: v for k, v in one.items() if k != "qa"} for name, one in scores.items()})
    code, alone, err = run(report.main, WORK / "math.json", *argv[1:])      # one domain: there are no others
    assert code == 0 and "| qa" not in alone.splitlines()[0], err
    for wrong in ([WORK / "math.json", "--domain", "qa", *argv[3:]],
                  # its stage `damaged` has no scores
                  [WORK / "less.json", "--domain", "math", "--anchor", at("anchor"), "--damaged", at("again")],
                  [*argv, "x=nothing-{}"], [*argv, f"again={at('merge')}"], [*argv, "y=" + str(WORK / "s0-again")],
                  [*argv, "--against", "z"], argv[1:]):
        code, out, err = run(report.main, *wrong)
        assert code == 2 and not out and err.count("\n") == 1, (wrong, err)


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


def test_forgetting_is_predicted_for_pairs_of_which_one_was_trained_straight_from_the_other_on_one_domain():
    anchor = made("first", 1)
    damage, domains_of = [], {"qa": "qa", "both": "math,qa", "merged": None, "far": "qa", "warm": "qa"}
    for name, domain in domains_of.items():
        place = made(f"first-{name}", 1, "s0-anchor" if name == "far" else "first")
        run_ = json.loads((WORK / f"first-{name}" / "run.json").read_text())
        write_json(WORK / f"first-{name}" / "run.json", {**run_, "domain": domain})
        damage.append({"checkpoint": place, "anchor": anchor, "trained": name != "warm"})
    assert [(d["checkpoint"], d["new"]) for d in forgetting.direct({"damage": damage})] == [(f"{WORK}/first-qa", "qa")]
    assert forgetting.direct({}) == []
    analysis = written("weights.json", {"sparsity": {"x": {"abs_and_rel": 0.8, "bf16_unchanged": 0.5, "bf16_if_dense": 0.4}},
                                        "neuron_jaccard": {}})
    code, out, err = run(report.main, analysis, "--forgetting")
    assert code == 2 and "needs three" in err and err.count("\n") == 1 and not out
