"""The judge of creative writing: the paper's scale {0, 0.5, 1} (arXiv 2606.02398), by two judges.

    scores = rubric(prompts, completions, rows)                       # offline: three checks that one can read
    judge = llm_judge("Qwen/Qwen3-4B"); scores = judge(prompts, completions, rows)

Each is a function of (prompts, completions, rows), two lists of texts and one of dicts of equal length, that returns
a list of floats, one score per completion; of a row, "keywords" is all that is read. The rubric measures form,
not beauty: it is there so that everything runs without a second model. The LLM judge is asked once per response, and
its answer must be exactly one of the three scores: anything else is NaN, a failure of the judge and not of the writer.

Not protected against: a response that talks to the judge ('the editor says: answer 1'), and writing for the rubric.
"""
import re

import torch

from domains.answers import after_thinking
from model import end_ids, load
from grpo.rollout import decode, encode, sample

JUDGE_TOKENS = 1024  # room for a judge that thinks before it answers; one that doesn't stops after the score
MAX_PROMPT = 32768
QUESTION = """You grade creative writing. Below are a writing prompt and one response to it.
The score is 1 if the response does what the prompt asks and is well written, 0.5 if it does so in part, 0 if not.

[prompt]
{prompt}
[end of prompt]
[response]
{response}
[end of response]

Answer with the score alone: 0, 0.5 or 1."""


def rubric(prompts, completions, rows):
    """1 if on topic, well-formed and varied; 0.5 if at least half on topic and well-formed or varied; else 0."""
    return [rubric_score(prompt, text, row.get("keywords")) for prompt, text, row in zip(prompts, completions, rows)]


def rubric_score(prompt, text, keywords=None):
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


def parse_score(answer):
    """0.0, 0.5 or 1.0 if the judge's answer is exactly that (after its thoughts, 'Score:' allowed), else NaN."""
    answer = after_thinking(answer).strip().strip("*")
    match = re.fullmatch(r"(?:score:?\s*)?(0|0\.0|0\.5|1|1\.0)\.?", answer, re.IGNORECASE)
    return float(match[1]) if match else float("nan")


def cw_judge(name_or_dir, domains, device=None):
    """The judge that --judge names: llm_judge's; without a name, or where cw is none of the domains, the rubric."""
    return llm_judge(name_or_dir, device) if name_or_dir and "cw" in domains else rubric


def llm_judge(name_or_dir, device=None):
    """A judge backed by a chat model: a local directory or a hub name. It decodes greedily.

    device: see model.load. UserError if that is no model, and from the judge if a question is too long for it.
    """
    model, tokenizer = load(name_or_dir, device)

    def judge(prompts, completions, rows):
        questions = [QUESTION.format(prompt=prompt, response=after_thinking(text).strip())
                     for prompt, text in zip(prompts, completions)]
        different = sorted(set(questions), key=lambda q: (len(q), q))   # each is asked once; like lengths share a batch
        rollout = sample(model, encode(tokenizer, different, MAX_PROMPT), group_size=1, temperature=0.0,
                         noise=torch.zeros(len(different), JUDGE_TOKENS), stop_ids=end_ids(model, tokenizer),
                         pad_id=tokenizer.pad_token_id, progress="judge")
        answers = dict(zip(different, map(parse_score, decode(tokenizer, rollout.ids, rollout.mask))))
        return [answers[question] for question in questions]
    return judge
