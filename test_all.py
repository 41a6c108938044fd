"""Every claim this repository makes about itself, each checked against an independent computation.

    python test_all.py                # all; offline, on a CPU, a few minutes; ends with 'N passed, N failed'
    python test_all.py advantage kl   # those with one of the words in their name
    pytest test_all.py                # the same, where pytest is installed

Names read as claims: `test_equal_rewards_give_exactly_zero_advantage`. The tests stand in tests/, a file per subject,
and what they share in tests/shared.py; here is how they are run, and those about the repository as a whole. The files
of tests/ are no commands: `python tests/test_losses.py` runs nothing, `python test_all.py advantage` does. Rows of
public data in ../shared/data are used where they stand and skipped with a reason where they do not.
"""
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import analyze
import bench
from reports import claims
import evaluate
from reports import forgetting
from reports import interference
from reports import memory
import merge
from reports import methods
import model as models
from reports import recovery
import refresh
import rollback
from grpo import warmup

sys.path.insert(0, str(Path(__file__).resolve().parent / "tests"))
from shared import ROOT, SKIP, WORK, grpo_command, run, same_weights, talker, undisturbed
import test_analyze
import test_domains
import test_evaluate
import test_faults
import test_losses
import test_math_answer
import test_merge
import test_methods
import test_parallel
import test_refresh
import test_rollback
import test_rollout
import test_sandbox
import test_train
for module in (test_analyze, test_domains, test_evaluate, test_faults, test_losses, test_math_answer, test_merge,
               test_methods, test_parallel, test_refresh, test_rollback, test_rollout, test_sandbox, test_train):
    found = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    assert not found.keys() & globals().keys(), f"a name is taken: {sorted(found.keys() & globals().keys())}"
    globals().update(found)


def test_every_flag_is_read_somewhere():
    for script in ("train_grpo.py", "refresh.py", "evaluate.py", "reports/interference.py", "analyze.py", "reports/claims.py",
                   "rollback.py", "reports/recovery.py", "merge.py", "reports/methods.py", "reports/forgetting.py", "grpo/warmup.py"):
        source = "".join((ROOT / name).read_text() for name in (script, "grpo/settings.py", "train_grpo.py", "grpo/resume.py", "domains/rows.py"))
        for flag in re.findall(r'add_argument\("--([a-z-]+)"', source):
            name = flag.replace("-", "_")
            assert re.search(rf'args\.{name}\b', source), (script, flag)


def test_every_script_runs_end_to_end_from_the_command_line():
    expert = subprocess.run(grpo_command(WORK / "cli", "--overwrite"), capture_output=True, text=True)
    assert expert.returncode == 0 and f"{WORK / 'cli'}: 7 steps on math" in expert.stdout, expert.stderr
    assert same_weights(WORK / "cli", undisturbed())     # another process, the same bits
    lineage = models.read_run(WORK / "cli")
    assert lineage["parent"] == talker()[0] and lineage["domain"] == "math" and lineage["steps"] == 7 and lineage["seed"] == 0
    for argv in (["evaluate.py", str(WORK / "cli"), "--prompts", "4", "--samples", "2", "--max-completion-length", "4"],
                 ["refresh.py", str(WORK / "cli"), "--domain", "qa", "--steps", "1", "--out", str(WORK / "cli-qa"),
                  "--prompts-per-step", "2", "--group-size", "2", "--eval-prompts", "2", "--eval-samples",
                  "1", "--max-completion-length", "4"],
                 ["evaluate.py", str(WORK / "cli"), str(WORK / "cli-qa"), "--prompts", "2", "--samples", "1",
                  "--max-completion-length", "4", "--json", str(WORK / "cli.json")], ["interference.py", str(WORK / "cli.json")],
                 ["analyze.py", "--base", talker()[0], str(WORK / "cli"), "--json", str(WORK / "analysis.json"),
                  "--weights-only"],
                 ["claims.py", str(WORK / "analysis.json")],
                 ["rollback.py", "--anchor", talker()[0], "--damaged", str(WORK / "cli"), "--domain", "math",
                  "--data", f"math={talker()[1]}", "--prompts", "4", "--eval-prompts", "2", "--out", str(WORK / "cli-rolled"),
                  "--max-completion-length", "4", "--json", str(WORK / "cli-rolled.json")],
                 ["recovery.py", str(WORK / "cli-rolled.json")],
                 ["merge.py", "mean", str(WORK / "cli"), str(WORK / "cli-qa"), "--out", str(WORK / "cli-soup")],
                 ["train_grpo.py", "--help"]):
        if argv[0] in ("refresh.py", "train_grpo.py"):
            done = subprocess.run([sys.executable, str(ROOT / argv[0]), *argv[1:]], capture_output=True, text=True, cwd=WORK)
            code, err = done.returncode, done.stderr
        else:                                        # in this process: importing torch and transformers once more takes seconds
            code, _, err = run(globals()[argv[0].removesuffix(".py")].main, *argv[1:])
        assert code in (0, None) and "Traceback" not in err, (argv, err)
    for script in (evaluate, refresh, interference, analyze, claims, rollback, recovery, merge, methods,
                   forgetting, warmup, bench, memory):
        code, out, _ = run(script.main, "--help")
        assert code in (0, None) and "usage:" in out and script.__doc__.strip().splitlines()[0] in out, script


def test_nothing_imports_in_circles_and_requirements_are_the_four():
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p.read_text()
             for p in [*ROOT.glob("*.py"), *ROOT.glob("[!.]*/*.py")]}
    imports = {name: set() for name in files}
    for name, text in files.items():
        for package, names in re.findall(r"^(?:from ([\w.]+) )?import ([\w, ]+)", text, re.MULTILINE):
            imports[name] |= {package, *(f"{package}.{one}".strip(".") for one in re.split(r", | as ", names))}
        imports[name].discard(name)

    def reaches(name, seen):
        assert name not in seen, f"circle: {seen} {name}"
        for other in imports[name] & imports.keys():
            reaches(other, seen + [name])
    for name in imports:
        reaches(name, [])
    wanted = re.findall(r"^[a-z]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert wanted == ["torch", "transformers", "datasets", "tqdm"]


# ---- the runner --------------------------------------------------------------------------------------------------

def main():
    passed, failed, skipped = 0, 0, 0
    for name, test in list(globals().items()):
        if not name.startswith("test_") or not callable(test) or not any(w in name for w in sys.argv[1:] or [""]):
            continue
        start = time.perf_counter()
        try:
            test()
            passed, verdict = passed + 1, "ok"
        except SKIP as reason:
            skipped, verdict = skipped + 1, f"skipped: {reason}"
        except Exception as error:
            import traceback
            failed, verdict = failed + 1, f"FAILED: {type(error).__name__}: {str(error)[:2000]}"
            traceback.print_exc()
        print(f"{time.perf_counter() - start:6.2f} s  {name.removeprefix('test_').replace('_', ' ')}: {verdict}", flush=True)
    shutil.rmtree(WORK, ignore_errors=True)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    sys.exit(failed > 0 or passed + skipped == 0)


if __name__ == "__main__":
    main()
