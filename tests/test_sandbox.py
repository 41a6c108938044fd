"""Claims about domains/sandbox.py, run by test_all.py. Hostile programs run inside the sandbox only. Linux; root or not."""
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

import domains
from domains import code_, sandbox
from domains.sandbox import run_tests
from shared import WORK, raised, replaced, rows_of, shared

ADD = ["assert add(1, 2) == 3", "assert add(-5, 5) == 0"]
GOOD = "def add(a, b): return a + b\n"


def reward(program, *tests, entry_point=None, **settings):
    job = {"program": program, "tests": list(tests)}
    return run_tests([job | ({"entry_point": entry_point} if entry_point else {})], **settings)[0]

def script(program, stdin, stdout, **settings):
    return reward(program, {"stdin": stdin, "stdout": stdout}, **settings)

# ---- what should score, scores ----

def test_right_program_is_1_and_wrong_program_is_0():
    assert reward(GOOD, *ADD) == 1.0
    assert reward("def add(a, b): return a - b", *ADD) == 0.0
    assert reward("def add(a, b): return 3", *ADD) == 0.0          # one of two tests passes

def test_every_humaneval_reference_scores_1():
    rows = rows_of("humaneval/HumanEval.jsonl")
    for in_front in ("", "prompt"):                                 # the prompt's helpers in the test: also fine
        jobs = [{"program": row["prompt"] + row["canonical_solution"], "entry_point": row["entry_point"],
                 "tests": [row.get(in_front, "") + row["test"] + f"\ncheck({row['entry_point']})"]} for row in rows]
        assert run_tests(jobs, timeout=20) == [1.0] * 164

def test_every_mbpp_reference_scores_1():
    import ast, re
    jobs = []
    for line in shared("mbpp/mbpp.jsonl").read_text().splitlines():
        row = json.loads(line)
        names = [node.name for node in ast.parse(row["code"]).body if hasattr(node, "name")]
        tested = [name for name in names if re.search(rf"\b{name}\(", " ".join(row["test_list"]))]
        jobs.append({"program": row["code"], "tests": [row["test_setup_code"] + "\n" + test for test in row["test_list"]],
                     "entry_point": tested[-1]})
    assert run_tests(jobs, timeout=60) == [1.0] * 974       # one computes for seconds

def test_stdin_and_stdout_are_compared_up_to_trailing_blanks():
    double = "print(int(input()) * 2)"
    assert script(double, "21\n", "42\n") == script(double, "21", "42  \n\n") == 1.0
    assert script("print('a \\nb\\n\\n')", "", "a\nb") == 1.0
    assert script(double, "21\n", "43\n") == script("print(' 42')", "", "42") == script("print('a\\n\\nb')", "", "a\nb") == 0.0
    assert reward(double, {"stdin": "1", "stdout": "2"}, {"stdin": "2", "stdout": "5"}) == 0.0
    big = "".join(f"{i}\n" for i in range(50000))                   # more than the pipes hold, both ways
    assert script("import sys\nfor line in sys.stdin: print(int(line))", big, big) == 1.0
    assert script("import sys; sys.stdout.write(sys.stdin.read())", "naïve ☃\n", "naïve ☃") == 1.0
    assert script("print('never reads')", big, "never reads") == 1.0
    assert script("import sys, atexit\natexit.register(lambda: sys.stdout.write('late'))", "", "late") == 1.0
    assert script("if __name__ == '__main__': print('main')", "", "main") == 1.0

def test_right_output_with_a_nonzero_exit_is_a_failure():
    assert script("print(42)\nraise SystemExit(0)", "", "42") == 1.0
    for ending in ("raise SystemExit(3)", "raise SystemExit('no')", "1 / 0", "import os, sys; sys.stdout.flush(); os._exit(2)",
                   "import os, sys, time; sys.stdout.flush(); os.close(1); time.sleep(60)"):
        assert script("print(42)\n" + ending, "", "42", timeout=1) == 0.0, ending

def test_mixed_jobs_need_both_kinds_of_tests_to_pass():
    both = GOOD + "if __name__ == '__main__': print(add(*map(int, input().split())))"
    assert reward(both, *ADD, {"stdin": "1 2", "stdout": "3"}) == 1.0
    assert reward(both, *ADD, {"stdin": "1 2", "stdout": "4"}) == 0.0
    assert reward(both, "assert add(1, 1) == 3", {"stdin": "1 2", "stdout": "3"}) == 0.0

def test_values_of_all_plain_types_come_back_exactly():
    values = ["None", "True", "0", "-7", "2**62", "-2**100", "10**4000", "0.1", "-0.0", "float('inf')", "1e-320", "2-3j",
              "'snow ☃ \\ud800 \\x00'", "b'\\x00\\xff'", "bytearray(b'ab')", "[1, [2, (3, 4)]]", "(1,)",
              "()", "{}", "[]", "set()", "{1, 'a', (2, 3)}", "frozenset({1})", "{(1, 2): [3], None: {4}, 1.5: b'x'}",
              "range(1, 10, 3)"]
    tests = [f"x = f({i}); assert x == {v} and type(x) is type({v}) and str(x)[:9] == str({v})[:9]"
             if len(v) > 8 or '{' not in v else f"assert f({i}) == {v}" for i, v in enumerate(values)]
    tests.append("assert same([" + ", ".join(values) + "]) == [" + ", ".join(values) + "]")
    tests.append("import math\nassert math.isnan(same(float('nan')))")
    assert reward("def f(i): return [" + ", ".join(values) + "][i]\ndef same(x): return x", *tests) == 1.0

def test_subclasses_and_views_compare_as_in_one_process():
    program = """
from collections import *; from enum import IntEnum, Enum
P = namedtuple('P', 'x y')
class E(IntEnum): A = 1
class S(str, Enum): B = 'b'
def f(n):
    d = {'a': 1, 'b': 2}; q = defaultdict(int); q['a'] += 1
    return [Counter('aab'), OrderedDict(d), q, P(1, 2), E.A, S.B, d.keys(), d.items(), list(d.values()), range(3), True][n]
def g(n): yield from range(n)
"""
    assert reward(program, "assert f(0) == {'a': 2, 'b': 1} and f(1) == {'a': 1, 'b': 2} and f(2) == {'a': 1}",
                  "assert f(3) == (1, 2) and f(4) == 1 and f(5) == 'b' and f(6) == {'a', 'b'} and f(6) != ['a', 'b']",
                  "assert f(7) == {('a', 1), ('b', 2)} and f(8) == [1, 2] "
                  "and f(9) == range(3) and f(9) != [0, 1, 2] and f(10) is True",
                  "assert list(g(3)) == [0, 1, 2] and next(g(1)) == 0 and g(3) != [0, 1, 2] and sorted(g(2)) == [0, 1]",
                  "from collections import Counter\nassert f(0) == Counter('aab')") == 1.0

def test_mutated_arguments_are_seen_by_the_test():
    program = """
def sort_it(a): a.sort()
def grow(d, s, b): d['k'] = [1]; s.add(9); b.append(7)
def turn(m):
    for i in range(len(m)):
        for j in range(i): m[i][j], m[j][i] = m[j][i], m[i][j]
def fail(a): a.append(1); raise ValueError
"""
    assert reward(program, "a = [2, 1]; assert sort_it(a) is None and a == [1, 2]",
                  "d, s, b = {}, {1}, bytearray(); grow(d, s, b); assert (d, s, b) == ({'k': [1]}, {1, 9}, bytearray(b'\\x07'))",
                  "m = [[1, 2], [3, 4]]; turn(m); assert m == [[1, 3], [2, 4]]",
                  "a = []\ntry: fail(a)\nexcept ValueError: pass\nassert a == [1]") == 1.0

def test_classes_handles_and_passing_them_back_work():
    program = """
class Solution:
    def twoSum(self, nums, target): return [0, 1]
class Pair:
    def __init__(self, a, b): self.a, self.b = a, b
class Node:
    def __init__(self, v): self.v, self.next = v, None
    def __len__(self): return 3
    def __getitem__(self, i): return i * 2
    def __str__(self): return 'node'
def longest(pairs): return max(p.b for p in pairs)
def tail(node): return node.next.v
def drop(values, kind): return [v for v in values if not isinstance(v, kind)]
"""
    assert reward(program, "assert Solution().twoSum([2, 7], 9) == [0, 1]", "s = Solution()\nassert s == s and s != Solution()",
                  "assert longest([Pair(5, 24), Pair(b=90, a=1)]) == 90",
                  "n = Node(1); n.next = Node(2)\n"
                  "assert tail(n) == n.next.v == 2 and len(n) == 3 and n[4] == 8 and str(n) == 'node' and n",
                  "assert drop([1, 'a', 2.0], int) == ['a', 2.0]") == 1.0
    assert reward(program, "assert Pair(1, 2) == Pair(1, 2)") == 0.0

VECTOR = """
class V:
    count = 3
    def __init__(self, x, y=0): self.x, self.y = x, y
    def __add__(self, o): return V(self.x + o.x, self.y + o.y)
    def __eq__(self, o): return isinstance(o, V) and (self.x, self.y) == (o.x, o.y)
    def __hash__(self): return hash((self.x, self.y))
    def __mul__(self, k): return self.x * k.x + self.y * k.y if isinstance(k, V) else V(self.x * k, self.y * k)
    __rmul__ = __mul__
    def __lt__(self, o): return self.x < (o.x if isinstance(o, V) else o)
    def __abs__(self): return (self.x ** 2 + self.y ** 2) ** 0.5
    def __repr__(self): return f"V({self.x}, {self.y})"
    def __iter__(self): return iter((self.x, self.y))
    def __call__(self, z): return self.x * z
    def __contains__(self, z): return z in (self.x, self.y)
    def __iadd__(self, o): self.x += o.x; return self
    @property
    def norm(self): return abs(self)
    @classmethod
    def unit(cls): return cls(1, 0)
"""
BANK = """
class BankError(Exception): pass
class Poor(BankError):
    def __init__(self, need): super().__init__(f"need {need}"); self.need = need
def take(n): raise Poor(n)
"""
OBJECTS = [  # a program, tests that it passes as it would in one process
    (VECTOR, "assert V(1) + V(2) == V(3) != V(4) and V(1, 2) * 2 == V(2, 4) == 2 * V(1, 2) and V(1, 2) * V(3, 4) == 11",
     "assert V(1) < V(2) < 5 and sorted([V(3), V(1)]) == [V(1), V(3)] and abs(V(3, 4)) == V(3, 4).norm == 5",
     "assert str(V(1)) == f'{V(1)}' == 'V(1, 0)' and list(V(1, 2)) == [1, 2] and V(3)(2) == 6 and 1 in V(1) and 7 not in V(1)",
     "v = V(1); v += V(2); v.y = 5; assert v == V(3, 5) and V.unit() == V(1) and V.count == v.count == 3 and not hasattr(v, 'z')",
     "assert len({V(1), V(1), V(2)}) == 2 and isinstance(V(1), V) and type(V(1)) is V and V(2) in [V(1), V(2)]"),
    ("class B:\n  def __init__(s): s.d, s.log = [1, 3], []\n  def __contains__(s, x): return x in s.d\n"
     "  def __enter__(s): s.log.append('in'); return s\n  def __exit__(s, *a): s.log.append(a[0] is ValueError); return True",
     "assert 3 in B() and 4 not in B()", "b = B()\nwith b as c: assert c is b\nwith b: raise ValueError\n"
     "assert b.log == ['in', False, 'in', True]"),
    ("class Stack(list):\n  def push(s, x): s.append(x)\n  def peek(s): return s[-1]",
     "s = Stack(); s.push(1); s.push(2)\n"
     "assert s.peek() == 2 and s == [1, 2] and len(s) == 2 and s[0] == 1 and s.pop() == 2 and s == [1]"),
    ("from fractions import Fraction; from decimal import Decimal; import datetime\ndef f(x, y=1): return x + y",
     "from fractions import Fraction\nassert f(Fraction(1, 2)) == Fraction(3, 2) == 1.5 and isinstance(f(Fraction(1, 2)), Fraction)",
     "from decimal import Decimal\nassert str(f(Decimal('1.10'))) == '2.10'",
     "from datetime import *\nassert f(date(2020, 2, 28), timedelta(1)) == date(2020, 2, 29)\n"
     "assert f(datetime(2020, 1, 1, tzinfo=timezone.utc), timedelta(1)).day == 2"),
    ("from collections import *\ndef f(q): q.append(3); q.rotate(1); return q\ndef c(s): return Counter(s)\n"
     "def dd(): d = defaultdict(list); d[1].append(2); return d\nP = namedtuple('P', 'x y')\ndef p(): return P(1, 2)",
     "from collections import deque\nq = deque([1, 2], maxlen=5); r = f(q)\nassert q == r == deque([3, 1, 2]) and r.maxlen == 5",
     "assert c('aab').most_common(1) == [('a', 2)] and c('a')['z'] == 0 and dd() == {1: [2]} and dd()[9] == []",
     "assert p().x == 1 and p() == (1, 2) == P(1, y=2) and p()._asdict() == {'x': 1, 'y': 2}"),
    ("from dataclasses import dataclass\n@dataclass(order=True)\nclass P:\n  x: int\n  y: int = 0\ndef mk(a): return P(a)",
     "assert mk(1) == P(1) != P(1, 2) and P(1) < P(2) and repr(P(1)) == 'P(x=1, y=0)' and max(P(1), P(3)).x == 3"),
    ("import enum\nclass C(enum.Enum):\n  RED = 1\n  BLUE = 2\nclass N(enum.IntEnum):\n  LO = 1\n  HI = 2\ndef f(x): return C.RED",
     "assert f(1) is C.RED != C.BLUE and C(2).name == 'BLUE' and C['RED'].value == 1 and len(C) == 2 and C.RED in C",
     "assert N.LO == 1 and N.LO < N.HI > 1 and N.LO + 1 == 2 and [n.name for n in N] == ['LO', 'HI']"),
    (BANK, "try: take(2)\nexcept Poor as e: assert str(e) == 'need 2' and e.need == 2 and e.args == ('need 2',)\nelse: assert 0",
     "try: take(2)\nexcept BankError as e: assert type(e) is Poor\nelse: assert 0", "assert issubclass(Poor, Exception)"),
    ("def ap(f, x): return f(f(x))\ndef mp(f, xs): return [f(x) for x in xs]\ndef comp(f, g): return lambda x: f(g(x))\n"
     "def take(it, n): return [next(it) for _ in range(n)]\ndef order(xs): return sorted(xs)\ndef name(u): return u.name.upper()",
     "assert ap(lambda x: x + 1, 3) == 5 and comp(lambda x: x * 2, lambda x: x + 1)(3) == 8",
     "import math, operator\nassert mp(str.lower, ['A']) == ['a'] and mp(math.sqrt, [4]) == [2] and mp(len, ['ab']) == [2] "
     "and mp(operator.itemgetter(1), [(1, 2)]) == [2] and mp('{}!'.format, ['a']) == ['a!']",
     "def count():\n  n = 0\n  while True:\n    yield n\n    n += 1\nassert take(count(), 3) == [0, 1, 2]",
     "class U:\n  def __init__(self, name): self.name = name\n  def __lt__(self, other): return self.name < other.name\n"
     "a, b = U('a'), U('b')\nassert name(a) == 'A' and order([b, a])[0] is a",
     "calls = []\ndef f(x): calls.append(x); return x\nassert ap(f, 1) == 1 and calls == [1, 1]")]

def test_objects_functions_and_exceptions_behave_as_in_one_process():
    jobs = [{"program": program, "tests": [test]} for program, *tests in OBJECTS for test in tests]
    wrong = [job for job, got in zip(jobs, run_tests(jobs)) if got != 1.0]
    assert not wrong, wrong

def test_what_only_the_program_can_know_is_nan_and_what_it_may_not_see_is_a_failure():
    lies = "  __eq__ = lambda s, o: True\n  __sub__ = __mul__ = lambda s, o: 0.0\n  __lt__ = __contains__ = lambda s, o: True\n"
    close = "assert abs({} - 3) < 1e-6"
    assert reward("class L:\n" + lies + "def f(x): return L()", close.format("f(2)")) == 0.0
    assert reward("class f:\n  def __init__(s, x): pass\n" + lies, close.format("f(2)")) == 0.0         # a class in the place of
    assert reward("class F:\n  def __init__(s, x): pass\n" + lies + "f = F", close.format("f(2)")) == 0.0       # a function
    assert reward("class L(int):\n" + lies + "def f(x): return L(7)", "L\n" + close.format("f(2)")) == 0.0
    liar = "class C:\n  def __init__(s, x): s.x = x\n  def area(s): return s\n  def other(s): return C(77)\n" + lies
    assert math.isnan(reward(liar, "c = C(1)\n" + close.format("c.area()")))
    assert math.isnan(reward(liar, "assert C(1).other() == C(2)")) and reward(liar, "assert C(1) == 1") == 0.0

def test_a_program_cannot_look_into_the_functions_and_objects_that_a_test_passes():
    test = (f"class Box:\n  def __init__(s): s.value, s._key = 1, 2\nexpected = 'wombat'\n"
            "def g():\n  yield 1\n  assert expected\n"
            "assert f(lambda x: expected and x, g(), Box()) == []\nassert expected == 'wombat'")
    program = """
def f(function, generator, box):
    found = []
    ask = type(function).__call__.__globals__['peer'].ask
    for act in (lambda: ask('getattr', function, '__globals__'), lambda: ask('getattr', function, '__code__'),
                lambda: ask('getattr', generator, 'gi_frame'), lambda: ask('getattr', box, '_key'), lambda: ask('name', 'expected'),
                lambda: ask('getattr', box, '__class__'), lambda: ask('state', box), lambda: ask('eval', 'expected'),
                lambda: ask('getattr', '{0.__globals__}', 'format'), lambda: ask('call', eval, 'expected'),
                lambda: ask('plain', box), lambda: ask('getattr', type(box), '__init__'), lambda: ask('exec', box)):
        try: found.append(act())
        except (TypeError, AttributeError): pass
    assert ask('getattr', box, 'value') == function(1) == next(generator) == 1
    return found
"""
    assert reward(program, test) == 1.0

def test_programs_find_their_usual_surroundings():
    for program, stdin, stdout in (
            ("import fileinput; print(sum(int(line) for line in fileinput.input()))", "1\n2\n", "3"),
            ("import sys\nif len(sys.argv) > 1: open(sys.argv[1])\nprint(input())", "1\n", "1"),
            ("print(open('/dev/stdin').read().upper(), open(0).read())", "ab\n", "AB"), ("\ufeffprint(1)", "", "1"),
            ("import sqlite3\nc = sqlite3.connect(':memory:')\nprint(c.execute('select 1+1').fetchone()[0])", "", "2")):
        assert script(program, stdin, stdout) == 1.0, program
    for driver in ("print(add(int(input()), 1))", "import sys\nfor line in sys.stdin: print(line)",
                   "import sys\nprint(sys.stdin.buffer.read().split()[0])"):
        assert reward("import sys\ninput = sys.stdin.readline\n" + GOOD + driver, *ADD) == 1.0, driver
    assert reward(GOOD + "1 / 0", *ADD) == 0.0
    assert reward("class Solution:\n  def add(self, a, b): return a + b", *ADD) == 1.0
    assert reward(GOOD, "from solution import add\nassert add(1, 2) == 3", "import solution\nassert solution.add(1, 2) == 3") == 1.0

def test_numpy_is_there_where_it_is_installed():
    import importlib.util
    test = ("import numpy as np\nassert np.allclose(f([1, 2]), [2, 4]) and (f([1, 2]) == np.array([2, 4])).all()\n"
            "assert g(np.arange(4)) == 6")
    got = reward("import numpy as np\ndef f(a): return np.array(a) * 2\ndef g(a): return a.sum()", test)
    assert got == 1.0 if importlib.util.find_spec("numpy") else math.isnan(got)

def test_printed_numbers_are_right_within_a_millionth_where_a_decimal_number_is_expected():
    for printed, expected in (("0.3333333333333333", "0.3333333333"), ("1e3 2", "1000.0 2"), ("x 0.5\n2.00", "x 0.50\n2.0"),
                              ("-0.0", "0.0"), ("1000000.4", "1000000.0")):
        assert sandbox.same_text(printed, expected), printed
    for printed, expected in (("0.3334", "0.3333"), ("2.0", "2"), ("1.0 2", "1.0  2"), ("1.0", "1.0 2"), ("nan", "1.0"),
                              ("", "0.0"), ("x0.5", "0.5"), ("1.0000021", "1.0"), ("yes", "1e5"), ("1.5\n1.5", "1.5 1.5")):
        assert not sandbox.same_text(printed, expected), printed

def test_exceptions_keep_their_type_and_arguments():
    program = """
class Mine(KeyError): pass
def f(n):
    if n == 0: raise ValueError('bad')
    if n == 1: raise Mine('x')
    if n == 2: b'\\xff'.decode()
    raise type('Odd', (Exception,), {})()
"""
    expect = "def raises(n):\n  try: f(n)\n  except Exception as e: return type(e).__name__\n"
    assert reward(program,
                  expect + "assert [raises(n) for n in range(4)] == ['ValueError', 'Mine', 'UnicodeDecodeError', 'Odd']",
                  "try: f(1)\nexcept KeyError as e: assert e.args == ('x',) and isinstance(e, Mine)\nelse: assert 0",
                  "try: f(0)\nexcept ValueError as e: assert str(e) == 'bad'\nelse: assert 0") == 1.0

def test_test_state_is_one_per_program_and_scripts_are_fresh():
    assert reward("n = 0\ndef f():\n  global n; n += 1; return n", "assert f() == 1", "assert f() == 2") == 1.0
    job = {"stdin": "", "stdout": "[]"}
    assert reward("import os; print(os.listdir('.')); open('left', 'w').write('x')", job, job, job) == 1.0

def test_main_block_does_not_run_in_function_mode_and_dataclasses_work():
    program = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n  x: int\n"
    assert reward(program + GOOD + "if __name__ == '__main__': input()", "assert P(3).x == 3", *ADD) == 1.0

def test_standard_library_imports_lazily_inside_the_walls():
    modules = "asyncio, csv, difflib, email, fractions, html, logging, pickle, pprint, unittest, xml.dom.minidom, zipfile"
    assert script(f"import {modules}\nprint('ä'.encode('latin-1'), hash('x') == hash('x'))", "", "b'\\xe4' True") == 1.0
    assert script("import asyncio\nasync def main(): await asyncio.sleep(0.01); print('awake')\nasyncio.run(main())",
                  "", "awake") == 1.0

def test_rewards_are_repeatable_where_programs_use_hash_order_or_random():
    program = "import random\ndef f(): return [hash('a'), random.random(), list({'a', 'b', 'c', 'd'})]"
    first = subprocess.run([sys.executable, "-c",
                            "import random; random.seed(0); print([hash('a'), random.random(), list({'a', 'b', 'c', 'd'})])"],
                           env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True).stdout
    assert reward(program, f"assert f() == {first}") == 1.0


# ---- the verifier's own failures are nan ----

def test_verifier_failures_are_nan_not_0():
    for tests in ([], ["assert add(1, 2) == "], ["assert True"], ["\x00"], ["import no_such_module\nassert add(1, 2) == 3"],
                  [{"stdin": "x"}], [{"stdin": 1, "stdout": ""}], [3], ["assert add(1, 2) == 3", "def broken(:"]):
        assert math.isnan(reward(GOOD, *tests)), tests
    assert math.isnan(reward("syntax error here", "assert add(1, 2) == "))

def test_worker_that_cannot_start_is_nan_for_every_job():
    with replaced(sys, executable="/bin/false"):
        assert all(map(math.isnan, run_tests([{"program": GOOD + f"# {i}", "tests": ADD} for i in range(5)])))
    assert reward(GOOD, *ADD) == 1.0

def test_no_fork_on_this_system_is_one_clear_error():
    fork = os.fork
    del os.fork
    try:
        error = raised(lambda: run_tests([]))
    finally:
        os.fork = fork
    assert isinstance(error, OSError) and "fork" in str(error)

def test_builtin_named_function_needs_its_entry_point():
    program = "def sum(a, b): return a * b"
    assert reward(program, "assert sum(2, 3) == 6", entry_point="sum") == 1.0
    assert math.isnan(reward(program, "assert sum(2, 3) == 6"))

def test_test_that_loops_forever_does_not_hang():
    start = time.time()
    assert reward(GOOD, "assert add(1, 2) == 3\nwhile True: pass", timeout=1) == 0.0
    assert reward(GOOD, "while True: pass", timeout=1) == 0.0
    assert time.time() - start < 5


# ---- programs that do not work ----

def test_empty_and_broken_programs_are_0():
    for program in ("", "   ", "def add(a, b)", "raise ValueError", "def add(a): return a", "1 / 0", "\x00",
                    "def add(a, b): return a + b\x00", "\ud800", "x = '\udc80'", "é = ", "(" * 5000,
                    "-" * 100000 + "1", "x = " + "[" * 1000 + "]" * 1000, "add = " + "+".join(["1"] * 100000),
                    "# coding: nonsense\ndef add(a, b): return 4", "lambda: (yield)", "def add(a, b): pass"):
        assert reward(program, *ADD) == 0.0, program[:40]
    assert reward(GOOD + "x = '☃'", *ADD) == script("print('☃'[1:] or 1)", "", "1") == 1.0

def test_infinite_loops_and_sleep_end_at_the_timeout():
    start = time.time()
    jobs = [{"program": program, "tests": ADD} for program in
            ("while True: pass", "import time; time.sleep(1000)", "def add(a, b):\n  while True: pass",
             "import threading\nthreading.Event().wait()", "import signal\nsignal.pause()",
             "import os\nos.read(0, 1); os.read(3, 9999); os.read(4, 9999)\nwhile 1: pass")]
    assert run_tests(jobs + [{"program": "while True: pass", "tests": [{"stdin": "", "stdout": ""}]}], timeout=1) == [0.0] * 7
    assert time.time() - start < 10

def test_fork_bombs_threads_and_daemons_leave_no_process_behind():
    mark = f"sandbox_daemon_{os.getpid()}"
    program = """
import os, sys, subprocess, threading, time, _thread, multiprocessing, signal
started = 0
def attempt(function):
    global started
    try: function(); started += 1
    except BaseException: pass
def fork():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True: time.sleep(1)
        os._exit(0)
def bomb():
    while True: os.fork()
for f in (fork, bomb, os.forkpty, lambda: os.system('sleep 100 &'), lambda: subprocess.Popen(['sleep', '100']),
          lambda: os.posix_spawn(sys.executable, ['MARK'], {}), lambda: os.execv('/bin/sleep', ['MARK', '100']),
          lambda: threading.Thread(target=time.sleep, args=(100,)).start(), lambda: _thread.start_new_thread(time.sleep, (100,)),
          lambda: multiprocessing.Process(target=time.sleep, args=(100,)).start(),
          lambda: __import__('pty').spawn('sleep'),
          lambda: __import__('_posixsubprocess').fork_exec([b'x'], [b'/bin/sleep'], True, (), None,
                                                           None, -1, -1, -1, -1, -1, -1, 1, 2, True, False,
                                                           0, None, None, None, -1, None, True)):
    attempt(f)
def add(a, b): return started
""".replace("MARK", mark)
    def read(pid, name):
        try: return open(f"/proc/{pid}/{name}", "rb").read()
        except OSError: return b") ? ?"                             # gone meanwhile
    pids = lambda: [pid for pid in os.listdir("/proc") if pid.isdigit()]
    sleeping = lambda: sum(b"sleep\x00100" in read(pid, "cmdline") for pid in pids())
    parent = lambda pid: read(pid, "stat").rsplit(b")", 1)[1].split()[1].decode()
    before = sleeping()
    assert reward(program, "assert add(1, 2) == 0") == 1.0          # the program itself saw every attempt fail
    assert sleeping() == before
    assert not any(b"--worker" in read(pid, "cmdline") and parent(pid) == str(os.getpid()) for pid in pids())

def test_fork_is_refused_even_past_the_audit_hook():
    """Without the hook, the kernel still says no: the walls are not made of Python."""
    results = kernel_only("""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def add(a, b):
    out = []
    for name, *args in (('fork',), ('kill', os.getppid(), 9), ('kill', -1, 9), ('socket', 2, 1, 0),
                        ('socket', 1, 1, 0), ('chmod', b'CANARY', 0), ('open', b'/etc/passwd', 0),
                        ('open', b'CANARY', 1), ('open', f'/proc/{os.getppid()}/mem'.encode(), 0), ('open', b'CANARY', 0),
                        ('unlink', b'CANARY'), ('truncate', b'CANARY', 0), ('setpriority', 0, 0, 19),
                        ('ptrace', 16, os.getppid(), 0, 0), ('mkdir', b'd', 511), ('symlink', b'/etc', b's'),
                        ('opendir', b'/'), ('memfd_create', b'x', 0), ('shmget', 0, 4096, 950),
                        ('rename', b'CANARY', b'mine'), ('link', b'CANARY', b'mine')):
        f = getattr(libc, name)
        if name == 'opendir': f.restype = ctypes.c_void_p
        r = f(*args)
        out.append((name, r if name != 'opendir' else -1 if r is None else 1))
    return [o for o in out if o[1] != -1]
""")
    assert results == 1.0

def kernel_only(program):
    """Run with the Python layer taken out of a copy of the module, so that only the kernel's walls are left."""
    import importlib.util
    hook = 'install_audit_hook(os.getcwd(), shield["stdlib"])'
    with tempfile.TemporaryDirectory() as folder:
        canary, path = a_canary(folder), os.path.join(folder, "bare.py")
        source = open(sandbox.__file__).read()
        assert source.count(hook) == 1
        open(path, "w").write(source.replace(hook, "sys.modules['ctypes'] = __import__('ctypes')"))
        spec = importlib.util.spec_from_file_location("bare", path)
        bare = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(bare)
        result = bare.run_tests([{"program": program.replace("CANARY", canary), "tests": ["assert add(1, 2) == []"]}])[0]
        assert open(canary).read() == "alive" and os.stat(canary).st_mode & 0o777 == 0o666
        return result

def a_canary(folder):
    """A file in the folder, both open to everybody; its path."""
    canary = os.path.join(folder, "canary")
    open(canary, "w").write("alive")
    os.chmod(folder, 0o777), os.chmod(canary, 0o666)
    return canary

def test_memory_hogs_fail_and_do_not_disturb_others():
    hogs = ["x = [0] * 10**10", "x = bytearray(10**10)", "x = []\nwhile True: x.append(' ' * 10**6)",
            "def add(a, b): return 'x' * 10**9", "def add(a, b): return [0] * 10**8", "x = 1 << 10**11"]
    jobs = [{"program": hog, "tests": ADD} for hog in hogs] + [{"program": GOOD, "tests": ADD}]
    assert run_tests(jobs, memory_mb=256) == [0.0] * len(hogs) + [1.0]
    assert reward("def add(a, b): return len(bytearray(200 << 20))", "assert add(1, 2) == 200 << 20", memory_mb=512) == 1.0
    assert reward("def add(a, b): return len(bytearray(200 << 20))", "assert add(1, 2) == 200 << 20", memory_mb=128) == 0.0

def test_output_floods_are_capped_in_both_modes():
    flood = "while True: print('x' * 100000)"
    assert script(flood, "", "x", timeout=2) == 0.0
    assert script("print('x' * 2_000_000)", "", "x" * 100) == 0.0
    assert script("import os\nwhile True: os.write(2, b'x' * 100000)", "", "x", timeout=1) == 0.0
    assert reward("for i in range(10**5): print('x' * 1000)\n" + GOOD, *ADD) == 1.0       # goes nowhere, costs nothing
    assert reward(flood + "\n" + GOOD, *ADD, timeout=1) == 0.0

def test_huge_and_deep_values_are_failures_or_right_but_never_hang():
    assert reward("def f(): return 1 << 10**7", "assert f() == 1 << 10**7") == 1.0
    digits = "def f(): return int('7' * 4301, 10)"
    assert reward("import sys; sys.set_int_max_str_digits(0)\n" + digits, "assert f() == 7 * (10**4301 - 1) // 9") == 1.0
    deep = "def f(n):\n  x = []\n  for i in range(n): x = [x]\n  return x"
    assert reward(deep, "x, n = f(100), 0\nwhile x: x = x[0]; n += 1\nassert n == 100") == 1.0
    assert reward(deep, "f(10**6)", timeout=1) == reward("import sys; sys.setrecursionlimit(10**9)\n" + deep,
                                                         "f(10**5)", timeout=1) == 0.0
    assert reward("def f():\n  x = []; x.append(x); return x", "f()") == 0.0
    assert reward("def f():\n  x = []\n  for i in range(99): x = [x, x]\n  return x", "f()", timeout=0.5) == 0.0
    for recursion in ("def f(): return f()", "import sys; sys.setrecursionlimit(10**9)\ndef f(): return f()",
                      "f = eval('(' * 90 + ')' * 90)",
                      "import sys; sys.setrecursionlimit(10**9)\nclass A:\n"
                      "  __getattr__ = lambda s, n: getattr(s, n)\ndef f(): return A().x"):
        assert reward(recursion, "f()", timeout=1) == 0.0

def test_generators_lambdas_and_modules_are_never_equal_to_an_answer():
    for value in ("(i for i in range(3))", "lambda: 3", "__import__('sys')", "object()", "iter([3])",
                  "Ellipsis", "NotImplemented", "int", "open('/dev/null')"):
        assert reward(f"def add(a, b): return {value}", *ADD) == 0.0, value
    assert reward("def f():\n  while True: yield 1", "assert list(f()) == [1]", timeout=1) == 0.0


# ---- programs that cheat ----

def test_leaving_early_is_a_failure():
    """At import, in a call, or while a value is built; even if the test itself would swallow every exception."""
    ways = ["import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit", "import os; os.abort()",
            "raise KeyboardInterrupt", "import atexit, os; atexit.register(os._exit, 0)\nraise SystemExit",
            "raise GeneratorExit", "import os; os.closerange(0, 99)",
            "import os\nfor fd in range(99):\n try: os.close(fd)\n except OSError: pass"]
    jobs = []
    for way in ways:
        inside = "\n".join("  " + line for line in way.split("\n"))
        for program in (way, GOOD + way, f"def add(a, b):\n{inside}\n  return a + b", f"def add(a, b):\n yield 3\n{inside}"):
            jobs.append({"program": program, "tests": ADD})
            jobs.append({"program": program, "tests": ["try: list(add(1, 2))\nexcept BaseException: pass"]})
    paid = [job for job, got in zip(jobs, run_tests(jobs, timeout=2)) if got != 0.0]
    assert not paid, paid

def test_lying_objects_do_not_pass():
    for lie in ("class L:\n  __eq__ = lambda s, o: True\n  __ne__ = lambda s, o: False\n  __bool__ = lambda s: True\n"
                "  __hash__ = None\ndef add(a, b): return L()",
                "class L(int):\n  __eq__ = lambda s, o: True\n  __ne__ = lambda s, o: False\n  __hash__ = int.__hash__\n"
                "def add(a, b): return L(7)",
                "class L(list):\n  __eq__ = lambda s, o: True\ndef add(a, b): return L()",
                "class L:\n"
                "  __contains__ = __lt__ = __le__ = __gt__ = __ge__ = __sub__ = __rsub__ = __radd__ = lambda s, o: True\n"
                "  __class__ = int\n  __abs__ = __index__ = lambda s: 99\n  __getattr__ = lambda s, n: L()\n"
                "def add(a, b): return L()",
                "class M(type):\n  __eq__ = lambda s, o: True\n  __instancecheck__ = lambda s, o: True\n  __hash__ = None\n"
                "class add(metaclass=M):\n  def __init__(s, *a): pass"):
        assert reward(lie, *ADD) == 0.0
        for test in ("assert abs(add(1, 2) - 3) < 1e-6", "assert 3 in add(1, 2)",
                     "assert isinstance(add(1, 2), int) and add(1, 2) == 3"):
            assert reward(lie, test) == 0.0

def test_patched_builtins_and_modules_do_not_reach_the_test():
    patches = """
import builtins, json, sys, os, math, collections
yes = lambda *a, **k: True
for name in ('abs', 'all', 'len', 'isinstance', 'AssertionError', 'sum', 'round', 'set', 'sorted', 'str',
             'zip', 'print', 'eval', 'exec', 'compile'):
    try: setattr(builtins, name, yes); globals()[name] = yes
    except BaseException: pass
for module in (json, math, collections, os):
    for name in dir(module):
        if not name.startswith('_'):
            try: setattr(module, name, yes)
            except BaseException: pass
class math: isclose = fabs = yes
sys.modules.clear()
def add(a, b): return 99
"""
    for test in ("assert abs(add(1, 2) - 3) < 1", "assert all([add(1, 2) == 3])",
                 "import math\nassert math.isclose(add(1, 2), 3)", "assert math.isclose(add(1, 2), 3)",
                 "assert sorted([add(1, 2)]) == sorted([3])", "assert set([add(1, 2)]) == {3}", *ADD):
        assert reward(patches, test) == 0.0
    assert reward("def add(a, b):\n"
                  "  import builtins; builtins.AssertionError = Exception; builtins.isinstance = lambda *a: 1; return 0",
                  *ADD) == 0.0

def test_entry_point_and_helpers_of_the_prompt_cannot_be_replaced():
    test = ("def poly(xs, x): return sum(c * x**i for i, c in enumerate(xs))\ndef find_zero(xs): 'stub'\n"
            "assert abs(poly([1, 2], find_zero([1, 2]))) < 1e-4")
    assert reward("def find_zero(xs): return -0.5", test, entry_point="find_zero") == 1.0
    assert reward("def find_zero(xs): return 7\ndef poly(xs, x): return 0", test, entry_point="find_zero") == 0.0

def test_forged_replies_do_not_pass():
    forge = """
import os, json
def frame(m):
    d = json.dumps(m).encode(); return len(d).to_bytes(4, 'big') + d
for fd in range(100):
    for message in MESSAGES:
        try: os.write(fd, message)
        except OSError: pass
"""
    for messages in ("[b'pass', b'\"pass\"', frame('pass'), frame('heard'), frame(['1'])]",
                     "[frame('ready'), frame(['value', True, None]), frame(['value', ['handle', 0], None])] * 9",
                     "[frame(['value', {'x': 1}, None])]", "[frame(['value', ['exec', 'x'], None])]",
                     "[frame(['value', ['handle', 'eval'], None])]", "[b'\\xff' * 64]",
                     "[(2**31 - 1).to_bytes(4, 'big')]", "[b'\\xff' * 4 + (2**63).to_bytes(8, 'big')]", "[b'\\x80' + b'\\0' * 3]", "[frame(['error', ['SystemExit'], 'x', None])] * 3",
                     "[frame(['error', [['SystemExit', 'BaseException', 'AssertionError'], ''], None])] * 9",
                     "[frame('ready'), frame(['value', ['handle', 0], None]), frame(['value', 99, [['list', 1]]])]",
                     "[b'[' * 100000]", "[frame('ready') , len(b'[' * 100000).to_bytes(4, 'big') + b'[' * 100000]"):
        programs = [forge.replace("MESSAGES", messages) + rest
                    for rest in ("", "import time; time.sleep(9)", "def add(a, b): return 99", "os._exit(0)")]
        programs.append("def add(a, b):\n  " + forge.replace("MESSAGES", messages).strip().replace("\n", "\n  ")
                        + "\n  return 99")
        rewards = run_tests([{"program": program, "tests": ADD} for program in programs], timeout=0.3)
        assert rewards == [0.0] * 5, (messages, rewards)

SECRET = "wombat" + "4711"                                         # the expected answer; programs look for its two halves

def test_expected_answers_are_nowhere_to_be_found():
    """The program searches objects, frames, files and /proc for the answer and returns what it found."""
    search = """
import gc, sys, os, inspect, io
found = []
def look(where, text):
    text = text if isinstance(text, str) else repr(text)
    if ''.join(['wombat', '47', '11']) in text: found.append(where)
def search():
    for o in gc.get_objects():
        try:
            if isinstance(o, (dict, list, tuple, set)): look(
                'gc', [x for x in (o.values() if isinstance(o, dict) else o) if isinstance(x, (str, bytes))])
        except Exception: pass
    frame = sys._getframe()
    while frame:
        look('frame', [v for v in frame.f_locals.values() if isinstance(v, (str, bytes, list, dict))])
        frame = frame.f_back
    for info in inspect.stack(): look('stack', info.code_context)
    for m in list(sys.modules.values()): look('module', [v for v in vars(m).values() if isinstance(v, (str, bytes))])
    look('argv', sys.argv + sys.orig_argv + list(os.environ.items()))
    pids = ['self', 'thread-self', str(os.getppid())] + [
        str(i) for i in range(1, 100)] + [str(os.getpid() + i) for i in range(-20, 20)]
    for pid in pids:
        for name in ('mem', 'cmdline', 'environ', 'maps', 'fd/0', 'fd/1', 'fd/3', 'fd/4', 'fd/5', 'status'):
            try:
                with open(f'/proc/{pid}/{name}', 'rb') as f: found.append('opened ' + pid + name)
            except OSError: pass
    for fd in range(100):
        if fd in own: continue
        try: os.fstat(fd)
        except OSError: continue
        try: look('fd', os.read(fd, 1000) if fd else b'')
        except OSError: pass
    for root in ('/', '/proc', '/tmp', '/home', '/root', '/etc', '/var/tmp', '/dev/shm', '..', os.path.expanduser('~'), 'WHERE'):
        try: found.append(('listed', root, os.listdir(root)))
        except OSError: pass
    for path in ('/etc/passwd', '/etc/shadow', 'WHERE/answers.txt', '/proc/self/fd/1', '../../../etc/passwd', '/proc/version'):
        try: found.append(open(path).read())
        except OSError: pass
    return found
own = ()
"""
    with tempfile.TemporaryDirectory() as folder:
        open(f"{folder}/answers.txt", "w").write(SECRET)
        os.chmod(folder, 0o755), os.chmod(f"{folder}/answers.txt", 0o644)
        search = search.replace("WHERE", folder)
        function = search.replace("own = ()", "own = tuple(fd for fd in range(100) if ispipe(fd))").replace(
            "import gc", "import stat, os\ndef ispipe(fd):\n    try: return stat.S_ISFIFO(os.fstat(fd).st_mode)\n"
                         "    except OSError: return False\nimport gc")
        assert reward(function + "def f(): return search()", f"x = f()\nassert x == [], x\nassert f() != {SECRET!r}") == 1.0
        assert script(search + "print(search())", "", "[]") == 1.0
        # it can find
        assert reward(function + f"def f(): return search()\nplanted = [{SECRET!r}]",
                      "assert 'gc' in f() and 'module' not in f()") == 1.0
        # and once more with a grown heap of earlier jobs with the same answer
        jobs = [{"program": "def f(): return 'x'", "tests": [f"assert f() == {SECRET!r}", f"# {i}"]} for i in range(4)]
        jobs.append({"program": function + "def f(): return search()", "tests": [f"assert f() == [] # {SECRET}"]})
        assert run_tests(jobs, workers=1)[-1] == 1.0

def test_files_outside_of_the_directory_survive():
    with tempfile.TemporaryDirectory() as folder:
        canary = a_canary(folder)
        before = os.stat(canary)
        attack = f"""
import os, shutil, pathlib, tempfile
C, D = {canary!r}, {folder!r}
for act in (lambda: os.remove(C), lambda: os.unlink(C), lambda: open(C, 'w').write('x'),
            lambda: open(C, 'a').write('x'), lambda: open(C, 'r+').write('x'), lambda: open(D + '/new', 'w'),
            lambda: os.open(C, os.O_WRONLY | os.O_TRUNC), lambda: os.rename(C, 'mine'), lambda: os.replace('own', C),
            lambda: os.truncate(C, 0), lambda: shutil.rmtree(D), lambda: os.rmdir(D), lambda: os.mkdir(D + '/d'),
            lambda: os.symlink(C, 'link'), lambda: os.link(C, 'hard'), lambda: os.chmod(C, 0), lambda: os.chown(C, 1, 1),
            lambda: os.utime(C, (0, 0)), lambda: os.setxattr(C, 'user.x', b'y'), lambda: pathlib.Path(C).write_text('x'),
            lambda: shutil.move(C, 'mine'), lambda: tempfile.NamedTemporaryFile(dir=D), lambda: os.mkfifo(D + '/p'),
            lambda: os.mknod(D + '/q'), lambda: __import__('ctypes').CDLL(None).unlink(C.encode()),
            lambda: __import__('_ctypes').dlopen(None, 0), lambda: os.chdir(D), lambda: open(C).read(), lambda: os.listdir(D)):
    try: open('own', 'w').write('y'); act()
    except (OSError, PermissionError): continue
    print('worked:', act.__code__.co_names)
print('all refused')
"""
        assert script(attack, "", "all refused") == 1.0
        after = os.stat(canary)
        assert open(canary).read() == "alive" and os.listdir(folder) == ["canary"]
        assert (before.st_mode, before.st_uid, before.st_mtime_ns) == (after.st_mode, after.st_uid, after.st_mtime_ns)

def test_own_directory_is_writable_bounded_and_gone_afterwards():
    write = ("open('a.txt', 'w').write('hello'); import os; os.rename('a.txt', 'b.txt'); "
             "print(open('b.txt').read(), os.listdir('.')); os.remove('b.txt'); print(os.listdir())")
    assert script(write, "", "hello ['b.txt']\n[]") == 1.0
    assert script("f = open('big', 'wb')\nf.write(b'x' * (2 << 20)); f.close(); print('wrote')", "", "wrote") == 0.0
    many = "n = 0\ntry:\n  while True: open(str(n), 'w').write('x'); n += 1\nexcept PermissionError: print(n)"
    assert script(many, "", str(sandbox.FILES_WRITTEN)) == 1.0
    where = "import os; print(os.getcwd())"
    before = set(os.listdir(tempfile.gettempdir()))
    reward(where, {"stdin": "", "stdout": ""})
    assert not [name for name in set(os.listdir(tempfile.gettempdir())) - before if name.startswith("sandbox-")]

def test_parent_and_siblings_survive_signals():
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        kill = f"""
import os, signal, resource
n = 0
for act in (lambda: os.kill(os.getppid(), 9), lambda: os.kill(-1, 9), lambda: os.kill({victim.pid}, 9),
            lambda: os.kill({os.getpid()}, 9), lambda: os.killpg(1, 9), lambda: os.kill(os.getppid(), 19),
            lambda: signal.pidfd_send_signal(os.pidfd_open({victim.pid}), 9),
            lambda: resource.prlimit({victim.pid}, resource.RLIMIT_CPU, (0, 0)),
            lambda: os.setpriority(os.PRIO_PROCESS, {victim.pid}, 19), lambda: os.sched_setaffinity({victim.pid}, {{0}}),
            lambda: os.setpriority(os.PRIO_USER, 0, 19)):
    try: act(); n += 1
    except OSError: pass
def add(a, b): return n
"""
        jobs = [{"program": kill, "tests": ["assert add(1, 2) == 0"]}]
        jobs += [{"program": GOOD + f"# {i}", "tests": ADD} for i in range(20)]
        assert run_tests(jobs) == [1.0] * 21
        assert victim.poll() is None and os.getpriority(os.PRIO_PROCESS, victim.pid) == os.getpriority(os.PRIO_PROCESS, 0)
    finally:
        victim.kill(), victim.wait()

def test_killed_or_stopped_worker_does_not_pay_or_hang():
    """From outside: the worker dies, or is stopped, in the middle of a job. The job is tried once more, then fails."""
    import signal
    for sign in (signal.SIGKILL, signal.SIGSTOP):
        hit = []
        class Struck(sandbox.Worker):
            def start(self):
                super().start()
                threading.Timer(0.3, self.process.send_signal, [sign]).start()
                hit.append(self)
        with replaced(sandbox, Worker=Struck, GRACE_SECONDS=0.5):
            assert reward("import time; time.sleep(0.7)\n" + GOOD, *ADD, timeout=1) == 0.0
            assert len(hit) == 2
    assert reward(GOOD, *ADD) == 1.0

def test_network_is_out_of_reach():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        connect = f"""
import socket
n = 0
for act in (lambda: socket.create_connection(('127.0.0.1', {port}), 1),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53)),
            lambda: socket.socket(socket.AF_UNIX), lambda: socket.socket().connect(('127.0.0.1', {port})),
            lambda: socket.getaddrinfo('example.org', 80), lambda: socket.gethostbyname('localhost'),
            lambda: __import__('urllib.request').request.urlopen('http://127.0.0.1:{port}'),
            lambda: __import__('_socket').socket()):
    try: act(); n += 1
    except Exception: pass
def add(a, b): return n
"""
        assert reward(connect, "assert add(1, 2) == 0") == 1.0
        server.settimeout(0.1)
        assert isinstance(raised(server.accept), TimeoutError)       # nobody connected

def test_no_program_runs_as_root():
    assert script("import os; print(0 in (os.getuid(), os.geteuid(), os.getgid()), os.getgroups().count(0))",
                  "", "False 0") == 1.0

def test_nothing_leaks_from_one_program_to_the_next():
    plant = ("import builtins, sys, os\nbuiltins.planted = sys.planted = 1\nopen('planted', 'w').write('x')\n"
             "os.environ['planted'] = '1'\ndef add(a, b): return 1")
    look = ("import builtins, sys, os\ndef add(a, b): return hasattr(builtins, 'planted') + hasattr(sys, 'planted') "
            "+ ('planted' in os.environ) + len(os.listdir('.'))")
    jobs = [{"program": plant, "tests": ["assert add(1, 2) == 1"]}, {"program": look, "tests": ["assert add(1, 2) == 0"]}]
    assert run_tests(jobs * 3, workers=1) == [1.0] * 6


# ---- many at once ----

def test_200_mixed_programs_come_back_in_order():
    kinds = [(GOOD, ADD, 1.0), ("def add(a, b): return a", ADD, 0.0), ("import os; os._exit(0)", ADD, 0.0),
             (GOOD, ["assert add("], math.nan), ("print(input())", [{"stdin": "7", "stdout": "7"}], 1.0),
             ("def add(a, b): return 'x' * 10**9", ADD, 0.0), ("1 / 0", ADD, 0.0), ("", [], math.nan)]
    chosen = [kinds[i * 7 % 8] for i in range(200)]
    jobs = [{"program": program + f"\n# {i}", "tests": tests} for i, (program, tests, _) in enumerate(chosen)]
    assert repr(run_tests(jobs)) == repr([want for *_, want in chosen])
    assert run_tests([]) == []

def test_identical_jobs_are_graded_once():
    count = []
    class Counting(sandbox.Worker):
        def talk(self, seconds, *messages):
            count.append(bool(messages))
            return super().talk(seconds, *messages)
    with replaced(sandbox, Worker=Counting):
        assert run_tests([{"program": GOOD, "tests": ADD}] * 50, workers=1) == [1.0] * 50
    assert sum(count) == 1

def test_calls_leave_no_processes_threads_or_open_files():
    run_tests([{"program": GOOD, "tests": ADD}])
    state = lambda: (len(os.listdir("/proc/self/fd")), threading.active_count())
    before = state()
    for _ in range(3):
        run_tests([{"program": GOOD + f"#{i}", "tests": ADD} for i in range(5)]
                  + [{"program": "while True: pass", "tests": ADD}], timeout=0.3)
    time.sleep(0.05)
    assert state() == before
    try:
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        pass

# ---- rows of published sets: how they are read, shown and tested ----

def row_of(record, fields=""):
    """The row of one record, through a file. No prompt of the code domain shows a test."""
    path = WORK / "one-code-row.jsonl"
    path.write_text(json.dumps(record) + "\n")
    row, = domains.load_rows("code", str(path), "all", fields)
    assert "assert" not in domains.prompt("code", row), row
    return row

def block(program):
    return f"Here it is:\n```python\n{program}\n```"

def packed(tests):
    import base64, pickle, zlib
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()

def test_code_layouts_of_published_sets_are_graded_as_they_should_be():
    cases = []
    for layout in json.loads(shared("layouts/layouts.json").read_text()):
        if layout["domain"] == "code":
            rows = [row_of(record, layout["fields"]) for record in layout["rows"]]
            cases += [(right["completion"], rows[right["row"]], right["reward"], layout["name"]) for right in layout["right"]]
    completions, rows, rewards, names = zip(*cases)
    assert [*zip(domains.reward("code", completions, rows), names)] == [*zip(rewards, names)]

STACK = ("class Stack:\n  def __init__(self): self.d = []\n  def push(self, x): self.d.append(x)\n"
         "  def pop(self):\n    if not self.d: raise IndexError('empty')\n    return self.d.pop()")
ROWS = [  # what was published; programs that are right, programs that are wrong
    ({"question_content": "Count", "starter_code": "class Solution:\n    def cnt(self, a: List[int], t: int) -> int:\n        ",
      "public_test_cases": json.dumps([{"input": "[5, 3]\n5", "output": "1", "testtype": "functional"}]),
      "private_test_cases": packed([{"input": "[1, 2]\n2", "output": "1", "testtype": "functional"}]),
      "metadata": '{"func_name": "cnt"}'},
     ["class Solution:\n  def cnt(self, a: List[int], t): return sum(x >= t for x in a)",
      "from __future__ import annotations\ndef cnt(a, t): return len([x for x in a if x >= t])"],
     ["class Solution:\n  def cnt(self, a, t): return int(a[0] == 5)", "print(1)"]),
    ({"question_content": "Double", "starter_code": "", "metadata": "{}", "public_test_cases": json.dumps(
        [{"input": "2\n", "output": "4\n", "testtype": "stdin"}]), "private_test_cases": packed(
        [{"input": "3\n", "output": "6\n", "testtype": "stdin"}])}, ["print(int(input()) * 2)"], ["print(4)"]),
    ({"problem_description": "Reverse.", "entry_point": "Solution().reverse",
      "starter_code": "class Solution:\n    def reverse(self, head):", "prompt": "from typing import *\n"
      "class ListNode:\n    def __init__(self, val=0, next=None): self.val, self.next = val, next\n"
      "def list_node(values):\n    head = None\n    for v in values[::-1]: head = ListNode(v, head)\n    return head\n"
      "def is_same_list(a, b):\n    while a and b:\n        if a.val != b.val: return False\n        a, b = a.next, b.next\n"
      "    return a is None and b is None\n",
      "test": "def check(candidate):\n    assert is_same_list(candidate(head = list_node([1, 2])), list_node([2, 1]))\n"},
     ["class Solution:\n  def reverse(self, head: Optional[ListNode]):\n    last = None\n"
      "    while head: head.next, last, head = last, head, head.next\n    return last"],
     ["class Solution:\n  def reverse(self, head): return head",
      "def is_same_list(a, b): return True\nclass Solution:\n  def reverse(self, head): return head"]),
    ({"question": "q", "starter_code": "def f(a):\n\t", "input_output": json.dumps(
        {"fn_name": "f", "inputs": [[[1, 2]], [[3]]], "outputs": [[[2, 4]], [[6]]]})},
     ["def f(a): return [x * 2 for x in a]", "class Solution:\n  def f(self, a: List[int]): return tuple(x * 2 for x in a)"],
     ["def f(a): return a"]),
    ({"question": "q", "input_output": json.dumps({"inputs": ["1\n"], "outputs": ["2\n"]}), "starter_code": ""},
     ["n = [int(input())]\nheapify(n)\nprint(n[0] + 1)"], ["print(1)"]),
    ({"question": "A stack", "solution": STACK, "test": "import pytest\nfrom solution import Stack\n"
      "@pytest.fixture\ndef st(): return Stack()\ndef test_a(st):\n    st.push(1)\n    assert st.pop() == 1\n"
      "def test_e(st):\n    with pytest.raises(IndexError, match='empty'): st.pop()\n"
      "@pytest.mark.parametrize('xs, want', [([1, 2], 2), ([5], 5)])\ndef test_p(st, xs, want):\n    for x in xs: st.push(x)\n"
      "    assert st.pop() == want\nclass TestMore:\n    def test_b(self): assert 1 / 3 == pytest.approx(0.3333333)\n"},
     [STACK], [STACK.replace("d.pop()", "d.pop(0)"), STACK.replace("empty", "void")]),
    ({"prompt": "Write two_fer", "canonical_solution": "def two_fer(name='you'): return f'One for {name}'",
      "test": "import unittest\nfrom two_fer import two_fer\nclass TwoFerTest(unittest.TestCase):\n    def test_no(self):\n"
      "        self.assertEqual(two_fer(), 'One for you')\nif __name__ == '__main__':\n    unittest.main()\n"},
     ["def two_fer(name='you'): return f'One for {name}'"], ["def two_fer(name='me'): return f'One for {name}'"]),
    ({"messages": [{"role": "user", "content": "Write f"}], "ground_truth": json.dumps(["assert f(1) == 2", "assert f(2) == 3"])},
     ["def f(a): return a + 1"], ["def f(a): return 2"]),
    ({"prompt": "p", "verification_info": json.dumps({"test_cases": [
        {"type": "function_call", "fn_name": "f", "input": [1, 2], "output": [3]}]})},
     ["def f(a, b): return a + b"], ["def f(a, b): return 4"]),
    ({"description": "d", "input_format": "One n", "output_format": "n+1", "official_tests": [{"input": "1\n", "output": "2\n"}]},
     ["print(int(input()) + 1)"], ["print(3)"]),
    ({"question": "Implement `class Account:`", "test_list": ["a = Account(5)\na.deposit(3)\nassert a.balance == 8"]},
     ["class Account:\n  def __init__(self, b): self.balance = b\n  def deposit(self, x): self.balance += x"],
     ["class Account:\n  def __init__(self, b): self.balance = b\n  def deposit(self, x): pass"])]

def test_rows_with_tests_of_every_kind_pay_right_programs_alone():
    cases = [(block(program), row, score, program) for record, right, wrong in ROWS for row in [row_of(record)]
             for programs, score in ((right, 1), (wrong, 0)) for program in programs]
    completions, rows, scores, programs = zip(*cases)
    assert [*zip(domains.reward("code", completions, rows), programs)] == [*zip(scores, programs)]

def test_rows_that_the_sandbox_cannot_grade_are_refused_with_the_reason():
    for record, why in (
            ({"instruct_prompt": "x", "test": "import pandas as pd\nassert f(pd.DataFrame()) == 1", "entry_point": "f"}, "pandas"),
            ({"question": "q", "test": "from solution import f\ndef test_a(capsys):\n    f()"}, "capsys"),
            ({"question": "q", "test": "from solution import f\ndef test_a(somewhere):\n    f()"}, "fixture somewhere"),
            ({"question": "q", "test": "from unittest.mock import patch\nfrom solution import f\nassert f()"}, "patch"),
            ({"question": "q", "tests": ["assert 1 + 1 == 2"]}, "never ask"),
            ({"question": "q", "tests": ["assert f(1 == 2"]}, "not Python"),
            ({"question": "q", "input_output": json.dumps({"inputs": [], "outputs": []})}, "no tests"),
            ({"description": "d", "official_tests": [{"input": "1", "output": "2"}], "generated_checker": "import sys"}, "checker")):
        assert why in str(raised(lambda: row_of(record))), record

def test_the_signature_reaches_the_prompt_and_programs_are_read_from_nested_fences():
    row = row_of({"text": "t", "code": "def g(a, b=2):\n    return a + 41", "test_list": ["assert g(1) == 42"]})
    assert "def g(a, b=2):" in row["prompt"] and "41" not in row["prompt"] and "42" not in row["prompt"]
    for fence in ("````", "```", "~~~"):
        text = f'So:\n{fence}python\ndef f(x):\n    """\n    ```\n    f(1)\n    ```\n    """\n    return x\n{fence}\nDone.'
        assert code_.program(text, {"prompt": "p", "entry_point": "f"}).rstrip().endswith("return x"), text
    assert domains.reward("code", ["\ufeff" + GOOD], [{"prompt": "p", "tests": ADD, "entry_point": "add"}]) == [1]
