r"""Does a model's final answer denote the same thing as the gold answer? Nothing here runs or trusts model text.

    final_answer(r"so x = \frac{1}{2}, hence \boxed{x = 0.5}.")    # 'x = 0.5'
    final_answer("She pays $1,000.")                              # '1,000'
    equivalent(gold=r"\frac{1}{2}", answer="x = 0.5")             # True
    equivalent(gold="5", answer="5 or 7")                         # False

math_.py, the domain of train_grpo.py's first command, grades with it. Latex is rewritten a little, cut into tokens, parsed
by recursive descent, and two trees are compared part by part, in the order of this file. What counts as equal:

    numbers    exactly, as fractions: 1,000 = 10^3, 2\frac13 = 7/3, 0.33 is not 1/3; 50% is both 0.5 and 50. Only a
               decimal of 8 or more digits may round what has no finite decimal: 1.41421356 = \sqrt2
    formulas   by value at fixed pseudo-random points, see `same_value`: \tan^2 y + 1 = \sec^2 y
    units      2 hours = 120 minutes; a missing unit is no mistake, and a plural noun says nothing (5 apples), while
               other words may change the value (5 squared); 60^\circ is 60 and \pi/3
    structure  tuples and matrices in order, ratios up to a factor; lists, sets and a \pm b (two values) in any order
    regions    2 < x < 3 is (2, 3); so with unions, x \ne 2 and \mathbb{R} \setminus \{2\}
    relations  up to swapped sides and a constant factor; `x = 5` is also plain 5, but `x + 1 = 5` is not;
               x = 2, y = 3 is also (2, 3), in the order of the names
    choices    (B) 40 is both B and 40
    the rest   by spelling: words, numerals with a base (17_8), and whatever does not parse or is too large

It does not solve equations, know domains (x > 0), or read sums and integrals. 1/2x is read from left to right, \log is to
base 10, a bare single letter (5 m) is a variable.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import cmath
import contextlib
import functools
import math
import random
import re
import unicodedata
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
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(?:(\{)|([^\s{}$]*))")


def after_thinking(text):
    """What follows a reasoning model's <think>...</think>, or all of a text without; "" if the thinking has no end."""
    answer = text.rpartition("</think>")[2]
    return "" if "<think>" in answer else answer


def inside(text, box, end):
    """The content of a BOX match in text[:end], and what follows it there; "" and "" if it is not closed."""
    if not box[1]:
        return box[2].rstrip(".,;"), text[box.end():end]
    depth = 1
    for brace in re.compile(r"\\[^A-Za-z]|[{}]").finditer(text, box.end(), end):      # an escaped brace is none
        depth += (brace[0] == "{") - (brace[0] == "}")
        if not depth:
            return text[box.end():brace.start()].strip(), text[brace.end():end]
    return "", ""


def final_answer(text):
    r"""The content of the last \boxed{}, else the last number, after the thinking; None if there is neither.

    Boxes that only a comma, `and` or `or` joins are one answer, a list. An empty or unclosed last box is "", which is
    equivalent to nothing: an answer can be withdrawn, but not hedged.
    Of a formula $...$ that holds the last number, the answer is what follows its last = or \approx.
    """
    text = after_thinking(text)
    found, end = [], len(text)
    for box in reversed(list(BOX.finditer(text))):
        content, rest = inside(text, box, end)
        if found and re.sub(r"\\[A-Za-z]+|[^A-Za-z,;]", "", rest) not in ("and", "or", ",", ";", ",and", ",or"):
            break
        found, end = [*found[-99:], content], box.start()
    if found:
        return ", ".join(reversed(found))
    last = max(LAST_NUMBER.finditer(text), key=re.Match.start, default=None)
    for formula in FORMULA.finditer(text) if last else ():          # a number inside of $2\sqrt3$ is not the answer
        if formula.start() < last.start() and last.end() < formula.end():
            return re.split(r"=|\\approx", next(filter(None, formula.groups())))[-1].strip()
    return last and re.sub(r"\\?\$", "", last[0]).strip()


# ---- 2. text -> tokens (kind, text), where kind is num, var, word or op ------------------------------------------

# spelling -> what it measures, and how much of that: cm -> ({"m": 1}, 1/100). Without a dimension: it says nothing.
UNITS = {spelling + plural: ({} if dimension == "-" else {dimension.rstrip("3"): 3 if "3" in dimension else 1},
                             Fraction(size))
         for dimension, size, *names in map(str.split, """m 1 m meter metre|m .01 cm centimeter centimetre
m .001 mm millimeter millimetre|m 1000 km kilometer kilometre|m .0254 inch in|m .3048 foot ft feet|m .9144 yard yd
m 1609.344 mile mi|g 1 g gram|g 1000 kg kilogram|g .001 mg milligram|lb 1 pound lb|lb 1/16 ounce oz|ton 1 ton
m3 .001 l liter litre|m3 .000001 ml milliliter millilitre|cup 16 gallon gal|cup 4 quart qt|cup 2 pint|cup 1 cup
s 1 s second sec|s 60 minute min|s 3600 hour h hr|s 86400 day|s 604800 week|month 1 month|month 12 year yr
am 1 am|pm 1 pm|$ 1 dollar|$ .01 cent|eur 1 euro|cny 1 yuan|rub 1 ruble rouble
- 1 unit radian rad th""".replace("\n", "|").split("|"))
         for spelling in names for plural in ("", "s", "es")}
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SIGNS = {"or": ("op", ";"), "and": ("op", ","), "degree": ("op", "°"), "degrees": ("op", "°"), "approximately": ("op", "≈"),
         "about": ("op", "≈")} | {word: ("num", str(n)) for n, word in enumerate(
             "zero one two three four five six seven eight nine ten eleven twelve".split())}
CHANGES = re.compile(r"\b(not?|is|than|minus|plus|times|mod|if|to|over|under|at|most|least|more|less|fewer|half|halves"
                     r"|squared|cubed|dozen|hundred|[mbtr]+illion|thousand|quarters?|thirds?"
                     r"|(four|fif|six|seven|eigh|nin|ten|hundred|thousand)ths?)\b")
FUNCTIONS = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z), "cot": lambda z: 1 / cmath.tan(z), "arcsin": cmath.asin, "arccos": cmath.acos,
    "arctan": cmath.atan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh, "exp": cmath.exp,
    "ln": cmath.log, "log": cmath.log10, "lg": cmath.log10, "tg": cmath.tan, "ctg": lambda z: 1 / cmath.tan(z),
    "arctg": cmath.atan}
CONSTANTS = {"e": math.e, "i": 1j, "\\pi": math.pi}
FLIP = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "∈": "∋", "=": "=", "≠": "≠", "≈": "≈", "≡": "≡", "\\pmod": "\\pmod"}
ALIAS = {alias: group.split()[0] for group in re.split(r"\n|  +", r"""≤ \le \leq \leqslant <=
≥ \ge \geq \geqslant >=  ≠ \ne \neq !=  < \lt  > \gt  ∈ \in  ≈ \approx \simeq \sim  ≡ \equiv  * \times \cdot \ast ∗
/ \div  ^ **  \frac \dfrac \tfrac \cfrac  \binom \dbinom \tbinom  % \%  \{ \lbrace  \} \rbrace  ( \langle  ) \rangle
| \lvert \rvert \vert \mid  \emptyset \varnothing  … \ldots \dots \cdots ...  \setminus \backslash  ; \lor \vee
\lfloor ⌊  \rfloor ⌋  \lceil ⌈  \rceil ⌉  ' \prime""") for alias in group.split()[1:]}
DROPPED = {"\\" + name for name in """left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle quad qquad
    vec hat rm bf mathrm mathbf limits ( ) [ ] , ! ; :""".split()} | {"\\ ", "~"}
SYMBOLS = {"\\" + name for name in """alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu
    xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell mathcal
    angle triangle overline overrightarrow infty""".split()} | {"…"}    # opaque
UNICODE = str.maketrans({
    "−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ",
    "±": r"\pm ", "∪": r"\cup ", "∅": r"\emptyset ", "θ": r"\theta ", "ℝ": r"\mathbb{R}", "£": "", "€": "", "′": "'",
    "″": "''", "¢": r"\text{ cents}", "º": "°"})
REWRITES = [  # in this order; none can take more than quadratic time, and texts are short
    (r"[¼-¾⅐-⅞]", lambda m: "\\frac{%s}{%s}" % tuple(unicodedata.normalize("NFKC", m[0]).split("⁄"))),
    (r"([⁰¹²³⁴-⁹⁻]+)|[₀-₉]+", lambda m:
     ("^" if m[1] else "_") + "{" + unicodedata.normalize("NFKC", m[0]).replace("−", "-") + "}"),
    (r"\\(?:boxed|fbox) ?\{(.*)\}$", r"\1"),
    (r"(?<!\\)\$", ""),
    (r"\^ ?\{? ?\\circ ?\}?|\\(?:text)?degree", "°"),
    (r"\^ ?\{? ?((?:\\prime ?)+)\}?", lambda m: "'" * m[1].count("p")),
    (r"(?<=[0-9]) ?(?:\^ ?\{? ?)?(?:\\(?:text|mathrm) ?\{ ?)?(?:st|nd|rd|th)\b ?\}{0,2}", r"\\text{th}"),  # 11^{\text{th}}
    (r"\b([ap])\. ?m\b\.?", r"\1m"),                                                        # p.m.
    (r"^([A-Z])[):]$", r"\1"),                                                              # the choice C)
    (r"- ?\\\$", r"\\$-"),                                                                  # -\$5
    (r"(?<=[0-9)}])(and|or)(?=[^a-z]|[a-z]\b)", r" \1 "),                                   # (11,7)or(7,11)
    (r"\{([^{}]*)\\(over|choose)(?![A-Za-z])([^{}]*)\}", lambda m:
     "\\%s{%s}{%s}" % ("binom" if m[2] == "choose" else "frac", m[1], m[3])),
    (r"\(? ?(?:\\[pb]?mod|\bmod\b) ?(\{[^{}]*\}|[0-9A-Za-z]+) ?\)?", r" \\pmod \1"),
    (r"^(?:\\left ?)?\\\{ ?[A-Za-z](?: ?\\in ?\\mathbb ?\{?R\}?)? ?(?:\\mid|[|:]) ?(.*)\\\}$", r"\1"),    # \{x : x > 2\}
    (r"(?<=[0-9])(?:\{,\}|,?\\[!,;:]|~) ?(?=[0-9]{3}(?![0-9]))", ""),                       # 10,\!080
    (r"^(?!\\left|\\\{|[(\[]).*", lambda m: re.sub(                                         # 1,000 but (1,200)
        r"(?<![0-9.,/^_])[0-9]{1,3}(?:[, ][0-9]{3})+(?![0-9/]|,[0-9])", lambda n: re.sub("[, ]", "", n[0]), m[0])),
    (r"\^ ?\{ ?([0-9]) ?\}", r"^\1 "),
    (r"(\\[dtc]?frac) ?([0-9])", r"\1{\2}"),                                                # \frac12
    (r"(\\[dtc]?frac ?\{[^{}]*\}) ?([0-9])", r"\1{\2}"),
    (r"(?<![0-9.^_/A-Za-z])([0-9]+)(?: ?\\[dtc]?frac ?\{([0-9]+)\} ?\{([0-9]+)\}| ([0-9]+) ?/ ?([0-9]+))",
     lambda m: f"({m[1]}+{m[2] or m[4]}/{m[3] or m[5]})" if int(m[2] or m[4]) < int(m[3] or m[5]) else m[0]),  # 2 1/3
    (r"(?<![0-9])([0-9]+) ?° ?([0-9]+) ?'(?: ?([0-9]+) ?'')?", lambda m: f"({m[1]}+{m[2]}/60+{m[3] or 0}/3600)°")]
TOKEN = re.compile(r"""
    \\(?:text[a-z]*|[mh]box|math(?:rm|bf|it|sf)|operatorname\*?)\ ?\{(?P<text>[^{}]*)\}
    |(?P<env>\\(?:begin|end)\ ?\{[a-z]+)\*?\}(?:\{[clr|\ ]*\})?
    |(?P<var>(?:[0-9]+|[A-Za-z])_(?:\{[^{}]*\}|[0-9A-Za-z])'*|[A-Za-z]'+|\\mathbb\ ?(?:\{[A-Z]\}|[A-Z]))
    |(?P<num>(?:[0-9]+(?:\.(?!\.\.)[0-9]*)?|\.[0-9]+)(?:\\(?:overline|dot)\ ?(?:\{[0-9]+\}|[0-9])|[eE][-+]?[0-9]+)?)
    |(?P<run>[A-Za-z]+(?![_']|[A-Za-z]))
    |(?P<op>\\(?:[A-Za-z]+|.)|[<>!]=|\*\*|\.\.\.|''|\S)""", re.X)


def clean(text):
    """One line without markup and sentence marks, in one spelling of all that is spelt in several."""
    text = re.sub(r"\s+", " ", text.translate(UNICODE)).strip("* `$=")
    text = text if text.endswith("..") else text.rstrip(".").strip()
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
            name = m[0] if kind == "num" else re.sub(r"[{} ]", "", m[kind])
            out.append((kind, name.lstrip("0") if kind == "var" else name) if kind != "env" else ("op", name))
        elif (op := ALIAS.get(m["op"], m["op"])) not in DROPPED:
            out.append(("var" if op in SYMBOLS else "op", op))
        if len(out) > 1 and out[-1][1] in (",", ";") and out[-2][1] in (",", ";"):      # 1, 2, and 3
            del out[-1]
    return out


def letters(run, previous, following, last, in_text):
    r"""The token of a run of letters: a sign, a unit, a function, a word (east, \text{of}); or one per variable (xy).

    previous, following: the characters beside it, or "". last: the token before it. in_text: is it in a \text{...}?
    """
    low = run.lower()
    if low in SIGNS:
        return [SIGNS[low]]
    after_value = last[0] in ("num", "var", "word") or last[1] in (")", "}", "]", "|", "/", "°")
    if after_value and low in UNITS and (in_text or last[0] == "word" or len(run) > 1 and run not in FUNCTIONS):
        return [("word", low)]
    if run in FUNCTIONS or run in ("sqrt", "pi"):
        return [("op", "\\" + run)]
    in_formula = previous and previous in "0123456789)}+-*/^=" or following and following in "+-*/^=_({" or \
        last[0] == "num" and len(run) < 4
    if len(run) > 1 and (in_text or low == "no" or len(run) > 2 and not in_formula and not run.isupper()):
        return [("var", "\\infty") if low == "infinity" else ("word", low)]
    return [("var", letter) for letter in run]


def measure(words):
    """What some words after a value measure, {dimension: exponent}, and how much of it: of km/h {"m": 1, "s": -1}, 5/18.

    {} and 1 of a noun, which says nothing. NotMath if they are more: not, squared, below zero.
    """
    for word, sign in ((r"\bmph\b", "mile / hour"), (r"\bper\b", "/"), (r"\b(?:square|sq) (\w+)", r"\1 ^ 2"),
                       (r"\bcubic (\w+)", r"\1 ^ 3")):
        words = re.sub(word, sign, words)
    parts = re.findall(r"(/?) ?([a-z]+)(?: \^ ([23]))?", words)
    if len(parts) > 4 or CHANGES.search(words) or re.search(r"[/^]$|(?<!\^ )[23]|[23] \^", words):
        raise NotMath("more than a unit")
    if all(name in UNITS for _, name, _ in parts):
        dimensions, size = {}, Fraction(1)
        for slash, name, power in parts:
            power = int(power or 1) * (-1 if slash else 1)
            size *= UNITS[name][1] ** power
            for dimension, exponent in UNITS[name][0].items():
                dimensions[dimension] = dimensions.get(dimension, 0) + exponent * power
        return dimensions, size
    if not re.search(r"[a-z]{3}s\b|people|children|men\b", words):
        raise NotMath("no noun")
    return {}, 1


def spelling(toks):
    """Tokens as one string. Numbers keep their distance: 5 7 is not 57."""
    return "".join(text if kind in ("var", "word") else f" {text} " for kind, text in toks)


# ---- 3. tokens -> tree -----------------------------------------------------------------------------------------
# A node is a tuple that starts with its kind:
#   formulas     num value written | var name | + [nodes] | * [nodes] | neg node | inv node | ^ base exponent | fn name node;
#                `written` is (10^-n, digits) for a plain numeral with n decimal places, else None
#   structures   list [nodes] | set [nodes] | union [nodes] | minus [nodes] | seq brackets [nodes] | matrix name [rows] |
#                word text | unit node dimensions size | rel [sides] [operators] [the side before the operator, if a name]
# An angle in degrees is a product with the variable °, which is read as 1 and as pi/180, but in \sin and its like.

def num(value):
    """The node of a constant that was not written as a numeral."""
    return ("num", value, None)


def number(text):
    r"""The num node of a numeral: 12, .5, 1e400, 0.1\overline{6}; NotMath if it is too long."""
    plain, _, repeat = text.lower().partition("\\")
    digits, point, exponent = re.fullmatch(r"([0-9]*(\.?)[0-9]*)e?(.*)", plain).groups()
    if len(text) > MAX_BITS // 4 or len(exponent) > 4 or (repeat and not point):  # 3.3 bits a digit
        raise NotMath("numeral too large")
    value, last_place = Fraction(plain), Fraction(10) ** (int(exponent or 0) - len(digits.partition(".")[2]))
    if repeat:
        repeat = re.sub("[^0-9]", "", repeat)
        return num(value + last_place * Fraction(int(repeat), 10 ** len(repeat) - 1))
    return ("num", value, (last_place, len(digits.replace(".", "").lstrip("0")) if point else 0))


def renamed(node, old, new):
    """A tree with another name for one of its variables."""
    if node == ("var", old):
        return ("var", new)
    return type(node)(renamed(part, old, new) for part in node) if isinstance(node, (tuple, list)) else node


def either_sign(plus, minus=None):
    r"""The tree of what has a \pm, of those for its two signs: of a list or a set, an item that differs comes twice."""
    if minus in (None, plus):
        return plus
    if plus[0] == minus[0] and plus[0] in ("list", "set"):
        return (plus[0], [item for pair in zip(plus[1], minus[1]) for item in pair[:1 + (pair[0] != pair[1])]])
    return ("list", [plus, minus])


class Parser:
    r"""Recursive descent: a method per rule of the grammar, which is its docstring.

    It reads the tokens from self.at on as far as its rule goes, leaves self.at behind them and returns a node (several:
    a list of nodes; words, take and need: a text). NotMath where the tokens do not fit, or nest too deep.
    """

    def __init__(self, toks, plus="+"):
        self.toks, self.at, self.depth, self.fuel = [*toks, ("end", "")], 0, 0, 3 * MAX_TOKENS // 2
        self.plus = plus                      # what \pm means, and \mp not
        self.in_bars = False                  # whether | closes
        self.degree = ("var", "°")            # what the sign multiplies by
        self.integers = []                    # names

    def parse(self):
        r"""item (("," | ";") item)*: the only item, or a list; of lists if all are relations: x=1, y=2; x=2, y=1.

        The k of an item k \in \mathbb{Z} behind others goes to self.integers. NotMath if any token is left.
        """
        groups = self.several(lambda: self.several(self.item, ","), ";")
        if self.at < len(self.toks) - 1:
            raise NotMath("junk after the answer")
        items = sum(groups, [])
        if len(items) > len(groups) > 1 and all(len(group) > 1 and item[0] == "rel" for group in groups for item in group):
            return ("list", [("list", group) for group in groups])
        for item in items[1:]:
            if item[0] == "rel" and item[1][0][0] == "var" and item[1][1] in (("var", "\\mathbbZ"), ("var", "\\mathbbN")):
                items.remove(item)
                self.integers.append(item[1][0][1])
        return items[0] if len(items) == 1 else ("list", items)

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

    def several(self, rule, *marks):
        """rule (mark rule)*: a list of nodes."""
        parts = [rule()]
        while self.take(*marks):
            parts.append(rule())
        return parts

    def chain(self, rule, mark, *kind):
        """The same as one node, (*kind, nodes) where there are several."""
        parts = self.several(rule, mark)
        return parts[0] if len(parts) == 1 else (*kind, parts)

    def deeper(self, rule):
        """rule(), a level further down. Every recursion passes here: no input is too deep for Python's stack."""
        self.depth, self.fuel = self.depth + 1, self.fuel - 1
        if self.depth > MAX_DEPTH or self.fuel < 0:
            raise NotMath("too deep")
        node = rule()
        self.depth -= 1
        return node

    def item(self):
        """"≈"? quantity (relation quantity)*, where FLIP has the relations: a rel node, or the only quantity."""
        self.take("≈", "=")
        start, sides, operators, names = self.at, [self.quantity()], [], []
        while relation := self.take(*FLIP):
            side = self.toks[start:self.at - 1]
            shape = "".join({"var": "a", "word": "a", "num": "1"}.get(kind, "T" if text[1:] in FUNCTIONS else text[:2])
                            for kind, text in side)             # x, AB, f(2), |AB|, a:b, \frac{AB}{BC}, \sin A or (p, q)
            named = re.fullmatch(r"(?:T?a(?:\(-?(?:[a1,{}]|\\f)*\))?|\\f|[|:/{}])+|\((?:a,)+a\)", shape)
            name = "".join(text for _, text in side)
            names.append(name if named and not CHANGES.match(name) else "")
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
        r"""words  |  \$? union scale* (% | percent | '' | unit words)?, where SCALES has the scales.

        A union is difference (\cup difference)*, a difference ratio (\setminus ratio)*, a ratio sum (":" sum)*.
        """
        if words := self.words():
            if re.fullmatch("no (real )?solutions?", words):
                return ("set", [])
            return ("var", "\\mathbbR") if re.fullmatch("all real( number)?s", words) else ("word", words)
        money = self.take("\\$")
        node = self.chain(lambda: self.chain(lambda: self.chain(self.sum, ":", "seq", ":"), "\\setminus", "minus"),
                          "\\cup", "union")
        while scale := self.take(*SCALES):
            node = ("*", [node, num(Fraction(SCALES[scale]))])
        if self.take("%", "percent", "pct"):
            return ("unit", node, {"%": 1}, Fraction(1, 100))
        dimensions, size = UNITS["inch"] if self.take("''") else measure(self.words())
        angle = node[1] if node[0] == "neg" else node
        if money:
            dimensions = dimensions or {"$": 1}
        elif angle[0] == "*" and angle[1][-1][0] == "var" and "°" in angle[1][-1][1]:
            dimensions = {angle[1][-1][1]: 1}
        return ("unit", node, dimensions, size) if dimensions else node

    def sum(self):
        r"""sign? term (sign term)*, where a sign is one of + - \pm \mp."""
        terms = []
        while (sign := self.take("+", "-", "\\pm", "\\mp")) or not terms:
            if sign in ("\\pm", "\\mp"):
                sign = "+" if (sign == "\\pm") == (self.plus == "+") else "-"
            if sign and self.take("-"):                     # 14 + -i
                sign = "+" if sign == "-" else "-"
            node = self.term()
            terms.append(("neg", node) if sign == "-" else node)
        return terms[0] if len(terms) == 1 else ("+", terms)

    def term(self):
        """power (("*" sign? | "/" sign? | nothing) power)*, from left to right; of numerals side by side, `5 7` is none."""
        factors = [self.power()]
        while (sign := self.take("*", "/")) or self.starts_factor() or \
                self.toks[self.at][0] == "num" and (self.toks[self.at - 1][0] != "num" or factors[-1][0] == "^"):
            factor = self.signed_power() if sign else self.power()
            factors.append(("inv", factor) if sign == "/" else factor)
        return factors[0] if len(factors) == 1 else ("*", factors)

    def starts_factor(self, function=True):
        """Can the next token follow a factor with no sign between? function: also where it is sin or its like."""
        kind, text = self.toks[self.at]
        return kind == "var" or text in ("(", "[", "{", "\\frac", "\\sqrt", "\\binom", "\\pi", "\\lfloor", "\\lceil") or \
            (text == "|" and not self.in_bars) or (function and kind == "op" and text[1:] in FUNCTIONS)

    def signed_power(self):
        """("+" | "-")? power."""
        return ("neg", self.power()) if self.take("+", "-") == "-" else self.power()

    def power(self):
        """atom "!"* ("°" ("C" | "F")?)? ("^" signed_power)?."""
        node = self.deeper(self.atom)
        while self.take("!"):
            node = ("fn", "!", node)
        if self.take("°"):
            scale = self.take("C", "F", "celsius", "fahrenheit")
            node = ("*", [node, ("var", "°" + scale[0].upper()) if scale else self.degree])
        return ("^", node, self.deeper(self.signed_power)) if self.take("^") else node

    def atom(self):
        r"""A numeral, a constant, a variable, \emptyset, or what the next token opens: brackets, |sum|, \frac ..."""
        kind, text = self.toks[self.at]
        self.at += kind != "end"
        if kind == "num":
            return number(text)
        if text in CONSTANTS:
            return num(CONSTANTS[text])
        if kind == "var":
            return ("var", text)
        if text in ("(", "[", "{", "\\{"):
            return self.brackets(text)
        if text in ("|", "\\lfloor", "\\lceil"):
            outer, self.in_bars = self.in_bars, text == "|"
            node = self.sum()
            self.in_bars = outer
            self.need({"|": "|", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}[text])
            return ("fn", "abs", node) if text == "|" else ("fn", "floor", node) if text == "\\lfloor" else \
                ("neg", ("fn", "floor", ("neg", node)))
        if text == "\\frac":
            return ("*", [self.deeper(self.atom), ("inv", self.deeper(self.atom))])
        if text == "\\binom":
            n, k = self.deeper(self.atom), self.deeper(self.atom)
            return ("*", [("fn", "!", n)] + [("inv", ("fn", "!", x)) for x in (k, ("+", [n, ("neg", k)]))])
        if text == "\\sqrt":
            index = self.brackets("[") if self.take("[") else num(Fraction(2))
            return ("^", self.deeper(self.atom), ("inv", index))
        if text == "\\emptyset":
            return ("set", [])
        if text.startswith("\\begin"):
            return self.matrix(text[6:])
        if kind == "op" and text[1:] in FUNCTIONS:
            return self.function(text[1:])
        raise NotMath(f"token {self.at}")

    def brackets(self, opening):
        r"""item (("," | ";") item)* and the bracket that closes `opening`: [0, 1) is a seq, \{1, 2\} a set, (x) is x."""
        if opening == "\\{" and self.take("\\}"):
            return ("set", [])
        outer, self.in_bars = self.in_bars, False
        items = self.several(self.item, ",", ";")
        self.in_bars = outer
        pair = opening + self.need(*{"\\{": ["\\}"], "{": ["}"]}.get(opening, [")", "]"]))
        if pair == "\\{\\}":
            return ("set", items)
        if len(items) == 1 and pair in ("()", "[]", "{}"):
            return items[0]
        return ("list", items) if pair == "{}" else ("seq", pair, items)

    def function(self, name):
        r"""\sin x, \sin^2 2x, \sin^{-1} x, \log_2 8: without brackets the argument is a product, up to a function."""
        marks, outer, self.degree = {}, self.degree, num(math.pi / 180)
        while mark := self.take("_", "^"):
            marks[mark] = self.deeper(self.signed_power if mark == "^" else self.atom)
        factors = [self.deeper(self.atom if self.toks[self.at][1] in ("(", "[", "{", "|") else self.signed_power)]
        while self.toks[self.at - 1][1] not in (")", "]", "|") and self.toks[self.at][1] != "(" and \
                self.starts_factor(function=False):
            factors.append(self.power())
        self.degree = outer
        if marks.get("^", ())[:1] == ("neg",) and marks["^"][1][1] == 1:
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
          for _ in range(32)]


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
    if arg == "floor":
        return Fraction(math.floor(x if isinstance(x, Fraction) else real(x) + 1e-9))
    if arg != "!":
        return abs(x) if arg == "abs" else FUNCTIONS[arg](complex(x))
    if isinstance(x, Fraction) and x.denominator == 1 and 0 <= x <= 300:
        return Fraction(math.factorial(int(x)))
    return math.gamma(x.real + 1 if x.imag == 0 else math.nan)  # so that n! has a value at every point


def bits(x):
    """Bits of the larger of a fraction's numerator and denominator."""
    return max(x.numerator.bit_length(), x.denominator.bit_length())


def real(x):
    """A value without its imaginary part, which has to be rounding; else ValueError."""
    if abs(x.imag) > 1e-9 * abs(x) or x != x:
        raise ValueError("not real")
    return x.real


def raised(a, b):
    """a ** b, its size known before the work is done; an odd root of a negative number is the real one."""
    if isinstance(b, Fraction):
        if isinstance(a, Fraction) and b.denominator == 1 and abs(b) * bits(a) <= MAX_BITS:
            return a ** int(b)
        if b.denominator % 2 and b.denominator > 1 and a.real < 0 and abs(a.imag) <= 1e-12 * abs(a):
            return (-1) ** (b.numerator % 2) * raised(-a, b)
    return complex(a) ** complex(b)


def close(x, y):
    r"""Equal: exactly where both are exact; else to 1e-9 of the larger, though \cos(\pi/2) has to be able to be 0."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    size = max(abs(complex(x)), abs(complex(y)))
    if not math.isfinite(size):
        raise OverflowError("infinite or undefined")
    return abs(complex(x) - complex(y)) <= 1e-9 * size or (0 in (x, y) and size < 1e-14)


def nodes(node):
    """All nodes of a tree, in a list, as often as they occur."""
    below = [found for part in node if isinstance(part, (tuple, list)) and part for found in nodes(part)]
    return [node] + below if isinstance(node, tuple) and isinstance(node[0], str) else below


def spend(fuel, work):
    """Count `fuel`, [how much work may be done], down; NotMath below 0."""
    fuel[0] -= work
    if fuel[0] < 0:
        raise NotMath("too much work")


def same_value(a, b, fuel, factor=None):
    r"""Do two formulas agree as functions? An identity test by evaluation, after Schwartz and Zippel.

    Two different polynomials of degree d agree at a random point with probability at most d times that of the most
    likely coordinate, here 1 in 20,000: a difference of degree 10 escapes all 8 points with probability below 1e-26,
    and rational formulas are evaluated exactly. Other formulas are compared to 1e-9, which is all where irrational
    constants have but one value. The points are fixed, but to fool them a model would need the gold answer.
    A point where either is undefined or both are imaginary (\sqrt x at -1) is replaced by the next; False if less than 4
    are left. Beside a floor, n and its like (k to n) are integers. The sign of degrees is read as 1, then as pi/180.

    factor: "=" asks for agreement up to a constant factor, ">" and "≥" up to a positive one.
    """
    parts = nodes((a, b))
    names = sorted({part[1] for part in parts if part[0] == "var"})
    free = [name for name in names if name[0] != "°"]
    if len(free) > len(POINTS[0]) or (factor and not free):
        return False
    integers = [name for name in free if name in "klmn" and any(
        part[:2] == ("fn", "floor") or part[0] == "^" and part[1][0] == "neg" for part in parts)]
    imaginary = any(part[0] == "num" and isinstance(part[1], complex) for part in parts)
    work = sum(part[0] in ("num", "var") for part in parts)

    def agree(degree):
        agreed, ratio = 0, None if factor else 1
        for k, point in enumerate(POINTS if free else POINTS[:1]):
            spend(fuel, work)
            env = {"°C": 1, "°F": 1, "°": degree, **dict(zip(free, point))}
            env.update((name, Fraction(int(env[name] * 2 ** (14 if k % 2 else 4)))) for name in integers)
            try:
                x, y = value(a, env), value(b, env)
                if free and not imaginary and min(abs(x.imag) - 1e-9 * abs(x), abs(y.imag) - 1e-9 * abs(y)) > 0:
                    continue
                ratio = x / y if ratio is None else ratio
                if not close(x, ratio * y) or ratio == 0 or factor in (">", "≥") and ratio.real <= abs(ratio.imag):
                    return False
            except (ArithmeticError, ValueError):
                continue
            agreed += 1
            if agreed == 8 or not free:
                return True
        return agreed >= 4
    return agree(Fraction(1)) or "°" in names and agree(math.pi / 180)


def rounds_to(literal, node, digits=8):
    """True or False where `literal` is a decimal of that many digits and `node` a constant with no finite one, else None."""
    sign, literal = (-1, literal[1]) if literal[0] == "neg" else (1, literal)
    if literal[0] != "num" or not literal[2] or literal[2][1] < digits:
        return None
    try:
        x = value(node, {})
        if digits and isinstance(x, Fraction) and pow(10, bits(x), x.denominator) == 0:
            return None
        return abs(x - sign * literal[1]) < max(literal[2][0], 1e-13 * abs(x))
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


ORDER = {"<": (-1,), "≤": (-1, 0), ">": (1,), "≥": (0, 1), "≠": (-1, 1), "=": (0,)}


def region(node, xs, fuel):
    """Of each number in xs, whether it is in the set of reals that an interval, set, relation, union or difference is.

    ArithmeticError, ValueError or KeyError for another tree. A relation says where x or |x| lies beside constants. Of a list,
    x < 2, x > 3 is either; x > 2, x < 3, whose union is everything, is both.
    """
    kind, arg, more = (*node, None)[:3]
    constant = lambda node: real(value(node, {"\\infty": math.inf}))

    def order(x, y):
        spend(fuel, 1)
        return 0 if x == y or math.isfinite(x) and math.isfinite(y) and close(x, y) else 1 if x > y else -1

    def side(node):
        if node[0] == "var" and node[1] != "\\infty":
            return xs
        return list(map(abs, xs)) if node[:2] == ("fn", "abs") and node[2][0] == "var" else [constant(node)] * len(xs)

    if node == ("var", "\\mathbbR"):
        return [True] * len(xs)
    if kind == "set":
        ends = [constant(part) for part in arg]
        return [any([order(x, end) == 0 for end in ends]) for x in xs]
    if kind in ("union", "minus", "list"):
        found = list(zip(*(region(part, xs, fuel) for part in arg)))
        if kind == "minus":
            return [first and not any(others) for first, *others in found]
        return list(map(all if kind == "list" and all(map(any, found)) else any, found))
    if kind == "seq" and arg[0] in "([" and len(more) == 2 and constant(more[0]) < constant(more[1]):
        kind, arg, more = "rel", [more[0], ("var", "x"), more[1]], ["<≤"[arg[0] == "["], "<≤"[arg[1] == "]"]]
    if kind != "rel" or not set(more) <= ORDER.keys() | {"∈"} or not variables((kind, arg)):
        raise ValueError("no region")
    true, left = [True] * len(xs), side(arg[0])
    for mark, node in zip(more, arg[1:]):
        right = region(node, left, fuel) if mark == "∈" else side(node)
        true = [each and (y if mark == "∈" else order(x, y) in ORDER[mark]) for each, x, y in zip(true, left, right)]
        left = right
    return true


def variables(*trees):
    """The names in some trees that may stand for a real number."""
    return {part[1] for part in nodes(trees) if part[0] == "var"} - {"\\infty", "\\mathbbR"}


def same_region(a, b, fuel):
    """Do two trees hold of the same reals? None if one of them is no region."""
    ends = {0}
    for part in nodes((a, b)):
        with contextlib.suppress(ArithmeticError, ValueError, KeyError):
            end = real(value(part, {}))
            ends |= {end, -end} if math.isfinite(end) else set()
    try:
        ends = sorted(ends)
        xs = [ends[0] - 1, *ends, ends[-1] + 1, *((x + y) / 2 for x, y in zip(ends, ends[1:]))]    # and the parts between them
        return None if len(variables(a, b)) > 1 else region(a, xs, fuel) == region(b, xs, fuel)
    except (ArithmeticError, ValueError, KeyError):
        return None


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


def assigned(node):
    """The values of a list x = 2, y = 3 of different names, in the order of the names; else None."""
    if node[0] != "list" or not all(item[0] == "rel" and item[2] == ["="] and item[3][0] for item in node[1]):
        return None
    values = {item[3][0]: item[1][1] for item in node[1]}
    return [values[name] for name in sorted(values)] if len(values) == len(node[1]) else None


def same(a, b, fuel):
    """Do two trees denote the same answer? `fuel`: [how much work may be done], counted down; NotMath below 0."""
    def each(xs, ys):
        return len(xs) == len(ys) and all(same(x, y, fuel) for x, y in zip(xs, ys))

    kinds = {a[0], b[0]}
    if kinds & {"rel", "union", "minus", "list"} or "var" in kinds and "seq" in kinds:
        if (verdict := same_region(a, b, fuel)) is not None:
            return verdict
    for one, other in ((a, b), (b, a)):
        if (values := assigned(one)) and other[0] in ("list", "seq") and not any(part[0] == "rel" for part in other[-1]):
            return each(values, other[-1])
    if kinds == {"rel"}:
        bound = [re.fullmatch(r"\w\((\w)\)", node[3][0]) for node in (a, b)]
        if all(bound):                                      # f(x) = 2x and f(t) = 2t are one
            a, b = (renamed(node, name[1], "#") for node, name in zip((a, b), bound))
        return same_relation(a, b, fuel)
    if "rel" in kinds:
        (_, sides, operators, names), other = (a, b) if a[0] == "rel" else (b, a)
        values = [side for side, name in zip(sides, [*names, ""]) if not name]
        marks = operators[len(sides) - len(values):]
        return set(operators) <= {"=", "∈", "≈"} and any(same(side, other, fuel) for side in values) and \
            all(rounds_to(y, x, 0) if mark == "≈" else same(x, y, fuel) for x, mark, y in zip(values, marks, values[1:]))
    if kinds & {"list", "set"} or kinds == {"union"}:
        return unordered(*(node[1] if node[0] in ("list", "set", "union") else [node] for node in (a, b)),
                         lambda x, y: same(x, y, fuel))
    if "unit" in kinds:
        (_, a, u, size), (_, b, v, other) = (node if node[0] == "unit" else ("unit", node, {}, 1) for node in (a, b))
        a, b = (("seq", "at", node[2]) if node[:2] == ("seq", ":") else node for node in (a, b))      # 3:30 PM is no ratio
        if u and v and size != other:
            a, b = ("*", [a, num(size)]), ("*", [b, num(other)])
        if u and v:
            return u == v and same(a, b, fuel)
        return same(a, b, fuel) or "%" in (u or v) and \
            same(("*", [a, num(Fraction(size))]), ("*", [b, num(Fraction(other))]), fuel)
    if kinds == {"seq", "matrix"}:
        (_, brackets, items), (_, _, rows) = (a, b) if a[0] == "seq" else (b, a)
        return brackets == "()" and all(len(row) == 1 for row in rows) and each(items, sum(rows, []))
    if kinds & {"word", "seq", "union", "matrix"}:
        ratios = [node[2] if node[:2] == ("seq", ":") else [node, num(Fraction(1))] for node in (a, b)]
        if ":" in (a[1], b[1]) and len(ratios[0]) == len(ratios[1]) and not any(part[1] == 0 for part in sum(ratios, [])):
            (x, *xs), (y, *ys) = ratios
            return all(same_value(("*", [x, v]), ("*", [y, w]), fuel) for v, w in zip(ys, xs))
        if a[:1] == ("word",) or a[:2] != b[:2]:
            return a == b
        return each(a[2], b[2]) if a[0] == "seq" else len(a[2]) == len(b[2]) and all(map(each, a[2], b[2]))
    verdicts = rounds_to(a, b), rounds_to(b, a)
    return True in verdicts if verdicts != (None, None) else same_value(a, b, fuel)


@functools.lru_cache(1024)                    # a gold answer is read once for a whole group
def read(text):
    """(spelling, letter, tree, integers) of a text: `(B) 40` is the letter B and the tree of 40. None for what it has not."""
    toks = tokens(clean(text))
    letter, rest, bare = None, toks, toks[toks[:1] == [("op", "(")]:]
    if bare and bare[0][0] == "var" and re.fullmatch("[A-Z]", bare[0][1]):
        if bare[1:] in ([], [("op", ")")]):
            letter = bare[0][1]
        elif bare[1] == ("op", ")") and bare[2][1] not in ("(", "^", "*", "/", "+", "=", ",", ";", ":", "!"):
            letter, rest = bare[0][1], bare[2:]
    parsers = [Parser(rest, plus) for plus in ("+-" if {("op", "\\pm"), ("op", "\\mp")} & {*rest} else "+")]
    try:
        tree = either_sign(*(parser.parse() for parser in parsers)) if len(rest) <= MAX_TOKENS else None
    except NotMath:
        tree = None
    return spelling(toks), letter, tree, parsers[0].integers


def equivalent(*, gold, answer):
    """True if the two texts denote the same answer; not if both are empty. By keyword only: they are easily swapped."""
    if all(re.fullmatch("-?[0-9]{1,30}", text) for text in (gold, answer)):
        return int(gold) == int(answer)
    if max(len(gold), len(answer)) > MAX_CHARS:
        return gold.strip() == answer.strip()
    (spelt, letter, tree, names), (also_spelt, other, also_tree, others) = read(gold), read(answer)
    if spelt == also_spelt:
        return bool(spelt)
    if letter and other and (letter != other or ("var", letter) in (tree, also_tree)):
        return letter == other
    if None in (tree, also_tree):
        return False
    try:
        for k, (name, new) in enumerate(zip(names, others)):
            tree, also_tree = renamed(tree, name, f"#{k}"), renamed(also_tree, new, f"#{k}")
        return same(tree, also_tree, [FUEL])
    except NotMath:
        return False


def comparable(gold):
    """Whether a gold answer can be compared with others by more than its spelling: it parses, and is no sentence."""
    tree = read(gold)[2] if len(gold) <= MAX_CHARS else None
    return tree is not None and (tree[0] != "word" or len(tree[1].split()) <= 3)
