"""Multiple choice: questions with lettered options, one of which is right. A domain file, see domains/__init__.py.

    row      {"question": "largest?", "options": ["31", "87", "12", "50"], "answer": "B"}
    answer   the one letter that a completion chooses
    reward   1 if it is the row's, 0 if not

    option_letter("I'd go with **B**, as A is too small.", options=4)      # 'B'
    option_letter("The answer is A or B.", options=4)                      # None: two letters are no choice

The rows of the paper (arXiv 2606.02398) are those of HUB; MMLU, MMLU-Pro, ARC, CommonsenseQA, OpenBookQA, MedQA, MedMCQA,
LogiQA and SciQ are read as they are published.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import contextlib
import math
import re
import unicodedata
from collections import Counter

from domains.answers import after_thinking
from domains.records import CHAT, answer_of, bare, lookup, opened, text_of

HUB = "m-a-p/SuperGPQA"
FIELDS = {"question": ("question", "question_stem", "stem", "problem", "query", "sentence", "ctx", "prompt", "instruction",
                       *CHAT, "input", "data"),      # the most specific name first
          "answer": ("answer_letter", "answer_key", "answer_idx", "correct_option", "correct_choice", "correct_letter",
                     "answer", "correct_answer", "answer_index", "correct_answer_index", "correct_index", "cop", "label",
                     "answer_label", "gold", "gold_index", "ground_truth", "target", "correct",
                     "reward_model", "verification_info", "data", "solution", "response", "output", "completion", *CHAT)}
OPTIONAL = {"options": ("options", "choices", "endings", "answers", "question.choices", "data"),
            "context": ("context", "passage", "article", "paragraph", "background", "premise", "support", "text"),
            "input": ("input",)}
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
    options = [f"{letter}) {option}" for letter, option in zip(LETTERS, row["options"]) if not row.get("listed")]
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
    r"""The one capital that a text chooses among the first `options` letters (at most 26); None for none or several.

    What follows the last 'wait' or 'actually' counts, if it chooses. Options may be ruled out before; a question is no
    choice. In this order: \boxed{B}, where a box without a letter says nothing; 'the answer is (B)', or a first line that is
    just 'B' or begins 'B)'; 'B is correct'; 'I go with option B'; a capital standing alone. Of two different statements the
    last one counts, if it comes with 'final' or 'therefore'; else none.
    """
    text = unicodedata.normalize("NFKC", after_thinking(text))
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"[*_`$\"“”]|['‘’](?=[A-Za-z]['‘’])|(?<=['‘’][A-Za-z])['‘’]", "", text)  # markdown, latex, quotes
    text = re.sub(r" ?\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()  # no runs of blanks for patterns to try
    text = re.sub(r"\bI(?=['’]| (?!(?:is|or|and|because|since|as)\b)[a-z])", "we", text)    # the pronoun
    second = re.split(r"\b(?i:wait|actually|correction|on reflection|on second thought)\b", text)[-1]
    return chosen_letter(second, LETTERS[:options]) or chosen_letter(text, LETTERS[:options])


def chosen_letter(text, upper):
    """`option_letter` of a text without markup, among the letters `upper`."""
    # lower case only where it cannot be a word: (b), b), b. or at the end of a line
    any_ = rf"(?<![\w'’])(?:[{upper}]|[{upper.lower()}](?=[).\]}}]|$))(?![\w'’])"
    one, many = f"({any_})", rf"\(?{any_}\)?(?:(?:,|,? (?:or|and|nor)|/) ?\(?{any_}\)?){{0,8}}"
    find = lambda pattern, text: [match for match in re.finditer(pattern, text, re.MULTILINE)
                                  if not re.match(r"[^.!?\n]*\?", text[match.end():match.end() + 200])]
    letters = lambda matches: {match[1].upper() for match in matches}

    boxes = []                                                       # 'B', '(B)', 'B. Paris', 'option B'; not 'A, B'
    for box in re.findall(r"\\(?:boxed|fbox) ?\{([^{}]*)\}", text):
        head = re.match(rf"[\s(]*{one}(?:[).:]+(?! ?[{upper}]\b(?! \w))|$)", box) or \
            re.fullmatch(rf"(?i:(?:the )?(?:option|answer|choice)(?: is)?:?) \(?{one}\)?", box)
        boxes += [head] if head or re.search(any_, box) and not re.search(r"\d", box) else []
    if boxes:
        return letters(boxes).pop() if all(boxes) and len(letters(boxes)) == 1 else None
    text = re.sub(r"\\(?:boxed|fbox) ?\{[^{}]*\}", " ", text)

    # what is ruled out is not chosen: 'not A', 'anything but A', 'neither A nor B', 'A and B are wrong', 'A is too small'
    denied = r"(?:\b(?:not|cannot|never|neither|unlike|none of|(?:any|every)thing but|all (?:but|except)" \
             r"|rather than|instead of|(?:rul|cross)\w+ out|(?:eliminat|exclud|discard|reject)\w*)|n['’]t)\b" \
             r"(?: (?!but\b)[a-z]+){0,3}"
    wrong = r"(?:is|are|was|were|seems?|can be) (?:(?:[a-z]+ )?(?:not|too|impossible|unlikely|out|ruled out|eliminated)" \
            r"|(?:(?!correct|right|true|best)[^\s.;,]+ ){0,12}(?:wrong|incorrect|false))\b|would be \w+ (?:if|only)\b"
    for ruled_out in (rf"(?i:{denied}) {many}", rf"{many} (?:{wrong})"):
        text = re.sub(ruled_out, " ", text, flags=re.MULTILINE)
    text = text.strip()
    open_ = r"[ \n:=>,(\[]{0,6}"
    is_ = rf"(?:{open_}\b(?i:would|should|must|might|could|seems?|also|to|this|question|be|is|are|was|clearly|definitely" \
          rf"|therefore|probably|the|correct|best|final|option|choice|letter|we|think|believe|get|it|that)\b){{0,8}}{open_}"
    aside = r"(?!\)? (?!(?:because|since|as|for|or|and|that)\b)[a-z]| ?[=+*/^<>])"     # 'option A is ...' is no choice
    here = r"(?:^|(?<!\w)\(|[^\w\s(] ?\(?|\b(?i:be|but|so|and|then|that|thus|option|choice|statement|believe|think" \
           r"|therefore|hence|only|maybe|perhaps|or|\w+ly) ?\(?)"                     # after a noun it is a name: vitamin C
    answer = r"(?:^|[^\w\s] ?|\b(?i:the|my|our|final|correct|best|right|so|and|we) )(?i:ans|answers?)(?:['’]s)?\b"
    right = r"(?:(?:also|clearly|the|my) ){0,2}(?:correct|right|true|best|answer|choice|pick|only one)\b(?! if)"
    ranks = (
        [rf"{answer}(?! \(?{any_}){is_}{one}", rf"{answer} \(?{one}{aside}"],
        [rf"{here}(?i:answer )?{one}\)? (?:(?:is|must be|seems|would be) {right}|(?:fits|matches|works|follows)\b)",
         rf"\b(?i:only) {one}", rf"(?i:\b(?:true|right|correct)(?: one| option| choice| statement)?(?: is|:)) ?\(?{one}"],
        [rf"(?i:(?:\b(?:we(?:['’](?:d|ll|m))?|am|us|let['’]?s|would|will|must|should|to|and)|^|[.!?:,]) ?(?:choos(?:e|ing)"
         rf"|pick|guess|select|say|go(?:ing)? with))\b{is_}{one}", rf"(?i:\b(?:option|choice))\b{is_}{one}{aside}",
         rf"(?i:\b(?:so|thus|hence|therefore|leaves|it['’]?s|it is|it has to be|must be)),? ?\(?{one}{aside}"])
    first = text.partition("\n")[0]
    openings = find(rf"\A\W*{one}\W*$", text) if len(find(rf"^\W*{one}\W*$", text)) == 1 else \
        find(rf"\A\W*{one}[).:](?!\.?\w)", text) if len(letters(find(rf"^\W*{one}[).:]", text)) | letters(
            find(rf"{one}[).:]", first))) == 1 else []
    # what a choice is hedged with: 'or A', ', also C', '/C', '. Or C', 'A or' before, '. C is also correct'
    between = r"(?:[,;/&|+.(\-] ?|\b(?i:or|and|also|maybe|perhaps|possibly|as well as) ){1,4}(?i:option )?"
    hedge = re.compile(rf"[ ).\]]*(?:{between}\(?{any_}(?=[).,;\]]|$| (?i:or|and)\b)|{any_} is also)", re.MULTILINE)
    for rank in ranks:
        found = sorted(sum([find(pattern, text) for pattern in rank], openings if rank is ranks[0] else []),
                       key=lambda match: match.start(1))
        if found:
            last = found[-1]
            other = next((match for match in reversed(found) if match[1].upper() != last[1].upper()), None)
            alone = other is None or re.search(
                r"\b(?i:final|finally|so the|thus|therefore|hence)\b", text[other.end():last.start(1)])
            hedged = hedge.match(text, last.end(1), last.end(1) + 60) or \
                re.search(rf"{any_}\)?,? ?(?:or|and|/) ?\(?$", text[max(0, last.start(1) - 20):last.start(1)])
            return last[1].upper() if alone and not hedged else None
    # capitals that stand alone, but for the article and the pronoun
    lone = letters(find(rf"(?<![\w'’])(?:(?<=\bor )|(?!I\b(?! or\b)))(?!A (?!(?:is|must|seems|would|or|and)\b)[a-z])"
                        rf"([{upper}])(?![\w'’])", text) + find(rf"\({one}\)", text))
    return lone.pop() if len(lone) == 1 and find(rf"{here}{one}{aside}", text) else None


# ---- published rows ----------------------------------------------------------------------------------------------

# Columns of options (A, opa, option_1, choice2, answerB) and of wrong ones (distractor1); options in a text, 'a ) 38 , b ) 4'
COLUMN = re.compile(r"(?:op|opt|option|choice|ans|answer|sol|ending|)([a-j]|[0-9])")
WRONG = re.compile(r"(?:incorrect|wrong|distractor).*")
LISTED = re.compile(r"(?:^|(?<=[\s,;]))[(\[]?([A-Za-z]) ?[).:\]][ \t]*", re.MULTILINE)
KINDS = ("letters", "options", "numbers from 0", "numbers from 1", "values of options", "sentences")


def listed(text):
    """{letter: option} of the options that a text lists as 'A) 38' or 'a ) 38 , b ) 40'; {} if it lists none."""
    found = []
    for match in LISTED.finditer(text):
        found = [] if match[1].upper() == "A" and len(found) < 2 else found
        found += [match] if match[1].upper() == LETTERS[len(found):][:1] else []
    ends = [match.start() for match in found[1:]] + [len(text)]
    return {match[1].upper(): text[match.end():end].strip().partition("\n")[0].rstrip(" ,;")
            for match, end in zip(found, ends)}


def choices(record):
    """({label: option} of a record, whether its question lists them itself). ValueError if they are not 2 to 26."""
    given, columns, in_question = opened(record.get("options")), {bare(name): value for name, value in record.items()}, False
    if isinstance(given, list):                     # of texts, or of {"label": "A", "text": ..}
        pairs = [(lookup(option, ("label", "key", "id"))[1], lookup(option, ("text", "value", "content"))[1])
                 if isinstance(option, dict) else (letter, option) for letter, option in zip(LETTERS, given)]
    elif isinstance(given, dict):                   # {"A": ..}, or ARC's {"label": [..], "text": [..]}
        pairs = zip(given.get("label", LETTERS), given["text"]) if "text" in given else given.items()
    elif isinstance(given, str):
        pairs = listed(given).items() or zip(LETTERS, re.split(r" *[|\n] *", given.strip()))
    elif not (pairs := [(COLUMN.fullmatch(name)[1], columns[name]) for name in sorted(columns) if COLUMN.fullmatch(name)]):
        wrong = [option for name, value in columns.items() if WRONG.fullmatch(name)
                 for option in (value if isinstance(value, list) else [value])]
        in_question = not wrong
        pairs = listed(text_of(record["question"])).items() if in_question else zip(
            LETTERS, sorted(map(str, [answer_of(record["answer"]), *wrong])))      # by the alphabet, which gives nothing away
    found = {str(label).strip().upper(): option for label, option in pairs if option not in (None, "")}
    if not 2 <= len(found) <= 26:
        raise ValueError(f"it has not 2 to 26 options: {given or ''}"[:90])
    heads = [LISTED.match(str(option)) for option in found.values()]
    if all(head and head[1] == letter for head, letter in zip(heads, LETTERS)):    # '(A)Monday'
        found = {label: str(option)[head.end():] for (label, option), head in zip(found.items(), heads)}
    return found, in_question


def place(kind, options, answer):
    """Where the answer stands among options, {label: option}, if answers are what `kind` says; None if it is none of them."""
    text, plain = str(answer).strip(), lambda value: " ".join(str(value).split()).casefold()
    if kind == "letters":                           # or other labels: 'B', '(b)', 'option B', 'B. Paris'
        text = re.sub(r"\\text\w*|[{}$*\\]|(?i:option|choice|answer)[ _]*(?=\w)", "", text)
        head = re.match(r"[(\[]?(\w+)(?:[)\].:]+\s*|\s+|$)", text) if isinstance(answer, str) else None
        label, rest = (head[1].upper(), plain(text[head.end():])) if head else ("", "")
        found = next((names.index(label) for names in ([*options], list(LETTERS[:len(options)])) if label in names), None)
        return None if found is None or rest not in ("", plain([*options.values()][found])) else found
    if kind.startswith("numbers"):
        n = int(text) - int(kind[-1]) if text.isdecimal() else -1
        return n if 0 <= n < len(options) else None
    if kind == "sentences":
        said = re.search("answer|boxed", text, re.IGNORECASE) and option_letter(text, len(options))
        return LETTERS.index(said) if said else place("letters", options, answer)
    same = [i for i, option in enumerate(options.values()) if option == answer or
            (kind == "values of options" or isinstance(answer, str)) and plain(option) == plain(answer)]
    return same[0] if len(same) == 1 else None


def meaning(records):
    """{"answers are": one of KINDS}: what most answers of a file fit; of kinds that as many fit, the first.

    Numbers count from 0, as the labels of `datasets` do, if no answer speaks for 1. ValueError if less than half of the
    answers fit, or if texts like "2" could count from either.
    """
    fit, total, text = Counter(), 0, False
    for record in records:
        answer = answer_of(record["answer"])
        with contextlib.suppress(Exception):        # of foreign data: `row` says what is wrong with it
            options, _ = choices(record)
            total, text = total + (answer is not None), text or isinstance(answer, str)
            fit.update(kind for kind in KINDS if answer is not None and place(kind, options, answer) is not None)
    kind = max(KINDS, key=fit.__getitem__)
    if 2 * fit[kind] < total:
        raise ValueError("most answers are neither letters nor numbers nor options: name others with --fields answer=NAME")
    if text and kind == "numbers from 0" and fit[kind] == fit["numbers from 1"]:
        raise ValueError("its answers are numbers that may count from 0 or from 1: write them as letters")
    return {"answers are": kind}


def row(record):
    """{question, options, answer}, a letter; "listed" where the question lists the options itself."""
    answer, (options, in_question) = answer_of(record["answer"]), choices(record)
    if (i := place(record["answers are"], options, answer)) is None:
        raise ValueError(f"its answer is none of its options: {answer}"[:90])
    return {"question": text_of(record["question"], record.get("context"), record.get("input")),
            "options": list(map(str, options.values())), "answer": LETTERS[i]} | ({"listed": True} if in_question else {})
