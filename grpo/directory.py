"""The directory of a run: what may be replaced, what may go on, one writer at a time, its logs. Used by run.py for
train_grpo.py and refresh.py, and by every script that writes a directory or a file of its own (`alone`).
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
from pathlib import Path

from safetensors import SafetensorError, safe_open

from grpo.ranks import leader
from grpo.settings import refuse
from model import UserError, check_run, json_safe, read_run, write_text

STATE = "resume.safetensors"  # there while a run is under way; deleted when it is finished
OURS = re.compile(r"(generation_)?config\.json|model.*\.(safetensors|json)|(added_|special_)?tokens?(izer)?[\w.]*|"
                  r"vocab\.json|merges\.txt|chat_template\.jinja|run\.json|(log|samples|validation)\.jsonl|"
                  r"resume\.safetensors|vocab\.txt|s(entence)?piece(\.bpe)?\.model|.*\.tmp")
FOLDERS = re.compile(r"step-\d+|additional_chat_templates|.*\.tmp")


def open_out(args):
    """The `run` dict of the interrupted run in args.out that this one resumes, or None to start anew.

    UserError where this run may not go there, or is another than the one that was interrupted. Changes nothing on disk.
    """
    out = Path(args.out)
    if not out.exists():
        return None
    begun = any((out / name).exists() for name in ("log.jsonl", "run.json"))      # a run that has done a step stood there
    if begun and not (args.overwrite or args.resume):
        raise UserError(f"{out} exists: --resume goes on with an interrupted run, --overwrite replaces it, --out names "
                        "another directory")
    foreign = [p.name for p in out.iterdir() if not (FOLDERS if p.is_dir() else OURS).fullmatch(p.name)] \
        if out.is_dir() else [out]
    if foreign:
        raise UserError(f"{out} holds {foreign[0]}, which no run of ours wrote: choose another --out")
    if args.overwrite:
        return None
    run, state = read_run(out), out / STATE
    if state.is_file():
        with opened(state, f"is damaged: --overwrite starts anew; {out} itself can still be evaluated") as file:
            run = json.loads(file.metadata()["run"])
            if not {"args", "steps", "finished"} <= run.keys():
                raise ValueError
        check_run(run, state)
    elif not run and any(out.glob("*.safetensors")):
        raise UserError(f"{out} holds a model that no run of ours wrote (no run.json): choose another --out")
    if not run:
        return None                                 # interrupted before its first checkpoint
    then, now = run.get("args", {}), vars(args)
    # A run can be lengthened and saved more often, and is otherwise the run that was interrupted.
    free = {"resume", "overwrite", "steps", "save_every", "keep_every", "device", "out"}
    other = next((name for name in then if name not in free and then[name] != now.get(name)), "")
    refuse((not (run.get("finished") or state.is_file()),
            f"{out} holds no interrupted run (no {STATE}): --overwrite replaces it"),
           (then.keys() != now.keys(), f"--resume: {out} was started by another script, or another version of it: go on "
            "with that one, or choose another --out"),
           (other, f"--resume: this run was started with --{other.replace('_', '-')} {then.get(other)}, not "
            f"{now.get(other)}; use the same, or --overwrite to start anew"),
           (run.get("steps", 0) > args.steps,
            f"--resume: {out} is at step {run.get('steps')} already, beyond --steps {args.steps}"))
    return run


@contextlib.contextmanager
def opened(path, trouble):
    """A safetensors file, open for torch. UserError, "PATH TROUBLE", if it is none, or lacks what is looked for within."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} {trouble}") from error


@contextlib.contextmanager
def alone(out):
    """Within, no other run can write to this directory or file: UserError if one does. A killed process holds no lock.

    out: its path; with None nothing is written, and so nothing locked.
    """
    if out is None or not leader():
        yield
        return
    out = Path(os.path.realpath(out))
    path, old, new = (out.with_name(f".{out.name}.{end}") for end in ("lock", "old", "new"))
    path.parent.mkdir(parents=True, exist_ok=True)  # beside it: a directory that is replaced would take its lock along
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = path.is_file() and os.path.samestat(os.fstat(file.fileno()), path.stat())  # or it was deleted meanwhile
        except BlockingIOError:
            held = False
        if not held:
            raise UserError(f"another run is writing to {out}: wait until it is done, or choose another --out")
        if old.exists() and not out.exists():       # killed between the two renames of `swap_in`
            os.replace(new if new.exists() else old, out)
        shutil.rmtree(old, ignore_errors=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def swap_in(new, out):
    """Put directory `new` in the place of `out`, which is deleted when the new one stands there. Both: a Path."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    os.replace(out, old)
    os.replace(new, out)
    shutil.rmtree(old)


def read_log(path):
    """The records of a jsonl log (a Path), dicts with their "step", without lines that a crash cut off or that are none."""
    records = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, RecursionError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict) and isinstance(record.get("step"), int)]


def trim_log(path, steps):
    """Keep the records of a jsonl log whose "step" is at most `steps`."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in read_log(path) if record["step"] <= steps))


def append(path, records):
    """Add records (dicts) to a jsonl log, which is made if need be; numbers that are not finite become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as log:
        log.writelines(json.dumps(json_safe(record)) + "\n" for record in records)


@contextlib.contextmanager
def interruptions():
    """Ctrl-C, SIGTERM and SIGHUP are noted in the list that this gives, so that a step can end; a second stops at once."""
    received = []

    def note(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}   # nohup ignores it: so it stays
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
