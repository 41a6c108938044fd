"""Code: programs that have to pass tests. A domain file, see domains/__init__.py.

    row      {"prompt": "f(a,b): a plus b, times 3", "tests": ["assert f(1, 2) == 9"], "entry_point": "f"}
             a test is Python code that calls entry_point, or {"stdin": text, "stdout": text} for a script
    answer   the program in a completion: its ``` block, or what of the whole text is Python
    reward   1 if it passes every test in the sandbox (sandbox.py), 0 if not

    program("Here it is:\\n```python\\nprint(1)\\n```", row)    # 'print(1)\\n'

The rows of the paper (arXiv 2606.02398) are those of HUB; MBPP, HumanEval and APPS are read as they are published.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import ast
import builtins
import json
import re
import textwrap
import warnings

from domains import text_of
from domains.answers import after_thinking
from domains.sandbox import run_tests

HUB = "Kwai-Klear/KlearReasoner-CodeSub-15K"
FIELDS = {"prompt": ("prompt", "question", "text", "problem", "description", "content"),     # the most specific name first
          "tests": ("tests", "test_list", "test", "reward_model", "test_cases", "input_output")}
OPTIONAL = {"entry_point": ("entry_point", "fn_name"), "setup": ("test_setup_code",)}
WARMUP = {"rows": 9, "mislabelled": 0.08}
WHOLE = AHEAD = True

EXPRESSIONS = {"{a} plus {b}": "{a}+{b}", "{a} minus {b}": "{a}-{b}", "{a} times {b}": "{a}*{b}",
               "larger of {a},{b}": "max({a},{b})", "smaller of {a},{b}": "min({a},{b})"}
CHANGES = {"plus {k}": "({e})+{k}", "minus {k}": "({e})-{k}", "times {k}": "({e})*{k}", "mod {k}": "({e})%{k}"}


def synthetic(rng):
    """Two-step functions from words, tested on four random calls; they share arithmetic with math, as real rows do."""
    name, (a, b), k = rng.choice("fgh"), rng.choice(["ab", "xy", "mn", "pq"]), rng.randint(2, 9)
    (phrase, expression), (change, changed) = rng.choice([*EXPRESSIONS.items()]), rng.choice([*CHANGES.items()])
    words = f"{name}({a},{b}): {phrase}, {change}".format(a=a, b=b, k=k)
    source = f"def {name}({a},{b}):\n return " + changed.format(e=expression.format(a=a, b=b), k=k)
    solution = {}
    exec(source, solution)  # our own text
    calls = [(rng.randint(-20, 20), rng.randint(-20, 20)) for _ in range(4)]
    tests = [f"assert {name}({x}, {y}) == {solution[name](x, y)}" for x, y in calls]
    return {"prompt": words, "tests": tests, "entry_point": name, "reference": source}


def prompt(row):
    """The task; with what kind of program is wanted, unless it is synthetic."""
    if row.get("terse"):
        return row["prompt"]
    what = f"Write the complete Python function `{row['entry_point']}`" if row.get("entry_point") else \
        "Write a Python program that reads standard input and prints the answer"
    return f"{row['prompt']}\n\n{what}, in one ```python block."


def answer(completion, row):
    """The program of a completion, if that is Python by its grammar; else None."""
    if not after_thinking(completion).strip():      # of which `program` can make the prompt's own head
        return None
    text = program(completion, row)
    return text if parses(text) else None


def reward(completions, rows):
    """1 for a program that passes all of row["tests"], 0 for another; NaN where there are none or they are broken."""
    return run_tests([{"program": program(completion, row), "tests": row["tests"], "entry_point": row.get("entry_point")}
                      for completion, row in zip(completions, rows)])


def program(completion, row):
    """The program in a completion, a text which need not be Python: its ``` block, or what of the whole text is Python.

    Of several blocks, the last that defines entry_point, with the imports and helpers of the blocks before it; without
    an entry_point the last that says it is Python. Where the row's prompt is itself the head of the function
    (HumanEval), it stands in front: the completion may be the bare body, and its imports are there in any case.
    """
    text, name = after_thinking(completion), row.get("entry_point")
    fence = r"^[ \t]*(?:```|~~~)"
    fenced = re.findall(rf"{fence}[ \t]*([^\n`]*)\n(.*?)(?:{fence}|\Z)", text, re.DOTALL | re.MULTILINE)
    if blocks := [textwrap.dedent(block) for _, block in fenced]:
        definition = rf"^(?:(?:async )?def|class) {re.escape(name or '')}\b|^{re.escape(name or '')} *="
        defines = [i for i, block in enumerate(blocks) if name and re.search(definition, block, re.MULTILINE)]
        python = [i for i, (tag, _) in enumerate(fenced) if "py" in tag.lower()]
        chosen = (defines or python or range(len(blocks)))[-1]
        before = [b for b in blocks[:chosen] if name and name not in b and parses(b)]
        text = "\n".join([*before, blocks[chosen]])
    elif not parses(text) and (start := re.search(r"^(?:def|class|import|from|@)", text, re.MULTILINE)):
        lines = text[start.start():].split("\n")    # prose before and after a program without a fence
        ends = range(len(lines), max(0, len(lines) - 40), -1)
        text = next((program for end in ends if parses(program := "\n".join(lines[:end]))), text)
    if name and re.search(rf"^def {re.escape(name)}\b", row["prompt"], re.MULTILINE):
        if not re.search(rf"^(?:async )?def {re.escape(name)}\b|^{re.escape(name)} *=", text, re.MULTILINE):
            first, _, rest = text.partition("\n")   # a bare body, perhaps without the first line's indentation
            bodies = [textwrap.indent(body, "    ") for body in
                      (textwrap.dedent(text), first.strip() + "\n" + textwrap.dedent(rest))]
            text = next((body for body in bodies if parses("def f():\n" + body)), text)
        future = "".join(re.findall(r"^from __future__ .*\n", text, re.MULTILINE))
        return future + row["prompt"].rstrip() + "\n" + re.sub(r"^from __future__ .*\n", "", text, flags=re.MULTILINE)
    return text


def parses(text):
    """Whether a text is Python, as far as its grammar goes."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in a model's strings
            ast.parse(text)
        return True
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


# ---- published rows ----------------------------------------------------------------------------------------------

def row(record):
    """{prompt, tests} and entry_point where a function is tested; tests: Python asserts, or {stdin, stdout} each.

    The formats of MBPP, HumanEval, APPS and KlearReasoner. A prompt that does not define the function is shown a test.
    """
    prompt, tests, name = text_of(record["prompt"]), record["tests"], record.get("entry_point")
    if isinstance(tests, dict) and "ground_truth" in tests:  # KlearReasoner: reward_model.ground_truth
        tests = tests["ground_truth"]
    if isinstance(tests, str) and tests.lstrip()[:1] in "[{":
        tests = json.loads(tests)
    if isinstance(tests, dict):
        name = name or tests.get("fn_name")
        results = lambda out: (out, out[0] if isinstance(out, list) and len(out) == 1 else out)  # APPS wraps some in a list
        tests = tests["functional"] if "functional" in tests else [
            f"assert {name}(*{given!r}) in {results(out)!r}" if name else {"stdin": given, "stdout": out}
            for given, out in zip(tests["inputs"], tests["outputs"])]
    if isinstance(tests, str):                      # HumanEval: `def check(candidate)`, called by the harness; the
        call = f"\ncheck({name})" if name and "def check(" in tests else ""  # prompt in front brings its helpers
        tests = [f"{prompt}\n{tests}{call}" if call else tests]
    setup = record.get("setup") or ""
    tests = [{"stdin": as_text(t.get("stdin", t.get("input"))), "stdout": as_text(t.get("stdout", t.get("output")))}
             if isinstance(t, dict) else f"{setup}\n{t}".strip() for t in tests or []]
    if not tests:
        raise ValueError("it has no tests")
    if not (name is None or isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"its entry point {name!r} is no name")
    name = (name or function_under_test(tests, record.get("code"))) if isinstance(tests[0], str) else None
    if not name:
        return {"prompt": prompt, "tests": tests}
    if f"def {name}" not in prompt:                 # it has to tell the name and the arguments
        prompt += f"\nYour code should pass this test:\n{tests[0]}"
    return {"prompt": prompt, "tests": tests, "entry_point": name}


def as_text(value):
    """The text of a test's input or output, which may be written as a number; ValueError if it is neither."""
    if not isinstance(value, (str, int, float)):
        raise ValueError("a test has no text as its input or output")
    return str(value)


def function_under_test(tests, solution):
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
