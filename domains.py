"""The four domains, each with rows, a prompt and a reward: math, code, qa (multiple choice), cw (creative writing).

    rows = synthetic("math", "train", 16, seed=0)              # made here, no download
    rows = load_rows("math", "gsm8k/train.jsonl", "train")     # or real ones: a file or a hub name
    text = prompt("math", rows[0])                             # what the model reads
    scores = reward("math", completions, rows)                 # one float in [0, 1] per completion

A row is a dict in the canonical form of its domain, which is all that prompts and rewards look at:

    math  question, answer                          reward: the final answer is equivalent (math_answer.py)
    code  prompt, tests (+ entry_point)             reward: the program passes every test (sandbox.py)
    qa    question, options, answer (a letter)      reward: the one option letter chosen is the right one
    cw    prompt (+ keywords, reference)            reward: a judge's 0, 0.5 or 1 (judge.py)

The first three rewards are rules, the last a judge's: the mixture of the paper (arXiv 2606.02398, its setup).
Training and evaluation grade through the same `reward`. A reward of NaN means that the grader failed, which is
not the same as a wrong answer: such a completion is left out of its group, and counted.
"""
import ast
import builtins
import hashlib
import json
import math
import random
import re
from pathlib import Path

from tqdm import tqdm

import judge as judges
from extract import LETTERS, option_letter, program
from math_answer import equivalent, final_answer
from model import UserError
from sandbox import run_tests

DOMAINS = ("math", "code", "qa", "cw")
PARTS = 10  # rows fall into ten parts by the hash of their prompt: one to test, one to validate, eight to train on


def check_domain(domain):
    if domain not in DOMAINS:
        raise UserError(f"unknown domain {domain!r}: choose from {', '.join(DOMAINS)}")


# ---- prompts ---------------------------------------------------------------------------------------------------

def prompt(domain, row):
    """The user's message for a row. Synthetic rows are `terse`: no instructions, as a tiny model reads none."""
    terse = row.get("terse", False)
    if domain == "math":
        ask = "" if terse or "boxed" in row["question"] else \
            "\nPlease reason step by step, and put your final answer within \\boxed{}."
        return row["question"] + ask
    if domain == "code":
        if terse:
            return row["prompt"]
        if row.get("entry_point"):
            what = f"Write the complete Python function `{row['entry_point']}`"
        else:
            what = "Write a Python program that reads standard input and prints the answer"
        return f"{row['prompt']}\n\n{what}, in one ```python block."
    if domain == "qa":
        options = [f"{letter}){'' if terse else ' '}{option}" for letter, option in zip(LETTERS, row["options"])]
        if terse:
            return " ".join([row["question"], *options])
        return "\n".join([row["question"], *options, "Answer with the letter of the correct option."])
    check_domain(domain)
    if row.get("keywords") and not terse:
        return f"{row['prompt']}\nUse these words: {', '.join(row['keywords'])}."
    return row["prompt"]


# ---- rewards ---------------------------------------------------------------------------------------------------

def reward(domain, completions, rows, judge=judges.rubric):
    """Score completions[i] as an answer to rows[i]: a list of floats in [0, 1], NaN where grading itself failed.

    judge: how creative writing is scored, a function of (prompts, completions, rows), see judge.py.
    """
    check_domain(domain)
    if len(completions) != len(rows):
        raise ValueError(f"{len(completions)} completions and {len(rows)} rows: give one row per completion")
    if domain == "cw":
        return judge([prompt("cw", row) for row in rows], completions, rows)
    if domain == "code":
        return run_tests([{"program": program(completion, row), "tests": row["tests"],
                           "entry_point": row.get("entry_point")} for completion, row in zip(completions, rows)])
    grade = {"math": math_reward, "qa": qa_reward}[domain]
    return [math.nan if row.get("answer") in (None, "") else grade(completion, row)
            for completion, row in zip(completions, rows)]


def math_reward(completion, row):
    """1 if the last \\boxed{} or final number of the completion is equivalent to row["answer"]."""
    answer = final_answer(completion)
    return float(answer is not None and equivalent(gold=str(row["answer"]), answer=answer))


def qa_reward(completion, row):
    """1 if the completion chooses the letter row["answer"] and no other."""
    return float(option_letter(completion, len(row["options"])) == row["answer"].upper())


# ---- synthetic rows --------------------------------------------------------------------------------------------
# Short, so that a tiny model learns them on a laptop, and sharing skills across domains as real ones do: digits and
# arithmetic in math, code and qa, copying from the prompt in code, qa and cw.

NOUNS = ("ant bat bear bee bird boat book cat child cloud cow crow deer dog door duck fish flame fox frog ghost goat "
         "hat hen hill horse house king lake lamp leaf lion moon mouse night owl pig queen rain river road rose sea "
         "sheep ship snow song star stone storm sun swan tiger tower train tree wave whale wind witch wolf").split()
SENTENCES = ("The {} saw the {}.", "A {} ran to the {}.", "The {} and the {} met.", "One {} hid by a {}.",
             "The {} sang to the {}.", "A {} loved the {}.")
EXPRESSIONS = {"{a} plus {b}": "{a}+{b}", "{a} minus {b}": "{a}-{b}", "{a} times {b}": "{a}*{b}",
               "larger of {a},{b}": "max({a},{b})", "smaller of {a},{b}": "min({a},{b})"}
CHANGES = {"plus {k}": "({e})+{k}", "minus {k}": "({e})-{k}", "times {k}": "({e})*{k}", "mod {k}": "({e})%{k}"}


def synthetic_math(rng):
    a, b, op = rng.randint(10, 199), rng.randint(2, 5), rng.choice("+-")
    answer = str(a + b if op == "+" else a - b)
    return {"question": f"{a}{op}{b}=", "answer": answer, "reference": answer}


def synthetic_code(rng):
    name, (a, b), k = rng.choice("fgh"), rng.choice(["ab", "xy", "mn", "pq"]), rng.randint(2, 9)
    (phrase, expression), (change, changed) = rng.choice([*EXPRESSIONS.items()]), rng.choice([*CHANGES.items()])
    words = f"{name}({a},{b}): {phrase}, {change}".format(a=a, b=b, k=k)
    source = f"def {name}({a},{b}):\n return " + changed.format(e=expression.format(a=a, b=b), k=k)
    solution = {}
    exec(source, solution)  # our own text
    calls = [(rng.randint(-20, 20), rng.randint(-20, 20)) for _ in range(4)]
    tests = [f"assert {name}({x}, {y}) == {solution[name](x, y)}" for x, y in calls]
    return {"prompt": words, "tests": tests, "entry_point": name, "reference": source}


def synthetic_qa(rng):
    numbers, kind = rng.sample(range(10, 100), 4), rng.choice(["largest", "smallest"])
    letter = LETTERS[numbers.index(max(numbers) if kind == "largest" else min(numbers))]
    return {"question": f"{kind}?", "options": [str(n) for n in numbers], "answer": letter, "reference": letter}


def synthetic_cw(rng):
    keywords = rng.sample(NOUNS, 2)
    return {"prompt": f"Write: {keywords[0]}, {keywords[1]}", "keywords": keywords,
            "reference": rng.choice(SENTENCES).format(*keywords)}


def synthetic(domain, split, n, seed):
    """n rows of a domain: canonical fields, `terse`, and `reference`, a completion that earns the full reward.

    A pure function of its arguments. split: "train", "validation" or "test"; a row's prompt decides by its hash which
    of them it belongs to, so that they are disjoint whatever the seeds. Prompts may come twice, as in any stream.
    """
    check_domain(domain)
    make = {"math": synthetic_math, "code": synthetic_code, "qa": synthetic_qa, "cw": synthetic_cw}[domain]
    rng, rows = random.Random(f"{domain} {split} {seed}"), []
    while len(rows) < n:
        row = {**make(rng), "terse": True}
        row["id"] = row_id(domain, row)
        if in_split(row["id"], split):
            rows.append(row)
    return rows


def row_id(domain, row):
    """A short hash of the row's prompt: pairs the same question across checkpoints, and decides its split."""
    return hashlib.sha256(prompt(domain, row).encode("utf-8", "replace")).hexdigest()[:12]


def in_split(id, split):
    """Whether a row belongs to "train" (eight parts of PARTS), "validation" (one), "test" (one) or "all"."""
    return split in ("all", {0: "test", 1: "validation"}.get(int(id, 16) % PARTS, "train"))


def sources(items, names):
    """{domain: source} of command-line words: DOMAIN=SOURCE each, or one SOURCE for all domains in `names`.

    A source is a file, a hub name, `hub` or `synthetic` (see load_rows). UserError for domains outside `names`.
    """
    found = {}
    for item in items:
        domain, _, source = item.partition("=")
        if domain not in DOMAINS and len(items) == 1 and (len(names) == 1 or item in ("synthetic", "hub")):
            return dict.fromkeys(names, item)
        if domain not in DOMAINS or not source:
            raise UserError(f"{item!r} does not say which domain's rows it holds: write DOMAIN=SOURCE, with "
                            f"{', '.join(DOMAINS)} and a file, a hub name or `hub`")
        if domain not in names:
            raise UserError(f"{item} gives rows of {domain}, which is not among the domains chosen: {', '.join(names)}")
        found[domain] = source
    return found


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
    raw = read_source(HUB.get(domain) if source == "hub" else source, domain)
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


def read_source(source, domain):
    """The raw records of a source: a sequence of dicts, not empty."""
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
        where, arguments = kind, {"data_files": str(path), "split": "train"}
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
        raise UserError(f"cannot read {source} as rows: {str(cause).strip().splitlines()[0]}") from error
    if len(raw) == 0:
        raise UserError(f"{source} has no rows")
    return raw


def match_fields(domain, source, record, fields):
    """{canonical field: name in this file}; UserError lists what was found and what is accepted."""
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
    """The text of a prompt that is a string or a list of chat messages."""
    if isinstance(value, list):
        value = "\n\n".join(message["content"] for message in value if message.get("role") in ("system", "user"))
    if not isinstance(value, str) or not value.strip():
        raise ValueError("its prompt is empty")
    return value


def as_text(value):
    """The text of a test's input or output, which may be written as a number."""
    if not isinstance(value, (str, int, float)):
        raise ValueError("a test has no text as its input or output")
    return str(value)


def math_row(found, record):
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
    """The function that assert strings are about: the last one of a reference solution that they call, or else the
    first name they call that is no builtin; None if the tests are not Python."""
    try:
        called = [node.func.id for test in tests for node in ast.walk(ast.parse(test))
                  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        defined = [node.name for node in ast.parse(solution or "").body if hasattr(node, "name")]
    except SyntaxError:
        return None
    ours = [name for name in defined if name in called]
    return ours[-1] if ours else next((name for name in called if name not in dir(builtins)), None)


def qa_row(found, record):
    options, answer = found["options"], found["answer"]
    if isinstance(options, str) and options.lstrip().startswith("["):
        options = json.loads(options)
    elif not isinstance(options, (list, tuple)):    # columns A, B, C, ...
        options = [record[letter] for letter in LETTERS if record.get(letter) is not None]
    options = [str(option) for option in options]
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = LETTERS[answer] if answer == int(answer) and answer >= 0 else answer  # MMLU: an index
    elif str(answer).strip() in options and len(str(answer).strip()) > 1:
        answer = LETTERS[options.index(str(answer).strip())]
    answer = str(answer).strip().strip("().").upper()
    if len(answer) != 1 or answer not in LETTERS[:len(options)]:
        raise ValueError(f"its answer {answer!r} is none of its {len(options)} options")
    return {"question": text_of(found["question"]), "options": options, "answer": answer}


def cw_row(found, record):
    row = {"prompt": text_of(found["prompt"])}
    keywords = found.get("keywords")
    if keywords:
        keywords = keywords.split(",") if isinstance(keywords, str) else keywords
        row["keywords"] = [str(k).strip() for k in keywords if k]
    if found.get("reference"):
        row["reference"] = found["reference"]
    return row


ADAPTERS = {"math": math_row, "code": code_row, "qa": qa_row, "cw": cw_row}
