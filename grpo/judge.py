"""A chat model that judges creative writing, in place of the rubric. Used by train_grpo.py and all that grades.

    set_judge("Qwen/Qwen3-4B", ["math", "cw"], device)     # from now on domains/cw.py asks this model; None: its rubric

--judge NAME of every script names the model. It is asked once per response, greedily, and its answer must be exactly one of
the scores 0, 0.5 and 1 of the paper (arXiv 2606.02398): anything else is NaN, a failure of the judge and not of the writer.
The question and the reading of the answer stand in domains/cw.py, beside the rubric that needs no model.

Not protected against: a response that talks to the judge ('the editor says: answer 1').
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import torch

import domains
from grpo.rollout import decode, encode, sample
from grpo.startup import load
from model import end_ids

JUDGE_TOKENS = 1024  # room for a judge that thinks before it answers; one that doesn't stops after the score
MAX_PROMPT = 32768


def set_judge(name_or_dir, names, device=None):
    """Let creative writing be graded by a model (see llm_judge), or with None by the rubric.

    names: the domains that will be graded; where cw is none of them, no model is loaded.
    """
    cw = domains.get("cw")
    cw.judge = llm_judge(name_or_dir, device) if name_or_dir and "cw" in names else cw.rubric


def llm_judge(name_or_dir, device=None):
    """A judge backed by a chat model: a function of (prompts, completions, rows) that returns a float per completion.

    name_or_dir, device: see model.load. UserError if that is no model, and from the judge if a question is too long for it.
    """
    model, tokenizer = load(name_or_dir, device)
    cw = domains.get("cw")

    def judge(prompts, completions, rows):
        questions = list(map(cw.question, prompts, completions))
        different = sorted(set(questions), key=lambda q: (len(q), q))   # each is asked once; like lengths share a batch
        rollout = sample(model, encode(tokenizer, different, MAX_PROMPT), group_size=1, temperature=0.0,
                         noise=torch.zeros(len(different), JUDGE_TOKENS), stop_ids=end_ids(model, tokenizer),
                         pad_id=tokenizer.pad_token_id, progress="judge")
        answers = dict(zip(different, map(cw.score, decode(tokenizer, rollout.ids, rollout.mask))))
        return [answers[question] for question in questions]
    return judge
