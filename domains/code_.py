"""Code: programs that have to pass tests. A domain file, see domains/__init__.py.

    row      {"prompt": "f(a,b): a plus b, times 3", "tests": ["assert f(1, 2) == 9"], "entry_point": "f"}
             a test is Python code that uses entry_point (asserts, or pytest's or unittest's functions), or
             {"stdin": text, "stdout": text} for a script; "head" is what the set's own harness puts before a program
    answer   the program in a completion: its ``` block, or what of the whole text is Python
    reward   1 if it passes every test in the sandbox (sandbox.py), 0 if not

    program("Here it is:\\n```python\\nprint(1)\\n```", row)    # 'print(1)\\n'

The rows of the paper (arXiv 2606.02398) are those of HUB; the usual sets are read as they are published, see `row`.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import ast
import base64
import builtins
import contextlib
import json
import pickletools
import re
import sys
import textwrap
import warnings
import zlib
from importlib.util import find_spec
from pathlib import Path

from domains.answers import after_thinking
from domains.records import opened, text_of
from domains.sandbox import run_tests

HUB = "Kwai-Klear/KlearReasoner-CodeSub-15K"
FIELDS = {"prompt": ("question_content", "problem_description", "instruct_prompt", "prompt", "question", "text", "problem",
                     "description", "content", "query", "messages", "conversations", "instruction"),  # the most specific first
          "tests": ("tests", "test", "test_list", "input_output", "public_tests", "public_test_cases", "official_tests",
                    "verification_info", "reward_model", "ground_truth", "test_cases", "unit_tests", "test_code", "label")}
OPTIONAL = {"entry_point": ("entry_point", "fn_name", "func_name", "function_name", "metadata.func_name"),
            "hidden": ("private_tests", "private_test_cases"), "generated": ("generated_tests",),
            "setup": ("test_setup_code",), "imports": ("test_imports",), "starter": ("starter_code",),
            "solution": ("code", "solution", "canonical_solution", "reference_solution"),
            "head": ("complete_prompt", "code_prompt", "prompt"), "checker": ("generated_checker", "checker")}
WARMUP = {"rows": 9, "mislabelled": 0.08}
WHOLE = AHEAD = True
HARNESS = Path(__file__).with_name("harness.py").read_text()
# The harnesses of APPS, TACO, LiveCodeBench and LeetCode import this before a program.
IMPORTS = "".join(f"from {name} import *; import {name}\n" for name in """string re datetime collections heapq bisect copy math
random statistics itertools functools operator io sys json builtins typing""".split())
DEFINES = re.compile(r"^(def|class|import|from|@)\b", re.MULTILINE)
# What a test cannot do from another process: replace or capture what the program uses, or start threads.
NOT_HERE = set("""mock patch monkeypatch capsys capfd caplog redirect_stdout redirect_stderr stdout stderr asyncio threading
multiprocessing concurrent""".split())

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
    name = row.get("entry_point")
    what = f"Write the complete Python {'class' if name[0].isupper() else 'function'} `{name}`" if name else \
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
    return run_tests([{"program": program(completion, row), "tests": list(map(equipped, row["tests"])),
                       "entry_point": row.get("entry_point")} for completion, row in zip(completions, rows)])


def equipped(test):
    """A test, between what the text of harness.py defines and runs if it needs that."""
    needs = isinstance(test, str) and re.search(r"\b(pytest|unittest|_same)\b|^\s*def test_", test, re.MULTILINE)
    return f"{HARNESS}\n{test}\n_run(globals())" if needs else test


def program(completion, row):
    """The program in a completion, a text which need not be Python: its ``` block, or what of the whole text is Python.

    Of several blocks, the last that defines entry_point, with the imports and helpers of the blocks before it; without
    an entry_point the last that says it is Python. In front stands the row's head, or its prompt where that is one
    (HumanEval): if it begins the function, the completion may be the bare body.
    """
    text, name = after_thinking(completion).replace("\ufeff", ""), row.get("entry_point")
    if blocks := list(fenced(text)):
        definition = rf"^(?:(?:async )?def|class) {re.escape(name or '')}\b|^{re.escape(name or '')} *=|^class Solution\b"
        defines = [i for i, (_, block) in enumerate(blocks) if name and re.search(definition, block, re.MULTILINE)]
        python = [i for i, (tag, _) in enumerate(blocks) if "py" in tag.lower()]
        chosen = (defines or python or range(len(blocks)))[-1]
        before = [b for _, b in blocks[:chosen] if name and name not in b and parses(b)]
        text = "\n".join([*before, blocks[chosen][1]])
    elif not parses(text) and (start := re.search(r"^(?:def|class|import|from|@)", text, re.MULTILINE)):
        lines = text[start.start():].split("\n")    # prose before and after a program without a fence
        ends = range(len(lines), max(0, len(lines) - 40), -1)
        text = next((program for end in ends if parses(program := "\n".join(lines[:end]))), text)
    head = row.get("head") or (row["prompt"] if tree(row["prompt"]) else "")
    if name and re.search(rf"^def {re.escape(name)}\b", head, re.MULTILINE):
        if not re.search(rf"^(?:async )?def {re.escape(name)}\b|^{re.escape(name)} *=", text, re.MULTILINE):
            first, _, rest = text.partition("\n")   # a bare body, perhaps without the first line's indentation
            bodies = [textwrap.indent(body, "    ") for body in
                      (textwrap.dedent(text), first.strip() + "\n" + textwrap.dedent(rest))]
            text = next((body for body in bodies if parses("def f():\n" + body)), text)
    elif not row.get("head"):
        return text
    future = "".join(re.findall(r"^from __future__ .*\n", text, re.MULTILINE))
    return future + head.rstrip() + "\n" + re.sub(r"^from __future__ .*\n", "", text, flags=re.MULTILINE)


def fenced(text):
    """(tag, content) of each fenced block: up to the fence that ends it as Python, because a docstring may hold fences."""
    fences = list(re.finditer(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\n`]*)(?:\n|\Z)", text, re.MULTILINE))
    while fences:
        first, *fences = fences
        ends = [i for i, fence in enumerate(fences) if fence[1].startswith(first[1]) and not fence[2].strip()]
        inside = lambda i: textwrap.dedent(text[first.end():fences[i].start() if i < len(fences) else len(text)])
        end = next((i for i in ends[:9] if parses(inside(i))), ends[0] if ends else len(fences))
        yield first[2], inside(end)
        fences = fences[end + 1:]


def parses(text):
    """Whether a text is Python, as far as its grammar goes."""
    return tree(text, ends=("",)) is not None


def tree(text, ends=("", "\n    pass")):
    """The syntax tree of a text, whose last function may lack its body; None if it is not Python, or no text."""
    for end in ends if isinstance(text, str) else ():
        with contextlib.suppress(SyntaxError, ValueError, MemoryError, RecursionError), \
                warnings.catch_warnings(action="ignore"):   # of odd escapes in a model's strings
            return ast.parse(text + end)


# ---- published rows ----------------------------------------------------------------------------------------------

def row(record):
    """{prompt, tests}, with entry_point where Python tests ask for a name, and head where the set's harness has one.

    Read are asserts (MBPP), `def check` (HumanEval, LeetCode), functions of pytest and unittest (KodCode, BigCodeBench), and
    lists of inputs and outputs for scripts and for functions (APPS, TACO, code_contests, LiveCodeBench, KlearReasoner).
    No test gets into the prompt; the signature of what is asked for does, where a solution shows it.
    """
    if record.get("checker"):
        raise ValueError("its outputs need a checker of their own")
    starter, solution, name = record.get("starter") or "", tree(record.get("solution")), record.get("entry_point")
    prompt = text_of(record["prompt"], after=starter and f"Start from this:\n```python\n{starter.rstrip()}\n```")
    prompt += "".join(f"\n\n{side.capitalize()}: {text}" for side in ("input", "output")
                      if (text := record.get(f"{side}_format")) and text not in prompt)
    head = next((text for text in (record.get("head"), prompt) if tree(text) and DEFINES.search(text)), "")
    setup, code, scripts = [*opened(record.get("imports") or [], one=False), record.get("setup")], [], []
    for case in [*cases(record["tests"]), *cases(unzipped(record.get("hidden"))), *cases(record.get("generated"))]:
        if isinstance(case, str):
            checks = re.search(r"^def check\(", case, re.MULTILINE)
            called = re.search(r"^check\(", case, re.MULTILINE) or not name
            code.append("\n".join(filter(None, [checks and helpers(head, name), *setup, case.strip(),
                                                checks and not called and f"check({name})"])))
        elif (called := case["name"] or name) and not str(case["kind"]).startswith("stdin"):
            name = called
            code.append(call(name, case["input"], case["output"]))
        else:
            scripts.append({"stdin": as_text(case["input"]), "stdout": as_text(case["output"])})
    if not code + scripts:
        raise ValueError("it has no tests")
    if not code:
        return {"prompt": prompt, "tests": scripts, "head": IMPORTS}
    if "_same(" in code[0]:                         # one test, so that what it needs is read once
        code, head = ["\n".join(code)], head or IMPORTS
    if name and not re.fullmatch(r"[^\W\d]\w*(\(\)\.\w+)?", str(name)):
        raise ValueError(f"its entry point {name!r} is no name")
    (name, *names), code = asked(code, name and name.split("(")[0], solution, tree(head))
    head = head or IMPORTS * (name == "Solution")
    known = {"head": head} if head not in ("", prompt) else {}
    prompt += signatures({one for one in names if not re.search(rf"\b(def|class) {one}\b", prompt)}, solution)
    for method in re.findall(r"\bSolution\(\)\.(\w+)", code[0])[:1]:
        prompt += f"\n\nThe class Solution has the method `{method}`." * (method not in prompt)
    return {"prompt": prompt, "tests": code + scripts, "entry_point": name, **known}


def kind(row):
    """What its tests are, to be counted when rows are read."""
    return "tested as functions" if row.get("entry_point") else "tested as scripts"


def cases(found):
    """The tests of a column: Python code, or {"input", "output", "name" of a function or None, "kind" if the set says it}."""
    found = opened(found, one=False)
    if isinstance(found, dict) and "functional" in found:
        found = found["functional"]
    if isinstance(found, dict):                     # of lists, one item for each test
        columns = {key: value for key, value in found.items() if isinstance(value, list)}
        rest = {key: value for key, value in found.items() if key not in columns}
        found = [rest | dict(zip(columns, values)) for values in zip(*columns.values(), strict=True)] if columns else [found]
    tests = []
    for case in [found] if isinstance(found, str) else found or []:
        case = opened(case)
        if isinstance(case, dict):
            name = case.get("fn_name") or (opened(case.get("metadata")) or {}).get("func_name")
            given, out = ([case[key] for key in keys if key in case] for keys in (
                ("input", "inputs", "stdin"), ("output", "outputs", "stdout", "expected_output")))
            if not given or not out:
                raise ValueError("a test has no input or no output")
            case = {"input": given[0], "output": out[0], "name": name, "kind": case.get("testtype") or case.get("type")}
        elif not isinstance(case, str):
            raise ValueError("a test is neither code nor an input and an output")
        tests.append(case)
    return tests


def unzipped(text):
    """The JSON in LiveCodeBench's pickled and compressed hidden tests, [] if that is broken; other values as they are."""
    if not isinstance(text, str) or text.lstrip()[:1] in ("[", "{"):
        return text
    try:                                            # read, not executed
        data = zlib.decompress(base64.b64decode(text, validate=True))
        return next(part for _, part, _ in pickletools.genops(data) if isinstance(part, str))
    except (ValueError, zlib.error, StopIteration):
        return []


def call(name, given, out):
    """A test of a function by JSON. given: a list of arguments, a dict of named ones, or lines of JSON (LiveCodeBench).
    out: the result, which APPS wraps in a list, but not always."""
    wanted = [out, out[0]] if isinstance(out, list) and len(out) == 1 else [out]
    if isinstance(given, str):
        given, wanted = [json.loads(line) for line in given.split("\n") if line], [json.loads(out)]
    keys = lambda value: {int(key): item for key, item in value.items()} if (       # which JSON has as texts
        isinstance(value, dict) and all(re.fullmatch(r"-?\d+", key) for key in value)) else value
    arguments = f"**{given!r}" if isinstance(given, dict) else f"*{[keys(one) for one in given]!r}"
    return f"_got = {name}({arguments})\nassert " + " or ".join(f"_same(_got, {want!r})" for want in wanted)


def as_text(value):
    """The text of a test's input or output, which may be a list of lines or a number; ValueError if it is neither."""
    if isinstance(value, list):
        return "\n".join(map(as_text, value))
    if not isinstance(value, (str, int, float)):
        raise ValueError("a test has no text as its input or output")
    return str(value)


def helpers(head, name):
    """What a test may use of a program's head: imports and other functions, but classes are the program's own."""
    return ast.unparse([node for node in tree(head).body if not isinstance(node, ast.ClassDef)
                        and getattr(node, "name", "") != name]) if head else ""


def asked(tests, name, solution, head):
    """The names that Python tests ask the program for, and these tests with its module called `solution`.

    name: what the set gives, or None. solution, head: syntax trees, or None. The first name is this one, or else the last of
    the solution's that the tests use, or else one that they call. ValueError where the sandbox cannot run such tests.
    """
    parsed = tree("\n".join(tests))
    if not parsed:
        raise ValueError("its tests are not Python")
    every = lambda kind: [node for node in ast.walk(parsed) if isinstance(node, kind)]
    ours, imports = [node.name for node in solution.body if hasattr(node, "name")] if solution else [], modules(parsed)
    program = {module for module in imports if module == "solution" or imports[module] & {name, *ours} and not here(module)}
    for module in {*imports, *modules(solution), *modules(head)} - program:
        if not here(module):
            raise ValueError(f"it needs {module}, which the sandbox does not have")
    given = {function.name for function in every(ast.FunctionDef) if function.decorator_list} | {"self", "cls"}
    for function in every(ast.FunctionDef):
        marks = {word for mark in function.decorator_list for word in re.findall(r"\w+", ast.unparse(mark))}
        arguments = {argument.arg for argument in function.args.args[len(function.args.defaults):]}
        if function.name.startswith("test_") and arguments - given - marks:
            raise ValueError(f"its tests need the fixture {min(arguments - given - marks)}")
    names = sorted(every(ast.Name), key=lambda node: (node.lineno, node.col_offset))
    if found := NOT_HERE & {*imports, *(one for taken in imports.values() for one in taken), *(node.id for node in names),
                            *(node.attr for node in every(ast.Attribute))}:
        raise ValueError(f"its tests use {min(found)}, which does not reach a program in another process")
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | {node.arg for node in every(ast.arg)}
    made |= {node.name for node in every((ast.FunctionDef, ast.ClassDef, ast.ExceptHandler))}
    made |= {(alias.asname or alias.name).split(".")[0] for alias in every(ast.alias)} | {"_same"}
    free = [node.id for node in names if node.id not in made and (node.id in (name, *ours) or not hasattr(builtins, node.id))]
    free += [one for module in program for one in sorted(imports[module] - {"*"})]
    free += [node.attr for node in every(ast.Attribute) if getattr(node.value, "id", "") in program]
    called = {node.func.id for node in every(ast.Call) if isinstance(node.func, ast.Name)}
    free.sort(key=lambda one: (-ours.index(one) if one in ours else 1, one not in called))
    if not free:
        raise ValueError("its tests never ask for anything of the program")
    if program:
        of_program = rf"^(\s*(?:from|import) )(?:{'|'.join(program)})\b"
        tests = [re.sub(of_program, r"\1solution", test, flags=re.MULTILINE) for test in tests]
    return [name or free[0], *free], tests


def modules(parsed):
    """{module: names taken from it} of the imports in a syntax tree, which may be None; of packages the outermost."""
    found = {}
    for node in ast.walk(parsed) if parsed else ():
        if isinstance(node, ast.ImportFrom):
            found.setdefault((node.module or "").split(".")[0], set()).update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0]: set() for alias in node.names if alias.name.split(".")[0] not in found}
    return found


def here(module):
    """Whether the sandbox has a module."""
    return module in sys.stdlib_module_names or module == "pytest" or module == "numpy" and bool(find_spec("numpy"))


def signatures(names, solution):
    """How some functions and classes are called, as a part of the prompt, as far as the syntax tree of a solution shows it."""
    shown = [node for node in solution.body if getattr(node, "name", None) in names] if solution else []
    for node in [part for node in shown for part in ast.walk(node)]:
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Expr(ast.Constant(...))]
        elif isinstance(node, ast.ClassDef):
            node.body = [part for part in node.body if isinstance(part, ast.FunctionDef)] or [ast.Pass()]
    return "\n\nIt begins like this:\n" * bool(shown) + "\n\n".join(map(ast.unparse, shown))
