"""Find the answer in a completion: the option letter it chooses, the program it contains.

    option_letter("I'd go with **B**, as A is too small.", options=4)      # 'B'
    option_letter("The answer is A or B.", options=4)                      # None: two letters are no choice
    program("Here it is:\n```python\nprint(1)\n```", row)                   # 'print(1)\n'

Models phrase answers in many ways, and a reward that misses an honest one punishes manners. A reward that takes a
hedge or a denial ('not B') for a choice teaches to hedge. So the rules below go from the most explicit phrase to the
least, and stop at the first that speaks. The same for math is `final_answer` in math_answer.py.
"""
import ast
import re
import textwrap
import unicodedata
import warnings

from domains.answers import after_thinking

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def option_letter(text, options):
    """The one capital that a text chooses among the first `options` letters (at most 26); None for none or several.

    The most explicit way of saying it counts, and has to name one letter: \\boxed{B}; 'the answer is (B)' or 'B is
    correct'; 'I go with option B'; a line that begins 'B)' or is just 'b'; a capital standing alone (the article 'A'
    and the pronoun 'I' aside). Options may be discussed and ruled out first ('A is wrong'), but two answers are none.
    """
    text = unicodedata.normalize("NFKC", after_thinking(text))
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    # markdown, latex, quotes
    text = re.sub(r"[*_`$\"“”]|['‘’](?=[A-Za-z]['‘’])|(?<=['‘’][A-Za-z])['‘’]", "", text)
    text = re.sub(r" ?\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()  # no runs of blanks for patterns to try
    upper = LETTERS[:options]
    # lower case only where it cannot be a word: (b), b), b. or at the end of a line
    one = rf"(?<![\w'’])([{upper}]|[{upper.lower()}](?=[).\]}}]|$))(?![\w'’])"
    find = lambda pattern, where: {m[1].upper() for m in re.finditer(pattern, where, re.MULTILINE)}

    boxes = re.findall(r"\\(?:boxed|fbox) ?\{([^{}]*)\}", text)
    if boxes:                                       # 'B', '(B)', 'B. Paris', 'option B'; not 'A, B' or 'not B'
        heads = [re.match(rf"[\s(]*{one}(?:[).:]+(?! ?[{upper}]\b(?! \w))|$)", box) or
                 re.fullmatch(rf"(?i:(?:the )?(?:option|answer|choice)(?: is)?:?) \(?{one}\)?", box) for box in boxes]
        chosen = {head[1].upper() if head else None for head in heads}
        return chosen.pop() if len(chosen) == 1 else None

    # what is ruled out is not chosen: 'not A', 'isn't (A)', 'anything but A', 'A is wrong', 'A) is not right'
    denied = r"(?i:\bnot|n['’]t|\bnever|\b(?:any|every)thing but|\brule out)\b(?: [a-z]+){0,3}"
    text = re.sub(rf"{denied} \(?{one}\)?", " ", text, flags=re.MULTILINE)
    wrong = r"[^.;,\n]{0,80}\b(?:is|are|was|seems)\b[^.;,\n]{0,80}\b(?:wrong|incorrect|false|not)\b"
    text = re.sub(rf"\(?{one}\)?{wrong}", " ", text, flags=re.MULTILINE)
    is_ = r"(?: (?i:would|should|must|be|is|are|was|clearly|therefore|probably|the|correct|best|option|choice|letter))" \
          r"{0,6}"
    right = r"(?:(?:also|clearly|the) ){0,2}(?:correct|right|true|best|answer)\b"
    open_ = r"[ \n:=>(\[]{0,6}"
    for stated in ([rf"(?i:\banswers?)\b(?! I\b){is_}{open_}{one}", rf"{one}\)? (?:is|must be|seems|would be) {right}"],
                   [rf"(?i:\b(?:option|choice|choose|pick|select|go(?:ing)? with|say))\b{is_}{open_}{one}"]):
        chosen = set()
        for pattern in stated:
            for match in re.finditer(pattern, text, re.MULTILINE):
                chosen.add(match[1].upper())        # and what it is hedged with: 'or A', ', also C', '/C', '. Or C'
                between = r"(?:[,;/&|+.(\-] ?|\b(?i:or|and|also|maybe|perhaps|as well as) ){1,4}(?i:option )?"
                hedge = rf"[ ).\]]*{between}\(?{one}(?=[).,;\]]|$| (?i:or|and)\b)"
                after = re.match(hedge, text[match.end(1):match.end(1) + 60], re.MULTILINE)
                chosen |= {after[1].upper()} if after else set()
        if chosen:
            return chosen.pop() if len(chosen) == 1 else None
    # 'B)', 'b.' or a line that is just 'B'; then capitals that stand alone
    chosen = find(rf"^\W*{one}$", text) | find(rf"(?<!\w)\(?{one}(?=[).:])(?!\.\w)", text)
    if not chosen:
        no_pronoun = r"(?:(?<=\bor )|(?!I\b(?! or\b)))"
        no_article = r"(?!A (?!(?:is|must|seems|would|or|and)\b)[a-z])"
        chosen = find(rf"(?<![\w'’]){no_pronoun}{no_article}([{upper}])(?![\w'’])", text)
    return chosen.pop() if len(chosen) == 1 else None


def program(completion, row):
    """The program in a completion: its ``` block, or what of the whole text is Python.

    Of several blocks, the last that defines entry_point, with the imports and helpers of the blocks before it; without
    an entry_point the last that says it is Python. Where the row's prompt is itself the head of the function
    (HumanEval), it stands in front: the completion may be the bare body, and its imports are there in any case.
    Returns source text, which need not be Python. Of the row, entry_point is read, and prompt where there is one.
    """
    text, name = after_thinking(completion), row.get("entry_point")
    fence = r"^[ \t]*(?:```|~~~)"
    fenced = re.findall(rf"{fence}[ \t]*([^\n`]*)\n(.*?)(?:{fence}|\Z)", text, re.DOTALL | re.MULTILINE)
    blocks = [textwrap.dedent(block) for _, block in fenced]
    if blocks:
        definition = rf"^(?:(?:async )?def|class) {re.escape(name or '')}\b|^{re.escape(name or '')} *="
        defines = [name and re.search(definition, block, re.MULTILINE) for block in blocks]
        python = [i for i, (tag, _) in enumerate(fenced) if "py" in tag.lower()] or range(len(blocks))
        chosen = max((i for i, found in enumerate(defines) if found), default=max(python))
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
