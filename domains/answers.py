r"""Does a model's final answer denote the same thing as the gold answer? Nothing here runs or trusts model text.

    final_answer(r"so x = \frac{1}{2}, hence \boxed{x = 0.5}.")    # 'x = 0.5'
    final_answer("She pays $1,000.")                              # '1,000'
    equivalent(gold=r"\frac{1}{2}", answer="x = 0.5")             # True
    equivalent(gold="5", answer="5 or 7")                         # False

Latex is rewritten a little, cut into tokens, parsed by recursive descent, and two trees are compared part by part, in the
order of this file. What counts as equal:

    numbers    exactly, as fractions: 1,000 = 10^3, 2\frac13 = 7/3, 0.33 is not 1/3; 50% is both 0.5 and 50. Only a
               decimal of 8 or more digits may round what has no finite decimal: 1.41421356 = \sqrt2
    formulas   by value at fixed pseudo-random points, see `same_value`: \tan^2 y + 1 = \sec^2 y
    units      dropped, but 5 cm is not 5 km (nothing is converted); an unknown word after a value says nothing
    structure  tuples, intervals, matrices, ratios in order; lists, sets, unions and a \pm b (two values) in any
    relations  up to swapped sides and a constant factor; `x = 5` is also plain 5, but `x + 1 = 5` is not
    the rest   by spelling: words, numerals with a base (17_8), and whatever does not parse or is too large

It does not solve equations, know domains (n an integer, x > 0), turn x > 5 into (5, \infty), read \ldots or number
words. 1/2x is read from left to right, \log is to base 10, a bare single letter (5 m) is a variable.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import cmath
import math
import random
import re
from fractions import Fraction

# Checked before any arithmetic, so that a tower of powers costs nothing. What is larger is compared by spelling.
MAX_CHARS, MAX_TOKENS, MAX_DEPTH = 2000, 400, 24
MAX_BITS = 4096  # of an exact numerator or denominator; beyond it, floating point
FUEL = 6000      # tree leaves evaluated per comparison


class NotMath(Exception):
    """The text is not in our grammar, or too large."""


# ---- 1. extraction ---------------------------------------------------------------------------------------------

_NUM = r"(?:(?:[0-9]{1,3}(?:(?:,\\!\s?|,|\{,\}|\\,|\\?[ ]|[\u00a0\u202f])[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_ARG, _EXP = r"\ ?(?:\{[0-9]+\}|[0-9])", r"\^(?:\{[-−]?[0-9]+\}|[-−]?[0-9]+)"
LAST_NUMBER = re.compile(rf"""
    (?:(?<![\w)\]}}^])(?<![0-9)\]}}]\ )[-+−])?          # a sign, but the minus of 10-3 and of 10 -3 is none
    (?:\\?\$[-−]?)?(?<![\w.^])(?<![\^_]{{)              # a currency; not inside x2, cm^2, x_{{10}}
    (?:(?:[0-9]+\ ?)?\\[dtc]?frac{_ARG}{_ARG}           # \frac34, 2\frac{{1}}{{3}}
      |[0-9]+\ [0-9]+/[0-9]+                            # 2 1/3
      |{_NUM}(?:[eE][-+]?[0-9]+|\ ?(?:\\times|\\cdot|×|\*)\ ?10{_EXP}|{_EXP})?      # 1.5e3, 1.5 \times 10^3, 2^10
       (?:_\{{?[0-9]+\}}?|\ ?/\ ?{_NUM}|:[0-9]+)?)      # 17_8, 3/4, 12:00
    (?:\ (?:thousand|million|billion|trillion)\b)?(?:\ ?(?:\\?%|percent\b))?""", re.X)
FORMULA = re.compile(
    r"(?<![\\$])\$(?!\s)([^$\n]{1,200}?)(?<!\s)\$(?![$0-9])|\\\((.{1,200}?)\\\)|\\\[(.{1,200}?)\\\]", re.DOTALL)


def after_thinking(text):
    """What follows a reasoning model's <think>...</think>, or all of a text without; "" if the thinking has no end."""
    answer = text.rpartition("</think>")[2]
    return "" if "<think>" in answer else answer


def final_answer(text):
    r"""The content of the last \boxed{}, else the last number, after the thinking; None if there is neither.

    An empty or unclosed last box is "", which is equivalent to nothing: an answer can be withdrawn, but not hedged.
    Of a formula $...$ that holds the last number, the answer is what follows its last = or \approx.
    """
    text = after_thinking(text)
    box = max(re.finditer(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(\{|[^\s{}$]*)", text), key=re.Match.start, default=None)
    if box and box[1] != "{":
        return box[1].rstrip(".,;")
    if box:
        depth, content = 1, text[box.end():]
        for brace in re.finditer(r"\\[^A-Za-z]|[{}]", content):     # an escaped brace is none
            depth += (brace[0] == "{") - (brace[0] == "}")
            if not depth:
                return content[:brace.start()].strip()
        return ""
    last = max(LAST_NUMBER.finditer(text), key=re.Match.start, default=None)
    for formula in FORMULA.finditer(text) if last else ():          # a number inside of $2\sqrt3$ is not the answer
        if formula.start() < last.start() and last.end() < formula.end():
            return re.split(r"=|\\approx", next(filter(None, formula.groups())))[-1].strip()
    return last and re.sub(r"\\?\$", "", last[0]).strip()


# ---- 2. text -> tokens (kind, text), where kind is num, var, word or op ------------------------------------------

UNITS = {spelling + plural: line.split()[0] for line in """m meter metre|cm centimeter centimetre|mm millimeter millimetre
km kilometer kilometre|inch in|foot ft feet|yard yd|mile mi|g gram|kg kilogram|mg milligram|pound lb|ounce oz|ton
l liter litre|ml milliliter millilitre|gallon gal|quart qt|pint|cup|s second sec|minute min|hour h hr|day|week|month
year yr|am|pm|degree deg|radian rad|celsius|fahrenheit|dollar|cent|euro|mph|unit""".replace("\n", "|").split("|")
         for spelling in line.split() for plural in ("", "s", "es")}
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
DENIALS = set("not no is than minus plus times mod if to over least most more less factorial".split())
FUNCTIONS = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z), "cot": lambda z: 1 / cmath.tan(z), "arcsin": cmath.asin, "arccos": cmath.acos,
    "arctan": cmath.atan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh, "exp": cmath.exp,
    "ln": cmath.log, "log": cmath.log10}
CONSTANTS = {"e": math.e, "i": 1j, "\\pi": math.pi}
FLIP = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "∈": "∋", "=": "=", "≠": "≠"}
ALIAS = {alias: group.split()[0] for group in re.split(r"\n|  +", r"""≤ \le \leq \leqslant <=
≥ \ge \geq \geqslant >=  ≠ \ne \neq !=  < \lt  > \gt  ∈ \in  * \times \cdot \ast  / \div  \frac \dfrac \tfrac \cfrac
\binom \dbinom \tbinom  % \%  \{ \lbrace  \} \rbrace  | \lvert \rvert \vert  \emptyset \varnothing  , ;""")
         for alias in group.split()[1:]}
DROPPED = {"\\" + name for name in """left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle quad qquad
    vec hat rm bf ( ) [ ] , ! ; :""".split()} | {"\\ ", "~"}
SYMBOLS = {"\\" + name for name in """alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu
    xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell mathbb mathcal
    angle triangle overline infty""".split()}  # opaque: to this file infinity is one more variable
UNICODE = str.maketrans({
    "−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ",
    "±": r"\pm ", "∪": r"\cup ", "∅": r"\emptyset ", "θ": r"\theta ", "²": "^2", "³": "^3", "½": r"\frac12 ",
    "°": r"^\circ ", "£": "", "€": ""})
REWRITES = [  # in this order; none can take more than quadratic time, and texts are short
    (r"\\(?:boxed|fbox) ?\{(.*)\}$", r"\1"),
    (r"(?<!\\)\$", ""),
    (r"\^ ?\{? ?\\circ ?\}?$", r"\\text{degree}"),
    (r"\^ ?\{? ?\\circ ?\}?", ""),                                                          # 90^\circ - x
    (r"\b([ap])\. ?m\b\.?", r"\1m"),                                                        # p.m.
    (r"^([A-Z])[):]$", r"\1"),                                                              # the choice C)
    (r"- ?\\\$", r"\\$-"),                                                                  # -\$5
    (r"(?<=[0-9])(?:\{,\}|,?\\[!,;:]|~) ?(?=[0-9]{3}(?![0-9]))", ""),                       # 10,\!080
    (r"^(?!\\left|\\\{|[(\[]).*", lambda m: re.sub(                                         # 1,000 but (1,200)
        r"(?<![0-9.,/^_])[0-9]{1,3}(?:[, ][0-9]{3})+(?![0-9/]|,[0-9])", lambda n: re.sub("[, ]", "", n[0]), m[0])),
    (r"\^ ?\{ ?([0-9]) ?\}", r"^\1 "),
    (r"(\\[dtc]?frac) ?([0-9])", r"\1{\2}"),                                                # \frac12
    (r"(\\[dtc]?frac ?\{[^{}]*\}) ?([0-9])", r"\1{\2}"),
    (r"(?<![0-9.^_/A-Za-z])([0-9]+)(?: ?\\[dtc]?frac ?\{([0-9]+)\} ?\{([0-9]+)\}| ([0-9]+) ?/ ?([0-9]+))",
     lambda m: f"({m[1]}+{m[2] or m[4]}/{m[3] or m[5]})" if int(m[2] or m[4]) < int(m[3] or m[5]) else m[0])]  # 2 1/3
TOKEN = re.compile(r"""
    \\(?:text(?:bf|it|rm|sf|normal)?|[mh]box|math(?:rm|bf|it|sf)|operatorname\*?)\ ?\{(?P<text>[^{}]*)\}
    |(?P<env>\\(?:begin|end)\ ?\{[a-z]+)\*?\}(?:\{[clr|\ ]*\})?
    |(?P<var>(?:[0-9]+|[A-Za-z])_(?:\{[^{}]*\}|[0-9A-Za-z]))
    |(?P<num>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:\\overline\ ?\{[0-9]+\}|[eE][-+]?[0-9]+)?)
    |(?P<run>[A-Za-z]+(?!_|[A-Za-z]))
    |(?P<op>\\(?:[A-Za-z]+|.)|[<>!]=|\S)""", re.X)


def clean(text):
    """One line without markup and sentence marks, in one spelling of all that is spelt in several."""
    text = re.sub(r"\s+", " ", text.translate(UNICODE)).strip("* `$=").rstrip(".").strip()
    for pattern, replacement in REWRITES:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def tokens(text, before=None):
    r"""The tokens [(kind, text), ...] of a clean text, or of a \text{...} in one, which has the token `before` in front."""
    out = []
    for m in TOKEN.finditer(text):
        last, kind = out[-1] if out else before or ("", ""), m.lastgroup
        if kind == "text":
            out += tokens(m["text"], last)
        elif kind == "run":
            around = text[max(m.start() - 1, 0):m.start()], text[m.end():m.end() + 1]
            out += letters(m["run"], *around, last, before is not None)
        elif kind != "op":
            name = re.sub(r"[{} ]", "", m[kind])
            out.append((kind, name.lstrip("0")) if kind == "var" else ("op", name) if kind == "env" else (kind, m[0]))
        elif (op := ALIAS.get(m["op"], m["op"])) not in DROPPED:
            out.append(("var" if op in SYMBOLS else "op", op))
    return out


def letters(run, previous, following, last, in_text):
    r"""The token of a run of letters: `or`, a unit, a function, a word (east, \text{of}); or one per variable (xy).

    previous, following: the characters beside it, or "". last: the token before it. in_text: is it in a \text{...}?
    """
    low = run.lower()
    if low in ("or", "and"):
        return [("op", ",")]
    after_value = last[0] in ("num", "var", "word") or last[1] in (")", "}", "]", "|", "/")
    if after_value and low in UNITS and (in_text or last[0] == "word" or len(run) > 1 and run not in FUNCTIONS):
        return [("word", low)]
    if run in FUNCTIONS or run in ("sqrt", "pi"):
        return [("op", "\\" + run)]
    in_formula = previous and previous in "0123456789)}+-*/^=" or following and following in "+-*/^=_({" or \
        last[0] == "num" and len(run) < 4
    if len(run) > 1 and (in_text or low == "no" or len(run) > 2 and not in_formula):
        return [("var", "\\infty") if low == "infinity" else ("word", low)]
    return [("var", letter) for letter in run]


def units_of(words):
    """{"mile", "/hour"} of miles per hour, {"cm2"} of square cm or cm ^ 2; set() if any word is unknown.
    NotMath if they are more than a unit: not, more than, factorial."""
    for word, sign in ((r"\bper\b", "/"), (r"\b(?:square|sq) (\w+)", r"\1 ^ 2"), (r"\bcubic (\w+)", r"\1 ^ 3")):
        words = re.sub(word, sign, words)
    units = re.findall(r"(/?) ?([a-z]+)(?: \^ ([23]))?", words)
    if len(units) > 4 or DENIALS & set(words.split()) or re.search(r"[/^]$|(?<!\^ )[23]", words):
        raise NotMath("more than a unit")
    names = {slash + UNITS.get(name, "?") + power for slash, name, power in units if UNITS.get(name) != "unit"}
    return names if "?" not in "".join(names) else set()


def spelling(toks):
    """Tokens as one string. Numbers keep their distance: 5 7 is not 57."""
    return "".join(text if kind in ("var", "word") else f" {text} " for kind, text in toks)


# ---- 3. tokens -> tree -----------------------------------------------------------------------------------------
# A node is a tuple that starts with its kind:
#   formulas     num value last_place | var name | + [nodes] | * [nodes] | neg node | inv node | ^ base exponent |
#                fn name node; `last_place` is 10^-n for a long decimal with n decimal places, else None
#   structures   list [nodes] | set [nodes] | union [nodes] | seq brackets [nodes] | matrix name [rows] | word text |
#                unit node units | rel [sides] [operators] [is the side before the operator just a name?]

def number(text):
    r"""The num node of a numeral: 12, .5, 1e400, 0.1\overline{6}; NotMath if it is too long."""
    plain, _, repeat = text.lower().partition("\\")
    digits, point, exponent = re.fullmatch(r"([0-9]*(\.?)[0-9]*)e?(.*)", plain).groups()
    if len(text) > MAX_BITS // 4 or len(exponent) > 4 or (repeat and not point):  # 3.3 bits a digit
        raise NotMath("numeral too large")
    value, last_place = Fraction(plain), Fraction(10) ** (int(exponent or 0) - len(digits.partition(".")[2]))
    if repeat:
        repeat = re.sub("[^0-9]", "", repeat)
        value += last_place * Fraction(int(repeat), 10 ** len(repeat) - 1)
    return ("num", value, last_place if len(digits.replace(".", "").lstrip("0")) >= 8 and point and not repeat else None)


class Parser:
    r"""Recursive descent: a method per rule of the grammar, which is its docstring.

    It reads the tokens from self.at on as far as its rule goes, leaves self.at behind them and returns a node (items:
    a list of nodes; words, take and need: a text). NotMath where the tokens do not fit, or nest too deep.
    """

    def __init__(self, toks):
        self.toks, self.at, self.depth, self.fuel = [*toks, ("end", "")], 0, 0, 3 * MAX_TOKENS
        self.sign, self.two_signs = 1, False  # the present meaning of \pm, and whether this item has a \pm
        self.in_bars = False                  # whether | closes

    def parse(self):
        """The tree of all tokens, a list node where there are several items; NotMath if any token is left."""
        tree = self.items()
        if self.at < len(self.toks) - 1:
            raise NotMath("junk after the answer")
        return tree[0] if len(tree) == 1 else ("list", tree)

    def take(self, *texts):
        """The text of the next token if it is one of these, else None."""
        if (text := self.toks[self.at][1]) in texts:
            self.at += 1
            return text

    def need(self, *texts):
        """`take`, but NotMath for None."""
        if (text := self.take(*texts)) is None:
            raise NotMath(f"token {self.at}")
        return text

    def chain(self, rule, mark, *kind):
        """rule (mark rule)*: one node (*kind, parts) where there are several."""
        parts = [rule()]
        while self.take(mark):
            parts.append(rule())
        return parts[0] if len(parts) == 1 else (*kind, parts)

    def deeper(self, rule):
        """rule(), a level further down. Every recursion passes here: no input is too deep for Python's stack."""
        self.depth, self.fuel = self.depth + 1, self.fuel - 1
        if self.depth > MAX_DEPTH or self.fuel < 0:
            raise NotMath("too deep")
        node = rule()
        self.depth -= 1
        return node

    def items(self, both_signs=True):
        r"""item ("," item)*, a list of nodes. both_signs: one with \pm comes twice, else what is around it does."""
        out, sign = [], self.sign
        while not out or self.take(","):
            start, outer, self.two_signs = self.at, self.two_signs, False
            self.sign = 1 if both_signs else sign
            out.append(self.item())
            if self.two_signs and both_signs:
                self.at, self.sign = start, -1
                out.append(self.item())
            self.two_signs = outer or (self.two_signs and not both_signs)
        self.sign = sign
        return out

    def item(self):
        """quantity (relation quantity)*, where FLIP has the relations: a rel node, or the only quantity."""
        start, sides, operators, names = self.at, [self.quantity()], [], []
        while relation := self.take(*FLIP):
            side = [{"var": "a", "word": "a", "num": "1"}.get(kind, text) for kind, text in self.toks[start:self.at - 1]]
            names.append(bool(re.fullmatch(r"a+(\(.*\)|\{a+\})?|\((a,)+a\)", "".join(side))))   # x, f(2) or (p, q)
            operators.append(relation)
            start = self.at
            sides.append(self.quantity())
        return ("rel", sides, operators, names) if operators else sides[0]

    def words(self):
        """Words side by side, with ^, /, 2 and 3 after the first of them, as one text; "" if there are none."""
        start = self.at
        while self.toks[self.at][0] == "word" or self.at > start and self.toks[self.at][1] in ("^", "/", "2", "3"):
            self.at += 1
        return " ".join(text for _, text in self.toks[start:self.at])

    def quantity(self):
        r"""words  |  \$? ratio (\cup ratio)* scale* (% | percent | unit words)?, where SCALES has the scales."""
        if words := self.words():
            return ("word", words)
        money = self.take("\\$")
        node = self.chain(lambda: self.chain(self.sum, ":", "seq", ":"), "\\cup", "union")
        while scale := self.take(*SCALES):
            node = ("*", [node, ("num", Fraction(SCALES[scale]), None)])
        if self.take("%", "percent"):
            return ("unit", node, "%")
        units = units_of(self.words()) | ({"dollar"} if money else set())
        return ("unit", node, units) if units else node

    def sum(self):
        r"""sign? term (sign term)*, where a sign is one of + - \pm \mp."""
        terms = []
        while (sign := self.take("+", "-", "\\pm", "\\mp")) or not terms:
            if sign in ("\\pm", "\\mp"):
                self.two_signs = True
                sign = "+" if (sign == "\\pm") == (self.sign == 1) else "-"
            node = self.term()
            terms.append(("neg", node) if sign == "-" else node)
        return terms[0] if len(terms) == 1 else ("+", terms)

    def term(self):
        """power (("*" sign? | "/" sign? | nothing) power)*, from left to right; no number after nothing: `5 7` is none."""
        factors = [self.power()]
        while (sign := self.take("*", "/")) or self.starts_factor():
            factor = self.signed_power() if sign else self.power()
            factors.append(("inv", factor) if sign == "/" else factor)
        return factors[0] if len(factors) == 1 else ("*", factors)

    def starts_factor(self, function=True):
        """Can the next token follow a factor with no sign between? function: also where it is sin or its like."""
        kind, text = self.toks[self.at]
        return kind == "var" or text in ("(", "[", "{", "\\frac", "\\sqrt", "\\binom", "\\pi") or \
            (text == "|" and not self.in_bars) or (function and kind == "op" and text[1:] in FUNCTIONS)

    def signed_power(self):
        """("+" | "-")? power."""
        return ("neg", self.power()) if self.take("+", "-") == "-" else self.power()

    def power(self):
        """atom "!"* ("^" signed_power)?."""
        node = self.deeper(self.atom)
        while self.take("!"):
            node = ("fn", "!", node)
        return ("^", node, self.deeper(self.signed_power)) if self.take("^") else node

    def atom(self):
        r"""A numeral, a constant, a variable, \emptyset, or what the next token opens: brackets, |sum|, \frac ..."""
        kind, text = self.toks[self.at]
        self.at += kind != "end"
        if kind == "num":
            return number(text)
        if text in CONSTANTS:
            return ("num", CONSTANTS[text], None)
        if kind == "var":
            return ("var", text)
        if text in ("(", "[", "{", "\\{"):
            return self.brackets(text)
        if text == "|":
            outer, self.in_bars = self.in_bars, True
            node = ("fn", "abs", self.sum())
            self.in_bars = outer
            return self.need("|") and node
        if text == "\\frac":
            return ("*", [self.deeper(self.atom), ("inv", self.deeper(self.atom))])
        if text == "\\binom":
            n, k = self.deeper(self.atom), self.deeper(self.atom)
            return ("*", [("fn", "!", n)] + [("inv", ("fn", "!", x)) for x in (k, ("+", [n, ("neg", k)]))])
        if text == "\\sqrt":
            index = self.brackets("[") if self.take("[") else ("num", Fraction(2), None)
            return ("^", self.deeper(self.atom), ("inv", index))
        if text == "\\emptyset":
            return ("set", [])
        if text.startswith("\\begin"):
            return self.matrix(text[6:])
        if kind == "op" and text[1:] in FUNCTIONS:
            return self.function(text[1:])
        raise NotMath(f"token {self.at}")

    def brackets(self, opening):
        r"""items and their closing bracket, `opening` being read: [0, 1) is a seq, \{1, 2\} a set, (x) the node x."""
        if opening == "\\{" and self.take("\\}"):
            return ("set", [])
        outer, self.in_bars = self.in_bars, False
        items = self.items(both_signs=opening == "\\{")
        self.in_bars = outer
        pair = opening + self.need(*{"\\{": ["\\}"], "{": ["}"]}.get(opening, [")", "]"]))
        if pair == "\\{\\}":
            return ("set", items)
        if len(items) == 1 and pair in ("()", "[]", "{}"):
            return items[0]
        return ("list", items) if pair == "{}" else ("seq", pair, items)

    def function(self, name):
        r"""\sin x, \sin^2 2x, \sin^{-1} x, \log_2 8: without brackets the argument is a product, up to a function."""
        marks = {}
        while mark := self.take("_", "^"):
            marks[mark] = self.deeper(self.signed_power if mark == "^" else self.atom)
        factors = [self.deeper(self.atom if self.toks[self.at][1] in ("(", "[", "{", "|") else self.signed_power)]
        while self.toks[self.at - 1][1] not in (")", "]", "|") and self.toks[self.at][1] != "(" and \
                self.starts_factor(function=False):
            factors.append(self.power())
        if marks.get("^") == ("neg", ("num", 1, None)):
            name = "arc" + name
            del marks["^"]
        if name not in FUNCTIONS or "_" in marks and name != "log":
            raise NotMath("no such function")   # \sec^{-1}, \ln_2
        node = ("fn", name, ("*", factors))
        if "_" in marks:
            node = ("*", [("fn", "ln", ("*", factors)), ("inv", ("fn", "ln", marks["_"]))])
        return ("^", node, marks["^"]) if "^" in marks else node

    def matrix(self, name):
        r"""Quantities between & and \\, then \end{name}; \begin{name} is read. array, pmatrix, bmatrix are one."""
        rows = [[self.quantity()]]
        while (mark := self.take("&", "\\\\")) and self.toks[self.at][1] != "\\end" + name:
            rows += [[]] if mark != "&" else []
            rows[-1].append(self.quantity())
        self.need("\\end" + name)
        return ("matrix", "matrix" if name in ("pmatrix", "bmatrix", "array") else name, rows)


# ---- 4. comparison ---------------------------------------------------------------------------------------------

_rng = random.Random(5)
# Dyadic, so that floats hold them exactly; of both signs, or \sqrt{x^2} would be x; of sizes below and above 1
POINTS = [[Fraction(int(2 ** _rng.uniform(12, 16)) * _rng.choice((-1, 1)), 2 ** 14) for _ in range(12)]
          for _ in range(24)]


def value(node, env):
    """A formula at a point {variable: number}: a Fraction while everything is rational and small, else complex or float.

    ArithmeticError or ValueError where it has no value (1/0, a structure), KeyError for a variable that env lacks.
    """
    kind, arg = node[:2]
    if kind == "num":
        return arg
    if kind == "var":
        return env[arg]
    if kind == "neg":
        return -value(arg, env)
    if kind == "inv":
        return 1 / value(arg, env)
    if kind == "^":
        return raised(value(arg, env), value(node[2], env))
    if kind in ("+", "*"):
        total = Fraction(kind == "*")
        for part in arg:
            total = total + value(part, env) if kind == "+" else total * value(part, env)
            total = float(total) if isinstance(total, Fraction) and bits(total) > MAX_BITS else total
        return total
    if kind != "fn":
        raise ValueError(f"a {kind} has no value")
    x = value(node[2], env)
    if arg != "!":
        return abs(x) if arg == "abs" else FUNCTIONS[arg](complex(x))
    if isinstance(x, Fraction) and x.denominator == 1 and 0 <= x <= 300:
        return Fraction(math.factorial(int(x)))
    return math.gamma(x.real + 1 if x.imag == 0 else math.nan)  # so that n! has a value at every point


def bits(x):
    """Bits of the larger of a fraction's numerator and denominator."""
    return max(x.numerator.bit_length(), x.denominator.bit_length())


def raised(a, b):
    """a ** b, its size known before the work is done; an odd root of a negative number is the real one."""
    if isinstance(b, Fraction):
        if isinstance(a, Fraction) and b.denominator == 1 and abs(b) * bits(a) <= MAX_BITS:
            return a ** int(b)
        if b.denominator % 2 and b.denominator > 1 and a.real < 0 and abs(a.imag) <= 1e-12 * abs(a):
            return (-1) ** (b.numerator % 2) * raised(-a, b)
    return complex(a) ** complex(b)


def close(x, y):
    """Equal: exactly where both are exact; else to 1e-9 of the larger, though \\cos(\\pi/2) has to be able to be 0."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    size = max(abs(complex(x)), abs(complex(y)))
    if not math.isfinite(size):
        raise OverflowError("infinite or undefined")
    return abs(complex(x) - complex(y)) <= 1e-9 * size or (0 in (x, y) and size < 1e-14)


def leaves(node):
    """All num and var nodes of a tree, in a list, as often as they occur."""
    if node[0] in ("num", "var"):
        return [node]
    return [leaf for part in node if isinstance(part, (tuple, list)) and part for leaf in leaves(part)]


def same_value(a, b, fuel, factor=None):
    """Do two formulas agree as functions? An identity test by evaluation, after Schwartz and Zippel.

    Two different polynomials of degree d agree at a random point with probability at most d times that of the most
    likely coordinate, here 1 in 20,000: a difference of degree 10 escapes all 8 points with probability below 1e-26,
    and rational formulas are evaluated exactly. Other formulas are compared to 1e-9, which is all where irrational
    constants have but one value. The points are fixed, but to fool them a model would need the gold answer.
    A point where either is undefined is replaced by the next; False when the 24 are used up.

    factor: "=" asks for agreement up to a constant factor, ">" and "≥" up to a positive one.
    """
    parts = leaves(a) + leaves(b)
    names = sorted({leaf[1] for leaf in parts if leaf[0] == "var"})
    if len(names) > len(POINTS[0]) or (factor and not names):
        return False
    agreed, ratio = 0, None if factor else 1
    for point in POINTS if names else POINTS[:1]:
        fuel[0] -= len(parts)
        if fuel[0] < 0:
            raise NotMath("too much work")
        env = dict(zip(names, point))
        try:
            x, y = value(a, env), value(b, env)
            ratio = x / y if ratio is None else ratio
            if not close(x, ratio * y) or ratio == 0 or factor in (">", "≥") and ratio.real <= abs(ratio.imag):
                return False
        except (ArithmeticError, ValueError):
            continue
        agreed += 1
        if agreed == 8 or not names:
            return True
    return False


def rounds_to(literal, node):
    """True or False where `literal` is a long decimal and `node` a constant with no finite one, else None."""
    sign, literal = (-1, literal[1]) if literal[0] == "neg" else (1, literal)
    if literal[0] != "num" or not literal[2]:
        return None
    try:
        x = value(node, {})
        if isinstance(x, Fraction) and pow(10, bits(x), x.denominator) == 0:
            return None
        return abs(x - sign * literal[1]) <= max(literal[2], 1e-13 * abs(x))
    except (ArithmeticError, ValueError, KeyError):
        return None


def unordered(xs, ys, match):
    """Do two lists match one to one, in any order? Each x takes the first y left for which match(x, y) is true."""
    left = list(ys)
    for x in xs:
        found = next((k for k, y in enumerate(left) if match(x, y)), None)
        if found is None:
            return False
        del left[found]
    return not left


def same_relation(a, b, fuel):
    """Have two rel nodes the same sides, read in either direction, or links whose left - right agree up to a factor?"""
    (_, sides, operators, _), (_, others, marks, _) = a, b
    for others, marks in ((others, marks), (others[::-1], [FLIP[mark] for mark in marks[::-1]])):
        if operators == marks and all(same(x, y, fuel) for x, y in zip(sides, others)):
            return True

    def links(sides, operators):
        return [(FLIP[op], ("+", [y, ("neg", x)])) if op in "<≤" else (op, ("+", [x, ("neg", y)]))
                for x, op, y in zip(sides, operators, sides[1:])]
    return unordered(links(sides, operators), links(others, marks),
                     lambda x, y: x[0] == y[0] and same_value(x[1], y[1], fuel, factor=x[0]))


def same(a, b, fuel):
    """Do two trees denote the same answer? `fuel`: [how much work may be done], counted down; NotMath below 0."""
    def each(xs, ys):
        return len(xs) == len(ys) and all(same(x, y, fuel) for x, y in zip(xs, ys))

    kinds = {a[0], b[0]}
    if kinds == {"rel"}:
        return same_relation(a, b, fuel)
    if "rel" in kinds:
        (_, sides, operators, names), other = (a, b) if a[0] == "rel" else (b, a)
        return set(operators) <= {"=", "∈"} and same(sides[-1], other, fuel) and \
            all(name or same(side, sides[-1], fuel) for side, name in zip(sides, names))
    if kinds & {"list", "set"} or kinds == {"union"}:
        return unordered(*(node[1] if node[0] in ("list", "set", "union") else [node] for node in (a, b)),
                         lambda x, y: same(x, y, fuel))
    if "unit" in kinds:
        (_, a, u), (_, b, v) = (node if node[0] == "unit" else ("unit", node, set()) for node in (a, b))
        if (u == "%") == (v == "%"):
            return (u == v or u <= v or v <= u) and same(a, b, fuel)
        percent, plain, units = (a, b, v) if u == "%" else (b, a, u)
        return not units and any(same(p, plain, fuel) for p in (percent, ("*", [percent, ("num", Fraction(1, 100), None)])))
    if kinds & {"word", "seq", "union", "matrix"}:
        if a[:1] == ("word",) or a[:2] != b[:2]:
            return a == b
        return each(a[2], b[2]) if a[0] == "seq" else len(a[2]) == len(b[2]) and all(map(each, a[2], b[2]))
    verdicts = rounds_to(a, b), rounds_to(b, a)
    return True in verdicts if verdicts != (None, None) else same_value(a, b, fuel)


def equivalent(*, gold, answer):
    """True if the two texts denote the same answer; not if both are empty. By keyword only: they are easily swapped."""
    if all(re.fullmatch("-?[0-9]{1,30}", text) for text in (gold, answer)):
        return int(gold) == int(answer)
    if max(len(gold), len(answer)) > MAX_CHARS:
        return gold.strip() == answer.strip()
    gold, answer = tokens(clean(gold)), tokens(clean(answer))
    if spelling(gold) == spelling(answer):
        return bool(gold)
    try:
        return max(len(gold), len(answer)) <= MAX_TOKENS and same(Parser(gold).parse(), Parser(answer).parse(), [FUEL])
    except NotMath:
        return False
