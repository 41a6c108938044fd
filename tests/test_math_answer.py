"""Claims about domains/answers.py, run by test_all.py: what is equal, what is not, and that nothing hangs or raises."""
import itertools
import random
import time
from decimal import Decimal
from fractions import Fraction

from domains.answers import equivalent, final_answer
from shared import rows_of


def is_same(gold, answer):
    one, other = equivalent(gold=gold, answer=answer), equivalent(gold=answer, answer=gold)
    assert one == other, f"not symmetric: {gold!r} {answer!r}"
    return one


EQUAL = [pair.split(" ~ ") for pair in r"""
1000 ~ 1,000
1000000 ~ 1,000,000.00
32349 ~ 32{,}349
1000 ~ 1\,000
1000 ~ 1 000
10080 ~ 10,\!080
-5 ~ −5
4 ~ 004
0.5 ~ .5
5 ~ 5.
5 ~ $5$
5 ~ \(5\)
42 ~ **42**
5 ~ \boxed{5}
5 ~ \boxed{\text{5}}
1/2 ~ 0.50
0.125 ~ \frac18
\frac12 ~ \dfrac{1}{2}
\frac12 ~ \tfrac 1 2
\frac{1}{2} ~ \frac{1}2
\frac{3}{4} ~ \frac{\frac{3}{2}}{2}
-\frac{1}{2} ~ \frac{-1}{2}
\frac{\sqrt{3}}{3} ~ \frac{1}{\sqrt3}
\frac{\sqrt3}2 ~ \sqrt{3}/2
7/3 ~ 2 1/3
7/3 ~ 2\frac13
-7/3 ~ -2\frac{1}{3}
1/3 ~ 0.\overline{3}
1/6 ~ 0.1\overline{6}
50\% ~ 0.5
50\% ~ 1/2
28 ~ 28\%
28\% ~ 28 percent
12.5\% ~ \frac{1}{8}
5 ~ \$5
-5 ~ -\$5
18.9 ~ \$18.90
5 ~ 5 dollars
5 ~ 5\text{ cm}^2
5 ~ 5 meters
5 \text{ cm} ~ 5 centimeters
5\text{ cm}^2 ~ 5 square centimeters
60 ~ 60 \text{ km/h}
60 \text{ miles per hour} ~ 60 miles/hour
18 ~ 18 apples
5000000 ~ 5 million
5 ~ 5\ \mathrm{kg}
90^\circ ~ 90
90^{\circ} ~ 90 \text{ degrees}
90° ~ 90^\circ
90-x ~ 90^\circ-x
\sqrt{12} ~ 2\sqrt3
\sqrt[3]{16} ~ 2\sqrt[3]{2}
\sqrt[3]{-8} ~ -2
27^{1/3} ~ 3
2^{10} ~ 1024
2^{-3} ~ 1/8
4^{1/2} ~ 2
288\pi ~ 288 π
e^{2} ~ e \cdot e
3+4i ~ 4i+3
(1+i)^2 ~ 2i
1.5 \times 10^3 ~ 1500
1.5e3 ~ 1500
1e400 ~ 10^{400}
3 \cdot 4 ~ 12
(9+1) ~ 10
\sqrt2 ~ 1.41421356
\pi ~ 3.141592653589793238
1/12 ~ 0.0833333333333333
-1/3 ~ -0.33333333
x^2-1 ~ (x-1)(x+1)
x^{100}-x^{99} ~ x^{99}(x-1)
2x+2y ~ 2(x+y)
\frac{x+2}{7} ~ x/7+2/7
a^2+2ab+b^2 ~ (a+b)^2
x_1+x_2 ~ x_{2} + x_{1}
\sec^2 y ~ \tan^2 y+1
\sin^2 x + \cos^2 x ~ 1
2\sin x\cos x ~ \sin 2x
\cot x ~ \frac{\cos x}{\sin x}
\sin^{-1} x ~ \arcsin(x)
\cos\frac{\pi}{2} ~ 0
\ln 8 ~ 3\ln 2
\log_2 8 ~ 3
\log 100 ~ 2
\exp(x) ~ e^x
|x| ~ \sqrt{x^2}
|-5| ~ 5
\left|x\right| ~ \lvert -x \rvert
10!/8! ~ 90
\binom{10}{3} ~ 120
\binom{n}{2} ~ \frac{n(n-1)}{2}
1\pm\sqrt{19} ~ 1-\sqrt{19}, 1+\sqrt{19}
\pm 2 ~ 2, -2
\{1\pm\sqrt5,-2\} ~ \{-2, 1+\sqrt5, 1-\sqrt5\}
x = \pm 3 ~ 3, -3
11 ~ x=11
x=5 ~ 5
(3,2) ~ (p,q)=(3,2)
2x+1 ~ f(x) = 2x+1
5 ~ \text{Area} = 5
[-2,7] ~ x \in [-2,7]
5 ~ 2+3=5
(3, \frac{\pi}{2}) ~ \left( 3, \pi/2 \right)
(100, 200) ~ (100,200)
6,8 ~ 8, 6
1,2 ~ 2 \text{ and } 1
x=1, x=2 ~ x = 2 \text{ or } x = 1
\{1,2\} ~ \{2, 1\}
\{1,2\} ~ 1, 2
\emptyset ~ \{\}
(-\infty, 2) ~ \left(-\infty,2\right)
(0,9)\cup(9,36) ~ (9,36) \cup (0,9)
[0,1) ~ [0, 1.0)
\begin{pmatrix}1\\2\end{pmatrix} ~ \begin{bmatrix} 1 \\ 2 \\ \end{bmatrix}
\begin{pmatrix}1/2&0\end{pmatrix} ~ \begin{array}{cc} 0.5 & 0 \end{array}
x>5 ~ 5<x
x \ge 5 ~ 5 \leqslant x
1<x\le3 ~ 3 \geq x > 1
2x>10 ~ x>5
y=2x+3 ~ 2x+3=y
y=2x+3 ~ y-2x-3=0
x+2y=6 ~ 2x+4y=12
3:4 ~ 3 : 4
12:00 ~ 12:00
C ~ \text{(C)}
C ~ (C)
B ~ \textbf{B}
C ~ C)
Evelyn ~ \text{Evelyn}
\text{east} ~ East
\text{New York} ~ new york
no ~ \text{No}
17_8 ~ 17_{8}
4210_{5} ~ 4210_5
""".strip().splitlines()]

DIFFERENT = [pair.split(" ~ ") for pair in r"""
5 ~ 6
5 ~ -5
2021 ~ -2021
12345678901 ~ 12345678902
1000 ~ 1,0000
1/3 ~ 0.33
1/3 ~ 0.33333335
\pi ~ 3.14
\pi ~ 22/7
\sqrt2 ~ 1.41421358
0.5 ~ 50
0.5 ~ 5
28\% ~ 28.5
7/3 ~ 2/13
7/3 ~ 2 \cdot \frac13
57 ~ 5 7
35 ~ 5 7
1/2^{99} ~ 1/2^{98}
2^{1000} ~ 2^{1000}+1
x^{100} ~ x^{100}+1
10^{20}+x ~ 10^{20}
\sqrt{x^2} ~ x
|x| ~ x
x+2n+1 ~ x+1
xy ~ x+y
x^2 ~ 2x
2 ~ \frac{1+\sqrt5}{2}
4 ~ 4\sqrt2
\sin x ~ \cos x
\sin^2 x ~ \sin x^2
\ln x ~ \log x
3+4i ~ 3-4i
5 ~ 5 or 7
5 ~ 5, 7
5 ~ 5 (or 6)
5 ~ 5 \text{ or } 7
5 ~ 5 6
5 ~ 5 and 5
5 ~ 5 = 7
7 ~ 5 = 7
5 ~ not 5
5 ~ 5 is wrong
5 ~ x + 1 = 5
5 ~ 2x = 5
5 ~ x > 5
5 ~ \pm 5
1, 2 ~ 1
1,2 ~ 1,2,3
6,8 ~ 6,6
(3,1) ~ (1,3)
(0,9) ~ [0,9)
[0,9) ~ [0,1)
(0,1) ~ (0,1.5)
(1,2) ~ (1,2,3)
\{1,2\} ~ \{1,3\}
(2,\infty) ~ (-\infty,2)
(0,1)\cup(2,3) ~ (0,1)\cup(2,4)
\begin{pmatrix}1&2\\3&4\end{pmatrix} ~ \begin{pmatrix}1&2\\3&5\end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} ~ \begin{pmatrix}1&2\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} ~ \begin{vmatrix}1&2\\3&4\end{vmatrix}
x>5 ~ x<5
x>5 ~ x\ge5
x>5 ~ -x>-5
x=5 ~ x=6
x=5 ~ y=5
y=2x+3 ~ y=2x+4
12:00 ~ 1:00
3:4 ~ 4:3
5 \text{ cm} ~ 5 \text{ km}
5 \text{ cm} ~ 5 \text{ cm}^2
\$5 ~ 5 cents
36^\circ ~ \$36
12:00 AM ~ 12:00 PM
5 ~ 5 million
C ~ \text{E}
D ~ \text{(C)}
east ~ seat
\text{Evelyn} ~ \text{Eve}
no ~ on
52_8 ~ 52
52_8 ~ 42
52_8 ~ 52_9
1e400 ~ inf
1e400 ~ 1e401
5 ~ nan
\infty ~ -\infty
9^{9^{9^9}} ~ 9^{9^{9^8}}
(-8)^{1/3} ~ 2
100! ~ 100!+1
""".strip().splitlines()]


def test_math_every_hand_made_pair_is_graded_as_given():
    rows = rows_of("math_pairs.jsonl")
    wrong = [r for r in rows if equivalent(gold=r["gold"], answer=final_answer(r["completion"])) != r["reward"]]
    assert not wrong, wrong


def test_math_equal_answers_are_equal_in_both_directions():
    wrong = [pair for pair in EQUAL if not is_same(*pair)]
    assert not wrong, wrong


def test_math_different_answers_differ_in_both_directions():
    wrong = [pair for pair in DIFFERENT if is_same(*pair)]
    assert not wrong, wrong


def test_math_every_answer_equals_itself_and_itself_boxed():
    for text in itertools.chain(*EQUAL, *DIFFERENT):
        assert equivalent(gold=text, answer=text), text
        assert equivalent(gold=text, answer=final_answer(rf"So we get $\boxed{{{text}}}$, as was to be shown.")), text


def test_math_every_reference_answer_of_math500_gets_the_full_reward():
    for row in rows_of("math500/test.jsonl"):
        gold = row["answer"]
        assert equivalent(gold=gold, answer=gold) and equivalent(gold=gold, answer=rf"\boxed{{{gold}}}"), gold
        answer = final_answer(rf"First $\boxed{{0}}$, no: the answer is $\boxed{{{gold}}}$. We are done after 3 steps.")
        assert equivalent(gold=gold, answer=answer), gold


def test_math_every_reference_answer_of_gsm8k_gets_the_full_reward():
    for row in rows_of("gsm8k/train.jsonl"):
        gold = row["answer"].split("####")[1].strip()
        for text in (gold, final_answer(row["answer"]), final_answer(f"They had 7 first. In the end it is {gold}."),
                     final_answer(f"So it costs **${gold}**."), final_answer(rf"\boxed{{{gold}.00}}")):
            assert equivalent(gold=gold, answer=text), (gold, text)


def test_math_two_answers_of_math500_match_only_where_they_are_truly_equal():
    by_hand = {("-2,1", "1,-2"), (r"10,\!080", "10080"), ("120", r"120^\circ"), ("15", r"15\mbox{ cm}^2"),
               (r"2 \sqrt{5}", r"2\sqrt{5}"), ("30", r"30^\circ"), ("36", r"36^\circ"), ("36", r"\$36"), ("5", "x=5"),
               ("90", r"90^\circ"), (r"\frac14", r"\frac{1}{4}")}
    golds = sorted({row["answer"] for row in rows_of("math500/test.jsonl")})
    found = {pair for pair in itertools.combinations(golds, 2) if equivalent(gold=pair[0], answer=pair[1])}
    assert not golds or found == by_hand, found ^ by_hand


FINAL = [
    (r"\boxed{5}", "5"), (r"a \boxed{5} b \boxed{ 6 } then 7", "6"), (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"), (r"\boxed 5", "5"), (r"$\boxed 5$.", "5"), (r"\fbox{5}", "5"), (r"\boxed {5}", "5"),
    (r"\boxed{5} \boxed{}", ""), (r"\boxed{5} \boxed{6", ""), (r"\boxed{5\} 6", ""), ("", None), ("no idea", None),
    (r"<think>\boxed{5}</think> It is 6.", "6"), (r"<think>5</think>", None), ("<think>5", None),
    ("It is 1,000.", "1,000"), ("$1,000.99 in all", "1,000.99"), ("costs \\$5", "5"), ("-$5", "-5"), ("is .5", ".5"),
    ("is 0.75.", "0.75"), ("10-3", "3"), ("10 - 3", "3"), ("10 -3", "3"), ("is -3", "-3"), ("is −3.", "−3"), ("= -3", "-3"),
    ("about 3/4 of it", "3/4"), (r"so \frac{3}{4}", r"\frac{3}{4}"), (r"so -\frac34.", r"-\frac34"), ("2 1/3 cups", "2 1/3"),
    ("is 28%.", "28%"), (r"is 28\% now", r"28\%"), ("**42**", "42"), ("**-42.**", "-42"), ("1.5e3", "1.5e3"),
    (r"1.5 \times 10^{3} m", r"1.5 \times 10^{3}"), ("2^10", "2^10"), ("5 cm^2", "5"), ("5 cm^{2}", "5"), ("x2 is 7, x3", "7"),
    ("5 apples and 7 pears", "7"), ("1, 2, 3", "3"), ("1,2,3", "3"), ("at 12:00.", "12:00"), ("#### 1,080", "1,080"),
    (r"10{,}000 men", "10{,}000"), ("17_8", "17_8"), ("a 5-mile walk", "5"), ("H2O", None), ("it is 5km", "5")]


def test_math_final_answer_is_the_last_box_or_else_the_last_number():
    wrong = [(text, answer, final_answer(text)) for text, answer in FINAL if final_answer(text) != answer]
    assert not wrong, wrong


def test_math_no_answer_equals_nothing():
    for gold in ("5", "", " ", r"\text{}", "$$", "x"):
        for answer in ("", " ", "$", r"\text{ }", r"\boxed{}"):
            assert not equivalent(gold=gold, answer=answer), (gold, answer)


def test_math_gold_and_answer_cannot_be_swapped():
    try:
        equivalent("5", "5")
    except TypeError:
        return
    assert False, "positional arguments were taken"


HOSTILE = [
    "9^9^9^9^9", "9^{9^{9^{9^{9}}}}", "10^{10^{10}}", "2^{4095}" * 50, "1e999999999", "1e-999999999",
    "9" * 100_000, "0." + "3" * 1900, "9" * 1900 + "^" + "9" * 90, "(" * 10_000 + "5" + ")" * 10_000,
    "{" * 900 + "5" + "}" * 900, "{" * 10_000, "[" * 1999, r"\frac" * 399, r"\frac{1}{" * 200 + "1" + "}" * 200,
    r"\sqrt" * 390, r"\sqrt{" * 300 + "2" + "}" * 300, "-" * 1999 + "5",
    "2^-" * 390 + "1", "|" * 1000, "|x" * 390, "5!" + "!" * 300, "99999!", "(10^6)!", "1,000" * 399,
    "1," * 999 + "1", "1 000 " * 300, ",".join(str(k) for k in range(190)), ",".join(str(k) for k in range(190, 0, -1)),
    r"\{" * 190 + "1" + r"\}" * 190, r"(\{\pm 1," * 60 + "1" + r"\})" * 60, r"\{(\pm1," * 10 + "1" + r")\}" * 10,
    r"\pm" * 399, "+".join(["x^{50}"] * 190), "*".join(["(x+y+z)"] * 60),
    "(" + "+".join(f"x_{k}" for k in range(10)) + ")^{200}", "+".join(f"1/{k}" for k in range(10**4, 10**4 + 130)),
    "*".join("abcdefghijkl" * 30), r"\sin" * 390, r"\sin x" * 190, "x=" * 390 + "x", "1<" * 390 + "1", ":".join("1" * 390),
    r"\begin{pmatrix}" * 100, r"\begin{pmatrix}" + "1&" * 190 + r"1\end{pmatrix}", "&" * 1000, "\\" * 1999,
    "\\text{" * 390, " " * 1999, r"\text{" + "a" * 1900 + "}", "5" + " " * 1900 + "5", "^" * 1999, "^ {" * 600,
    "a" * 1999, "a " * 999, "\x00\ud800\uffff", "٣", "５", "²" * 900,
    "1" + "0" * 1200, "." * 1999, "5" + "." * 1990 + "x", "_" * 1999, "x_" * 390, "%" * 999, r"\overline{3}",
    r"5\overline{3}", "0.3\\overline{" + "3" * 1800 + "}", "2" + r"\frac{1}" * 300, r"\log_" * 190, "5 cm^" * 190,
    "5 " + "per " * 390, "5 " + "square " * 300 + "cm", "nan", "inf", "-inf",
    "__import__('os').system('true')", "f" + "()" * 390, "0^{-1}", "0/0", r"\ln 0", r"\tan\frac{\pi}{2}", "0^0", "1/0"]


def slowest(pairs):
    """(seconds, pair) of the slowest comparison: processor time, the best of ten tries, so that a busy machine is no failure."""
    worst = (0.0, None)
    for gold, answer in pairs:
        best = 9.0
        for _ in range(10):
            start = time.process_time()
            assert equivalent(gold=gold, answer=answer) in (True, False)
            best = min(best, time.process_time() - start)
            if best < 0.02:
                break
        worst = max(worst, (best, (gold[:60], answer[:60])), key=lambda x: x[0])
    return worst


def test_math_hostile_answers_cost_at_most_50_milliseconds():
    pairs = [(gold, text) for text in HOSTILE for gold in ("5", r"\frac{\sqrt3}{2}x", "1,2,3", text, text + "+1", "(" + text)]
    worst = slowest(pairs)
    assert worst[0] < 0.05, worst


def test_math_final_answer_of_a_million_hostile_characters_is_linear():
    for piece in ("9", "1,000", "1 1/", "{", "}", r"\boxed{", "-", "1 ", r"\frac{1}", "<think></think>", "(",
                  "\\", "5 \\times ", "$"):
        start = time.perf_counter()
        final_answer(piece * (300_000 // len(piece)))
        assert time.perf_counter() - start < 2, piece


def test_math_five_thousand_random_strings_never_raise_and_equal_themselves():
    alphabet = r"""0 1 2 3 12 1.5 .25 1,000 x y n e i \pi \infty + - * / ^ _ ( ) [ ] \{ \} { } , ; : = < > \le \ge \ne \in | ! %
        \% \$ $ \frac \dfrac \sqrt \sqrt[ \sin \cos^2 \ln \log_ \exp \cdot \times \pm \mp \cup \binom \left( \right)
        \text{cm} \text{or} \text{east} \begin{pmatrix} \end{pmatrix} & \\ ^\circ apples km per or \boxed{ \overline{3}
        9^9 ^{99} . \emptyset \theta ~ \,""".split()
    rng = random.Random(0)
    texts = ["".join(rng.choice(alphabet) + rng.choice(("", "", " ")) for _ in range(rng.randint(1, 24))) for _ in range(5000)]
    pairs = [(text, text) for text in texts] + list(zip(texts, texts[1:]))
    worst = slowest(pairs)
    assert worst[0] < 0.05, worst
    for text, other in zip(texts, texts[1:]):
        is_same(text, other)
        final_answer(text)
    assert all(equivalent(gold=t, answer=t) for t in texts
               if any(c.isalnum() for c in t) and "boxed" not in t and "text" not in t)


def test_math_a_random_number_equals_itself_in_every_form_and_no_other_number_in_any():
    rng = random.Random(1)
    for _ in range(150):
        value = Fraction(rng.randint(-9999, 9999), rng.choice((1, 2, 4, 5, 8, 25, 40, 125)))      # has a finite decimal
        other = value + Fraction(rng.choice((-1, 1)), rng.choice((1, value.denominator, 1000)))
        both = [[f"{v.numerator}/{v.denominator}", rf"\frac{{{v.numerator}}}{{{v.denominator}}}", str(decimal(v)), f"{decimal(v):,}",
                 f"x = {decimal(v)}", f"${decimal(v)}$", rf"\frac{{{3 * v.numerator}}}{{{3 * v.denominator}}}",
                 f"{v.numerator * 7} \\div {v.denominator * 7}"] for v in (value, other)]
        for one, two in itertools.product(both[0], both[0]):
            assert is_same(one, two), (one, two)
        for one, two in itertools.product(both[0][:4], both[1][:4]):
            assert not is_same(one, two), (one, two)


def decimal(value):
    """A Fraction as a Decimal, exactly: its denominator has to divide a power of ten."""
    return Decimal(value.numerator) / Decimal(value.denominator)


def test_math_sample_points_have_both_signs_and_sizes_below_and_above_one():
    from domains.answers import POINTS
    for column in zip(*POINTS[:8]):
        assert min(column) < 0 < max(column) and min(map(abs, column)) < 1 < max(map(abs, column))
