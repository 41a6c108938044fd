r"""Math: questions with one right answer, which may be written in many ways. A domain file, see domains/__init__.py.

    row      {"question": "158-2=", "answer": "156"}
    answer   the last \boxed{} of a completion, or else its last number, after the thinking
    reward   1 if that is equivalent to the row's answer, as 1/2 and 0.5 are (answers.py); 0 if not

The rows of the paper (arXiv 2606.02398) are those of HUB; GSM8K, MATH and AIME are read as they are published.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import math

from domains import text_of
from domains.answers import equivalent, final_answer

HUB = "open-r1/OpenR1-Math-220k"
FIELDS = {"question": ("question", "problem", "prompt", "query"),    # the most specific name first
          "answer": ("final_answer", "answer", "gold", "ground_truth", "solution")}
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
    """{question, answer}; of a worked solution the answer is what follows the last '####', or its \\boxed one."""
    answer = record["answer"]
    if isinstance(answer, (list, dict)) or answer in (math.inf, -math.inf):
        raise ValueError(f"its answer {str(answer)[:40]} is no text and no number")
    solution = "" if answer is None else str(answer)
    answer = solution.rpartition("####")[2]         # GSM8K: the solution, then '#### 72'
    if answer == solution and "\\boxed" in solution:
        answer = final_answer(solution)
    if not answer.strip():
        raise ValueError("it has no answer")
    return {"question": text_of(record["question"]), "answer": answer.strip()}
