"""Claims about README.md, COURSE.md and RESULTS.md: what they name exists, and the code they show runs. Run by test_all.py."""
import contextlib
import re

import torch

import analyze
import domains
import evaluate
import model as models
import refresh
import report
import rollback
import train_grpo
from reports import pages
from shared import ROOT, WORK, replaced, run, talker

README, COURSE, RESULTS = ((ROOT / name).read_text() for name in ("README.md", "COURSE.md", "RESULTS.md"))


def block(heading):
    """The first Python block below a heading of README.md."""
    return re.search(r"```python\n(.*?)```", README.split(f"\n## {heading}\n")[1], re.DOTALL)[1]


def test_every_file_and_every_option_that_the_pages_name_is_there():
    for page in (README, COURSE, RESULTS):
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", page) if "://" not in link]
        assert all((ROOT / link).exists() for link in links), [link for link in links if not (ROOT / link).exists()]
    options = {script: (ROOT / script).read_text() + (ROOT / "grpo/settings.py").read_text()
               for script in (f"{name}.py" for name in ("train_grpo", "refresh", "rollback", "analyze", "evaluate", "merge", "report",
                                                        "reproduce", "bench", "test_all"))}
    said = re.sub(r"\\\n\s*", " ", README + COURSE + RESULTS)
    commands = re.findall(r"python (\w+\.py)([^\n`#|]*)", said)
    assert len(commands) > 30
    for script, argv in commands:
        for option in re.findall(r" (--[a-z-]+)", argv.partition(";")[0]):
            assert f'"{option}"' in options[script], (script, option)


def test_the_tables_below_a_command_are_what_it_prints_word_for_word():
    with contextlib.chdir(ROOT):
        for page in (README, RESULTS):
            assert page == pages.filled(page, lambda words: report.printed(report.parse(words)))


def test_ten_exercises_name_what_is_there_ask_and_say_what_was_seen():
    exercises = re.split(r"\n## \d+\. ", COURSE)[1:]
    assert len(exercises) == 10 and len(README.split()) < 3000
    for exercise in exercises:
        assert "**Question:**" in exercise and "\n<details><summary>What was seen</summary>\n" in exercise, exercise
        for file, names in re.findall(r"\[([\w/]+\.py)\]\([^)]*\), ((?:`\w+`(?: and )?)+)", exercise):
            assert all(name in (ROOT / file).read_text() for name in re.findall(r"\w+", names.replace(" and ", " "))), (file, names)


def test_the_ten_lines_for_a_notebook_run_as_they_are_shown():
    init, data = talker()
    shown = block("From Python")
    assert len(shown.splitlines()) <= 11
    said = []
    code = shown.replace('["--domain", "math"]', f'["--domain", "math", "--init", {init!r}, "--lr", "1e-3"]')
    names = {"print": lambda *words: said.append(words)}
    exec(compile(code, "README.md", "exec"), names)
    assert len(said) == 4 and all(isinstance(mean, float) and norm >= 0 for mean, norm in said[:3])
    assert said[3][0].shape == said[3][1].shape == (8,) and names["rewards"].shape == (32, 8)
    assert torch.equal(names["advantages"].eq(0).all(1), (names["rewards"] == names["rewards"][:, :1]).all(1))


# A domain whose reward the tests' model sometimes earns: an even digit. Its file is as plain as the README's.
EVEN = """
def synthetic(rng):
    return {"question": f"{rng.randint(0, 4)}+{rng.randint(0, 99)}=", "reference": "2"}
def prompt(row):
    return row["question"]
def answer(completion, row):
    return completion.strip() or None
def reward(completions, rows):
    return [float(text[:1] in ("0", "2", "4", "6", "8")) for text in completions]
"""


def test_the_domain_of_fifteen_lines_is_a_domain_and_every_script_takes_a_file():
    shown = block("Your own domain in 15 lines")
    assert len([line for line in shown.splitlines() if line.strip()]) <= 15
    own = WORK / "readme"
    own.mkdir()
    (own / "sort.py").write_text(shown), (own / "even.py").write_text(EVEN)
    short = ("--max-completion-length", 4)
    options = ("--steps", 2, "--prompts-per-step", 8, "--group-size", 8, *short, "--eval-prompts", 4, "--eval-samples", 2, "--lr", 1e-3)
    with replaced(domains, loaded=dict(domains.loaded), recorded={}):
        row, = domains.synthetic(domains.use(str(own / "sort.py")), "train", 1, seed=0)
        assert domains.reward("sort", [row["reference"], "9 8 7"], [row, row]) == [1, 0] and row["reference"] == " ".join(sorted(
            row["question"].removeprefix("sort ").split()))
        train = lambda domain, init, out: run(train_grpo.main, "--domain", domain, "--init", init, "--out", own / out, *options)
        code, out, err = train(own / "even.py", talker()[0], "expert")
        assert code == 0 and "2 steps on even" in out and "held-out even" in out, err
        made_with = models.read_run(own / "expert")["domain_files"]["even"]
        assert made_with["file"] == str(own / "even.py") and len(made_with["sha256"]) == 64
        code, out, err = train("qa,even", own / "expert", "later")       # known by its name from now on
        assert code == 0 and models.read_run(own / "later")["recipe"][-2:] == ["even 2", "qa+even 2"], err
        code, out, err = run(refresh.main, own / "later", "--domain", "even", "--out", own / "again", "--keep-every", 1, *options)
        assert code == 0 and re.search(r"^even .*refreshed$", out, re.MULTILINE) and re.search(r"^cw ", out, re.MULTILINE), (out, err)
        code, out, err = run(evaluate.main, own / "expert", own / "later", "--domains", "math,even", "--prompts", 4, *short,
                             "--json", own / "s.json")
        assert code == 0 and "even" in out.splitlines()[1], err
        for reported in ("s.json", "again"):
            code, out, err = run(report.main, own / reported)
            assert code in (0, None) and re.search(r"\beven\b", out), (out, err)
        code, out, err = run(rollback.main, "--anchor", own / "expert", "--damaged", own / "later", "--domain", "even", "--prompts", 4,
                             "--score", "fisher", "--fraction", 0.01, "--eval-prompts", 4, *short)
        assert code in (0, None) and re.search(r"\| +even +\|", out), (out, err)
        code, out, err = run(analyze.main, "--base", talker()[0], own / "expert", "--later", own / "later", "--refresh", own / "again",
                             "--prompts", 8, "--directions", 2, *short)
        assert code in (0, None) and "expert -> later" in out and "Refresh on even" in out, (out, err)
    with replaced(domains, loaded={}, recorded={}):
        code, out, err = run(evaluate.main, own / "expert", "--domains", "even")
        assert code == 2 and str(own / "even.py") in err and err.count("\n") == 1, err     # never run on a run.json's word
