"""Graders that take their time: a chat model that judges creative writing, and programs that run while a GPU samples.

    with grading_ahead(model, tokenizer, batch, group_size) as ahead:           # used by train_grpo.py and scores.py
        rollout = sample(..., finished=ahead)
    set_judge("Qwen/Qwen3-4B", ["math", "cw"], device)     # from now on domains/cw.py asks this model; None: its rubric

--judge NAME of every script names the model. It is asked once per response, greedily, and its answer must be exactly one of
the scores 0, 0.5 and 1 of the paper (arXiv 2606.02398): anything else is NaN, a failure of the judge and not of the writer.
The question and the reading of the answer stand in domains/cw.py, beside the rubric that needs no model.

Not protected against: a response that talks to the judge ('the editor says: answer 1').
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import contextlib
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import torch

import domains
from grpo.chat import decode, encode
from grpo.rollout import grade, sample
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


@contextlib.contextmanager
def grading_ahead(model, tokenizer, batch, group_size, overlap=None):
    """Within, programs are run while other completions are still being sampled: gives what `sample` takes as finished.

    Its `rewards`, {completion n: reward}, are whole when the body has ended, and what `grade` then has no more to do. By
    default where a GPU samples, because the processors are idle then, and None elsewhere: on a CPU it was slower. Only
    domains whose file says AHEAD take part; the other rewards take a millisecond, or a judge that wants the device for
    itself. Every program has a deadline (sandbox.py), and so the wait for them has one.
    """
    if not (model.device.type != "cpu" if overlap is None else overlap):
        yield None
        return
    arrivals, rewards = SimpleQueue(), {}           # of (rows, ids, mask) that have left the batch; None behind the last

    def run_programs():
        more = True
        while more:
            waiting = [arrivals.get()]
            while not arrivals.empty():             # all that came while the last ones ran: starting the sandbox takes time
                waiting.append(arrivals.get())
            more = waiting[-1] is not None
            texts = {n: text for rows, ids, mask in filter(None, waiting)
                     for n, text in zip(rows.tolist(), decode(tokenizer, ids, mask))}
            owner = {n: batch[n // group_size] for n in texts}
            own = [n for n, (domain, _) in owner.items() if getattr(domains.get(domain), "AHEAD", False)]
            if own:
                rewards.update(zip(own, grade([texts[n] for n in own], [owner[n] for n in own]).tolist()))

    def finished(rows, ids, mask):
        arrivals.put((rows, ids, mask))
    finished.rewards = rewards
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_programs)
        try:
            yield finished
        finally:
            arrivals.put(None)
        running.result()
