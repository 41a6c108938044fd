"""The four domains, each with rows, a prompt and a reward: math, code, qa (multiple choice), cw (creative writing).

    rows = synthetic("math", "train", 16, seed=0)              # made here, no download; rows.py reads real ones
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
import ctypes
import hashlib
import math
import random
import threading
import warnings

from domains import judge as judges
from domains.extract import LETTERS, option_letter, parses, program
from domains.answers import after_thinking, equivalent, final_answer
from model import UserError
from domains.sandbox import run_tests

DOMAINS = ("math", "code", "qa", "cw")
FINAL_ANSWER = ("math", "qa")  # the domains whose answers can be equal, and so be voted on
GRADING_SECONDS = 10  # for one answer in math or qa, which takes a millisecond; programs have their own limit (sandbox.py)
PARTS = 10  # rows fall into ten parts by the hash of their prompt: one to test, one to validate, eight to train on


def check_domain(domain):
    """UserError if a name is none of DOMAINS."""
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

    domain: one of DOMAINS; rows: dicts in its canonical form. judge: how creative writing is scored, a function of
    (prompts, completions, rows), see judge.py. UserError for another domain, ValueError if the lengths differ.
    """
    check_domain(domain)
    if len(completions) != len(rows):
        raise ValueError(f"{len(completions)} completions and {len(rows)} rows: give one row per completion")
    if domain == "cw":
        return judge([prompt("cw", row) for row in rows], completions, rows)
    if domain == "code":
        return run_tests([{"program": program(completion, row), "tests": row["tests"],
                           "entry_point": row.get("entry_point")} for completion, row in zip(completions, rows)])
    return graded({"math": math_reward, "qa": qa_reward}[domain], completions, rows)


def graded(grade, completions, rows):
    """[grade(completion, row), ...] of math or qa: NaN without an answer in the row, and NaN and a warning where `grade`
    raises or takes longer than GRADING_SECONDS. That is its fault, not the completion's.

    `grade` runs in a thread; one from which nothing comes any more is asked to end and left behind, as nothing can force it.
    """
    def work(todo, results):
        for completion, row in todo:
            try:
                results.append(math.nan if row.get("answer") in (None, "") else grade(completion, row))
            except Exception as error:
                results.append(error)

    scores = []
    while len(scores) < len(rows):
        todo, results, seen = list(zip(completions, rows))[len(scores):], [], -1
        thread = threading.Thread(target=work, args=(todo, results), name="grader", daemon=True)
        thread.start()
        while thread.is_alive() and len(results) > seen:
            seen = len(results)
            thread.join(GRADING_SECONDS)            # returns as soon as all are graded
        new = results[:]
        if len(new) < len(todo):
            new.append(TimeoutError(f"no result after {GRADING_SECONDS} s"))
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        for error in (result for result in new if isinstance(result, Exception)):
            warnings.warn(f"a completion could not be graded, and counts as a verifier error: {error!r}", stacklevel=3)
        scores += [math.nan if isinstance(result, Exception) else result for result in new]
    return scores


def math_reward(completion, row):
    """1 if the last \\boxed{} or final number of the completion is equivalent to row["answer"]."""
    given = answer("math", completion, row)
    return float(given is not None and equivalent(gold=str(row["answer"]), answer=given))


def qa_reward(completion, row):
    """1 if the completion chooses the letter row["answer"] and no other."""
    return float(answer("qa", completion, row) == row["answer"].upper())


def answer(domain, completion, row):
    """What a completion gives to be graded, a text; None if there is nothing in it, so that it earns nothing.

    math: its final answer; qa: the one letter it chooses; code: its program, if that is Python by its grammar; cw: all
    that follows the thinking.
    """
    check_domain(domain)
    if domain == "math":
        return final_answer(completion) or None     # an empty box is no answer
    if domain == "qa":
        return option_letter(completion, len(row["options"]))
    text = after_thinking(completion).strip()
    if domain == "code" and text:                   # of an empty one, `program` can make the prompt's own head
        text = program(completion, row)
        return text if parses(text) else None
    return text or None


def same_answer(domain, one, other):
    """Whether two texts of `answer`, of a domain in FINAL_ANSWER, are equal as its reward compares them: 1/2 and 0.5 are."""
    return one == other or domain == "math" and equivalent(gold=one, answer=other)


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
    """Sums: '158-2=' -> '156'."""
    a, b, op = rng.randint(10, 199), rng.randint(2, 5), rng.choice("+-")
    answer = str(a + b if op == "+" else a - b)
    return {"question": f"{a}{op}{b}=", "answer": answer, "reference": answer}


def synthetic_code(rng):
    """Two-step functions from words: 'f(a,b): a plus b, times 3', tested on four random calls."""
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
    """The largest or smallest of four numbers, by its letter."""
    numbers, kind = rng.sample(range(10, 100), 4), rng.choice(["largest", "smallest"])
    letter = LETTERS[numbers.index(max(numbers) if kind == "largest" else min(numbers))]
    return {"question": f"{kind}?", "options": [str(n) for n in numbers], "answer": letter, "reference": letter}


def synthetic_cw(rng):
    """A sentence with two given words in it: 'Write: fox, moon'."""
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
    """Whether the row of this row_id is in a split: "train" (eight parts of PARTS), "validation", "test" (one) or "all"."""
    return split in ("all", {0: "test", 1: "validation"}.get(int(id, 16) % PARTS, "train"))
