"""A domain is a file: its rows, its prompt, its answer and its reward. This one finds such files and speaks for them.

    name = use("math")                                         # or use("path/to/sort.py") -> "sort"
    rows = synthetic(name, "train", 16, seed=0)                # made here, no download; load_rows reads published ones
    text = prompt(name, rows[0])                               # what the model reads
    scores = reward(name, completions, rows)                   # a float in [0, 1] per completion, NaN where grading failed

math_.py, code_.py, qa.py and cw.py are shipped. Any other file is a domain too: every script takes its path, as in
--domain path/to/sort.py, or its name if it lies in this folder. A domain is called what its file is called, without an
underscore at the end (which math_.py has because math.py would hide Python's own module). The file must have

    synthetic(rng) -> row                  a new row, with `reference`, a completion that earns 1; rng: a random.Random
    prompt(row) -> text                    what the model reads
    answer(completion, row) -> text        what is graded, or None
    reward(completions, rows) -> floats    in [0, 1], NaN where grading failed, which is not the same as a wrong answer

and may have

    row(record) -> row                     of a published record, a dict; ValueError says why there is none
    FIELDS, OPTIONAL = {field: names}      `row` finds `field` in its record: what stands there under the first such name
    meaning(records) -> {what: text}       what the records of a whole file have in common; `row` finds it in each, too
    kind(row) -> text                      of its answer or tests: how many of each kind is said when rows are read
    HUB = "owner/name"                     the data set that `--data hub` stands for
    same_answer(one, other) -> bool        whether two answers are equal; then answers can be voted on (maj@k)
    WARMUP = {"rows": 32, "mislabelled": 0}    rows per step of grpo/warmup.py; the share of them that is noisy in the end
    WHOLE = True                           `reward` has a time limit of its own, and gets all completions at once
    AHEAD = True                           `reward` may run in another thread while a GPU still samples

A row is a dict that its domain alone looks into. "id" is added here, and "terse" to synthetic rows and to rows of files that
have a field "terse" that is true: no instructions, because a tiny model reads none; "reference" is what a record shows as a
whole completion, for grpo/warmup.py. Training and evaluation grade through the same `reward`.
"""
# Throughout: name, a domain; row, rows: its dicts; split: "train", "validation", "test" or "all", see in_split; source: the
# path of a .jsonl, .json, .parquet or .csv file, or NAME[@CONFIG][:SPLIT] with the name of a data set on the hub or a local
# directory of one (openai/gsm8k@main:test; the split is "train" unless named), or "hub" for the domain's own HUB; fields:
# "question=NAME,answer=OUTER.INNER" where a source has names of its own. A mistake of the user is a UserError.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import ctypes
import functools
import hashlib
import importlib
import math
import os
import queue
import random
import re
import sys
import threading
import types
import warnings
from collections import Counter
from pathlib import Path

from domains.records import bare, lookup, read_source
from model import UserError

DOMAINS = ("math", "code", "qa", "cw")  # those that are shipped, in the order of all tables
REQUIRED = ("synthetic(rng)", "prompt(row)", "answer(completion, row)", "reward(completions, rows)")
# No names of domains: in JSON files they are keys beside those of domains, or they mean other rows or another directory.
TAKEN = ("average", "all", "evaluated", "weights", "seed", "recipe", "training", "compared_to", "label", "loss",
         "synthetic", "hub", "base", "kl", "ref", "ewc", "mix", "guard", "distill", "protected",
         "rollback", "merge", "start", "saved")
HERE = Path(__file__).resolve().parent
GRADING_SECONDS = 10  # for one completion, which takes a millisecond; programs have their own limit (sandbox.py)
REFERENCES = ("reference", "solution", "canonical_solution", "code", "answer")  # where a record may show a whole completion
PARTS = 10  # of rows, by the hash of their prompt: one is "test", one "validation", eight are "train"

loaded = {}    # name: module
recorded = {}  # name: what a run.json says of its file, see `follow`


# ---- domain files ------------------------------------------------------------------------------------------------

def files():
    """{name: path} of the domain files in this folder, the shipped ones first."""
    found = {path.stem.rstrip("_"): path for path in sorted(HERE.glob("*.py"))
             if path.stem not in ("__init__", "answers", "harness", "records", "sandbox")}
    return {name: found[name] for name in (*DOMAINS, *found)}


def use(word):
    """The name of a domain, given that name or the path of a file, which is loaded once."""
    if word in loaded:
        return word
    path = files().get(word, Path(word))
    if path.suffix != ".py":
        known = ", ".join({**files(), **loaded})
        where = f"{recorded[word]['file']}, which a checkpoint was made with" if word in recorded else "a file"
        raise UserError(f"unknown domain {word!r}: choose from {known}, or give the path of {where}")
    if not path.is_file():
        raise UserError(f"there is no domain file {word}")
    name, inside, content = path.stem.rstrip("_"), path.resolve().parent == HERE, path.read_bytes()
    if not inside and (not re.fullmatch("[a-z][a-z0-9_]*", name) or name in TAKEN or name in files()):
        raise UserError(f"{word}: no domain can be called {name!r}: choose another lower-case name for the file")
    if name in loaded and loaded[name].SHA256 != hashlib.sha256(content).hexdigest():
        raise UserError(f"{word} and {loaded[name].__file__} are two domains of one name: rename one")
    loaded[name] = loaded.get(name) or load(name, path, content, inside)
    return name


def load(name, path, content, inside):
    """The module of a domain file, with SHA256, its hash. One that is not shipped has to show that its reference earns 1."""
    did = "cannot be imported"
    try:
        if inside:
            module = importlib.import_module(f"domains.{path.stem}")
        else:
            module = sys.modules[f"domains.{name}"] = types.ModuleType(f"domains.{name}")
            module.__file__ = os.path.abspath(path)
            exec(compile(content, module.__file__, "exec"), vars(module))
        if missing := [wanted for wanted in REQUIRED if not callable(getattr(module, wanted.partition("(")[0], None))]:
            raise UserError(f"{path} is no domain: it has no {', no '.join(missing)}")
        module.SHA256, did = hashlib.sha256(content).hexdigest(), "cannot grade the reference of its own synthetic row"
        if name not in DOMAINS:
            row = {**module.synthetic(random.Random(0)), "terse": True}
            module.prompt(row).encode()
            module.answer(row["reference"], row)
            score, = module.reward([row["reference"]], [row])
            if score != 1:
                raise UserError(f"{path}: the reference of its own synthetic row earns {score}, and should earn 1")
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} {did}: {' '.join(f'{type(error).__name__}: {error}'.split())}") from error
    return module


def get(name):
    """The module of a domain."""
    return loaded[use(name)]


def source(name):
    """{"file": absolute path, "sha256": hex} of a domain's file, as a run.json records it."""
    return {"file": get(name).__file__, "sha256": get(name).SHA256}


def follow(run):
    """Remember which domain files a run.json records, for the errors of `use`. None is run on its word: it may come from
    anywhere, so the user names the path."""
    recorded.update(run.get("domain_files", {}))


# ---- prompts, answers, rewards -----------------------------------------------------------------------------------

def prompt(name, row):
    """The user's message for a row of a domain."""
    return get(name).prompt(row)


def answer(name, completion, row):
    """What a completion gives to be graded, a text; None if there is nothing in it, so that it earns nothing."""
    return get(name).answer(completion, row)


def votes(name):
    """Whether answers of a domain can be equal, and so be voted on."""
    return hasattr(get(name), "same_answer")


def same_answer(name, one, other):
    """Whether two texts of `answer`, of a domain that votes, are equal as its reward compares them: 1/2 and 0.5 are."""
    return get(name).same_answer(one, other)


def reward(name, completions, rows):
    """Score completions[i] as an answer to rows[i]: a list of floats in [0, 1], NaN where grading itself failed."""
    domain = get(name)
    if len(completions) != len(rows):
        raise ValueError(f"{len(completions)} completions and {len(rows)} rows: give one row per completion")
    if not getattr(domain, "WHOLE", False):
        return graded(domain.reward, completions, rows)
    scores = domain.reward(completions, rows)
    if len(scores) != len(rows):
        raise ValueError(f"the reward of {name} gave {len(scores)} scores to {len(rows)} completions")
    return scores


def graded(grade, completions, rows):
    """Scores of completions that `grade`, a domain's reward, gets one by one: NaN and a warning where it raises, gives no
    number in [0, 1] or takes longer than GRADING_SECONDS. That is its fault, not the completion's, and hurts no other;
    UserError where it does so with all, of several rows.
    A thread grades all; one from which nothing comes any more is asked to end and left behind: nothing can force it."""
    def work(todo, done):
        for completion, row in todo:
            try:
                score, = grade([completion], [row])
                if not (math.isnan(score) or 0 <= score <= 1):
                    raise ValueError(f"a reward is in [0, 1], not {score}")
                done.put(float(score))
            except Exception as error:
                done.put(error)

    scores, todo = [], list(zip(completions, rows))
    while len(scores) < len(todo):
        done = queue.SimpleQueue()
        thread = threading.Thread(target=work, args=(todo[len(scores):], done), name="grader", daemon=True)
        thread.start()
        try:
            while len(scores) < len(todo):
                scores.append(done.get(timeout=GRADING_SECONDS))
        except queue.Empty:
            scores.append(TimeoutError(f"no result after {GRADING_SECONDS} s"))
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    failed = [score for score in scores if isinstance(score, Exception)]
    if failed and len(failed) == len(rows) and len({*map(id, rows)}) > 1:      # and not for one odd row
        raise UserError(f"the reward of {grade.__module__} grades none of {len(rows)} completions: {failed[0]!r}")
    for error in failed:
        warnings.warn(f"a completion could not be graded, and counts as a verifier error: {error!r}", stacklevel=3)
    return [math.nan if isinstance(score, Exception) else score for score in scores]


# ---- rows: synthetic ones, and their parts -----------------------------------------------------------------------

def synthetic(name, split, n, seed):
    """n synthetic rows, a pure function of the arguments. Prompts may come twice; splits are disjoint whatever the seeds."""
    make, rng, rows = get(name).synthetic, random.Random(f"{name} {split} {seed}"), []
    for _ in range(100 * n + 10_000):               # without end, if a domain has too few prompts for a tenth of them
        if len(rows) == n:
            return rows
        row = {**make(rng), "terse": True}
        row["id"] = row_id(name, row)
        if in_split(row["id"], split):
            rows.append(row)
    raise UserError(f"{name} has too few different synthetic prompts: hardly any is of the {split} part")


def row_id(name, row):
    """A short hash of the row's prompt: pairs the same question across checkpoints, and decides its split."""
    return hashlib.sha256(prompt(name, row).encode("utf-8", "replace")).hexdigest()[:12]


def in_split(id, split):
    """Whether the row of this row_id is in a split: the hash of its prompt decides."""
    return split in ("all", {0: "test", 1: "validation"}.get(int(id, 16) % PARTS, "train"))


def evaluation_rows(name, source, fields, n, split):
    """At most n different rows to evaluate on: new synthetic ones where source is None or "synthetic", else of a source."""
    if source in (None, "synthetic"):
        rows = synthetic(name, split, 4 * n, seed="held-out")
    else:                                           # files are often sorted by subject: by hash, a fair sample
        rows = sorted(load_rows(name, source, split, fields), key=lambda row: row["id"])
    return list({row["id"]: row for row in rows}.values())[:n]  # a prompt that came twice would count twice


# ---- rows of files and of the hub --------------------------------------------------------------------------------

def sources(items, names):
    """{domain: source} of command-line words: DOMAIN=SOURCE each, or one SOURCE for all domains in `names`."""
    found, known = {}, {*files(), *loaded, *names}
    for item in items:
        name, _, rows = item.partition("=")
        if not item:
            raise UserError("an empty name of data: give a file, a hub name, or `hub`")
        if name not in known and len(items) == 1 and (len(names) == 1 or item in ("synthetic", "hub")):
            return dict.fromkeys(names, item)
        if name not in known or not rows:
            raise UserError(f"{item!r} does not say which domain's rows it holds: write DOMAIN=SOURCE, with one of "
                            f"{', '.join(names)} and a file, a hub name or `hub`")
        if name not in names:
            raise UserError(f"{item} gives rows of {name}, which is not among the domains chosen: {', '.join(names)}")
        if name in found:
            raise UserError(f"two sources of {name} rows, {found[name]} and {rows}: name one")
        found[name] = rows
    return found


def load_rows(name, source, split="all", fields=""):
    """The rows of a source that are in a split, in the form of a domain."""
    if not hasattr(get(name), "row"):
        raise UserError(f"{get(name).__file__} has no row(record), so {name} has synthetic rows alone: leave out --data")
    if source == "hub" and not getattr(get(name), "HUB", None):
        raise UserError(f"there is no one set of {name} rows that `hub` could stand for: name one, as --data OWNER/NAME")
    source = get(name).HUB if source == "hub" else source
    rows, left_out = read_rows(name, get(name), source, fields, os.path.isfile(source) and os.path.getmtime(source))
    if some := [row for row in rows if in_split(row["id"], split)]:
        return some
    why = left_out[0][1] if left_out else "name other held-out rows with --eval-data"
    raise UserError(f"{source}: none of its {len(rows) + len(left_out)} rows is a {name} row of the {split} part ({why})")


@functools.cache
def read_rows(name, domain, source, fields, version):
    """All rows of a source, and of each that has to be left out (kind of reason, reason); read once, for all splits, and
    said in a line. domain: the module; version: changes when the source does."""
    from tqdm import tqdm
    raw = read_source(source)
    find, rows, used, kinds, left_out, meaning = finder(name, source, raw[0], fields), [], {}, Counter(), [], {}
    if hasattr(domain, "meaning"):
        try:
            meaning = domain.meaning(find(record)[0] for record in raw)
        except ValueError as error:
            raise UserError(f"{source}: {error}") from error
    for i, record in enumerate(tqdm(raw, desc=f"read {source}", leave=False, delay=3)):
        record, columns = find(record)
        try:
            row = domain.row({**record, **meaning})
            _, shown = lookup(record, REFERENCES)
            row |= {"terse": True} if str(record.get("terse")).lower() in ("true", "1") else {}
            rows.append({**({"reference": str(shown).replace("\r\n", "\n")} if shown else {}), **row, "id": row_id(name, row)})
        except Exception as error:                  # foreign data: a list of what can be wrong with it never ends
            left_out.append((str(error).partition(":")[0], f"row {i}: {error}"))
        else:
            used |= columns
            kinds.update([domain.kind(row)] if hasattr(domain, "kind") else [])
    said = [f"{source}: {len(rows)} rows of {name}", ", ".join(f"{field} = {column}" for field, column in used.items()),
            *(f"{what} {value}" for what, value in meaning.items()), *(f"{n} {kind}" for kind, n in kinds.items())]
    if left_out:
        alike = sum(why == left_out[0][0] for why, _ in left_out)
        said.append(f"{len(left_out)} left out, {alike} of them like {left_out[0][1]}")
    if rows and os.environ.get("RANK", "0") == "0":     # of the processes of torchrun one speaks
        print("; ".join(filter(None, said)))
    return rows, left_out


def finder(name, source, first, fields):
    """A function of a record: that record with a domain's fields under their own names, and {field: its name in the source}.

    Of a field's names (FIELDS, OPTIONAL) the first is taken that stands for anything in this record, see records.lookup; of
    one in `fields` no other. UserError if `first`, a record, has no such name for a field of FIELDS.
    """
    needed = getattr(get(name), "FIELDS", {})
    known, given = {**needed, **getattr(get(name), "OPTIONAL", {})}, {}
    for field, _, column in (item.partition("=") for item in fields.split(",") if item):
        given[field] = column
        if known and field not in known or not {column, column.partition(".")[0]} & {*first}:
            raise UserError(f"--fields {field}={column}: a {name} row has {', '.join(known) or 'any'}; {source} has "
                            f"{', '.join(first)}")
    there = {bare(column) for column in first}
    if missing := [field for field in needed if field not in given and not there & {*map(bare, needed[field])}]:
        accepted = "; ".join(f"{field}: {', '.join(needed[field])}" for field in missing)
        raise UserError(f"{source} fits no {name} row: it has the fields {', '.join(first)}; accepted are {accepted}; "
                        f"or name yours with --fields {missing[0]}=NAME, or OUTER.INNER")

    def find(record):
        found = {field: lookup(record, [given[field]] if field in given else known[field]) for field in {**known, **given}}
        return ({**record, **{field: value for field, (_, value) in found.items()}},
                {field: column for field, (column, value) in found.items() if value is not None})
    return find
