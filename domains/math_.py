r"""Math: questions with one right answer, which may be written in many ways. A domain file, see domains/__init__.py.

    row      {"question": "158-2=", "answer": "156"}
    answer   the last \boxed{} of a completion, or else its last number, after the thinking
    reward   1 if that is equivalent to the row's answer, as 1/2 and 0.5 are (answers.py); 0 if not

The rows of the paper (arXiv 2606.02398) are those of HUB; GSM8K, MATH, AIME, NuminaMath, DAPO, Skywork-OR1 and Big-Math are
read as they are published.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math
import re

from domains.answers import after_thinking, comparable, equivalent, final_answer
from domains.records import CHAT, answer_of, text_of

HUB = "open-r1/OpenR1-Math-220k"
FIELDS = {"question": ("question", "problem", "query", "prompt", "instruction", *CHAT, "input", "data"),   # the best first
          "answer": ("final_answer", "expected_answer", "answer", "correct_answer", "gold", "gold_answer", "gt_answer",
                     "ground_truth", "ground_truth_answer", "reference_answer", "answer_number", "label", "target",
                     "reward_model", "verification_info", "data", "solution", "response", "output", "completion", *CHAT)}
OPTIONAL = {"context": ("context", "passage", "body", "table"), "input": ("input",), "options": ("options", "choices")}
NO_ANSWER = ("", "proof", "notfound", "not found", "none", "null", "nan", "inf", "-inf", "n/a", "unknown")
WARMUP = {"rows": 192, "mislabelled": 0.2}


def synthetic(rng):
    """Sums: '158-2=' -> '156'. Short, as all synthetic rows are, so that a tiny model learns them on a laptop."""
    a, b, op = rng.randint(10, 199), rng.randint(2, 5), rng.choice("+-")
    answer = str(a + b if op == "+" else a - b)
    return {"question": f"{a}{op}{b}=", "answer": answer, "reference": answer}


def prompt(row):
    """The question; with instructions, unless it has its own or is synthetic."""
    if row.get("terse") or "boxed" in row["question"]:
        return row["question"]
    return row["question"] + "\nPlease reason step by step, and put your final answer within \\boxed{}."


def answer(completion, row):
    """The final answer of a completion, a text; None if it has none, or an empty box."""
    return final_answer(completion) or None


def reward(completions, rows):
    """1 for an answer that is equivalent to row["answer"], 0 for another or none; NaN where the row has no answer."""
    return [math.nan if row.get("answer") in (None, "") else
            float(equivalent(gold=str(row["answer"]), answer=answer(completion, row) or ""))
            for completion, row in zip(completions, rows)]


def same_answer(one, other):
    """Whether two answers, texts, denote the same thing."""
    return one == other or equivalent(gold=one, answer=other)


def row(record):
    r"""{question, answer}; of a worked solution the answer is all that is \boxed, or else what follows its last '####' (as in
    GSM8K) or 'answer is'. ValueError if there is none, or none that other spellings can be compared with."""
    value, boxes = answer_of(record["answer"]), []
    solution = after_thinking("" if value is None else str(value))
    for rest in solution.split("\\boxed")[1:]:
        box = final_answer("\\boxed" + rest)
        boxes += [box] if box and not any(same_answer(box, other) for other in boxes) else []
    answer = ", ".join(boxes) or re.split(r"####|(?i:\banswer(?: is|:):?)", solution)[-1].strip()
    if record.get("options"):
        raise ValueError("its answer is one of several options: read it as qa")
    if answer.lower() in NO_ANSWER:
        raise ValueError(f"it has no answer, or several: {record['answer']}"[:90])
    if not comparable(answer):
        raise ValueError(f"its answer is an open text, or a formula that cannot be read: {answer}"[:150])
    return {"question": text_of(record["question"], record.get("context"), record.get("input")), "answer": answer}


def kind(row):
    """Of its answer: a number, or something else."""
    return "numbers" if re.fullmatch(r"[-+]?[0-9][0-9.,/]*", row["answer"]) else "formulas and words"
