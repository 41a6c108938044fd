"""Multiple choice: questions with lettered options, one of which is right. A domain file, see domains/__init__.py.

    row      {"question": "largest?", "options": ["31", "87", "12", "50"], "answer": "B"}
    answer   the one letter that a completion chooses
    reward   1 if it is the row's, 0 if not

    option_letter("I'd go with **B**, as A is too small.", options=4)      # 'B'
    option_letter("The answer is A or B.", options=4)                      # None: two letters are no choice

The rows of the paper (arXiv 2606.02398) are those of HUB; MMLU, MMLU-Pro and ARC are read as they are published.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import json
import math
import re
import unicodedata

from domains import text_of
from domains.answers import after_thinking

HUB = "m-a-p/SuperGPQA"
FIELDS = {"question": ("question", "prompt", "query"),               # the most specific name first
          "options": ("options", "choices", "A"),                    # A: each option is a field, as in MMLU's csv files
          "answer": ("answer_letter", "answer", "answer_index", "label", "target")}
WARMUP = {"rows": 80, "mislabelled": 0.3}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def synthetic(rng):
    """The largest or smallest of four numbers, by its letter."""
    numbers, kind = rng.sample(range(10, 100), 4), rng.choice(["largest", "smallest"])
    letter = LETTERS[numbers.index(max(numbers) if kind == "largest" else min(numbers))]
    return {"question": f"{kind}?", "options": [str(n) for n in numbers], "answer": letter, "reference": letter}


def prompt(row):
    """The question and its options; in one line and without instructions, if it is synthetic."""
    if row.get("terse"):
        return " ".join([row["question"], *(f"{letter}){option}" for letter, option in zip(LETTERS, row["options"]))])
    options = [f"{letter}) {option}" for letter, option in zip(LETTERS, row["options"])]
    return "\n".join([row["question"], *options, "Answer with the letter of the correct option."])


def answer(completion, row):
    """The letter that a completion chooses; None for none or several."""
    return option_letter(completion, len(row["options"]))


def reward(completions, rows):
    """1 for a choice of the letter row["answer"] and no other, else 0; NaN where the row has no answer."""
    return [math.nan if row.get("answer") in (None, "") else float(answer(completion, row) == row["answer"].upper())
            for completion, row in zip(completions, rows)]


def same_answer(one, other):
    """Whether two letters are the same."""
    return one == other


# Models phrase a choice in many ways, and a reward that misses an honest one punishes manners. A reward that takes a
# hedge or a denial ('not B') for a choice teaches to hedge. So the rules below go from the most explicit phrase to the
# least, and stop at the first that speaks. The same for math is `final_answer` in answers.py.

def option_letter(text, options):
    """The one capital that a text chooses among the first `options` letters (at most 26); None for none or several.

    In this order: \\boxed{B}; 'the answer is (B)' or 'B is correct'; 'I go with option B'; a line that begins 'B)' or is
    just 'b'; a capital standing alone, but the article 'A' and the pronoun 'I'. Options may be ruled out before.
    """
    text = unicodedata.normalize("NFKC", after_thinking(text))
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"[*_`$\"“”]|['‘’](?=[A-Za-z]['‘’])|(?<=['‘’][A-Za-z])['‘’]", "", text)  # markdown, latex, quotes
    text = re.sub(r" ?\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()  # no runs of blanks for patterns to try
    upper = LETTERS[:options]
    # lower case only where it cannot be a word: (b), b), b. or at the end of a line
    one = rf"(?<![\w'’])([{upper}]|[{upper.lower()}](?=[).\]}}]|$))(?![\w'’])"
    find = lambda pattern: {match[1].upper() for match in re.finditer(pattern, text, re.MULTILINE)}
    only = lambda chosen: chosen.pop() if len(chosen) == 1 else None

    if boxes := re.findall(r"\\(?:boxed|fbox) ?\{([^{}]*)\}", text):  # 'B', '(B)', 'B. Paris', 'option B'; not 'A, B'
        heads = [re.match(rf"[\s(]*{one}(?:[).:]+(?! ?[{upper}]\b(?! \w))|$)", box) or
                 re.fullmatch(rf"(?i:(?:the )?(?:option|answer|choice)(?: is)?:?) \(?{one}\)?", box) for box in boxes]
        return only({head[1].upper() if head else None for head in heads})

    # what is ruled out is not chosen: 'not A', 'isn't (A)', 'anything but A', 'A is wrong', 'A) is not right'
    denied = r"(?i:\bnot|n['’]t|\bnever|\b(?:any|every)thing but|\brule out)\b(?: [a-z]+){0,3}"
    wrong = r"[^.;,\n]{0,80}\b(?:is|are|was|seems)\b[^.;,\n]{0,80}\b(?:wrong|incorrect|false|not)\b"
    for ruled_out in (rf"{denied} \(?{one}\)?", rf"\(?{one}\)?{wrong}"):
        text = re.sub(ruled_out, " ", text, flags=re.MULTILINE)
    is_ = r"(?: (?i:would|should|must|be|is|are|was|clearly|therefore|probably|the|correct|best|option|choice|letter)){0,6}"
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
            return only(chosen)
    # 'B)', 'b.' or a line that is just 'B'; then capitals that stand alone
    chosen = find(rf"^\W*{one}$") | find(rf"(?<!\w)\(?{one}(?=[).:])(?!\.\w)")
    if not chosen:
        no_pronoun = r"(?:(?<=\bor )|(?!I\b(?! or\b)))"
        no_article = r"(?!A (?!(?:is|must|seems|would|or|and)\b)[a-z])"
        chosen = find(rf"(?<![\w'’]){no_pronoun}{no_article}([{upper}])(?![\w'’])")
    return only(chosen)


def row(record):
    """{question, options, answer}, a letter; in a record it may also be an index from 0, or the text of an option."""
    options, answer = record["options"], record["answer"]
    if isinstance(options, str) and options.lstrip().startswith("["):
        options = json.loads(options)
    elif not isinstance(options, (list, tuple)):    # fields A, B, C, ...
        options = [record[letter] for letter in LETTERS if record.get(letter) is not None]
    options, text = [str(option) for option in options], str(answer).strip()
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        text = LETTERS[int(answer)] if answer == int(answer) and answer >= 0 else text      # MMLU: an index
    elif text in options and len(text) > 1:
        text = LETTERS[options.index(text)]
    answer = text.strip("().").upper()
    if len(answer) != 1 or answer not in LETTERS[:len(options)]:
        raise ValueError(f"its answer {answer!r} is none of its {len(options)} options")
    return {"question": text_of(record["question"]), "options": options, "answer": answer}
