"""Every claim this repository makes about itself, each checked against an independent computation.

    python test_all.py                # all; offline, on a CPU, a few minutes; ends with 'N passed, N failed'
    python test_all.py advantage kl   # those with one of the words in their name
    pytest test_all.py                # the same, where pytest is installed

Names read as claims: `test_equal_rewards_give_exactly_zero_advantage`. The tests stand in tests/, a file per subject,
and what they share in tests/shared.py; here is how they are run, and those about the repository as a whole. The files
of tests/ are no commands: `python tests/test_losses.py` runs nothing, `python test_all.py advantage` does. Rows of
public data in ../shared/data are used where they stand and skipped with a reason where they do not.
"""
import argparse


def parse(argv=None):
    """The words that choose the tests to run, a list; all tests for none."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("words", nargs="*", help="run the tests with one of these in their name (default: all)")
    return made.parse_args(argv).words


WORDS = parse() if __name__ == "__main__" else []     # before PyTorch is imported: --help answers at once

import ast
import contextlib
import io
import re
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "tests"))
import analyze
import bench
import evaluate
import merge
import model as models
import refresh
import report
import rollback
from shared import ROOT, SKIP, WORK, grpo_command, run, same_weights, talker, undisturbed

for file in sorted((Path(__file__).resolve().parent / "tests").glob("test_*.py")):
    found = {name: test for name, test in vars(__import__(file.stem)).items() if name.startswith("test_") and callable(test)}
    assert not found.keys() & globals().keys(), f"a name is taken: {sorted(found.keys() & globals().keys())}"
    globals().update(found)

SCRIPTS = ("train_grpo", "refresh", "rollback", "analyze", "evaluate", "merge", "report", "reproduce", "bench", "test_all")
FLOORS = ("model", "domains", "grpo", "theory", "reports", "scripts")      # imports go down, or stay on their floor
RUN = {"domains/sandbox.py", "grpo/warmup.py"}     # files in folders that are run themselves


def test_imports_run_one_way_and_never_in_circles_and_requirements_are_the_four():
    files = {p.relative_to(ROOT) for p in [*ROOT.glob("*.py"), *ROOT.glob("[!.]*/*.py")] if p.parts[-2] != "tests"}
    names = {".".join(f.with_suffix("").parts).removesuffix(".__init__"): f for f in files}
    floor = lambda name: FLOORS.index(name.partition(".")[0]) if name.partition(".")[0] in FLOORS else len(FLOORS) - 1
    imports = {}
    for name, file in names.items():
        found = set()
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        imports[name] = (found & names.keys()) - {name}
        assert all(floor(other) <= floor(name) for other in imports[name]), (name, imports[name])
    assert {name for name in names if floor(name) == len(FLOORS) - 1} == set(SCRIPTS)     # nothing else stands on top

    def reaches(name, seen):
        assert name not in seen, f"circle: {seen} {name}"
        for other in imports[name]:
            if not (other == "domains" and name.startswith("domains.")):       # a domain file uses its folder's helpers
                reaches(other, [*seen, name])
    for name in imports:
        reaches(name, [])
    wanted = re.findall(r"^[a-z]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert wanted == ["torch", "transformers", "datasets", "tqdm"]


def test_every_flag_is_read_somewhere():
    everywhere = "".join(p.read_text() for p in [*ROOT.glob("*.py"), *ROOT.glob("[!.t]*/*.py")])
    for script in [*(f"{name}.py" for name in SCRIPTS), "grpo/warmup.py", "grpo/settings.py"]:
        for flag in re.findall(r'\("--([a-z-]+)", ', (ROOT / script).read_text()):
            assert re.search(rf"args\.{flag.replace('-', '_')}\b", everywhere), (script, flag)


def test_help_is_the_docstring_of_a_script_and_imports_nothing_heavy_and_nor_does_a_mistake():
    code = ("import runpy, sys\nheavy = {'torch', 'transformers', 'datasets'}\ntry:\n"
            "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "finally:\n    sys.stderr.write(f'heavy: {sorted(heavy & sys.modules.keys())}')")
    for script in (*(f"{name}.py" for name in SCRIPTS), "grpo/warmup.py"):
        for argv in (["--help"], ["--no-such-option", "x"]):
            done = subprocess.run([sys.executable, "-c", "import sys; sys.argv = sys.argv[1:]\n" + code, script, *argv],
                                  capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
            assert done.stderr.endswith("heavy: []"), (script, argv, done.stderr)
            head = ast.get_docstring(ast.parse((ROOT / script).read_text())).splitlines()[0]
            mistake = done.returncode == 2 and "error: " in done.stderr
            assert head in done.stdout if argv == ["--help"] else mistake, (script, done)


def test_a_file_that_is_read_says_when_it_is_run_what_it_is_and_who_uses_it():
    for file in sorted(f for folder in FLOORS[1:-1] for f in (ROOT / folder).glob("*.py")):
        place = str(file.relative_to(ROOT))
        if place in RUN:
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                runpy.run_path(str(file), run_name="__main__")
                said = ""
            except SystemExit as stop:
                said = str(stop.code)
        first = ast.parse(file.read_text()).body[1]  # before any import: run by its path, its folder alone is on the path
        assert isinstance(first, ast.If), place
        assert said.strip() == ast.get_docstring(ast.parse(file.read_text()), clean=False).strip(), place
        if not place.startswith("domains/"):
            assert re.search(rf"\b({'|'.join(SCRIPTS)})\.py", said), place


def test_every_script_runs_end_to_end_from_the_command_line():
    expert = subprocess.run(grpo_command(WORK / "cli", "--overwrite"), capture_output=True, text=True)
    assert expert.returncode == 0 and f"{WORK / 'cli'}: 7 steps on math" in expert.stdout, expert.stderr
    assert same_weights(WORK / "cli", undisturbed())     # another process, the same bits
    lineage = models.read_run(WORK / "cli")
    assert [lineage[key] for key in ("parent", "domain", "steps", "seed")] == [talker()[0], "math", 7, 0]
    short = ["--max-completion-length", "4"]
    again = subprocess.run([sys.executable, ROOT / "refresh.py", WORK / "cli", "--domain", "qa", "--steps", "1", "--out",
                            WORK / "cli-qa", "--prompts-per-step", "2", "--group-size", "2", "--eval-prompts", "2",
                            "--eval-samples", "1", *short], capture_output=True, text=True, cwd=WORK)
    assert again.returncode == 0 and "Traceback" not in again.stderr, again.stderr
    for script, *argv in (
            (evaluate, WORK / "cli", "--prompts", 4, "--samples", 2, *short),
            (evaluate, WORK / "cli", WORK / "cli-qa", "--prompts", 2, "--samples", 1, *short, "--json", WORK / "cli.json"),
            (report, WORK / "cli.json"), (report, WORK / "cli"),
            (analyze, "--base", talker()[0], WORK / "cli", "--json", WORK / "analysis.json", "--weights-only"),
            (report, WORK / "analysis.json"),
            (rollback, "--anchor", talker()[0], "--damaged", WORK / "cli", "--domain", "math", "--data",
             f"math={talker()[1]}", "--prompts", 4, "--eval-prompts", 2, "--out", WORK / "cli-rolled", *short, "--json",
             WORK / "cli-rolled.json"),
            (report, WORK / "cli-rolled.json"),
            (merge, "mean", WORK / "cli", WORK / "cli-qa", "--out", WORK / "cli-soup"),
            (bench, "--memory", talker()[0], "--prompt", 8, "--completion", 8)):
        # in this process: importing torch and transformers once more takes seconds
        code, _, err = run(script.main, *argv)
        assert code in (0, None) and "Traceback" not in err, (argv, err)


# ---- the runner --------------------------------------------------------------------------------------------------

def main():
    passed, failed, skipped = 0, 0, 0
    for name, test in list(globals().items()):
        if not name.startswith("test_") or not callable(test) or not any(word in name for word in WORDS or [""]):
            continue
        start, said = time.perf_counter(), io.StringIO()       # what a test prints is of interest where it fails
        try:
            with contextlib.redirect_stdout(said):
                test()
            passed, verdict = passed + 1, "ok"
        except SKIP as reason:
            skipped, verdict = skipped + 1, f"skipped: {reason}"
        except Exception as error:
            import traceback
            failed, verdict = failed + 1, f"FAILED: {type(error).__name__}: {str(error)[:2000]}"
            print(said.getvalue(), end="")
            traceback.print_exc()
        print(f"{time.perf_counter() - start:6.2f} s  {name.removeprefix('test_').replace('_', ' ')}: {verdict}", flush=True)
    shutil.rmtree(WORK, ignore_errors=True)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    sys.exit(failed > 0 or passed + skipped == 0)


if __name__ == "__main__":
    main()
