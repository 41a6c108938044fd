"""Claims about what goes wrong: runs that are interrupted or killed, full disks, broken graders and checkpoints, mistakes.

Run by test_all.py.
"""
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import torch

import analyze
from reports import claims
import domains
from domains import math_
import evaluate
from reports import story
import merge
import model as models
from reports import recovery
import refresh
import report
from grpo import directory
import rollback
from grpo import rollout as rollouts
from grpo import scores
import train_grpo
from shared import (REFRESH, ROOT, WORK, grpo_command, lively, raised, read_jsonl, refresh_command, replaced, run, same_weights,
                    snapshot, talker, tiny, train, undisturbed, undisturbed_refresh, weights, with_reward)


# ---- interrupted runs --------------------------------------------------------------------------------------------

def test_resume_is_bit_identical_to_no_interruption():
    options = ("--domain", "math", "--steps", 7, "--save-every", 2, "--inner-updates", 2)
    whole = with_reward(lively, lambda: train(WORK / "calm", *options))
    calls = []

    def dies(domain, completions, rows):
        calls.append(1)
        if len(calls) == 6:                          # after the checkpoint of step 4, in step 6
            raise models.UserError("pulled the plug")
        return lively(domain, completions, rows)
    with_reward(dies, lambda: train(WORK / "stopped", *options, code=2))
    assert (WORK / "stopped" / directory.STATE).is_file()
    with_reward(lively, lambda: train(WORK / "stopped", *options, "--resume"))
    assert same_weights(whole, WORK / "stopped") and not same_weights(whole, tiny()[0])
    logs = [[json.loads(line) for line in (d / "log.jsonl").read_text().splitlines()] for d in (whole, WORK / "stopped")]
    timing = {"tokens_per_s", "seconds_rollout", "seconds_reward", "seconds_update"}
    assert [{k: v for k, v in l.items() if k not in timing} for l in logs[0]] == \
        [{k: v for k, v in l.items() if k not in timing} for l in logs[1]] and len(logs[0]) == 7
    assert not (whole / directory.STATE).exists() and models.read_run(whole)["finished"]
    before = snapshot(whole)
    with_reward(lively, lambda: train(whole, *options, "--resume"))      # finished: nothing is left to do
    train(whole, *options, "--resume", "--domain", "code", code=2)       # another run
    train(whole, *options, "--resume", "--steps", 3, code=2)             # shorter than what was done
    assert snapshot(whole) == before


def test_resume_refuses_other_settings_and_other_data():
    path = WORK / "some.jsonl"
    write = lambda n: path.write_text("".join(json.dumps({"question": f"{i}+{n}=", "answer": i + n}) + "\n" for i in range(20)))
    write(1)
    options = ("--domain", "math", "--data", path, "--steps", 6, "--save-every", 1, "--eval-data", path)
    def dies(domain, completions, rows):
        if "die" in flags and flags.pop():
            raise models.UserError("pulled the plug")
        flags.append("die")
        return lively(domain, completions, rows)
    flags = []
    with_reward(dies, lambda: train(WORK / "data", *options, code=2))
    code, _, err = run(train_grpo.main, "--init", tiny()[0], "--out", WORK / "data", "--prompts-per-step", 4, "--group-size", 4,
                       "--max-completion-length", 8, "--eval-prompts", 0, "--lr", 2e-3, *options, "--resume")
    assert code == 2 and "--lr" in err
    write(2)
    code, _, err = run(train_grpo.main, "--init", tiny()[0], "--out", WORK / "data", "--prompts-per-step", 4, "--group-size", 4,
                       "--max-completion-length", 8, "--eval-prompts", 0, "--lr", 1e-3, *options, "--resume")
    assert code == 2 and "other rows" in err


# A script whose process dies, as by kill -9, in place of its n-th renaming of a file: in the middle of saving.
DIES_SAVING = """
import os, runpy, signal, sys
left, rename, sys.argv = [int(sys.argv[1])], os.replace, sys.argv[2:]
def replace(*names):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*names)
os.replace = replace
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_kill_9_at_random_moments_of_training_refreshing_and_saving_then_resume_ends_with_the_same_weights():
    rng = random.Random(time.time())
    refreshing = [sys.executable, ROOT / "refresh.py",
                  *refresh_command(talker()[0], WORK / "killed-refresh", *REFRESH, "--resume")]
    runs = [(grpo_command(WORK / "killed", "--resume"), WORK / "killed", undisturbed()),
            (list(map(str, refreshing)), WORK / "killed-refresh", undisturbed_refresh())]
    for attempt in range(int(os.environ.get("KILLS", 4))):       # KILLS=32 python test_all.py kill_9
        command, out, _ = runs[attempt % 2]
        if attempt % 4 < 2:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(2.5, 5.0))
            process.kill()
            process.wait()
        else:
            done = subprocess.run([sys.executable, "-c", DIES_SAVING, str(rng.randrange(25)), *command[1:]], capture_output=True)
            assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        if (out / "config.json").is_file():          # whatever stands there loads
            models.load(str(out))
    for command, out, whole in runs:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert same_weights(out, whole) and not same_weights(out, talker()[0])
        steps = [line["step"] for line in read_jsonl(out / "log.jsonl")]
        assert steps == [line["step"] for line in read_jsonl(whole / "log.jsonl")] == list(range(1, len(steps) + 1))
    assert read_jsonl(out / "validation.jsonl") == read_jsonl(undisturbed_refresh() / "validation.jsonl")


def test_ctrl_c_leaves_a_usable_checkpoint_and_says_how_to_go_on():
    out = WORK / "ctrlc"
    command = grpo_command(out)
    command[command.index("--steps") + 1] = "2000"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.time() + 60
    while not ((out / "log.jsonl").is_file() and len((out / "log.jsonl").read_text().splitlines()) > 2):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in stdout
    models.load(str(out))
    steps = models.read_run(out)["steps"]
    assert steps == len((out / "log.jsonl").read_text().splitlines()) > 0


def test_a_run_killed_in_its_last_evaluation_has_lost_nothing():
    graded, respond = [], scores.respond

    def dies(*args, **options):
        graded.append(1)
        if len(graded) == 2:                         # the evaluation after training
            raise models.UserError("pulled the plug")
        return respond(*args, **options)
    options = ("--domain", "math", "--steps", 3, "--eval-prompts", 4)
    with replaced(scores, respond=dies):
        with_reward(lively, lambda: train(WORK / "late", *options, code=2))
    trained = weights(WORK / "late")
    with_reward(lively, lambda: train(WORK / "late", *options, "--resume"))
    assert all(torch.equal(trained[name], tensor) for name, tensor in weights(WORK / "late").items())
    metrics = models.read_run(WORK / "late")["metrics"]["math"]
    assert metrics["before"]["prompts"] == metrics["after"]["prompts"] == 4


def test_a_run_that_died_before_its_first_checkpoint_leaves_nothing_to_the_next():
    out = WORK / "early"

    def dies(*_):
        raise models.UserError("pulled the plug")
    with_reward(dies, lambda: train(out, "--domain", "math", "--steps", 2, code=2))
    directory.append(out / "validation.jsonl", [{"step": 0, "scores": {"math": {"score": 99.0, "prompt_scores": {}}}}])
    with_reward(lively, lambda: train(out, "--domain", "math", "--steps", 2, "--resume", "--eval-prompts", 3))
    assert models.read_run(out)["metrics"]["math"]["before"]["prompts"] == 3


def test_a_second_run_into_a_directory_refuses_and_a_killed_one_holds_nothing():
    out = WORK / "shared-by-two"
    command = grpo_command(out)
    command[command.index("--steps") + 1] = "2000"
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not (out / "log.jsonl").is_file():
        assert time.time() < deadline and first.poll() is None
        time.sleep(0.05)
    for how in ("--overwrite", "--resume"):
        code, _, err = run(train_grpo.main, *command[2:], how)
        assert code == 2 and "another run is writing" in err and err.count("\n") == 1, err
    first.kill()
    first.wait()
    code, _, err = run(train_grpo.main, *grpo_command(out, "--overwrite")[2:])
    assert code == 0 and same_weights(out, undisturbed()), err
    assert not list(WORK.glob(".shared-by-two*"))


def test_a_full_disk_is_one_line_and_the_checkpoint_that_stood_there_still_loads():
    out = WORK / "full"
    shutil.copytree(undisturbed(), out)
    before = snapshot(out)
    # No file may become larger than 50 kB, less than the weights: as with a disk that is full, writing fails half way.
    command = f"ulimit -f 50; exec {shlex.join(grpo_command(out, '--overwrite'))}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert snapshot(out) == before
    models.load(str(out))


def test_overwrite_keeps_the_old_checkpoint_until_there_is_a_new_one():
    out = with_reward(lively, lambda: train(WORK / "kept", "--domain", "math", "--steps", 1))
    old = weights(out)

    def dies(*_):
        raise models.UserError("pulled the plug")
    with_reward(dies, lambda: train(out, "--domain", "math", "--steps", 2, "--overwrite", code=2))
    assert all(torch.equal(old[name], kept) for name, kept in weights(out).items())
    with_reward(lively, lambda: train(out, "--domain", "math", "--steps", 2, "--overwrite"))
    assert models.read_run(out)["steps"] == 2 and not [p.name for p in WORK.iterdir() if p.name.startswith(".kept")]


def test_a_file_that_no_script_wrote_is_never_replaced_and_a_place_for_pictures_is_a_directory():
    (WORK / "thesis.md").write_text("years of work")
    base, expert = talker()[0], undisturbed()
    for main, argv in ((analyze.main, ("--base", base, expert, "--weights-only", "--json", WORK / "thesis.md")),
                       (analyze.main, ("--base", base, expert, "--weights-only", "--plot", WORK / "thesis.md")),
                       (evaluate.main, (base, "--samples-file", WORK / "thesis.md")),
                       (rollback.main, ("--anchor", base, "--domain", "math", "--save-fisher", WORK / "thesis.md")),
                       (report.main, (expert, "--plot", WORK / "thesis.md" / "x")), (report.main, (WORK / "missing.json",))):
        code, _, err = run(main, *argv)
        assert code == 2 and err.count("\n") == 1 and ("thesis.md" in err or "there is no file" in err), (argv, err)
    assert (WORK / "thesis.md").read_text() == "years of work"


def test_a_resumed_run_notices_that_its_domain_file_has_changed():
    own = WORK / "changing" / "changing.py"
    own.parent.mkdir()
    own.write_text("def synthetic(rng):\n    return {'question': f'{rng.random():.3f}', 'reference': '1'}\n"
                   "def prompt(row):\n    return row['question']\ndef answer(completion, row):\n    return completion\n"
                   "def reward(completions, rows):\n    return [float(len(text) % 2) for text in completions]\n")
    options = ("--domain", own, "--init", tiny()[0], "--out", WORK / "changing" / "run", "--steps", 3, "--save-every", 1,
               "--prompts-per-step", 2, "--group-size", 4, "--max-completion-length", 4, "--eval-prompts", 0, "--lr", 1e-3)
    step = train_grpo.train_step

    def dies(*rest):
        if rest[-1] == 2:
            raise models.UserError("pulled the plug")
        return step(*rest)
    with replaced(domains, loaded=dict(domains.loaded)), replaced(train_grpo, train_step=dies):
        assert run(train_grpo.main, *options)[0] == 2
    own.write_text(own.read_text().replace("% 2)", "% 3 == 1)"))
    with replaced(domains, loaded=dict(domains.loaded)):
        code, _, err = run(train_grpo.main, *options, "--resume")
    assert code == 2 and "a domain's file has another content" in err and err.count("\n") == 1, err


# ---- graders, prompts, checkpoints, command lines ----------------------------------------------------------------

def test_a_grader_that_raises_or_hangs_is_counted_warned_of_and_no_wrong_answer():
    reward, limit = math_.reward, domains.GRADING_SECONDS

    def broken(completions, rows):
        completion, = completions                    # one at a time, so that only this one is lost
        if completion and ord(completion[0]) % 4 == 1:
            raise ZeroDivisionError("a bug in a grader")
        while completion and ord(completion[0]) % 16 == 3:
            pass
        return reward(completions, rows)
    math_.reward, domains.GRADING_SECONDS = broken, 0.05
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lines = read_jsonl(train(WORK / "broken-grader", "--domain", "math", "--steps", 2) / "log.jsonl")
    finally:
        math_.reward, domains.GRADING_SECONDS = reward, limit
    said = "".join(str(warning.message) for warning in caught)
    assert sum(line["verifier_errors"] for line in lines) == len(caught) > 0
    assert "a bug in a grader" in said and "no result after 0.05 s" in said, said
    deadline = time.time() + 5                      # those that hung have been ended
    graders = lambda: [thread for thread in threading.enumerate() if thread.name == "grader"]
    while graders() and time.time() < deadline:
        time.sleep(0.01)
    assert not graders()


def test_any_prompt_is_read_as_it_stands_or_refused_by_length_and_weights_of_any_float_type_load():
    texts = ["", " ", "\0", "e\u0301\u200b\u202e", "\U0001f468\u200d\U0001f469", "<|user|><|end|>", "\ud800",
             "\n" * 50, "a" * 300]
    init, _, tokenizer = tiny()
    rows = [{"question": text, "answer": "1"} for text in texts if text != "\ud800"]          # which no file of rows may hold
    (WORK / "odd-prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for text, ids in zip(texts, rollouts.encode(tokenizer, texts, 400)):
        assert text.encode("utf-8", "replace").decode() in tokenizer.decode(ids), text
    assert "--max-prompt-length" in str(raised(lambda: rollouts.encode(tokenizer, texts, 299)))
    code, out, err = run(train_grpo.main, "--init", init, "--domain", "math", "--data", WORK / "odd-prompts.jsonl",
                         "--out", WORK / "odd", "--steps", 2, "--prompts-per-step", 6, "--group-size", 2,
                         "--max-completion-length", 4, "--eval-prompts", 0)
    assert code == 0, err
    code, out, err = run(train_grpo.main, "--init", init, "--domain", "math", "--data", WORK / "odd-prompts.jsonl",
                         "--out", WORK / "odd2", "--max-prompt-length", 100, "--eval-prompts", 0)
    assert code == 2 and "--max-prompt-length" in err and not (WORK / "odd2").exists(), err
    from safetensors.torch import save_file
    reference = models.load(init, "cpu", torch.float32)[0].state_dict()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        place = WORK / f"stored-{dtype}".replace("torch.", "")
        shutil.copytree(init, place)
        save_file({name: tensor.to(dtype) for name, tensor in weights(init).items()}, place / "model.safetensors",
                  {"format": "pt"})
        got = models.load(str(place), "cpu", torch.float32)[0].state_dict()
        assert all(torch.equal(got[name], reference[name].to(dtype).float()) for name in reference), dtype


def test_a_diverged_model_is_an_error_and_never_a_score_of_zero():
    from safetensors.torch import save_file
    broken = WORK / "diverged"
    shutil.copytree(tiny()[0], broken)
    tensors = weights(broken)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    code, _, err = run(evaluate.main, broken, "--prompts", 2, "--samples", 1)
    assert code == 2 and "not finite" in err
    code, _, err = run(train_grpo.main, "--domain", "math", "--init", broken, "--out", WORK / "no", "--eval-prompts", 0)
    assert code == 2 and "not finite" in err


def test_missing_tensors_are_an_error_that_names_the_first():
    from safetensors.torch import save_file
    partial = WORK / "partial"
    shutil.copytree(tiny()[0], partial)
    save_file({k: v for k, v in weights(partial).items() if "layers.1." not in k}, partial / "model.safetensors",
              {"format": "pt"})
    code, _, err = run(evaluate.main, partial, "--prompts", 2)
    assert code == 2 and "model.layers.1.input_layernorm.weight" in err


def test_every_mistake_gets_one_clear_line_and_exit_code_2_and_overwrites_nothing():
    good = tiny()[0]
    broken = {name: WORK / "broken" / name for name in ("truncated", "no-weights", "no-config", "corrupt-config",
                                                        "no-template", "no-end",
                                                      "bad-template", "bad-lineage")}
    for path in broken.values():
        shutil.copytree(good, path)
    (broken["truncated"] / "model.safetensors").write_bytes((Path(good) / "model.safetensors").read_bytes()[:5000])
    (broken["no-weights"] / "model.safetensors").unlink()
    (broken["no-config"] / "config.json").unlink()
    (broken["corrupt-config"] / "config.json").write_text("{")
    (broken["bad-template"] / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    (broken["bad-lineage"] / "run.json").write_text("[1]")
    (broken["no-template"] / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((broken["no-end"] / "tokenizer_config.json").read_text())
    (broken["no-end"] / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "eos_token"}))
    files = {"empty.jsonl": "", "wrong.jsonl": '{"foo": 1, "bar": 2}\n', "nonsense.jsonl": "not json\n", "rows.txt": "x",
             "odd.jsonl": '{"question": "q", "answer": ["3", "4"]}\n{"question": "q", "answer": null}\n',
             "noanswer.jsonl": '{"question": "q", "answer": ""}\n',
             "long.jsonl": json.dumps({"question": "9" * 3000, "answer": "1"}) + "\n"}
    for name, text in files.items():
        (WORK / name).write_text(text)
    existing, other = undisturbed(), WORK / "somebody-elses"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    before = snapshot(existing), snapshot(other)
    base = ("--domain", "math", "--init", good, "--out", WORK / "never", "--eval-prompts", 0)
    for argv, words in (
            ((*base, "--domain", "poetry"), ("unknown domain", "math, code, qa, cw")),
            ((*base, "--group-size", 1), ("--group-size", "at least 2")),
            ((*base, "--steps", 0), ("--steps",)), ((*base, "--top-p", 0), ("--top-p",)),
            ((*base, "--temperature", 0), ("--temperature",)), ((*base, "--lr", -1), ("--lr",)),
            ((*base, "--init", WORK / "nowhere"), ("no checkpoint at",)),
            ((*base, "--init", WORK), ("is no checkpoint",)),
            ((*base, "--init", broken["truncated"]), ("is damaged", "model.safetensors")),
            ((*base, "--init", broken["no-weights"]), ("half-written",)),
            ((*base, "--init", broken["no-config"]), ("no config.json",)),
            ((*base, "--init", broken["corrupt-config"]), ("cannot load",)),
            ((*base, "--init", broken["no-template"]), ("chat_template",)),
            ((*base, "--init", broken["no-end"]), ("eos_token",)),
            ((*base, "--data", WORK / "nowhere.jsonl"), ("no data file",)),
            ((*base, "--data", WORK / "empty.jsonl"), ("is empty",)),
            ((*base, "--data", WORK / "rows.txt"), (".jsonl",)),
            ((*base, "--data", WORK / "nonsense.jsonl"), ("cannot read",)),
            ((*base, "--data", WORK / "wrong.jsonl"), ("foo, bar", "question, problem", "--fields")),
            ((*base, "--data", WORK / "noanswer.jsonl"), ("no answer",)),
            ((*base, "--data", WORK / "long.jsonl", "--eval-data", WORK / "long.jsonl"), ("--max-prompt-length", "2048")),
            ((*base, "--data", WORK / "wrong.jsonl", "--fields", "question=nope"), ("foo, bar",)),
            ((*base, "--max-completion-length", 5000), ("--max-completion-length", "4096")),
            ((*base, "--out", existing), ("--resume", "--overwrite")),
            ((*base, "--out", other, "--overwrite"), ("no run of ours", "thesis.tex")),
            ((*base, "--out", other, "--resume"), ("no run of ours", "thesis.tex")),
            ((*base, "--out", good), ("choose another",)),
            ((*base, "--out", talker()[0], "--resume"), ("no interrupted run",)),
            ((*base, "--overwrite", "--resume"), ("choose one",)),
            ((*base, "--device", "abacus"), ("abacus",)),
            ((*base, "--data", ""), ("empty name",)),
            ((*base, "--data", WORK / "odd.jsonl"), ("odd.jsonl",)),
            ((*base, "--init", broken["bad-template"]), ("chat template",)),
            ((*base, "--init", broken["bad-lineage"]), ("lineage",)),
            ((*base, "--domain", "math,math"), ("twice",)),
            ((*base, "--domain", "math,qa", "--data", "x.jsonl"), ("DOMAIN=SOURCE",)),
            ((*base, "--domain", "math,qa", "--data", "math=x.jsonl"), ("no rows of qa",)),
            ((*base, "--domain", "math", "--data", "qa=x.jsonl"), ("not among",)),
            ((*base, "--domain", "math,qa,cw", "--prompts-per-step", 2), ("--prompts-per-step", "at least 3")),
            ((*base, "--domain", "math,qa", "--schedule", "alternating", "--steps", 1), ("--steps", "at least 2")),
            ((*base, "--domain", "math,qa", "--fields", "question=q"), ("one domain",)),
            ((*base, "--fields", "question=q"), ("--fields", "--data")), ((*base, "--judge", good), ("creative writing",)),
            ((*base, "--data", "gsm8k"), ("no such file", "OWNER/NAME")),
            ((*base, "--eval-data", ""), ("empty name",))):
        code, _, err = run(train_grpo.main, *argv)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in err, (argv, code, err)
        assert all(word in lines[0] for word in words), (argv, lines)
        assert not (WORK / "never").exists()
    assert (snapshot(existing), snapshot(other)) == before
    shutil.copytree(undisturbed(), WORK / "reference")
    for argv, words in (((WORK / "nowhere", "--domain", "math", "--out", WORK / "never"), ("no checkpoint at",)),
                        ((good, "--domain", "math", "--out", existing, "--resume"), ("another script",)),
                        ((good, "--domain", "math", "--out", WORK / "never", "--until-recovered", WORK / "nowhere"),
                         ("no checkpoint",)),
                        ((good, "--domain", "math", "--out", WORK / "reference", "--overwrite", "--until-recovered",
                          WORK / "reference"), ("reads", "choose another")),
                        ((good, "--domain", "math", "--out", WORK / "never", "--eval-prompts", 0, "--until-recovered", good),
                         ("--eval-prompts",))):
        code, _, err = run(refresh.main, *argv)
        assert code == 2 and all(word in err for word in words), (argv, err)
        assert err.strip().splitlines()[-1].startswith("error: "), (argv, err)
        assert not (WORK / "never").exists()
    assert (snapshot(existing), snapshot(other)) == before
    for argv in ((WORK / "nowhere",), (good, "--domains", "x"), (good, "--data", "math"), (good, "--samples", 0),
                 (good, "--domains", "math,math"), (good, "--domains", "math", "--data", "qa=x"), (good, "--temperature", "nan"),
                 (good, "--json", WORK / "nowhere" / "x.json"), (good, "--json", WORK), (),
                 ("--compare", good, WORK / "nowhere"), ("--compare", good, WORK / "nowhere.json:x"),
                 ("--compare", good, WORK / "scores.json:x")):
        code, _, err = run(evaluate.main, *argv)
        assert code == 2 and err.strip().splitlines()[-1].startswith("error: "), (argv, err)


# ---- what is read stays, what is damaged is named ----------------------------------------------------------------

def one_line(main, *argv, code=2):
    """The one line that a script says on stderr when it refuses something."""
    got, _, err = run(main, *argv)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert got == code and len(lines) == 1 and "Traceback" not in err, (argv, got, err)
    return lines[0]


def pulled_in(step):
    """A reward like that of math, for `with_reward`, with which a run dies in a step, counted from 1."""
    calls = []

    def dies(domain, completions, rows):
        calls.append(1)
        if len(calls) == step:
            raise models.UserError("pulled the plug")
        return [float(text == row["answer"]) for text, row in zip(completions, rows)]
    return dies


def test_no_option_lets_a_run_replace_what_it_reads_or_what_is_not_its_own():
    good, data = talker()
    foreign, parent = WORK / "no-run-of-ours", WORK / "with-steps"
    shutil.copytree(good, foreign)
    (foreign / "run.json").unlink()
    train(parent, "--domain", "math", "--steps", 2, "--keep-every", 1)
    before = snapshot(foreign), snapshot(parent)
    base = ("--domain", "math", "--steps", 1, "--eval-prompts", 0)
    assert "no run of ours" in one_line(train_grpo.main, *base, "--init", good, "--out", foreign, "--resume")
    for more in (("--init", parent / "step-00001"), ("--init", good, "--beta", 1, "--ref", parent)):
        assert "this run reads" in one_line(train_grpo.main, *base, *more, "--out", parent, "--overwrite")
    assert "this run reads" in one_line(refresh.main, good, *base, "--out", parent, "--overwrite", "--until-recovered",
                                        parent / "step-00001", "--eval-prompts", 4)
    for place in ("/", ".", Path.cwd().parent):
        assert "--out" in one_line(train_grpo.main, *base, "--init", good, "--out", place, "--overwrite")
    scores = ("--domains", "math", "--data", f"math={data}", "--prompts", 2, "--samples", 2)
    assert "checkpoint" in one_line(evaluate.main, foreign, *scores, "--json", foreign / "config.json")
    assert "checkpoint" in one_line(rollback.main, "--anchor", foreign, "--domain", "math", "--save-fisher",
                                    foreign / "model.safetensors")
    assert "another" in one_line(evaluate.main, foreign, *scores, "--samples-file", data)
    assert "another" in one_line(evaluate.main, foreign, *scores, "--samples-file", WORK / "x.json", "--json", WORK / "x.json")
    with directory.alone(WORK / "taken"), directory.alone(WORK / "taken.json"):    # two at once: one would lose its work
        assert "another run" in one_line(merge.main, "mean", good, tiny()[0], "--out", WORK / "taken")
        assert "another run" in one_line(evaluate.main, foreign, *scores, "--json", WORK / "taken.json")
    assert (snapshot(foreign), snapshot(parent)) == before


def test_an_overwrite_killed_between_its_two_renames_is_mended_by_the_next_run():
    out, old, new = (WORK / name for name in ("torn", ".torn.old", ".torn.new"))
    shutil.copytree(undisturbed(), old)              # what stood there; the new one has its first checkpoint, and no name yet
    command = grpo_command(new)[2:]
    with_reward(pulled_in(4), lambda: run(train_grpo.main, *command))
    assert (new / directory.STATE).is_file() and not out.exists()
    command = grpo_command(out, "--resume")[2:]
    with directory.alone(out):
        assert (out / directory.STATE).is_file() and not old.exists() and not new.exists()
    shutil.copytree(undisturbed(), WORK / ".torn2.old")
    with directory.alone(WORK / "torn2"):               # nothing new: what stood there stands there again
        assert same_weights(WORK / "torn2", undisturbed()) and not (WORK / ".torn2.old").exists()


def test_damaged_checkpoints_are_named_whichever_script_reads_them():
    from safetensors.torch import save_file
    good, places = tiny()[0], {}
    tensors = weights(good)

    def broken(name):
        places[name] = WORK / "damaged" / name
        shutil.copytree(good, places[name])
        return places[name]
    (broken("cut") / "model.safetensors").write_bytes((Path(good) / "model.safetensors").read_bytes()[:3000])
    (broken("empty") / "model.safetensors").write_bytes(b"")
    (broken("garbage") / "model.safetensors").write_bytes(random.Random(0).randbytes(5000))
    for name, dtype in (("int8", torch.int8), ("fp8", torch.float8_e4m3fn), ("complex", torch.complex64)):
        save_file({key: t.to(dtype) for key, t in tensors.items()}, broken(name) / "model.safetensors", {"format": "pt"})
    for name, place in places.items():
        word = {"int8": "I8", "fp8": "F8_E4M3", "complex": "C64"}.get(name, "is damaged")
        for main, argv in ((train_grpo.main, ("--init", place, "--domain", "math", "--out", WORK / "never")),
                           (train_grpo.main, ("--init", good, "--beta", 1, "--ref", place, "--domain", "math", "--out", WORK / "never",
                                              "--eval-prompts", 0)),
                           (evaluate.main, (place, "--prompts", 1)),
                           (merge.main, ("mean", good, place, "--out", WORK / "never")),
                           (rollback.main, ("--anchor", place, "--damaged", good, "--domain", "math")),
                           (analyze.main, ("--base", good, place, "--weights-only"))):
            said = one_line(main, *argv)
            assert word in said and "model.safetensors" in said, (name, said)
            assert not (WORK / "never").exists() or not any((WORK / "never").glob("*.safetensors"))
    for file, text, word in (("chat_template.jinja", "", "chat template"), ("generation_config.json", '{"eos_token_id": "x"}', "eos"),
                             ("run.json", '{"lineage": null}', "lineage"), ("run.json", '{"recipe": [1, 2]}', "recipe"),
                             ("run.json", '{"recipe": ["base", "math"]}', "recipe"), ("run.json", '{"args": null}', "args"),
                             ("run.json", '{"parent": 3}', "parent"), ("run.json", "[" * 100_000, "lineage")):
        place = broken(f"{file}-{len(places)}")
        (place / file).write_text(text)
        said = one_line(train_grpo.main, "--init", place, "--domain", "math", "--out", WORK / "never", "--eval-prompts", 0)
        assert word in said, (file, text, said)
    small, _, tokenizer = models.load(good, "cpu", torch.float32)[0], *tiny()[1:]
    small.resize_token_embeddings(100)
    models.save(small, tokenizer, WORK / "damaged" / "few-embeddings", {"parent": None})
    assert "do not belong together" in one_line(evaluate.main, WORK / "damaged" / "few-embeddings", "--prompts", 1)


def test_damaged_states_logs_and_reports_are_named_and_a_cut_line_costs_no_other():
    from safetensors import safe_open
    from safetensors.torch import save_file
    half = WORK / "all-seven"
    run(train_grpo.main, *grpo_command(half)[2:])                  # a whole run, of which the state at step 4 is kept
    command = grpo_command(WORK / "partway")[2:]
    with_reward(pulled_in(6), lambda: run(train_grpo.main, *command))
    state = WORK / "partway" / directory.STATE
    with safe_open(state, "pt") as file:
        tensors, about = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    sound = state.read_bytes()
    first = next(key for key in tensors if key.startswith("weight."))
    for held, words in ((({}, about), "does not hold"), (({**tensors, first: torch.zeros(3)}, about), "does not hold"),
                        (({**tensors, "weight.999": torch.zeros(3)}, about), "does not hold"),
                        (({k: t for k, t in tensors.items() if k != first}, about), "does not hold"),
                        ((tensors, {}), "is damaged"), ((tensors, {"run": "{"}), "is damaged"), ((tensors, {"run": "[]"}), "is damaged"),
                        ((tensors, {"run": json.dumps({**json.loads(about["run"]), "args": None})}), "args")):
        save_file(held[0] or {"x": torch.zeros(1)}, state, held[1])
        assert words in one_line(train_grpo.main, *command, "--resume"), held[1]
    state.write_bytes(sound[:2000])
    assert "is damaged" in one_line(train_grpo.main, *command, "--resume")
    state.write_bytes(sound)
    log = WORK / "partway" / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], lines[1][:20], *lines[2:], "null", "[1]", '{"step": "x"}']) + "\n")
    code, _, err = run(train_grpo.main, *command, "--resume")
    assert code == 0, err
    assert [line["step"] for line in read_jsonl(log)] == [1, 3, 4, 5, 6, 7] and same_weights(WORK / "partway", half)

    for name, text in (("half", '{"a": {"evalu'), ("list", "[1]"), ("deep", "[" * 100_000), ("old", '{"a": {"recipe": ["base"]}}'),
                       ("hollow", '{"a": {"recipe": ["base"], "seed": 0, "evaluated": {}, "math": {"prompt_scores": null}}}')):
        file = WORK / f"report-{name}.json"
        file.write_text(text)
        assert file.name in one_line(report.main, file), name
        assert "holds no scores" in one_line(lambda: story.read([file])), name
        assert "holds no analysis" in one_line(lambda: claims.read([file])), name
        assert "holds no report" in one_line(lambda: recovery.read([file])), name
        assert file.read_text() == text


def test_rows_that_no_reader_survives_are_a_line_and_names_with_brackets_are_files():
    null, blank, odd = WORK / "null.jsonl", WORK / "blank.csv", WORK / "star[1]*?.jsonl"
    null.write_text('{"question": "1+1", "answer": "2"}\nnull\n')
    blank.write_text("question,A,B,answer\nx,1,2,0\ny,3,4,\n")     # a column with a gap is one of floats
    odd.write_text('{"question": "1+1", "answer": "2"}\n')
    assert "line 2" in str(raised(lambda: domains.load_rows("math", str(null), "all")))
    assert [row["answer"] for row in domains.load_rows("qa", str(blank), "all")] == ["A"]
    assert len(domains.load_rows("math", str(odd), "all")) == 1
    assert "two sources of math" in str(raised(lambda: domains.sources(["math=a", "math=b"], ["math", "qa"])))


def test_weights_that_are_no_numbers_are_never_saved_and_what_memory_or_the_terminal_lacks_is_a_line():
    init, data = talker()
    said = one_line(train_grpo.main, *grpo_command(WORK / "overflow", "--lr", "1e38", "--warmup-steps", "0", "--inner-updates", "1",
                                                  "--steps", "1")[2:])
    assert "no longer finite" in said and not any((WORK / "overflow").glob("*.safetensors")), said
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(),
                  RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")):
        def fails(error=error):
            raise error
        assert "--micro-batch-tokens" in one_line(fails)
    narrow = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run([sys.executable, "-c", "import model; model.cli(lambda: print('1 ± 2'))"], cwd=ROOT, env=narrow,
                           capture_output=True, text=True)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "1 \\xb1 2\n", "")
    gone = subprocess.run(["bash", "-c", f"{shlex.quote(sys.executable)} -c 'import model; model.cli(lambda: print(\"x\" * 10**6))' | true; "
                           "exit ${PIPESTATUS[0]}"], cwd=ROOT, capture_output=True, text=True)
    assert gone.returncode == 1 and not gone.stderr, gone
