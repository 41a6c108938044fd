"""Claims about evaluate.py and grpo/scores.py: scores, their intervals, and one checkpoint against another.

Run by test_all.py.
"""
import itertools
import json
import math
import os
import re
import shutil
from pathlib import Path

import torch
from tqdm import tqdm

import domains
import evaluate
import refresh
import report
from grpo import rollout as rollouts
from grpo import scores
from shared import WORK, raised, refresh_command, replaced, run, talker, tiny


def test_pass_at_k_equals_counting_all_subsets():
    for n, correct, k in ((5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (7, 3, 7), (8, 1, 4)):
        subsets = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
        assert abs(scores.pass_at(k, correct, n) - sum(map(any, subsets)) / len(subsets)) < 1e-12


def test_scores_and_intervals_are_clustered_by_prompt_and_leave_out_what_was_not_graded():
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [math.nan, 0.0], [math.nan, math.nan]], dtype=torch.float64)
    entry = scores.summary(rewards, torch.tensor([[True, False]] * 4), "abcd", "math", [["1", None]] * 4)
    # the means of a, b and c are 0.5, 1 and 0: standard deviation 0.5
    assert abs(entry["score"] - 50) < 1e-9 and abs(entry["ci95"] - 100 * 4.302653 * 0.5 / math.sqrt(3)) < 1e-4
    assert entry["prompt_scores"] == {"a": 50, "b": 100, "c": 0}
    assert entry["verifier_errors"] == 3 and entry["ungraded"] == ["d"] and entry["truncated"] == 0.5
    assert entry["unparsable"] == 3 / 8              # of the four without an answer, one was not graded
    assert abs(entry["maj@2"] - 100 * (1 + 1 + 0) / 3) < 1e-9
    assert abs(entry["pass@1"] - 100 * (0.5 + 1) / 2) < 1e-9 and entry["pass@2"] == 100      # of a and b
    assert scores.average([(10, 3), (30, 4)]) == (20, 2.5)
    other = lambda ids, rewards: scores.summary(torch.tensor(rewards, dtype=torch.float64), torch.zeros(4, 2) > 0, ids, "cw",
                                                [["x", "x"]] * 4)
    then = other("bcad", [[0, 0], [0, 1], [math.nan] * 2, [1, 1]])
    change, half = scores.paired(entry, then)        # of b and c, the rows that both could grade: 100 - 0 and 0 - 50
    assert abs(change - 25) < 1e-9 and abs(half - 12.7062 * 75) < 0.01 and "maj@2" not in then
    for pair in ((entry, other("bcaz", [[0, 0]] * 4)), (other("bcaz", [[0, 0]] * 4), entry)):
        assert re.search("math row [dz] was", str(raised(lambda: scores.differences(*pair, "math"))))
    older = {"prompts": 4, "prompt_scores": {"a": 0.0, "b": 0.0, "c": 0.0}}   # does not say which one it could not grade
    assert scores.paired(older, other("abcd", [[1, 1]] * 4))[0] == -100
    assert "row d was" in str(raised(lambda: scores.paired({**older, "prompts": 3}, other("abcd", [[1, 1]] * 4))))


def test_scores_that_are_all_right_or_all_wrong_admit_what_is_not_known_and_others_keep_the_t_interval():
    def half(*means):
        return scores.summary(torch.tensor([means], dtype=torch.float64).T, torch.zeros(len(means), 1) > 0, range(len(means)),
                              "cw", [["x"]] * len(means))["ci95"]
    for n in (5, 60, 200):      # so many misses in a row have probability 5 % where hits have the probability of the bound
        assert half(*[0] * n) == half(*[1] * n) and abs((1 - half(*[0] * n) / 100) ** n - 0.05) < 1e-9
        some = [i % 5 / 4 for i in range(n)]
        assert half(*some) == scores.mean_ci(100 * torch.tensor(some, dtype=torch.float64))[1]
    assert math.isnan(half(1))


def test_the_majority_votes_by_meaning_a_tie_is_its_mean_and_what_says_nothing_does_not_vote():
    for domain, answers, rewards, score in (
            ("math", ["1/2", "0.5", r"\frac{1}{2}", "3", "3"], [1, 1, 1, 0, 0], 1),     # three forms outvote two of a spelling
            ("math", ["3", "1/2", "4", "0.5"], [0, 1, 0, 1], 1), ("math", ["3", "3", "0.5"], [0, 0, 1], 0),
            ("math", ["1", "2"], [1, 0], 1 / 2), ("math", ["1", "2", "2.0", "1.0", "3"], [0, 1, 1, 0, 0], 1 / 2),
            ("math", ["1", "2", "3"], [0, 0, 1], 1 / 3),
            ("math", [None, None, None, "7"], [0, 0, 0, 1], 1), ("math", [None, None], [0, 0], 0),
            ("math", ["7", "8", "8"], [1, math.nan, math.nan], 1),           # nor what was not graded
            ("qa", ["A", "B", "B"], [1, 0, 0], 0), ("qa", ["A", "B", None], [1, 0, 0], 1 / 2), ("qa", ["C"], [1], 1)):
        assert abs(scores.majority(domain, answers, rewards) - score) < 1e-12, (domain, answers)
    assert math.isnan(scores.majority("math", ["1", "1"], [math.nan, math.nan]))
    rows = domains.synthetic("math", "test", 1, 0) + domains.synthetic("qa", "test", 1, 0)
    for domain, row in zip(("math", "qa"), rows):    # of one sample, the majority is the sample
        texts = [row["reference"], "no idea", "1", "B"]
        for text, reward in zip(texts, domains.reward(domain, texts, [row] * 4)):
            assert scores.majority(domain, [domains.answer(domain, text, row)], [reward]) == reward, (domain, text)


def test_an_answer_is_none_exactly_where_there_is_nothing_to_grade():
    code = {"prompt": "def f(x):\n    \"\"\"One more.\"\"\"\n", "entry_point": "f"}
    for domain, text, row, answer in (
            ("math", "so 3 and then \\boxed{4}", {}, "4"), ("math", "I cannot say", {}, None), ("math", "\\boxed{}", {}, None),
            ("math", "<think>5, as 2 + 3", {}, None), ("qa", "It is (B).", {"options": "xyz"}, "B"),
            ("qa", "A or B", {"options": "xyz"}, None), ("qa", "D", {"options": "xyz"}, None),
            ("code", "```python\nprint(1)\n```", {"prompt": "Print 1."}, "print(1)\n"),
            ("code", "I would add one.", {"prompt": "Add one."}, None),
            ("code", "", code, None), ("code", "<think>return", code, None),
            ("cw", "<think>hm</think> Once. ", {}, "Once."), ("cw", " \n", {}, None)):
        assert domains.answer(domain, text, row) == answer, (domain, text)
    assert domains.answer("code", "    return x + 1", code).endswith("    return x + 1")


def test_p_values_and_detectable_differences_agree_with_tables_and_with_simulated_samples():
    for t, dof, p in ((2.228139, 10, 0.05), (1, 1, 0.5), (1.812461, 10, 0.1), (4.604095, 4, 0.01), (3.300283, 1000, 0.001)):
        assert abs(evaluate.p_value(-t, scores.t_quantile(dof), dof) - p) < 1e-5, (t, dof)
    assert evaluate.p_value(0, 0, 5) == 1 and evaluate.p_value(2, 0, 5) == 0 and evaluate.p_value(50, 1, 50) >= 0
    assert math.isnan(evaluate.p_value(1, math.nan, 0)) and math.isnan(scores.detectable(math.nan, 0))
    # n = 16, std 8: se 2; t tables of 15 degrees of freedom: 2.13145 and 0.86624
    assert abs(scores.detectable(2.13145 * 2, 15) - 2 * (2.13145 + 0.86624)) < 1e-4
    generator = torch.Generator().manual_seed(0)
    true, n = scores.detectable(scores.t_quantile(24) * 1 / 5, 24), 25
    samples = true + torch.randn(20_000, n, dtype=torch.float64, generator=generator)
    found = (samples.mean(1).abs() > scores.t_quantile(24) * samples.std(1) / 5).double().mean().item()
    assert abs(found - 0.8) < 0.015, found           # the noncentral t has a little less than 80 %


def test_t_quantiles_agree_with_the_integral_of_the_density():
    for dof in (1, 2, 3, 4, 9, 30, 199):
        t, n = scores.t_quantile(dof), 200_000
        x = (torch.arange(n, dtype=torch.float64) + 0.5) * t / n
        log_scale = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - 0.5 * math.log(dof * math.pi)
        inside = 2 * (math.exp(log_scale) * (1 + x * x / dof) ** (-(dof + 1) / 2)).sum().item() * t / n
        assert abs(inside - 0.95) < 1e-6, (dof, t, inside)


def test_evaluate_writes_what_it_prints_and_a_checkpoint_differs_from_itself_by_zero():
    directory = tiny()[0]
    code, out, err = run(evaluate.main, "--compare", directory, directory, "--prompts", 6, "--samples", 2, "--json",
                         WORK / "scores.json", "--samples-file", WORK / "samples.jsonl", "--max-completion-length", 6)
    assert code == 0, err
    report = json.loads((WORK / "scores.json").read_text())[directory]
    assert {*domains.DOMAINS, "average", "evaluated", "weights", "seed", "recipe"} <= set(report)
    assert abs(report["average"]["score"] - sum(report[d]["score"] for d in domains.DOMAINS) / 4) < 1e-9
    assert all(report["compared_to"][directory][d] == {"difference": 0, "ci95": 0, "p": 1, "prompts": n, "detectable": 0}
               for d, n in [*((d, 6) for d in domains.DOMAINS), ("average", 24)])
    assert f"{report['math']['maj@2']:.1f}" in re.search("maj@2 .*", out)[0] and out.count("detectable") == 2
    for d in domains.DOMAINS:
        assert ("maj@2" in report[d]) == (d in ("math", "qa")) and 0 <= report[d]["unparsable"] <= 1, d
        assert abs(report[d]["detectable"] - 2**0.5 * report[d]["ci95"] * (1 + 0.91954 / 2.57058)) < 1e-3, d  # t of 5
    samples = [json.loads(line) for line in (WORK / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 4 * 6 * 2
    for d in domains.DOMAINS:
        mean = [s["reward"] for s in samples if s["domain"] == d]
        assert abs(100 * sum(mean) / len(mean) - report[d]["score"]) < 1e-6
    code, out, _ = run(evaluate.main, directory, "--greedy", "--domains", "math", "--prompts", 3)
    assert code == 0 and "greedy" in out and "math: 3 prompts" in out
    for option, word in (("--held-out", "--data"), ("--fields=question=q", "--data"), (f"--judge={directory}", "creative writing")):
        code, _, err = run(evaluate.main, directory, "--domains", "math", option)      # which would do nothing
        assert code == 2 and err.count("\n") == 1 and word in err, err


def test_scores_that_stand_in_the_file_are_not_computed_again_unless_something_changed():
    start, file, respond, graded = talker()[0], WORK / "kept.json", scores.respond, []
    moving = WORK / "moving"
    shutil.copytree(start, moving)
    options = ("--prompts", 4, "--samples", 2, "--max-completion-length", 4, "--domains", "math", "--json", file)

    def counted(model, tokenizer, domain, *args, **kw):
        graded.append(domain)
        return respond(model, tokenizer, domain, *args, **kw)
    with replaced(scores, respond=counted):
        outputs = [run(evaluate.main, start, moving, *options)[1], run(evaluate.main, start, moving, *options)[1]]
        assert outputs[0] == outputs[1] and len(graded) == 2
        first = json.loads(file.read_text())
        shutil.copy(Path(tiny()[0]) / "model.safetensors", moving / "model.safetensors")     # trained anew
        run(evaluate.main, start, moving, *options)
        assert len(graded) == 3
        second = json.loads(file.read_text())
        assert second[start] == first[start] and second[str(moving)]["math"] != first[str(moving)]["math"]
        assert run(evaluate.main, start, *options, "--seed", 1)[0] == 0 and len(graded) == 4     # other noise
        assert set(json.loads(file.read_text())) == {start, str(moving)}                       # nobody's scores are lost
    (WORK / "notes.json").write_text("[1]")
    code, _, err = run(evaluate.main, start, "--json", WORK / "notes.json", "--domains", "math")
    assert code == 2 and "holds no scores" in err and (WORK / "notes.json").read_text() == "[1]"


def test_one_checkpoint_under_several_spellings_is_one():
    place = tiny()[0]
    args = evaluate.parse([f"{place}/", os.path.relpath(place), talker()[0], "--compare", f"{place}/.", f"scores.json:{place}"])
    assert args.checkpoints == [place, talker()[0]] and args.compare == [place, f"scores.json:{place}"]
    code, out, err = run(evaluate.main, place, f"{place}/", "--domains", "math", "--prompts", 2, "--max-completion-length", 2)
    assert code == 0 and out.count(place) == 1, (out, err)


def test_the_bar_counts_completions_and_moves_within_a_batch():
    _, model, tokenizer = tiny()
    rows, steps = domains.synthetic("math", "test", 10, seed=0), []

    class Bar(tqdm):
        def update(self, n=1):
            steps.append(n)
    with replaced(rollouts, tqdm=Bar):
        for way in (model.way, rollouts.PLAIN):
            with replaced(model, way=way):
                scores.respond(model, tokenizer, "math", rows, samples=4, max_completion_length=400)
            assert sum(steps) == 40 and len([n for n in steps if n]) > 5, (way, steps)
            steps.clear()


def test_samples_are_written_also_where_no_numbers_are():
    file = WORK / "samples-alone.jsonl"
    assert run(evaluate.main, tiny()[0], "--domains", "math", "--prompts", 3, "--samples", 2, "--max-completion-length", 2,
               "--samples-file", file)[0] == 0
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(samples) == 6 and len({sample["id"] for sample in samples}) == 3


REPEAT = '''
def synthetic(rng):
    letters = "".join(rng.choices("abcdefgh", k=4))
    return {"letters": letters, "reference": letters}

def prompt(row):
    return "repeat: " + row["letters"]

def answer(completion, row):
    return completion.strip() or None

def reward(completions, rows):
    return [float(row["letters"] in text) for text, row in zip(completions, rows)]
'''


def test_a_domain_from_a_file_of_ones_own_is_evaluated_by_its_path_and_its_name_alone_only_tells_where_it_is():
    own, file, trained = WORK / "letters" / "repeat.py", WORK / "letters.json", WORK / "letters-trained"
    own.parent.mkdir()
    own.write_text(REPEAT)
    shutil.copytree(tiny()[0], trained)
    options = ("--prompts", 3, "--samples", 2, "--max-completion-length", 4, "--json", file)
    with replaced(domains, loaded=dict(domains.loaded), recorded={}):
        assert "unknown domain 'repeat'" in run(evaluate.main, tiny()[0], "--domains", "repeat")[2]
        assert run(evaluate.main, tiny()[0], *options, "--domains", f"math,{own}")[0] == 0
        first = json.loads(file.read_text())[tiny()[0]]
        assert first["repeat"]["prompts"] == 3 and first["evaluated"]["domain_files"] == {
            "repeat": domains.source("repeat")["sha256"]} and first["average"]["score"] == first["math"]["score"] / 2
        (trained / "run.json").write_text(json.dumps({"domain_files": {"repeat": domains.source("repeat")}}))
    with replaced(domains, loaded={}, recorded={}):  # as another process
        assert str(own) in run(evaluate.main, trained, *options, "--domains", "math,repeat")[2]
        assert run(evaluate.main, trained, *options, "--domains", f"math,{own}")[0] == 0
        out = run(evaluate.main, "--compare", f"{file}:{trained}", f"{file}:{tiny()[0]}")[1]
        assert re.findall(r"^(\w+) +[-+]0.0", out, re.MULTILINE) == ["math", "repeat", "average"], out
    own.write_text(REPEAT.replace('float(row["letters"] in text)', "1.0"))        # another reward: other scores
    with replaced(domains, loaded={}, recorded={}):
        assert run(evaluate.main, trained, "--prompts", 3, "--max-completion-length", 4)[0] == 0     # not asked for
        assert run(evaluate.main, tiny()[0], *options, "--domains", f"math,{own}")[0] == 0
    again = json.loads(file.read_text())[tiny()[0]]
    assert first["repeat"]["score"] == 0 and again["repeat"]["score"] == 100


def test_a_score_does_not_depend_on_which_other_rows_are_graded():
    _, model, tokenizer = tiny()
    rows = domains.synthetic("math", "test", 6, seed=0)
    options = {"samples": 3, "temperature": 1.0, "max_completion_length": 5}
    together = scores.respond(model, tokenizer, "math", rows, **options)[1]
    assert together[12:15] == scores.respond(model, tokenizer, "math", rows[4:5], **options)[1]


def test_what_one_prompt_cannot_tell_is_nan_also_when_it_is_read_back():
    start, file = talker()[0], WORK / "one-prompt.json"
    options = ("--domains", "math", "--prompts", 1, "--samples", 2, "--max-completion-length", 4, "--json", file)
    outputs = [run(evaluate.main, start, *options) for _ in range(2)]
    assert [code for code, _, _ in outputs] == [0, 0] and outputs[0][1] == outputs[1][1] and "nan" in outputs[0][1]
    assert "NaN" not in file.read_text() and run(report.main, file)[0] == 0
    command = refresh_command(start, WORK / "one-prompt", "--steps", 1, "--eval-prompts", 1)
    first, again = run(refresh.main, *command), run(refresh.main, *command, "--resume")
    assert first[0] == again[0] == 0 and first[1].splitlines()[-1] == again[1].splitlines()[-1]
    assert "NaN" not in (WORK / "one-prompt" / "validation.jsonl").read_text()


def test_a_comparison_is_of_the_same_rows_by_id_and_takes_what_stands_in_files():
    file, a, b = WORK / "pairing.json", talker()[0], tiny()[0]
    options = ("--max-completion-length", 8, "--samples", 2, "--data", f"math={talker()[1]}", "--json")
    outputs = []
    for seed in (0, 1):
        code, out, err = run(evaluate.main, "--compare", a, b, *options, file, "--seed", seed)
        assert code == 0 and f"{b} minus {a}" in out and "NOT ALIKE" not in out, (out, err)
        outputs.append((out, json.loads(file.read_text())))
    assert outputs[0][1][a]["math"]["score"] != outputs[1][1][a]["math"]["score"]                  # other noise
    out, report = outputs[1]
    then, now = (report[name]["math"]["prompt_scores"] for name in (a, b))
    d = torch.tensor([now[id] - then[id] for id in sorted(now)])
    found, se = report[b]["compared_to"][a]["math"], d.std().item() / 5
    assert len(d) == found["prompts"] == 25 and abs(found["difference"] - d.mean().item()) < 1e-5
    assert abs(found["ci95"] - 2.063899 * se) < 1e-4 and abs(found["detectable"] - (2.063899 + 0.856855) * se) < 1e-4
    assert (found["p"] < 0.05) == (abs(found["difference"]) > found["ci95"])

    with replaced(scores, respond=None):             # nothing is evaluated again
        code, again, err = run(evaluate.main, "--compare", a, b, *options, file, "--seed", 1)
        assert code == 0 and again == out, err
        code, stood, err = run(evaluate.main, "--compare", f"{file}:{a}", f"{file}:{b}")
        assert code == 0 and stood.splitlines()[2:] == out[out.index("\n" + b + " minus"):].splitlines()[2:], err
    fewer = WORK / "fewer.json"
    assert run(evaluate.main, b, *options, fewer, "--prompts", 20, "--temperature", 0.5)[0] == 0
    lone = next(id for id in then if id not in json.loads(fewer.read_text())[b]["math"]["prompt_scores"])
    for pair in ((f"{file}:{a}", f"{fewer}:{b}"), (f"{fewer}:{b}", f"{file}:{a}")):
        code, out, err = run(evaluate.main, "--compare", *pair)
        assert code == 2 and err.startswith(f"error: math row {lone} was evaluated for one of the two") and err.count("\n") == 1
    run(evaluate.main, b, *options, fewer, "--temperature", 0.5)
    out = run(evaluate.main, "--compare", f"{file}:{a}", f"{fewer}:{b}")[1]
    assert "NOT ALIKE" in out and "temperature" in out and "contents" not in out, out
    run(evaluate.main, a, *options, file, "--seed", 2)
    assert json.loads(file.read_text())[b]["compared_to"] == {}          # was with scores that are no more
