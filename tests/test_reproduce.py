"""Claims about reproduce.py.

Run by test_all.py.
"""
import importlib
import itertools
import json
import os
import shutil
from contextlib import chdir
from pathlib import Path
from unittest import mock

import model as models
import reproduce
import train_grpo
from shared import ROOT, WORK, run, talker


def test_every_command_of_reproduce_is_one_that_its_script_accepts_once_the_ones_before_it_have_run():
    place = WORK / "commands"
    (place / "results").mkdir(parents=True)
    shutil.copytree(ROOT / "checkpoints" / "base", place / "checkpoints" / "base")
    with chdir(place), mock.patch.object(train_grpo, "BASE", "checkpoints/base"), mock.patch.object(
            reproduce, "extremes", lambda files: (("qa", "math", "code", "cw"), ("math", "cw", "qa", "code"))):
        for stage in reproduce.STAGES:
            for script, *words in reproduce.commands(stage, 3):
                made = importlib.import_module(script.removesuffix(".py")).parse(words)
                for option in {*words} & {*reproduce.WRITES}:
                    written = Path(words[words.index(option) + 1])
                    if option != "--out":
                        written.touch()
                    elif not written.exists() and "-sets" not in str(written):         # Code -> Math is of two stages
                        start = getattr(made, "init", "checkpoints/base")
                        before, domain = models.read_run(start), getattr(made, "domain", None)
                        record = {"parent": start, "lineage": [*before.get("lineage", []), start], "domain": domain,
                                  "recipe": [*before.get("recipe", ["base"]), f"{domain} 100"]}
                        every = getattr(made, "keep_every", 0)
                        steps = range(every, made.steps + 1, every) if every else ()
                        for made_here in [written, *(written / f"step-{step:05}" for step in steps)]:
                            shutil.copytree(talker()[0], made_here, copy_function=os.link, ignore=lambda *_: ["run.json"])
                            models.write_json(made_here / "run.json", record)
                    if "-sets" in str(written):
                        for score, fraction in itertools.product(made.score, made.fraction):
                            (written / f"{score}-{fraction:g}").mkdir(parents=True)
                            (written / f"{score}-{fraction:g}" / "coordinates.safetensors").touch()


def test_reproduce_leaves_out_what_is_done_and_a_command_that_fails_ends_its_own_seed_alone():
    place = WORK / "reproduced"
    place.mkdir()
    (place / "write.py").write_text(
        "import json, pathlib, sys\npath = pathlib.Path(sys.argv[-1])\n"
        "times = json.loads(path.read_text())['times'] + 1 if path.exists() else 1\n"
        "path.write_text(json.dumps({'times': times, 'a': [{'prompt_scores': {'x': 1}, 'score': 2}]}))\n")
    times = lambda *names: [json.loads(Path(name).read_text())["times"] for name in names]
    (place / "fail.py").write_text("raise SystemExit('no such luck')")

    def one(seed):
        """First."""
        return f"write.py checkpoint-{seed} --json made-{seed}" if seed else "fail.py"

    def two(seed):
        """Second."""
        return f"write.py --json made-{seed} --out more-{seed}"

    with chdir(place), mock.patch.dict(reproduce.STAGES, {"one": one, "two": two}, clear=True), mock.patch.object(
            reproduce, "__file__", str(place / "reproduce.py")):
        for _ in range(2):
            code, _, err = run(reproduce.main, "--seeds", 0, 1, 2, "--at-a-time", 2)
            assert code == 2 and "fail.py" in err and "no such luck" in err and "Traceback" not in err, err
            assert times("made-1", "made-2", "more-1", "more-2") == [1, 1, 1, 1]
            assert not Path("made-0").exists() and not Path("more-0").exists()
        seconds = json.loads(Path(reproduce.SECONDS).read_text())
        assert len(seconds) == 4 and "write.py checkpoint-1 --json made-1" in seconds
        Path("checkpoint-1").touch()
        os.utime("checkpoint-1", (1e10, 1e10))                      # newer than what was made of it
        Path("more-2").unlink()
        assert run(reproduce.main, "--seeds", 1, 2)[0] == 0
        assert times("made-1", "results/made-1", "made-2", "more-2") == [2, 2, 1, 1]
        assert json.loads(Path("results/made-1").read_text())["a"] == [{"prompt_scores": {}, "score": 2}]
        code, out, _ = run(reproduce.main, "--seeds", 1, "--only", "two", "--list")
        assert code == 0 and out == "python write.py --json made-1 --out more-1\n"
    shutil.rmtree(place)
