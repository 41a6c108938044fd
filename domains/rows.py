"""Where rows come from, and which of them a run sees: synthetic ones, files, hub names; training, validation, test.

    rows = load_rows("math", "gsm8k/train.jsonl", "train")     # a file or a hub name, in the canonical form of domains.py
    rows = evaluation_rows("math", None, "", 200, "test")      # at most 200 different held-out ones, synthetic here
    batch = rows_for_step(args, {"math": rows}, step=7)        # a pure function of (seed, step): nothing to replay

The hash of its prompt decides which part a row belongs to (`domains.in_split`): eight tenths are trained on, a tenth is
what a run validates itself on, and a tenth is the test of evaluate.py, which no decision of a run has ever seen.

args: the settings of train_grpo.py. An adapter (`math_row`, ...) makes a canonical row, still without "id", of a raw
record, a dict; found: {canonical field: its value}. What it raises, ValueError mostly, says why there is none.
"""
import ast
import builtins
import glob
import json
import math
import re
from pathlib import Path

import torch
from tqdm import tqdm

from domains import DOMAINS, check_domain, in_split, row_id, synthetic
from domains.extract import LETTERS
from domains.answers import final_answer
from model import UserError
from grpo.rollout import uniform_noise


def sources(items, names):
    """{domain: source} of command-line words: DOMAIN=SOURCE each, or one SOURCE for all domains in `names`.

    A source is a file, a hub name, `hub` or `synthetic` (see load_rows). UserError for an empty word, a file or hub
    name without its domain where there are several, and domains outside `names`.
    """
    found = {}
    for item in items:
        domain, _, source = item.partition("=")
        if not item:
            raise UserError("an empty name of data: give a file, a hub name, or `hub`")
        if domain not in DOMAINS and len(items) == 1 and (len(names) == 1 or item in ("synthetic", "hub")):
            return dict.fromkeys(names, item)
        if domain not in DOMAINS or not source:
            raise UserError(f"{item!r} does not say which domain's rows it holds: write DOMAIN=SOURCE, with "
                            f"{', '.join(DOMAINS)} and a file, a hub name or `hub`")
        if domain not in names:
            raise UserError(f"{item} gives rows of {domain}, which is not among the domains chosen: {', '.join(names)}")
        if domain in found:
            raise UserError(f"two sources of {domain} rows, {found[domain]} and {source}: name one")
        found[domain] = source
    return found


# ---- which rows a run sees ---------------------------------------------------------------------------------------

def rows_for_step(args, rows, step):
    """The B rows of a step as (domain, row) pairs; rows: {domain: list of rows, or None for new synthetic ones}.

    With k domains place p = step * B + i of the whole run goes to domain p mod k (mixed) or step mod k (alternating);
    replayed domains (args.mix: their prompts per step) take theirs off B. step: from 0. Real rows are taken in
    reshuffled passes. A model that was trained on a domain before sees it in another order, as args.visits (domain: how
    often) is part of the seed: a refresh is not a repetition of its first steps.
    """
    B, k = args.prompts_per_step - sum(args.mix.values()), len(args.domains)
    chosen, places_of = [], {}                      # places of the run, as places in each domain's own stream of rows
    for turn, domain in enumerate(args.domains):
        if args.schedule == "mixed":
            places_of[domain] = [p // k for p in range(step * B, (step + 1) * B) if p % k == turn]
        else:
            places_of[domain] = range(step // k * B, (step // k + 1) * B) if step % k == turn else []
    places_of |= {domain: range(step * n, (step + 1) * n) for domain, n in args.mix.items()}
    for domain, places in places_of.items():
        again = [f"visit {args.visits[domain]}"] if args.visits[domain] else []
        if places and rows[domain] is None:
            some = synthetic(domain, "train", len(places), seed=" ".join([f"{args.seed} {step}", *again]))
        else:
            some, order = [], None
            for place in places:
                epoch, i = divmod(place, len(rows[domain]))
                if i == 0 or order is None:
                    order = torch.argsort(uniform_noise(1, len(rows[domain]), args.seed, "epoch", epoch, *again)[0])
                some.append(rows[domain][order[i]])
        chosen += [(domain, row) for row in some]
    return chosen


def held_out_rows(args):
    """{domain: rows to validate on}, {} if args.eval_prompts is 0. UserError for what load_rows refuses.

    A domain without rows of its own is left out, and a line says so, where others have real ones.
    """
    held_out, left_out = {}, []
    for domain in args.eval_domains if args.eval_prompts else ():
        if domain in args.eval_data or domain in args.data or set(args.data.values()) == {"synthetic"}:
            source = args.eval_data.get(domain) or args.data.get(domain, "synthetic")
            held_out[domain] = evaluation_rows(domain, source, args.fields, args.eval_prompts,
                                               "all" if has_own_validation(args, domain) else "validation")
        else:
            left_out.append(domain)
    if left_out:
        print(f"not validated on {', '.join(left_out)}, which have no rows here: give --eval-data DOMAIN=SOURCE")
    return held_out


def has_own_validation(args, domain):
    """Whether a file or hub name of its own validates a domain, so that all of its --data may be trained on."""
    return args.eval_data.get(domain, "synthetic") != "synthetic"


def evaluation_rows(domain, source, fields, n, split):
    """At most n different rows to evaluate a domain on, of a split (see domains.in_split): new synthetic ones where
    source is None or "synthetic", else those of a file or hub name, in the order of their ids. source, fields and what
    is refused: see load_rows."""
    if source in (None, "synthetic"):
        rows = synthetic(domain, split, 4 * n, seed="held-out")
    else:                                           # files are often sorted by subject: by hash, a fair sample
        rows = sorted(load_rows(domain, source, split, fields), key=lambda row: row["id"])
    return list({row["id"]: row for row in rows}.values())[:n]  # a prompt that came twice would count twice


# ---- real rows -------------------------------------------------------------------------------------------------
# For each canonical field, the names under which published sets have it, the most specific first.

HUB = {"math": "open-r1/OpenR1-Math-220k", "code": "Kwai-Klear/KlearReasoner-CodeSub-15K", "qa": "m-a-p/SuperGPQA"}
FIELDS = {
    "math": {"question": ("question", "problem", "prompt", "query"),
             "answer": ("final_answer", "answer", "gold", "ground_truth", "solution")},
    "code": {"prompt": ("prompt", "question", "text", "problem", "description", "content"),
             "tests": ("tests", "test_list", "test", "reward_model", "test_cases", "input_output")},
    "qa": {"question": ("question", "prompt", "query"), "options": ("options", "choices"),
           "answer": ("answer_letter", "answer", "answer_index", "label", "target")},
    "cw": {"prompt": ("prompt", "instruction", "question", "text", "input")}}
OPTIONAL = {"code": {"entry_point": ("entry_point", "fn_name"), "setup": ("test_setup_code",)},
            "cw": {"keywords": ("keywords",), "reference": ("reference", "response", "output", "completion", "story")}}


def load_rows(domain, source, split="all", fields=""):
    """Real rows in canonical form, each with an "id", from a file, a directory or a hub name (through `datasets`).

    source: path of a .jsonl, .json, .parquet or .csv file, or NAME[@CONFIG][:SPLIT] with the name of a data set on the
    hub or a local directory of one (openai/gsm8k@main:test; the split is "train" unless named), or "hub" for the
    paper's own set. split: "train", "validation", "test" (see in_split) or "all". fields: "question=NAME,answer=NAME"
    where names are not recognised.
    Raises UserError for a source that is missing, empty, or fits no row of the domain.
    """
    check_domain(domain)
    if not source:
        raise UserError("an empty name of data: give a file, a hub name, or `hub`")
    raw = read_source(HUB.get(domain) if source == "hub" else source)
    names = match_fields(domain, source, raw[0], fields)
    rows, skipped = [], []
    for i, record in enumerate(tqdm(raw, desc=f"read {source}", leave=False, delay=3)):
        try:
            row = ADAPTERS[domain]({field: record.get(name) for field, name in names.items()}, record)
            row["id"] = row_id(domain, row)
        except Exception as error:                  # foreign data: a list of what can be wrong with it never ends
            skipped.append(f"row {i}: {error}")
            continue
        if in_split(row["id"], split):
            rows.append(row)
    if skipped:
        print(f"{source}: {len(skipped)} of {len(raw)} rows cannot be scored and are left out ({skipped[0]})")
    if not rows:
        raise UserError(f"{source}: none of its {len(raw)} rows is a {domain} row of the {split} part"
                        + (f" ({skipped[0]})" if skipped else " (name other held-out rows with --eval-data)"))
    return rows


def read_source(source):
    """The raw records of a source: a `datasets` sequence of dicts, not empty. UserError where there is none.

    source: see load_rows, but for "hub"; None is refused as a domain's own set that does not exist.
    """
    from datasets import disable_progress_bars, load_dataset  # here: --help need not wait for it
    if source is None:
        raise UserError("the paper's creative-writing sets are several, and none is the default: name one, as "
                        "--data crownelius/NAME")
    path = Path(source)
    if path.suffix in (".jsonl", ".json", ".parquet", ".csv"):
        if not path.is_file():
            raise UserError(f"no data file at {source}")
        if path.stat().st_size == 0:
            raise UserError(f"{source} is empty")
        kind = {".jsonl": "json", ".json": "json"}.get(path.suffix, path.suffix[1:])
        if path.suffix == ".jsonl":                 # of which pyarrow would die without a word
            with open(path, errors="replace") as file:
                wrong = next((i for i, line in enumerate(file, 1) if line.strip() and line.lstrip("\ufeff \t")[0] != "{"), None)
            if wrong:
                raise UserError(f"cannot read {source} as rows: its line {wrong} is no JSON object")
        where, arguments = kind, {"data_files": glob.escape(str(path)), "split": "train"}
        disable_progress_bars()
    elif path.is_file():
        raise UserError(f"{source}: data files end in .jsonl, .json, .parquet or .csv")
    else:
        where, config, part = re.fullmatch(r"(.*?)(?:@([^@:]*))?(?::([^:]*))?", source, re.DOTALL).groups()
        arguments = {"name": config, "split": part or "train"}
    try:
        raw = load_dataset(where, **arguments)
    except Exception as error:  # pyarrow, json, the hub client: each raises types of its own
        cause = error.__cause__ or error
        raise UserError(f"cannot read {source} as rows: {(str(cause).strip() or repr(cause)).splitlines()[0]}") from error
    if len(raw) == 0:
        raise UserError(f"{source} has no rows")
    return raw


def match_fields(domain, source, record, fields):
    """{canonical field: name in this file}; UserError lists what was found and what is accepted.

    record: the first of the source, whose keys count. fields: see load_rows; names given there come first. Where a qa
    set has a column per option, "options" is "A".
    """
    given = dict(item.partition("=")[::2] for item in fields.split(",") if item)
    accepted = FIELDS[domain] | OPTIONAL.get(domain, {})
    for field, name in given.items():
        if field not in accepted or name not in record:
            raise UserError(f"--fields {field}={name}: a {domain} row has {', '.join(accepted)}; {source} has "
                            f"{', '.join(record)}")
    names = {field: given.get(field) or next((name for name in known if name in record), None)
             for field, known in accepted.items()}
    if domain == "qa" and names["options"] is None and {"A", "B"} <= set(record):
        names["options"] = "A"                      # one column per option, as in MMLU's csv files
    missing = [field for field in FIELDS[domain] if names[field] is None]
    if missing:
        raise UserError(f"{source} fits no {domain} row: it has the fields {', '.join(record)}; accepted are "
                        + "; ".join(f"{field}: {', '.join(FIELDS[domain][field])}" for field in missing)
                        + f"; or name yours with --fields {missing[0]}=NAME")
    return {field: name for field, name in names.items() if name}


def text_of(value):
    """The text of a prompt: a string, or chat messages, of which the assistant's are left out. ValueError if empty."""
    if isinstance(value, list):
        value = "\n\n".join(message["content"] for message in value if message.get("role") in ("system", "user"))
    if not isinstance(value, str) or not value.strip():
        raise ValueError("its prompt is empty")
    return value


def as_text(value):
    """The text of a test's input or output, which may be written as a number; ValueError if it is neither."""
    if not isinstance(value, (str, int, float)):
        raise ValueError("a test has no text as its input or output")
    return str(value)


def math_row(found, record):
    """{question, answer}; of a worked solution the answer is what follows the last '####', or its \\boxed one."""
    answer = found["answer"]
    if isinstance(answer, (list, dict)) or answer in (math.inf, -math.inf):
        raise ValueError(f"its answer {str(answer)[:40]} is no text and no number")
    answer = "" if answer is None else str(answer)
    if "####" in answer:                            # GSM8K: the solution, then '#### 72'
        answer = answer.rsplit("####", 1)[1]
    elif "\\boxed" in answer:
        answer = final_answer(answer)
    if not answer.strip():
        raise ValueError("it has no answer")
    return {"question": text_of(found["question"]), "answer": answer.strip()}


def code_row(found, record):
    """{prompt, tests} and entry_point where a function is tested; tests: Python asserts, or {stdin, stdout} each.

    The formats of MBPP, HumanEval, APPS and KlearReasoner. A prompt that does not define the function is shown a test.
    """
    prompt, tests, name = text_of(found["prompt"]), found["tests"], found.get("entry_point")
    if isinstance(tests, dict) and "ground_truth" in tests:  # KlearReasoner: reward_model.ground_truth
        tests = tests["ground_truth"]
    if isinstance(tests, str) and tests.lstrip()[:1] in "[{":
        tests = json.loads(tests)
    if isinstance(tests, dict):
        name = name or tests.get("fn_name")
        if "functional" in tests:
            tests = tests["functional"]
        elif name:
            cases = zip(tests["inputs"], tests["outputs"])
            results = lambda out: (out, out[0] if isinstance(out, list) and len(out) == 1 else out)
            tests = [f"assert {name}(*{args!r}) in {results(out)!r}" for args, out in cases]  # APPS wraps some in a list
        else:
            tests = [{"stdin": i, "stdout": o} for i, o in zip(tests["inputs"], tests["outputs"])]
    if isinstance(tests, str):                      # HumanEval: `def check(candidate)`, called by the harness; the
        call = f"\ncheck({name})" if name and "def check(" in tests else ""  # prompt in front brings its helpers
        tests = [f"{prompt}\n{tests}{call}" if call else tests]
    setup = found.get("setup") or ""
    tests = [{"stdin": as_text(t.get("stdin", t.get("input"))), "stdout": as_text(t.get("stdout", t.get("output")))}
             if isinstance(t, dict) else f"{setup}\n{t}".strip() for t in tests or []]
    if not tests:
        raise ValueError("it has no tests")
    if not (name is None or isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"its entry point {name!r} is no name")
    row = {"prompt": prompt, "tests": tests}
    if isinstance(tests[0], str):
        name = name or function_under_test(tests, record.get("code"))
        if name:
            row["entry_point"] = name
            if f"def {name}" not in prompt:         # the prompt has to tell the name and the arguments
                row["prompt"] += f"\nYour code should pass this test:\n{tests[0]}"
    return row


def function_under_test(tests, solution=None):
    """The name of the function that assert strings are about: the last one of a reference solution (its source) that
    they call, or else the first name they call that is no builtin; None if there is none, or they are not Python."""
    try:
        called = [node.func.id for test in tests for node in ast.walk(ast.parse(test))
                  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        defined = [node.name for node in ast.parse(solution or "").body if hasattr(node, "name")]
    except SyntaxError:
        return None
    ours = [name for name in defined if name in called]
    return ours[-1] if ours else next((name for name in called if name not in dir(builtins)), None)


def qa_row(found, record):
    """{question, options, answer}, a letter; in a record it may also be an index from 0, or the text of an option."""
    options, answer = found["options"], found["answer"]
    if isinstance(options, str) and options.lstrip().startswith("["):
        options = json.loads(options)
    elif not isinstance(options, (list, tuple)):    # columns A, B, C, ...
        options = [record[letter] for letter in LETTERS if record.get(letter) is not None]
    options = [str(option) for option in options]
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = LETTERS[int(answer)] if answer == int(answer) and answer >= 0 else answer  # MMLU: an index
    elif str(answer).strip() in options and len(str(answer).strip()) > 1:
        answer = LETTERS[options.index(str(answer).strip())]
    answer = str(answer).strip().strip("().").upper()
    if len(answer) != 1 or answer not in LETTERS[:len(options)]:
        raise ValueError(f"its answer {answer!r} is none of its {len(options)} options")
    return {"question": text_of(found["question"]), "options": options, "answer": answer}


def cw_row(found, record):
    """{prompt}, and if there are any keywords (a list; in a record also one text with commas) and reference, a text."""
    row = {"prompt": text_of(found["prompt"])}
    keywords = found.get("keywords")
    if keywords:
        keywords = keywords.split(",") if isinstance(keywords, str) else keywords
        row["keywords"] = [str(k).strip() for k in keywords if k]
    if found.get("reference"):
        row["reference"] = found["reference"]
    return row


ADAPTERS = {"math": math_row, "code": code_row, "qa": qa_row, "cw": cw_row}
