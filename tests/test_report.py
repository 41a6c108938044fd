"""Claims about report.py and reports/: kinds of files told apart; the tables of runs, of scores, of methods and of what
predicts forgetting worked out by hand. Rollbacks are in test_rollback.py, the paper's claims in test_analyze.py.

Run by test_all.py.
"""
import contextlib
import io
import json
import math
import os
import subprocess
import sys
from itertools import permutations

import torch

import report
import shared
from model import write_json
from reports import forgetting, methods, pages, recovery, seeds, sequences, story, training
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
                        ([], "name a file"), (["--fill", WORK / "no.md"], "no.md"),
                        ([files[0], "--domain", "math"], "needs --domain")):
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
    for line in ("| **math > code > math (10)** |", "over seeds", "| then code | -19.5 ± 6.4 |"):
        assert line in out, (line, out)
    rows = table_of(out, ["refresh"])
    assert rows["math along math > code > math (10)"] == [
        "82.0 ± 25.4", "62.5 ± 31.8", "80.0 ± 50.8", "-19.5 ± 6.4", "89.7 ± 127.0 %", "76.8 ± 22.2", "83.5 ± 31.8", "+0.0 ± 0.0",
        "code -4.0 ± 0.0"]
    assert rows["the paper's Math, Qwen3-4B"] == ["66.49", "57.66", "66.04", "-8.8", "94.9 %", "64.25", "66.39", "+0.0",
                                                  "largely kept"]


def test_one_seed_has_intervals_over_prompts_and_scores_that_do_not_compare_are_refused():
    one = two_seeds()[0]
    code, out, _ = run(report.main, one)
    assert code == 0 and "-20.0 ± 0.0" in out and " 80.0 % |" in out, out
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
    assert code == 0, err
    rows = table_of(out, ["refresh"])
    name = "math > code > qa > math/code (20)"
    assert rows[f"math along {name}"][3:5] == ["-20.0 ± 0.0", "90.0 %"] and rows[f"math along {name}"][-1] == ""
    assert rows[f"code along {name}"][3:5] == ["+0.0 ± 0.0", "-"]      # nothing to win back


def test_the_picture_is_drawn_where_matplotlib_is_installed_and_its_absence_is_said():
    file = WORK / "drawn" / "story.png"
    code, out, err = run(report.main, *two_seeds(), "--plot", file.parent)
    assert code == 0 and "math > code > math (10)" in out, err
    try:
        import matplotlib  # noqa: F401
        assert file.read_bytes()[:4] == b"\x89PNG"
    except ImportError:
        assert "pip install matplotlib" in out and not file.exists()


# ---- scores: sequences -------------------------------------------------------------------------------------------

def of_three(file, seed, points):
    """A file of scores of one seed in math, code and qa, without those of prompts. points: {recipe without its base: three}."""
    write_json(WORK / file, {"/".join(["x", str(seed), *recipe]): {
        "evaluated": {}, "seed": seed, "training": {}, "recipe": ["base", *recipe]} | {
            d: {"score": x, "ci95": 1.0, "prompt_scores": {}} for d, x in zip(("math", "code", "qa"), three)}
        for recipe, three in points.items()})
    return WORK / file


def table_of(out, head):
    """The rows of the printed table whose head begins so: {first cell: the others}."""
    found, = [rows for first, rows in map(pages.cells, pages.TABLE.findall(out)) if first[:len(head)] == head]
    return {row[0]: row[1:] for row in found}


def test_the_gap_to_joint_training_is_what_was_learned_less_and_what_was_forgotten_domain_by_domain():
    C, M, Q = "code 100", "math 100", "qa 100"
    files = [of_three(f"gap{seed}.json", seed, {(C,): (50, 90 + more, 50), (C, M): (80, 88, 50), (C, M, Q): (60, 86, 85 + more),
                                                ("math/code+qa 5",): (0, 0, 0), ("code+math+qa 300",): (82, 92, 84),
                                                (C, M, Q, "math 10"): (79, 85, 84), (C, "math:kl-1 100", Q): (70, 80, 80)})
             for seed, more in ((0, 0), (1, 2))]
    rows = table_of(run(report.main, *files)[1], ["sequence"])
    assert rows == {"code > math > qa: gap": ["+22.0 ± 0.0", "+6.0 ± 0.0", "-2.0 ± 12.7", "+8.7 ± 4.2"],
                    "code > math > qa: learned less": ["+2.0 ± 0.0", "+1.0 ± 12.7", "-2.0 ± 12.7", "+0.3 ± 8.5"],
                    "code > math > qa: forgotten": ["+20.0 ± 0.0", "+5.0 ± 12.7", "+0.0 ± 0.0", "+8.3 ± 4.2"]}


def test_the_best_and_the_worst_order_are_those_of_pairs_where_the_score_is_a_sum_over_pairs():
    names = ("math", "code", "qa")
    effect = {(a, b, d): 10 * (a < b) + len(a) - 2 * len(b) + (d == "qa") for a in names for b in names if a != b for d in (a, b)}

    def after(order, seed):                         # what training in this order gives, if pairs say all
        return tuple(50 + seed + i + sum(effect[a, b, d] for k, a in enumerate(order) for b in order[k + 1:] if d in (a, b))
                     if d in order else 0 for i, d in enumerate(names))
    stages = lambda order: tuple(f"{d} 100" for d in order)
    some = [(a,) for a in names] + [*permutations(names, 2)]
    files = [of_three(f"pairs{seed}.json", seed, {stages(order): after(order, seed) for order in some}) for seed in (0, 1)]
    truth = sorted(permutations(names), key=lambda order: sum(after(order, 0)))
    assert sequences.extremes(files) == (truth[-1], truth[0])
    found = sequences.predictions(story.read(files), [*names])
    assert len(found) == 6
    assert all(math.isclose(found[order][seed], sum(after(order, seed)) / 3) for order in found for seed in (0, 1))
    full = of_three("full.json", 0, {stages(truth[-1]): [x + 3 for x in after(truth[-1], 0)], stages(truth[0]): after(truth[0], 0)})
    rows = table_of(run(report.main, *files, full)[1], ["order"])
    best, worst, difference = rows
    assert best == f"1: {' > '.join(truth[-1])}" and worst == f"6: {' > '.join(truth[0])}"
    mean = sum(after(truth[-1], 0)) / 3
    assert rows[best] == [f"{mean + 0.5:.1f} ± 6.4", f"{mean + 3:.1f}", "+3.0"] and rows[worst][2] == "+0.0"
    assert difference == "the best minus the worst" and rows[difference][2] == "+3.0"
    missing = of_three("missing.json", 0, {stages(order): after(order, 0) for order in some[:-1]})
    assert "| order " not in run(report.main, missing)[1]
    shared.raises(lambda: sequences.extremes([missing]), "every pair")


def test_the_steps_that_a_refresh_needs_end_where_the_peak_is_near_or_with_those_it_kept():
    M, points = "math 100", {}
    for delay, scores in ((50, {0: 70, 1: 77, 2: 79, 4: 80}), (200, {0: 40, 1: 60, 2: 77.9, 4: 78}),
                          (400, {0: 20, 1: 20, 2: 20, 4: 50})):
        points |= {(M, f"qa {delay}") + ((f"math {t}",) if t else ()): (score, 50, 50) for t, score in scores.items()}
    files = [of_three(f"delay{seed}.json", seed, {(M,): (80 + seed, 50, 50)} | {
        recipe: (x + seed, y, z) for recipe, (x, y, z) in points.items()}) for seed in (0, 1)]
    code, out, err = run(report.main, *files, "--plot", WORK / "delay")
    assert code == 0, err
    assert [row.strip("*") for row in table_of(out, ["trained on"]) if row.count(">") == 2] == [
        f"math > qa ({k}) > math (4)" for k in (50, 200, 400)]                      # of a refresh, its last step alone
    rows = table_of(out, ["refresh", "delay"])
    assert rows == {"math after math > qa (50)": ["50", "-10.0 ± 0.0", "2.0 ± 0.0", "4", "100.0 ± 0.0 %"],
                    "math after math > qa (200)": ["200", "-40.0 ± 0.0", "4.0 ± 0.0", "4", "95.0 ± 0.0 %"],
                    "math after math > qa (400)": ["400", "-60.0 ± 0.0", "4.0 ± 0.0", "4", "50.0 ± 0.0 %"]}, rows
    assert "pip install matplotlib" in out or (WORK / "delay" / "delay.png").exists()


# ---- pages -------------------------------------------------------------------------------------------------------

def test_a_page_is_filled_with_the_tables_that_the_commands_in_its_comments_print():
    file, page = two_seeds()[0], WORK / "page.md"
    comment = f"<!-- python report.py {WORK}/s[0].json --columns code,average --rows base,code -->"
    old = "| trained on | code | average |\n|---|---|---|\n| code | 1 | 2 |\n"
    page.write_text(f"# Page\n\n{comment}\n\n{old}\nThe text goes on.\n| no | table |\n")
    assert run(report.main, "--fill", page) == (0, "", "")
    out = run(report.main, file, "--columns", "code,average", "--rows", "base,code")[1]
    assert page.read_text() == f"# Page\n\n{comment}\n\n{out}\nThe text goes on.\n| no | table |\n"
    rows = table_of(out, ["trained on", "code", "average"])
    assert rows["code"] == ["90.0 ± 1.0", "65.0 ± 0.7"] and "math" not in rows
    page.write_text(f"{comment}\n{old.replace('average', 'mean')}")
    code, out, err = run(report.main, "--fill", page)
    assert code == 2 and "no table with the head" in err and err.count("\n") == 1 and "mean" in page.read_text()
    page.write_text(f"{comment}\n")                  # none yet: the first that is printed
    assert run(report.main, "--fill", page)[0] == 0 and page.read_text().startswith(f"{comment}\n| trained on ")


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
                                    "steps": steps, "args": {"prompts_per_step": B, "group_size": G}})
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
            scores[places[name]] = entry(math=math_, qa=qa) | {"stages": methods.stages(places[name])}
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
    assert [sum(costs) for costs in zip(*methods.stages(str(WORK / "s0-again")).values())] == [17, 1520, 51]
    kept = WORK / "s0-again" / "step-00001"         # a step that the run kept has no log of its own
    kept.mkdir()
    write_json(kept / "run.json", json.loads((WORK / "s0-again" / "run.json").read_text()) | {"steps": 1})
    (kept / "config.json").write_text("{}"), (kept / "model.safetensors").write_bytes(b"")
    assert methods.stages(str(kept))[str(kept)] == [1, 160, 3]
    gone = methods.stages(made("orphan", 1, "no-more"))
    assert [*gone.values()][0] == [1, 80, 3] and all(map(math.isnan, gone[str(WORK / "no-more")]))
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
    write_json(WORK / "old.json", {name: {k: v for k, v in one.items() if k != "stages"} for name, one in scores.items()})
    assert "once more" in run(report.main, WORK / "old.json", *argv[1:])[2]
    code, out, err = run(report.main, *argv, "--plot", WORK / "remedies")
    assert code == 0 and ("pip install matplotlib" in out or (WORK / "remedies" / "methods.png").exists()), err


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


def test_the_table_of_predictors_ranks_the_pairs_that_were_trained_straight_from_one_another_within_a_seed():
    some = [{"kl_new": k, "kl_new_reverse": k, "kl_old": m, "norm": 1.0, "second": m, "measured": m, "points": -m,
             "gradient_cosine": math.nan, "reversal": k * m, "domain": "math", "new": "qa", "lr": 1e-5 * (1 + m % 2),
             "first": 0.0, "reach": 0.5} for k, m in ((3, 1), (2, 2), (1, 3), (0, 4))]
    stand_in = {"second": 9, "measured": 0, "points": 0}                        # of an edit that was added, and not trained
    seeds = forgetting.pairs([{"damage": [*some, stand_in]}, {"damage": [stand_in, *some]}, {"damage": some[:2]}, {}])
    assert seeds == [some, some]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        forgetting.tables(seeds)
    reach, ranks = map(pages.cells, pages.TABLE.findall(out.getvalue()))
    # at 1e-5 the pairs of 2 and 4, twice each: mean 3, half-width 3.18 * 1.155 / 2
    assert [row[:5] for row in reach[1]] == [["math -> qa", "1e-05", "1.00 ± 0.00", "+3.000 ± 1.837", "+3.000 ± 1.837"],
                                             ["math -> qa", "2e-05", "1.00 ± 0.00", "+2.000 ± 1.837", "+2.000 ± 1.837"]]
    rows = {label: first for label, first, _ in ranks[1]}
    assert rows["second-order term"] == "+1.00 ± 0.00" and rows["KL on the new task, from before"] == "-1.00 ± 0.00"
    assert rows["second-order term minus KL on the new task (paired)"] == "+2.00 ± 0.00"
    assert rows["cosine of both gradients at theta_A"] == "-" and rows["norm of delta_B"] == "-"
    assert rows["reversal of the update before"] == "-0.63 ± 0.00"              # 3, 4, 3, 0 against 1 to 4: ranks 2.5, 4, 2.5, 1
