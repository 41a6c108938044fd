"""The directory of a run: what may be replaced, what may go on, and how an interruption leaves it.

A run writes log.jsonl and samples.jsonl as it goes and, every so often, a checkpoint: the model's own files (model.py)
and resume.safetensors (policy.py). Rows and sampling noise are functions of (seed, step), so that file and the number
of steps done are all there is to restore: the resumed run ends with the same weights, bit for bit on a CPU.
"""
import contextlib
import hashlib
import json
import signal
from pathlib import Path

from model import UserError, read_run, write_text

STATE = "resume.safetensors"  # there while a run is under way; deleted when it is finished


def open_out(args):
    """Decide what becomes of --out. Returns the state file to resume from, or None; deletes nothing yet."""
    out, state = Path(args.out), Path(args.out) / STATE
    if not out.exists():
        return None
    ours = out.is_dir() and any((out / name).is_file() for name in ("run.json", "log.jsonl"))
    if (args.overwrite or args.resume) and not ours and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not a checkpoint of this repository: choose another --out")
    if args.resume:
        if not state.is_file() and (out / "run.json").is_file() and not read_run(out).get("finished"):
            raise UserError(f"{out} holds no interrupted run (no {STATE}): --overwrite replaces it")
        return state if state.is_file() else None   # None: interrupted before its first checkpoint, or finished
    if not args.overwrite:
        raise UserError(f"{out} exists: --resume goes on with an interrupted run, --overwrite replaces it, --out "
                        "names another directory")
    return None


def check_resumed(args, run):
    """A resumed run must be the run that was interrupted; only its length and its saving may change."""
    free = {"resume", "overwrite", "steps", "save_every", "device", "out"}
    for name, value in run["args"].items():
        if name not in free and getattr(args, name) != value:
            raise UserError(f"--resume: this run was started with --{name.replace('_', '-')} {value}, not "
                            f"{getattr(args, name)}; use the same, or --overwrite to start anew")


def trim_log(path, steps):
    """Keep the lines of a jsonl log that belong to the first `steps` steps; one cut off by a crash goes too."""
    kept = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            kept += [line] if json.loads(line)["step"] <= steps else []
        except ValueError:
            break
    write_text(path, "".join(line + "\n" for line in kept))


def append(path, records):
    """Add lines to a jsonl log."""
    with open(path, "a") as log:
        log.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def fingerprint(rows):
    """A hash of the rows that are trained on: a resumed run must see the same."""
    digest = hashlib.sha256()
    for row in rows or []:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return "synthetic" if rows is None else f"{len(rows)} rows, {digest.hexdigest()[:16]}"


@contextlib.contextmanager
def interruptions():
    """Within it, Ctrl-C and SIGTERM are noted in the list it gives, so that a step can end; a second one stops at once."""
    received = []

    def note(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
