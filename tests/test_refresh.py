"""Claims about refresh.py.

Run by test_all.py.
"""
import argparse
import re

import torch

import domains
from grpo import scores
import model as models
import refresh
from grpo import directory
import train_grpo
from shared import (REFRESH, WORK, grpo_command, refresh_command, replaced, run, same_weights, snapshot, talker, tiny,
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
    lines = directory.read_log(WORK / "fresh" / "validation.jsonl")
    assert [line["step"] for line in lines] == [0, 3]
    before, after = (line["scores"]["math"]["prompt_scores"] for line in lines)
    differences = torch.tensor([after[id] - before[id] for id in before])
    assert len(before) == 25 and abs(report["change"][0] - differences.mean().item()) < 1e-4
    assert abs(report["change"][1] - scores.t_quantile(24) * differences.std().item() / 5) < 1e-4
    assert "3 steps of refresh on math" in out and f"{report['change'][0]:+.1f} +-" in out and "refreshed" in out
    assert models.read_run(WORK / "fresh")["recipe"] == ["talker", "math 3"]
    code, _, err = run(refresh.main, *refresh_command(str(WORK / "fresh"), WORK / "fresher", "--steps", 1))
    run_of = models.read_run(WORK / "fresher")
    assert code == 0 and run_of["recipe"] == ["talker", "math 3", "math 1"] and run_of["args"]["visits"] == {"math": 1}, err


def test_refresh_has_few_steps_that_count():
    short, long = refresh.parse([talker()[0], "--domain", "math"]), train_grpo.parse(["--domain", "math"])
    assert short.steps == 0.1 * long.steps and short.prompts_per_step == 2 * long.prompts_per_step
    assert short.lr == 2 * long.lr and (short.warmup_steps, long.warmup_steps) == (0, 5)
    assert short.eval_domains == [*domains.DOMAINS] and long.eval_domains == ["math"]
    same = vars(short).keys() & vars(long).keys() - {"init", "out", "steps", "prompts_per_step", "lr", "warmup_steps",
                                                     "eval_domains", "schedule"}
    assert len(same) > 25 and all(getattr(short, name) == getattr(long, name) for name in same)


def test_recovered_means_that_the_interval_of_the_paired_difference_reaches_zero():
    args = argparse.Namespace(until_recovered=talker()[0], device=None, domains=["math"])
    summary = lambda *scores: {"math": {"prompt_scores": dict(enumerate(scores))}}
    reference, seen = summary(50.0, 50, 50, 50), []
    # differences -8 -12 -8 -12: mean -10, standard deviation 2.309, half-width 3.182 * 2.309 / 2 = 3.67
    for now, back in (((42, 38, 42, 38), False), ((48.5, 44.5, 48.5, 44.5), True), ((48, 44, 48, 44), False),
                         ((60, 70, 60, 70), True)):
        stop = refresh.recovery(args)
        assert bool(stop([{"scores": summary(*map(float, now))}],
                         lambda *model: seen.append(model) or reference)) == back, now
    assert all(len(model) == 2 for model in seen)        # with the reference's own tokenizer


def test_refresh_reports_all_four_domains_and_alternates():
    args = (tiny()[0], "--domains", "math,qa", "--steps", 3, "--out", WORK / "turns", "--eval-prompts", 3, "--eval-samples", 2,
            "--prompts-per-step", 2, "--group-size", 2, "--max-completion-length", 4)
    code, out, err = run(refresh.main, *args)
    assert code == 0 and all(re.search(rf"^{d} +\d", out, re.MULTILINE) for d in domains.DOMAINS), (out, err)
    lines = directory.read_log(WORK / "turns" / "log.jsonl")
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
    respond, known = scores.respond, sums(models.load(better)[0])

    def always_right_is(model, *args, **kw):              # the reference, which three steps cannot reach
        rollout, completions, rewards = respond(model, *args, **kw)
        return rollout, completions, torch.full_like(rewards, sums(model) == known)
    never = ("--steps", 3, "--until-recovered", better, "--eval-every", 1)
    with replaced(scores, respond=always_right_is):
        code, out, err = run(refresh.main, *refresh_command(worse, WORK / "never-back", *never))
    assert code == 0 and "3 steps of refresh" in out and "not recovered yet" in out, (out, err)
    assert [line["step"] for line in directory.read_log(WORK / "never-back" / "validation.jsonl")] == [0, 1, 2, 3]


def test_a_killed_refresh_goes_on_to_the_same_weights_and_the_same_report():
    whole = undisturbed_refresh()
    for moment in (2, 4):                                  # in the third and in the fifth validation
        graded, respond, out = [], scores.respond, WORK / f"refresh-killed-{moment}"

        def dies(*args, **kw):
            graded.append(1)
            if len(graded) > moment:
                raise models.UserError("pulled the plug")
            return respond(*args, **kw)
        with replaced(scores, respond=dies):
            assert run(refresh.main, *refresh_command(talker()[0], out, *REFRESH))[0] == 2
        code, _, err = run(refresh.main, *refresh_command(talker()[0], out, *REFRESH, "--resume"))
        assert code == 0 and same_weights(out, whole), err
        assert directory.read_log(out / "validation.jsonl") == directory.read_log(whole / "validation.jsonl")
        assert models.read_run(out)["metrics"] == models.read_run(whole)["metrics"]
