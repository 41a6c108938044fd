"""Creative writing: prompts without a right answer, graded by a judge. A domain file, see domains/__init__.py.

    row      {"prompt": "Write: fox, moon", "keywords": ["fox", "moon"]}, the keywords where there are any
    answer   all that follows the thinking
    reward   0, 0.5 or 1, the scale of the paper (arXiv 2606.02398), by one of two judges:

    rubric   three checks that one can read. It measures form, not beauty: it is there so that everything runs without a
             second model. Not protected against: writing for the rubric
    a model  --judge NAME, see grpo/judge.py: it is asked `question`, and `score` reads its answer

The paper's sets are several, and none is the default, so this domain has no HUB.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import re

from domains.answers import after_thinking
from domains.records import CHAT, answer_of, text_of

FIELDS = {"prompt": ("writing_prompt", "prompt", "instruction", *CHAT, "chosen", "question", "query", "user", "text", "input")}
OPTIONAL = {"keywords": ("keywords", "concepts"), "context": ("system", "system_prompt", "context"), "input": ("input",),
            "reference": ("reference", "response", "output", "completion", "story", "assistant", *CHAT, "chosen")}
WARMUP = {"rows": 14, "mislabelled": 0.25}
WHOLE = True

NOUNS = ("ant bat bear bee bird boat book cat child cloud cow crow deer dog door duck fish flame fox frog ghost goat "
         "hat hen hill horse house king lake lamp leaf lion moon mouse night owl pig queen rain river road rose sea "
         "sheep ship snow song star stone storm sun swan tiger tower train tree wave whale wind witch wolf").split()
SENTENCES = ("The {} saw the {}.", "A {} ran to the {}.", "The {} and the {} met.", "One {} hid by a {}.",
             "The {} sang to the {}.", "A {} loved the {}.")
QUESTION = """You grade creative writing. Below are a writing prompt and one response to it.
The score is 1 if the response does what the prompt asks and is well written, 0.5 if it does so in part, 0 if not.

[prompt]
{prompt}
[end of prompt]
[response]
{response}
[end of response]

Answer with the score alone: 0, 0.5 or 1."""


def synthetic(rng):
    """A sentence with two given words in it: 'Write: fox, moon'. Like code and qa it is about copying from the prompt."""
    keywords = rng.sample(NOUNS, 2)
    return {"prompt": f"Write: {keywords[0]}, {keywords[1]}", "keywords": keywords,
            "reference": rng.choice(SENTENCES).format(*keywords)}


def prompt(row):
    """The task; with its keywords, unless it is synthetic."""
    if row.get("keywords") and not row.get("terse"):
        return f"{row['prompt']}\nUse these words: {', '.join(row['keywords'])}."
    return row["prompt"]


def answer(completion, row):
    """All that follows the thinking; None if nothing does."""
    return after_thinking(completion).strip() or None


def reward(completions, rows):
    """The judge's score of each completion, NaN where it gave none."""
    return judge([prompt(row) for row in rows], completions, rows)


def row(record):
    """{prompt}, and if there are any keywords (a list; in a record also one text with commas) and reference, a text."""
    row = {"prompt": text_of(record["prompt"], record.get("context"), record.get("input"))}
    if keywords := record.get("keywords"):
        row["keywords"] = [str(k).strip() for k in (keywords.split(",") if isinstance(keywords, str) else keywords) if k]
    if reference := answer_of(record.get("reference")):
        row["reference"] = str(reference)
    return row


# ---- the judges --------------------------------------------------------------------------------------------------
# Functions of (prompts, completions, rows), two lists of texts and one of dicts, that return a float per completion.

def rubric(prompts, completions, rows):
    """1 if on topic, well-formed and varied; 0.5 if at least half on topic and well-formed or varied; else 0."""
    return [rubric_score(prompt, text, row.get("keywords")) for prompt, text, row in zip(prompts, completions, rows)]


judge = rubric  # grpo.judge.set_judge puts another here


def rubric_score(prompt, text, keywords):
    """The rubric of one text. keywords: all of them should occur; without any, half of the prompt's longer words."""
    text = after_thinking(text).strip()
    words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text.lower())
    wanted = {word.lower() for word in keywords} if keywords else set(re.findall(r"[^\W\d_]{5,}", prompt.lower()))
    share = sum(re.search(rf"\b{re.escape(word)}\b", text.lower()) is not None for word in wanted) / max(1, len(wanted))
    pairs = list(zip(words, words[1:]))
    if not keywords and len(text) > 20 and (text in prompt or prompt.strip() in text and len(text) < 2 * len(prompt)):
        return 0.0                                  # the prompt again

    on_topic = share == 1 if keywords else share >= 0.5
    # a sentence, not a list of the keywords: a capital, an end, a few words of its own
    well_formed = text[:1].isupper() and text[-1:] in (*".!?…\"”",) and len(words) >= len(keywords or ()) + 2
    # no word salad and no repetition: four fifths of its word pairs occur once, no monstrous words
    varied = len(words) >= 3 and len(set(pairs)) >= 0.8 * len(pairs) and max(map(len, words)) <= 24
    if on_topic and well_formed and varied:
        return 1.0
    return 0.5 if share >= 0.5 and (well_formed or varied) else 0.0


def question(prompt, completion):
    """What a model is asked that judges a completion."""
    return QUESTION.format(prompt=prompt, response=after_thinking(completion).strip())


def score(answer):
    """0.0, 0.5 or 1.0 if the judge's answer is that and no more, after its thoughts, however it is set: '**Score:** 0.50',
    'The score is 1.', '{"score": 0}', '\\boxed{0.5}'. Else NaN."""
    answer = re.sub(r"\\boxed|</?[a-z]+>|[*_`'\"{}\[\]()$]", "", after_thinking(answer).lower()).strip()
    match = re.fullmatch(r"(?:(?:the |my |final |overall ){0,2}(?:score|rating|grade|answer)(?: is| of|\s*[:=])*\s*)?"
                         r"(0|0?\.50?|0\.00?|1|1\.00?)\.?", answer)
    return float(match[1] if match else "nan")
