"""Claims about refresh.py and interference.py.

Run by test_all.py.
"""
import argparse
import json
import math
import re
import sys

import torch

import domains
import evaluate
from reports import interference
from reports import intervals
import model as models
import refresh
from grpo import resume
import train_grpo
from shared import (REFRESH, WORK, grpo_command, refresh_command, run, same_weights, snapshot, talker, tiny,
                    undisturbed_refresh)


# ---- refresh.py --------------------------------------------------------------------------------------------------

def test_refresh_is_the_loop_of_train_grpo_with_other_defaults():
    code, out, err = run(refresh.main, *refresh_command(talker()[0], WORK / "fresh", "--steps", 3))
    assert code == 0, err
    command = grpo_command(WORK / "as-training")[2:]
    command[command.index("--steps") + 1] = "3"
    command[command.index("--inner-updates") + 1] = "1"
    assert run(train_grpo.main, *command, "--warmup-steps", 0)[0] == 0
    assert same_weights(WORK / "fresh", WORK / "as-training") and not same_weights(WORK / "fresh", talker()[0])
    report = models.read_run(WORK / "fresh")["metrics"]["math"]
    lines = resume.read_log(WORK / "fresh" / "validation.jsonl")
    assert [line["step"] for line in lines] == [0, 3]
    before, after = (line["scores"]["math"]["prompt_scores"] for line in lines)
    differences = torch.tensor([after[id] - before[id] for id in before])
    assert len(before) == 25 and abs(report["change"][0] - differences.mean().item()) < 1e-4
    assert abs(report["change"][1] - intervals.t_quantile(24) * differences.std().item() / 5) < 1e-4
    assert "3 steps of refresh on math" in out and f"{report['change'][0]:+.1f} +-" in out and "refreshed" in out
    assert models.read_run(WORK / "fresh")["recipe"] == ["talker", "math 3"]
    code, _, err = run(refresh.main, *refresh_command(str(WORK / "fresh"), WORK / "fresher", "--steps", 1))
    run_of = models.read_run(WORK / "fresher")
    assert code == 0 and run_of["recipe"] == ["talker", "math 3", "math 1"] and run_of["args"]["visits"] == {"math": 1}, err


def test_refresh_has_few_steps_that_count():
    def parsed(module, *argv):
        old, sys.argv = sys.argv, ["script", *argv]
        try:
            return module.parse()
        finally:
            sys.argv = old
    short, long = parsed(refresh, "x", "--domain", "math"), parsed(train_grpo, "--domain", "math")
    assert short.steps == 0.1 * long.steps and short.prompts_per_step == 2 * long.prompts_per_step
    assert short.default_lr == [2 * lr for lr in long.default_lr] and (short.warmup_steps, long.warmup_steps) == (0, 5)
    assert short.eval_domains == [*domains.DOMAINS] and long.eval_domains == ["math"]
    same = vars(short).keys() & vars(long).keys() - {"init", "out", "steps", "prompts_per_step", "default_lr", "warmup_steps",
                                                     "eval_domains", "schedule"}
    assert len(same) > 25 and all(getattr(short, name) == getattr(long, name) for name in same)


def test_recovered_means_that_the_interval_of_the_paired_difference_reaches_zero():
    args = argparse.Namespace(until_recovered=talker()[0], device=None, domains=["math"])
    summary = lambda *scores: {"math": {"prompt_scores": dict(enumerate(scores))}}
    reference, seen = summary(50.0, 50, 50, 50), []
    # differences -8 -12 -8 -12: mean -10, standard deviation 2.309, half-width 3.182 * 2.309 / 2 = 3.67
    for scores, back in (((42, 38, 42, 38), False), ((48.5, 44.5, 48.5, 44.5), True), ((48, 44, 48, 44), False),
                         ((60, 70, 60, 70), True)):
        stop = refresh.recovery(args)
        assert bool(stop([{"scores": summary(*map(float, scores))}],
                         lambda *model: seen.append(model) or reference)) == back, scores
    assert all(len(model) == 2 for model in seen)        # with the reference's own tokenizer


def test_refresh_reports_all_four_domains_and_alternates():
    args = (tiny()[0], "--domains", "math,qa", "--steps", 3, "--out", WORK / "turns", "--eval-prompts", 3, "--eval-samples", 2,
            "--prompts-per-step", 2, "--group-size", 2, "--max-completion-length", 4)
    code, out, err = run(refresh.main, *args)
    assert code == 0 and all(re.search(rf"^{d} +\d", out, re.MULTILINE) for d in domains.DOMAINS), (out, err)
    lines = resume.read_log(WORK / "turns" / "log.jsonl")
    assert [set(line["reward_by_domain"]) for line in lines] == [{"math"}, {"qa"}, {"math"}]
    assert models.read_run(WORK / "turns")["recipe"] == ["tiny", "math/qa 3"]
    before = snapshot(WORK / "turns")
    code, out, _ = run(refresh.main, *args, "--resume")
    assert code == 0 and "nothing to resume" in out and snapshot(WORK / "turns") == before


def test_refresh_stops_when_the_reference_is_reached_and_not_before():
    better, worse = talker()[0], tiny()[0]                # about a tenth of the sums right, and none
    already = ("--steps", 5, "--until-recovered", worse)
    code, out, err = run(refresh.main, *refresh_command(better, WORK / "already", *already))
    assert code == 0 and "0 steps of refresh" in out and "recovered: math" in out, (out, err)
    assert same_weights(WORK / "already", better) and models.read_run(WORK / "already")["finished"]
    sums = lambda model: [p.detach().sum().item() for p in model.parameters()]
    grade, known = evaluate.grade, sums(models.load(better)[0])

    def always_right_is(model, *args, **kw):              # the reference, which three steps cannot reach
        rewards, *rest = grade(model, *args, **kw)
        return torch.full_like(rewards, sums(model) == known), *rest
    evaluate.grade = always_right_is
    try:
        never = ("--steps", 3, "--until-recovered", better, "--eval-every", 1)
        code, out, err = run(refresh.main, *refresh_command(worse, WORK / "never-back", *never))
    finally:
        evaluate.grade = grade
    assert code == 0 and "3 steps of refresh" in out and "not recovered yet" in out, (out, err)
    assert [line["step"] for line in resume.read_log(WORK / "never-back" / "validation.jsonl")] == [0, 1, 2, 3]


def test_a_killed_refresh_goes_on_to_the_same_weights_and_the_same_report():
    whole = undisturbed_refresh()
    for moment in (2, 4):                                  # in the third and in the fifth validation
        graded, grade, out = [], evaluate.grade, WORK / f"refresh-killed-{moment}"

        def dies(*args, **kw):
            graded.append(1)
            if len(graded) > moment:
                raise models.UserError("pulled the plug")
            return grade(*args, **kw)
        evaluate.grade = dies
        try:
            assert run(refresh.main, *refresh_command(talker()[0], out, *REFRESH))[0] == 2
        finally:
            evaluate.grade = grade
        code, _, err = run(refresh.main, *refresh_command(talker()[0], out, *REFRESH, "--resume"))
        assert code == 0 and same_weights(out, whole), err
        assert resume.read_log(out / "validation.jsonl") == resume.read_log(whole / "validation.jsonl")
        assert models.read_run(out)["metrics"] == models.read_run(whole)["metrics"]


# ---- interference.py ---------------------------------------------------------------------------------------------

def story(file, seed, scores):
    """A file of scores of one seed. scores: {recipe without its base: (math, code)}; prompts a and b score 10 apart."""
    report = {}
    for recipe, points in scores.items():
        report["/".join(["x", str(seed), *recipe])] = {"evaluated": {"samples": 4}, "weights": [1, 1],
                                                       "seed": seed, "training": {"lr": 1},
            "recipe": ["base", *recipe]} | {d: {"score": x, "ci95": 1.0, "prompt_scores": {"a": x - 5, "b": x + 5}}
                                            for d, x in zip(("math", "code"), points)}
    (WORK / file).write_text(json.dumps(report))
    return WORK / file


def two_seeds():
    M, C, R = "math 100", "code 100", "math 10"
    return [story("s0.json", 0, {(M,): (80, 50), (C,): (40, 90), (M, C): (60, 90), (C, M): (78, 86), (M, C, R): (76, 86)}),
            story("s1.json", 1, {(M,): (84, 52), (C,): (42, 92), (M, C): (65, 92), (C, M): (82, 92), (M, C, R): (84, 88)})]


def test_interference_and_recovery_are_the_numbers_worked_out_by_hand():
    runs = interference.read(two_seeds())
    t1 = 12.7062                                           # two seeds: one degree of freedom; half = t1 * |difference| / 2
    cells = interference.matrix(runs, ["math", "code"])
    near = lambda pair, mean, half: abs(pair[0] - mean) < 1e-6 and abs(pair[1] - half) < 1e-3
    assert set(cells) == {("code", "math"), ("math", "code")}
    assert near(cells["code", "math"], (-20 - 19) / 2, t1 * 1 / 2) and near(cells["math", "code"], (-4 + 0) / 2, t1 * 4 / 2)
    (recipe, domain, peak), = interference.refreshes(runs, ["math", "code"])
    assert (recipe[1:], domain, peak[1:]) == (("math 100", "code 100", "math 10"), "math", ("math 100",))
    share = intervals.won_back(runs[recipe], runs[recipe[:-1]], runs[peak], domain)
    assert near(share, 100 * 35 / 39, 100 * t1 * (19 - 35 / 39 * 19) / 19.5)  # 1.95 and -1.95 over
    row = intervals.score_row(runs[recipe], ["math", "code"])
    assert near(row[0], 80, t1 * 8 / 2) and near(row[2], (81 + 86) / 2, t1 * 5 / 2)
    code, out, err = run(interference.main, *two_seeds())
    assert code == 0, err
    for line in ("| **math > code > math (10)** |", "-19.5 ± 6.4", "89.7 ± 127.0 % |",
                 "the paper's Math: 66.49 -> 57.66 -> 66.04, average 64.25 -> 66.39", "code -4.0 ± 0.0", "over seeds"):
        assert line in out, (line, out)
    verdicts = re.findall(r"\| +(yes|no) \|", out)
    assert verdicts == ["yes", "yes", "yes", "no", "yes"]


def test_one_seed_has_intervals_over_prompts_and_scores_that_do_not_compare_are_refused():
    one = two_seeds()[0]
    code, out, _ = run(interference.main, one)
    assert code == 0 and "-20.0 ± 0.0" in out and "80.0 % |" in out, out
    other_lr = story("lr.json", 2, {("math 100",): (1, 1)})
    other_lr.write_text(other_lr.read_text().replace('"lr": 1', '"lr": 2'))
    (WORK / "nothing.json").write_text("{}")
    twin = story("twin.json", 0, {("math 100",): (1, 1)})
    twin.write_text(twin.read_text().replace("x/0", "elsewhere"))
    other = story("other.json", 2, {("math 100",): (1, 1)})
    other.write_text(other.read_text().replace('"samples": 4', '"samples": 8'))
    for files, words in (((one, twin), "same recipe and seed"), ((one, other), "other settings"),
                         ((WORK / "none.json",), "none.json"), ((one, other_lr), "more than the seed"),
                         ((WORK / "nothing.json",), "no scores"), ((one, "--plot", "x.foo"), ".png")):
        code, _, err = run(interference.main, *files)
        assert code == 2 and words in err and "Traceback" not in err, err


def test_only_seeds_that_both_checkpoints_have_are_compared_and_untested_domains_left_out():
    M, C, R = "math 100", "code 100", "math 10"
    files = [two_seeds()[0], story("s7.json", 7, {(M, C): (0, 0), (M, C, R): (99, 99)})]        # of seed 7, no expert
    runs = interference.read(files)
    base = ("base",)
    assert interference.matrix(runs, ["math", "code"])["code", "math"] == (-20, 0)
    assert intervals.won_back(runs[base + (M, C, R)], runs[base + (M, C)], runs[base + (M,)], "math")[0] == 80
    alone = story("alone.json", 7, {(M,): (1, 1)})
    assert math.isnan(intervals.change(interference.read([alone])[base + (M,)], runs[base + (M,)], "math")[0])
    code_only = WORK / "code-only.json"
    code_only.write_text(json.dumps({name: {k: v for k, v in entry.items() if k != "math"}
                                     for name, entry in json.loads(files[0].read_text()).items()}))
    spaced = WORK / "spaced.json"
    spaced.write_text(files[0].read_text().replace('"base"', '"my base"'))
    for file in (code_only, spaced):
        code, out, err = run(interference.main, file)
        assert code == 0 and "math > code > math (10)" in out, err


def test_an_alternating_refresh_is_judged_domain_by_domain_and_what_did_not_fall_has_nothing_to_win_back():
    M, C, B = "math 100", "code 100", "math/code 20"
    file = story("turns.json", 0, {(M,): (80, 50), (M, C): (60, 90), (M, C, "qa 100"): (60, 90), (M, C, "qa 100", B): (78, 90)})
    code, out, err = run(interference.main, file)
    assert code == 0 and "| its refresh takes at most 10 % of its 100 steps |" in out and "10 % |" in out, (out, err)
    assert "code had not fallen by more than chance" in out and "90.0 % |" in out
    assert re.findall(r"\| +(yes|no) \|", out) == ["yes"] * 5      # of math alone


def test_the_picture_is_drawn_where_matplotlib_is_installed_and_its_absence_is_said():
    file = WORK / "story.png"
    code, out, err = run(interference.main, *two_seeds(), "--plot", file)
    assert code == 0 and "math > code > math (10)" in out, err
    try:
        import matplotlib
        assert file.read_bytes()[:4] == b"\x89PNG"
    except ImportError:
        assert "pip install matplotlib" in out and not file.exists()
