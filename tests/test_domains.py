"""Claims about domains/: domain files, rows, rewards, and what a completion is taken to say. Run by test_all.py."""
import contextlib
import io
import itertools
import json
import math
import random
import sys
import time
import warnings

import domains
from domains import code_, cw, qa, sandbox
from grpo.judge import llm_judge
from grpo.run import held_out_rows, split_of
from shared import ROOT, WORK, raises, replaced, rows_of, settings, shared, tiny


def test_every_reward_reaches_its_maximum_on_the_reference_answer():
    for domain in domains.DOMAINS:
        rows = domains.synthetic(domain, "train", 60, seed=1)
        assert domains.reward(domain, [row["reference"] for row in rows], rows) == [1.0] * 60, domain
        wrong = domains.reward(domain, ["" for _ in rows], rows)
        assert wrong == [0.0] * 60, domain


def test_train_and_held_out_rows_are_disjoint_by_construction_and_functions_of_the_seed():
    for domain in domains.DOMAINS:
        train_rows = domains.synthetic(domain, "train", 400, seed=0)
        parts = [{domains.prompt(domain, r) for r in rows} for rows in
                 (train_rows, *(domains.synthetic(domain, split, 100, seed=0) for split in ("validation", "test")))]
        assert not any(a & b for a, b in itertools.combinations(parts, 2))
        held_out = [row["id"] for row in domains.evaluation_rows(domain, None, "", 200, "test")]
        assert len(set(held_out)) == len(held_out) > 100    # a prompt that came twice would count twice
        assert train_rows == domains.synthetic(domain, "train", 400, seed=0) != domains.synthetic(domain, "train", 400, seed=1)


def test_canonical_rows_written_by_hand_are_graded():
    row = {"question": "1/2 + 1/4?", "answer": "3/4"}
    assert domains.reward("math", ["so 0.75", "\\boxed{\\frac34}", "It is 3", ""], [row] * 4) == [1, 1, 0, 0]
    row = {"prompt": "add", "tests": ["assert add(1, 2) == 3"], "entry_point": "add"}
    good, bad = "```python\ndef add(a, b):\n    return a + b\n```", "def add(a, b): return 3 - a"
    assert domains.reward("code", [good, bad, "sorry"], [row] * 3) == [1, 0, 0]
    row = {"prompt": "double", "tests": [{"stdin": "4\n", "stdout": "8\n"}]}
    assert domains.reward("code", ["print(2 * int(input()))", "print(8)", "print(7)"], [row] * 3) == [1, 1, 0]
    row = {"question": "Capital of France?", "options": ["Rome", "Paris"], "answer": "B"}
    assert domains.reward("qa", ["B", "A", "Paris"], [row] * 3) == [1, 0, 0]
    row = {"prompt": "Write about a fox.", "keywords": ["fox"]}
    assert domains.reward("cw", ["The fox slept all day.", "fox"], [row] * 2) == [1, 0]
    for domain, row in (("code", {"prompt": "p", "tests": []}), ("math", {"question": "q", "answer": None}),
                        ("qa", {"question": "q", "options": ["x", "y"], "answer": None})):
        assert math.isnan(domains.reward(domain, ["x"], [row])[0])
    for domain in domains.DOMAINS:                   # thinking that does not end has not answered
        rows = domains.synthetic(domain, "train", 5, seed=2)
        assert domains.reward(domain, ["<think>" + r["reference"] for r in rows], rows) == [0] * 5, domain


def test_a_number_inside_an_unboxed_formula_is_not_the_answer():
    for gold, text, right in (("3", "It is $2\\sqrt{3}$.", 0), ("2\\sqrt{3}", "It is $2\\sqrt{3}$.", 1),
                              ("4", "It is $(3,4)$", 0), ("(3,4)", "It is \\((3,4)\\).", 1), ("5", "so $x = 5$.", 1),
                              ("12", "She pays $12 and gets $3 back, so $12.", 1),
                              ("\\frac{3}{4}", "The answer is $\\frac{3}{4}$.", 1), ("2", "$\\frac{-1}{2}$", 0),
                              ("7", "costs $5 + $2 = $7", 1)):
        assert domains.reward("math", [text], [{"question": "q", "answer": gold}]) == [right], (gold, text)


CHOICES = [  # completion, number of options, letter or None
    ("B", 4, "B"), ("b", 4, "B"), ("(B)", 4, "B"), ("**B**", 4, "B"), ("B.", 4, "B"), ("B) Paris", 4, "B"), ("b)", 4, "B"),
    ("The answer is B.", 4, "B"), ("the answer is (b).", 4, "B"), ("Answer: C", 4, "C"), ("**Answer:** C", 4, "C"),
    ("Answer: **D**", 4, "D"), ("\\boxed{C}", 4, "C"), ("\\boxed{\\text{(C)}}", 4, "C"), ("$\\boxed{D}$", 4, "D"),
    ("I would happily go with option C, thank you for asking!", 4, "C"), ("My choice would be D", 4, "D"),
    ("I think the correct answer is option B: Paris.", 4, "B"), ("It must be C, since A good reason exists.", 4, "C"),
    ("<think>A? B? maybe A</think>The answer is C", 4, "C"), ("Let me see... C", 4, "C"), ("The correct option is (A)", 4, "A"),
    ("A", 4, "A"), ("A cat would choose C", 4, "C"), ("J", 10, "J"), ("The answer is I.", 10, "I"),
    ("The answer is A) Rome", 4, "A"), ("Answer: A\n\nRome is a city.", 4, "A"), ("The correct answer is:\n\nB. Paris", 4, "B"),
    ("", 4, None), ("Paris", 4, None), ("A or B", 4, None), ("The answer is A or B", 4, None), ("A, B", 4, None),
    ("Both A and C", 4, None), ("The answer is A. The answer is B.", 4, None), ("\\boxed{A} \\boxed{B}", 4, None),
    ("\\boxed{A, B}", 4, None), ("A B C D", 4, None), ("A) Rome B) Paris", 4, None), ("Answer: B and C", 4, None),
    ("I do not know.", 4, None), ("A mystery", 4, None), ("the answer is a mystery", 4, None), ("\\boxed{}", 4, None),
    ("The answer is not A, it is B.", 4, "B"), ("The answer isn't A; it's B.", 4, "B"), ("B is correct.", 4, "B"),
    ("A is wrong, C is wrong, D is wrong. Therefore B is correct.", 4, "B"), ("A is correct.", 4, "A"),
    ("I think A is right.", 4, "A"), ("B\n\nExplanation: A is Rome, C is Oslo, D is Bonn.", 4, "B"), ("D. 128°F", 4, "D"),
    ("B) Paris\n\nA) is wrong because Rome is in Italy.", 4, "B"), ("\\boxed{B. 19.50 g}", 10, "B"), ("'B'", 4, "B"),
    ("The answer is 'B'.", 4, "B"), ('{"answer": "B"}', 4, "B"), ("<answer>B</answer>", 4, "B"), ("I'd say B", 4, "B"),
    ("F) At pH = 12, H_2N dominates", 10, "F"), ("The answer I get is C", 10, "C"), ("\uff22", 4, "B"),
    ("Option A is Rome which is wrong. Option C is Oslo which is wrong. So B.", 4, "B"), ("\\boxed{option B}", 4, "B"),
    ("The answer is not B.", 4, None), ("B is incorrect", 4, None), ("B is wrong.", 4, None), ("It is not B.", 4, None),
    ("Not B", 4, None), ("Anything but B", 4, None), ("\\boxed{\\text{not B}}", 4, None), ("Why should I?", 10, None),
    ("The answer is B or maybe A", 4, None), ("Answer: B, also C", 4, None), ("Answer: B;C", 4, None), ("B | C", 4, None),
    ("B + C", 4, None), ("The answer is B as well as C", 4, None), ("The answer is B. Or C.", 4, None), ("<think>B", 4, None),
    ("The answer is B. C is also correct.", 4, None), ("(b) or (c)", 4, None), ("B\nC", 4, None), ("\\boxed{B. C}", 4, None),
    ("E", 4, None), ("The answer is B/C", 4, None), ("(A) (B)", 4, None), ("A. B. C. D.", 4, None)]


MORE_CHOICES = [  # completion, number of options, the letter that a careful reader takes, or None
    # the choice first, then an explanation that names other options
    ("C\n\nOption A is too small.", 4, "C"), ("(C)\n\nMany students pick A by mistake.", 4, "C"),
    ("**B**\n\nA is wrong because it ignores friction.", 4, "B"), ("D\n\nWhile A and B are tempting, they ignore the sign.", 4, "D"),
    ("B.\n\nOption C describes osmosis, and option D describes diffusion.", 4, "B"), ("A\n\nB has the wrong unit.", 4, "A"),
    ("C) 42 m\n\nA) is too small, and B) ignores the angle.", 4, "C"), ("(b)\n\nThe others (a, c, d) do not hold.", 4, "B"),
    ("Answer: D\n\nExplanation: A contradicts the passage. B and C are not mentioned.", 4, "D"),
    ("E\n\nOne might pick A, which forgets the factor 2.", 5, "E"), ("C\n\nMany would think the answer is A.", 4, None),
    ("The answer is C. Option A is a common mistake.", 4, "C"), ("The correct answer is B.\n\nA) Too early.\nC) Too late.", 4, "B"),
    ("Option B.\n\nA confuses speed with velocity.", 4, "B"), ("B\n\nA: wrong unit\nC: wrong sign\nD: not asked", 4, "B"),
    ("The best answer is (A), since B and C contradict each other.", 4, "A"), ("A\nThis is because of gravity.", 4, "A"),
    ("C: the mitochondria\n\nA and B are organelles of plants.", 4, "C"), ("**Answer: C**\n\n- A: no\n- B: no\n- D: no", 4, "C"),
    # the option's own text behind the letter
    ("D) It is not possible", 4, "D"), ("The answer is (D) The gas is not ideal.", 4, "D"), ("D. None of the above", 4, "D"),
    ("B) The statement is false", 4, "B"), ("The answer is C) It was not signed.", 4, "C"), ("(A) There is no such number.", 4, "A"),
    ("Answer: B. She isn't late", 4, "B"), ("C) Not A", 4, "C"), ("D) Both A and B", 4, "D"), ("D) All of A, B and C", 4, "D"),
    ("The answer is D) Neither A nor B.", 4, "D"), ("The correct answer is (D) Both A and B.", 4, "D"),
    ("B) False, since not every prime is odd", 4, "B"), ("The answer is A: it does not converge", 4, "A"),
    ("(C) A wrong turn", 4, "C"), ("B) A cat", 4, "B"), ("A) I and II only", 4, "A"), ("The answer is B) I and III", 4, "B"),
    ("Answer: (C) I, II and III", 4, "C"), ("\\boxed{D) Both A and B}", 4, "D"), ("\\boxed{\\text{B) not rational}}", 4, "B"),
    # denials
    ("It is neither A nor B.", 4, None), ("The answer can't be A or B.", 4, None), ("Neither A nor B is right, so C.", 4, "C"),
    ("The answer cannot be A, so it is D.", 4, "D"), ("A and B are both wrong. The answer is C.", 4, "C"),
    ("We can eliminate A, B and D, which leaves C.", 4, "C"), ("I would rule out A and D.", 4, None), ("Not A or B.", 4, None),
    ("B rather than A", 4, "B"), ("I choose B instead of C.", 4, "B"), ("The answer is B, not C.", 4, "B"),
    ("It's not A but B.", 4, "B"), ("None of A, B, C or D.", 4, None), ("A is not correct; D is correct.", 4, "D"),
    ("B is correct and A is wrong.", 4, "B"), ("Both A and B are wrong, therefore C.", 4, "C"), ("Never choose A.", 4, None),
    ("All except B are mammals, so the answer is B.", 4, "B"), ("The answer is definitely not D.", 4, None),
    ("I am not sure, but B.", 4, "B"), ("I don't know. Maybe it isn't B.", 4, None), ("C is unlikely, and D is impossible.", 4, None),
    ("A would be correct if the mass were zero. The answer is B.", 4, "B"), ("A would be correct if the mass were zero.", 4, None),
    ("Option A is too small.", 4, None), ("Many students pick A by mistake.", 4, None), ("A contradicts the premise.", 4, None),
    # pronouns, articles and names beside nine or ten options
    ("Answer: I think B", 9, "B"), ("I think the answer is B", 9, "B"), ("I believe it is H.", 10, "H"), ("I'd pick I.", 9, "I"),
    ("The answer is I", 9, "I"), ("(I)", 9, "I"), ("I. Paris", 9, "I"), ("I believe so.", 9, None), ("So I choose G.", 10, "G"),
    ("As I said, the answer is F.", 10, "F"), ("Answer: J", 10, "J"), ("I would say J", 10, "J"), ("I is correct.", 9, "I"),
    ("The answer is (E), I am sure.", 9, "E"), ("A good guess would be D", 10, "D"), ("Answer: K", 10, None),
    ("Vitamin C is essential.", 4, None), ("Plan B failed.", 4, None), ("Hepatitis B causes jaundice.", 4, None),
    ("The answer is hepatitis B.", 4, None), ("The answer is vitamin C.", 4, None),
    # boxes that hold no letter
    ("We get \\boxed{42} grams.\n\nThe answer is (C).", 4, "C"), ("So $x = \\boxed{3}$, which is option B.", 4, "B"),
    ("\\boxed{42}", 4, None), ("\\boxed{\\frac{1}{2}}\n\n(D)", 4, "D"), ("\\boxed{C}\n\nThe value is 42.", 4, "C"),
    ("\\boxed{7}, so the answer is \\boxed{B}.", 4, "B"), ("\\boxed{\\textbf{(B)}\\ 40}", 5, "B"), ("\\boxed{A \\text{ and } B}", 4, None),
    ("\\boxed{\\text{neither A nor B}}", 4, None), ("\\boxed{(A)}", 4, "A"), ("\\boxed{\\mathrm{E}}", 5, "E"), ("\\boxed{e}", 5, "E"),
    ("\\boxed{5\\ \\mathrm{A}}\n\nAnswer: D", 4, "D"), ("\\boxed{42} \\text{ is (A)}", 4, "A"),
    # the final statement
    ("At first the answer seems to be A. Wait, the sign is wrong. The answer is B.", 4, "B"),
    ("The answer is A. Actually, no: the answer is C.", 4, "C"), ("The answer is A. On second thought, the answer is D.", 4, "D"),
    ("The answer might be A. Final answer: B", 4, "B"), ("A) 3\nB) 5\nC) 7\nD) 9\n\nThe sum is 5. The answer is B.", 4, "B"),
    ("A) 3\nB) 5\nC) 7\nD) 9", 4, None), ("The answer is A. Therefore, the final answer is A.", 4, "A"),
    ("Is it A? No. Is it B? Yes, the answer is B.", 4, "B"), ("Thus, the correct choice is\n\n**(D)**", 4, "D"),
    ("Hence (C).", 4, "C"), ("So the answer is: $\\text{B}$", 4, "B"), ("Final Answer: The final answer is $(D)$. I hope it is correct.", 4, "D"),
    ("The correct answer to this question is C.", 4, "C"), ("My final answer would be option (A).", 4, "A"), ("Correct option: B", 4, "B"),
    ("ANSWER: C", 4, "C"), ("answer = D", 4, "D"), ("Ans: B", 4, "B"), ("The answer:\nC", 4, "C"), ("It has to be D.", 4, "D"),
    ("Only B fits.", 4, "B"), ("D fits best.", 4, "D"), ("The statement that is true is C.", 4, "C"), ("Choice (B) is right.", 4, "B"),
    ("Let's go with D", 4, "D"), ("The right one: A", 4, "A"), ("<answer>(C)</answer>", 4, "C"), ("{\"answer\": \"D\"}", 4, "D"),
    # worked through
    ("Let's think. A is a metal. B is a gas. C is a liquid. So the answer is (C).", 4, "C"), ("Group A did better than group B.", 4, None),
    ("Out of B and D, D is better, so the answer is D.", 4, "D"), ("After step A we get 5, and after step B we get 7.", 4, None),
    ("If A is true, then B is false. Hence D.", 4, "D"), ("Let A be the event. Then P(A) = 1/2.", 4, None), ("C = 2πr", 4, None),
    ("Line AB is parallel to CD, so C.", 4, "C"), ("The answer is AB.", 4, None), ("Could the answer be A? I doubt it.", 4, None),
    ("The answer is A. No wait, it's C.", 4, "C"), ("Most people answer A, which is a mistake.", 4, None),
    # hedges
    ("The answer is either A or B.", 4, None), ("A and B are both correct.", 4, None), ("The answer is B, or possibly C.", 4, None),
    ("Answer: A/B", 4, None), ("It could be B. It could be C.", 4, None), ("I pick B and D.", 4, None), ("Answers: A, C", 4, None),
    ("B (or C)", 4, None), ("The answer is C. The answer could also be D.", 4, None), ("Either (B) or (C)", 4, None),
    ("The answer is B & C", 4, None), ("AB", 4, None), ("B? C?", 4, None), ("All of A, B, C and D", 4, None)]


def test_option_letters_are_read_however_politely_and_two_letters_or_none_are_no_choice():
    wrong = [(text, expected, qa.option_letter(text, n)) for text, n, expected in CHOICES + MORE_CHOICES
             if qa.option_letter(text, n) != expected]
    assert not wrong, wrong


def test_hostile_lengths_do_not_stall_the_option_parser():
    start = time.perf_counter()
    for text in ("answer" + " " * 100_000, "option " * 20_000, "A" * 100_000, "(" * 100_000, "not " * 30_000,
                 "answer is " * 20_000, "B " * 50_000, "\\boxed{" * 20_000, "\n" * 100_000, "A is " * 20_000,
                 "answer A or " * 10_000):
        qa.option_letter(text, 10)
    assert time.perf_counter() - start < 20          # quadratic patterns took minutes


def test_option_parser_agrees_with_the_letter_it_was_given_in_any_phrase():
    rng = random.Random(0)
    phrases = ["{}", "({})", "{}.", "{})", "Answer: {}", "The answer is {}.", "the correct option is **{}**", "\\boxed{{{}}}",
               "I would pick {}", "Surely {}", "Final answer: ({})", "I choose {}!", "option {}", "So it's {}."]
    for _ in range(500):
        n = rng.randint(2, 10)
        letter = rng.choice(qa.LETTERS[:n])
        text = rng.choice(phrases).format(letter)
        assert qa.option_letter(text, n) == letter, text
        other = rng.choice([l for l in qa.LETTERS[:n] if l != letter])
        assert qa.option_letter(f"{letter} or {other}", n) is None
        assert qa.option_letter(f"The answer is {letter}, the answer is {other}", n) is None


def test_junk_never_raises_the_reward():
    junk = ["", " lol", "\n\nor maybe 7", " " + "A B C D " * 3, "\\boxed{1}", " 12345", "```python\nx\n```", "!" * 500]
    for domain in domains.DOMAINS:
        rows = domains.synthetic(domain, "train", 10, seed=5)
        for text in junk:
            wrong = ["0" if domain == "math" else "" for _ in rows]
            before = domains.reward(domain, wrong, rows)
            after = domains.reward(domain, [w + text for w in wrong], rows)
            lucky = sum(b > a for a, b in zip(before, after))
            assert lucky == 0, (domain, text)


def test_programs_are_found_in_blocks_in_bare_text_and_behind_the_humaneval_head():
    row = {"prompt": "p", "entry_point": "f"}
    assert code_.program("```python\ndef f(): return 1\n```\nUse it:\n```python\nf()\n```", row) == "def f(): return 1\n"
    assert code_.program("text\n```\nx = 1\n```", {"prompt": "p"}) == "x = 1\n"
    assert code_.program("```py\ndef f(): return 1", row) == "def f(): return 1"  # cut off before the closing fence
    assert code_.program("<think>```python\nbad\n```</think>x = 2", {"prompt": "p"}) == "x = 2"
    row = {"prompt": "p", "entry_point": "f", "tests": ["assert f(1) == 2"]}
    for text in ("1. Like this:\n   ```python\n   def f(x):\n       return x + 1\n   ```",
                 "~~~python\ndef f(x): return x + 1\n~~~", "```python title=\"f.py\"\ndef f(x): return x + 1\n```",
                 "```python\nf = lambda x: x + 1\n```\n```python\nf(1)\n```",
                 "```python\nimport math\n```\n```python\ndef f(x): return x + math.isqrt(1)\n```",
                 "Here it is:\n\ndef f(x):\n    return x + 1\n\nThis function adds one."):
        assert domains.reward("code", [text], [row]) == [1], text
    row = {"prompt": "p", "tests": [{"stdin": "1", "stdout": "2"}]}
    program = "```python\nprint(int(input()) + 1)\nexit()\n```\nOutput:\n```\n2\n```"
    assert domains.reward("code", [program], [row]) == [1]
    head = {"prompt": "import math\ndef f(x):\n    \"\"\"doc\"\"\"\n", "entry_point": "f", "tests": ["assert f(4) == 2"]}
    assert domains.reward("code", ["return math.sqrt(x)", "  y = x\n  return math.sqrt(y)",
                                   "```python\nreturn math.sqrt(x)\n```", "if x:\n        x = x\n    return math.sqrt(x)",
                                   "```python\nfrom __future__ import annotations\ndef f(x): return math.sqrt(x)\n```"],
                          [head] * 5) == [1] * 5
    assert domains.reward("code", ["    return math.sqrt(x)", "```python\ndef f(x):\n    return math.sqrt(x)\n```"],
                          [head] * 2) == [1, 1]


ADAPTED = [  # domain, record as published, what its canonical row must hold
    ("math", {"question": "q", "answer": "so 48/2 = <<48/2=24>>24\n#### 1,024"}, {"question": "q", "answer": "1,024"}),
    ("math", {"prompt": "q", "answer": 70}, {"question": "q", "answer": "70"}),
    ("math", {"problem": "q", "solution": "thus \\boxed{\\frac{1}{2}}", "answer": "\\frac{1}{2}"},
     {"question": "q", "answer": "\\frac{1}{2}"}),
    ("math", {"problem": "q", "solution": "thus \\boxed{3}"}, {"question": "q", "answer": "3"}),
    ("qa", {"question": "q", "options": ["x", "y"], "answer": "y", "answer_letter": "B"}, {"options": ["x", "y"], "answer": "B"}),
    ("qa", {"question": "q", "choices": ["x", "y"], "answer": 1}, {"options": ["x", "y"], "answer": "B"}),
    ("qa", {"question": "q", "options": ["10", "20"], "answer": "20"}, {"answer": "B"}),
    ("qa", {"question": "q", "A": "x", "B": "y", "C": "z", "answer": "C"}, {"options": ["x", "y", "z"], "answer": "C"}),
    ("code", {"text": "t", "code": "def g(a): return a", "test_list": ["assert g(1) == 1", "assert g(2) == 2"],
              "test_setup_code": "import math"},
     {"entry_point": "g", "tests": ["import math\nassert g(1) == 1", "import math\nassert g(2) == 2"]}),
    ("code", {"prompt": "def f(x):\n", "entry_point": "f", "test": "def check(candidate):\n    assert candidate(1) == 2"},
     {"prompt": "def f(x):\n", "entry_point": "f",
      "tests": ["def check(candidate):\n    assert candidate(1) == 2\ncheck(f)"]}),
    ("code", {"prompt": [{"role": "user", "content": "p"}], "reward_model": {"ground_truth": json.dumps(
        {"inputs": ["1\n"], "outputs": ["2\n"]}), "style": "rule"}},
     {"prompt": "p", "tests": [{"stdin": "1\n", "stdout": "2\n"}]}),
    ("code", {"prompt": [{"role": "user", "content": "p"}], "reward_model": {"ground_truth": json.dumps(
        {"functional": "assert f(1) == 2"})}}, {"entry_point": "f", "tests": ["assert f(1) == 2"]}),
    ("code", {"question": "p", "tests": json.dumps([{"input": "1", "output": "2", "testtype": "stdin"}])},
     {"tests": [{"stdin": "1", "stdout": "2"}]}),
    ("code", {"question": "p", "input_output": json.dumps({"fn_name": "f", "inputs": [[1, 2]], "outputs": [[3]]})},
     {"prompt": "p", "entry_point": "f"}),
    # nested, in chats, in texts that spell lists
    ("math", {"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "[\"[2, 5]\"]", "style": "rule"}},
     {"question": "q", "answer": "[2, 5]"}),
    ("math", {"prompt": "q", "verification_info": "{'ground_truth': '42'}"}, {"question": "q", "answer": "42"}),
    ("math", {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"},
                           {"role": "user", "content": "plus 3?"}, {"role": "assistant", "content": "<think>\\boxed{4}</think>"
                            " \\boxed{5}"}]}, {"question": "1+1?\n\n2\n\nplus 3?", "answer": "5"}),
    ("math", {"query": "q", "response": "so 110.\n#### 110\nThe answer is: 110"}, {"question": "q", "answer": "110"}),
    ("math", {"problem": "q", "solution": "\\boxed{3} and \\boxed{5}, or \\boxed{5.0}"}, {"answer": "3, 5"}),
    ("math", {"instruction": "Solve.", "input": "2+5?", "output": "7"}, {"question": "Solve.\n\n2+5?", "answer": "7"}),
    ("math", {"question": "q", "answer": None, "answer_number": 18}, {"answer": "18"}),
    ("qa", {"question": {"stem": "q", "choices": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]}, "answerKey": "B"},
     {"question": "q", "options": ["x", "y"], "answer": "B"}),
    ("qa", {"data": {"Question": "q", "Options": {"A": "x", "B": "y"}, "Correct Option": "B"}}, {"question": "q", "answer": "B"}),
    ("qa", {"question": "q", "choices": "{'text': array(['x', 'y'], dtype=object), 'label': array(['1', '2'], dtype=object)}",
            "answerKey": "2"}, {"options": ["x", "y"], "answer": "B"}),
    ("qa", {"question": "q", "options": "['x' \"y's\"\n 'z']", "answer": "(c)"}, {"options": ["x", "y's", "z"], "answer": "C"}),
    ("qa", {"question": "q", "options": "a ) 38 , b ) 27.5 , c ) none of these", "correct": "b"},
     {"options": ["38", "27.5", "none of these"], "answer": "B"}),
    ("qa", {"question": "q", "options": ["A)21", "B)22"], "correct": "B"}, {"options": ["21", "22"], "answer": "B"}),
    ("qa", {"question": "q", "opa": "x", "opb": "y", "cop": 0}, {"options": ["x", "y"], "answer": "A"}),
    ("qa", {"question": "q", "distractor2": "z", "distractor1": "x", "correct_answer": "y"},
     {"options": ["x", "y", "z"], "answer": "B"}),
    ("qa", {"prompt": [{"role": "user", "content": "Which?\nA. red\nB. blue"}], "reward_model": {"ground_truth": "B"}},
     {"question": "Which?\nA. red\nB. blue", "options": ["red", "blue"], "answer": "B", "listed": True}),
    ("qa", {"context": "A passage.", "query": "q", "options": ["x", "y"], "correct_option": 1},
     {"question": "A passage.\n\nq", "answer": "B"}),
    ("cw", {"prompt": "p", "response": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]},
     {"prompt": "p", "reference": "r"}),
    ("cw", {"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "r"}]}, {"prompt": "p", "reference": "r"}),
    ("cw", {"prompt": "p", "response": "r"}, {"prompt": "p", "reference": "r"}),
    ("cw", {"instruction": "p", "keywords": "a, b"}, {"prompt": "p", "keywords": ["a", "b"]})]


def test_published_rows_of_each_style_become_canonical_through_datasets():
    for i, (domain, record, expected) in enumerate(ADAPTED):
        path = WORK / f"adapted{i}.jsonl"
        path.write_text(json.dumps(record) + "\n")
        row, = domains.load_rows(domain, str(path))
        assert {key: row[key] for key in expected} == expected, (record, row)


def table(name, records):
    path = WORK / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_layouts_of_published_sets_load_and_are_graded_as_they_should_be():
    for layout in json.loads(shared("layouts/layouts.json").read_text()):
        if layout["domain"] != "code":               # which test_sandbox.py reads
            rows = domains.load_rows(layout["domain"], table(layout["name"], layout["rows"]), "all", layout["fields"])
            assert len(rows) == len(layout["rows"]), layout["name"]
            for right in layout["right"]:
                assert domains.reward(layout["domain"], [right["completion"]], [rows[right["row"]]]) == [right["reward"]], \
                    (layout["name"], right)


def test_what_an_answer_column_means_is_decided_once_for_the_whole_file_or_refused():
    letters = lambda name, answers, *options: [row["answer"] for row in domains.load_rows("qa", table(name, [
        {"question": f"q{i}", "options": options[i % len(options)], "answer": answer} for i, answer in enumerate(answers)]))]
    words, digits = ["w", "x", "y", "z"], ["1", "2", "3", "4"]
    assert letters("from-0", [1, 2, 0, 3], words) == ["B", "C", "A", "D"]
    assert letters("from-1", [1, 2, 4], words) == letters("from-1-text", ["1", "2", "4"], words) == ["A", "B", "D"]
    assert letters("one-wrong", [0, 1, 4, 2], words) == ["A", "B", "C"]
    assert letters("indices", [2, 0], digits, words) == ["C", "A"] and letters("values", [2, 1], [3, 2, 1, 0]) == ["B", "C"]
    assert letters("texts", ["x", "W"], words) == ["B", "A"] and letters("more", ["A", "Vitamin B"], ["A", "Vitamin B"]) == ["A", "B"]
    assert letters("said", ["The answer is (B).", "\\boxed{C}", "A"], words) == ["B", "C", "A"]
    raises(lambda: letters("unclear", ["1", "2"], words), "count from 0 or from 1")
    raises(lambda: letters("prose", ["because", "it is so", "x"], words), "neither letters nor numbers", "--fields answer=NAME")


def test_rows_that_cannot_be_graded_are_left_out_counted_and_named_in_the_line_that_says_what_was_read():
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        rows = domains.load_rows("math", table("some", [
            {"problem": "p", "answer": "1/2"}, {"problem": "p", "answer": "proof"}, {"problem": "p", "answer": "notfound"},
            {"problem": "p", "answer": "It follows that all such triangles are similar, as was to be shown."},
            {"problem": "p", "answer": "7"}, {"problem": "", "answer": "7"}, {"problem": "p", "answer": ["3", "4"]}]))
        domains.load_rows("math", str(WORK / "some.jsonl"))         # and no second line
    assert [row["answer"] for row in rows] == ["1/2", "7"]
    said, = out.getvalue().splitlines()
    for words in ("2 rows of math", "question = problem, answer = answer", "5 left out, 3 of them like row 1", "no answer", "proof"):
        assert words in said, said
    nested = table("nested", [{"a": {"b": '{"c": ["5"]}'}, "chat": [{"value": "q"}]}])
    row, = domains.load_rows("math", nested, fields="question=chat.0.value,answer=a.b.c")
    assert (row["question"], row["answer"]) == ("q", "5")
    leaky = {"text": "Which of these is the largest? It is B.", "question": "Which of these is the largest?", "options": ["1", "2"],
             "answer": "B"}
    assert "It is B" not in domains.prompt("qa", domains.load_rows("qa", table("leaky", [leaky]))[0])


def test_csv_parquet_and_named_fields_are_read():
    import datasets
    table = datasets.Dataset.from_list([{"Frage": f"{i}+1=", "Antwort": str(i + 1)} for i in range(30)])
    table.to_csv(str(WORK / "rows.csv"))
    table.to_parquet(str(WORK / "rows.parquet"))
    for name in ("rows.csv", "rows.parquet"):
        rows = domains.load_rows("math", str(WORK / name), "all", "question=Frage,answer=Antwort")
        assert [r["answer"] for r in rows] == [str(i + 1) for i in range(30)]
        parts = [domains.load_rows("math", str(WORK / name), split, "question=Frage,answer=Antwort")
                 for split in ("train", "validation", "test")]
        assert sorted(r["id"] for part in parts for r in part) == sorted(r["id"] for r in rows)   # each in one part


def test_a_local_directory_is_read_like_a_hub_name_with_its_splits():
    folder = WORK / "a_dataset"
    folder.mkdir()
    for split, n in (("train", 5), ("test", 2)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"problem": f"p{i}", "answer": str(i)}) + "\n"
                                                       for i in range(n)))
    assert [len(domains.load_rows("math", f"{folder}{suffix}")) for suffix in ("", ":train", ":test")] == [5, 5, 2]


def test_public_files_are_read_and_their_references_earn_the_full_reward():
    rows = domains.load_rows("math", str(shared("gsm8k/train.jsonl")))
    assert len(rows) == 7473 and domains.reward("math", [f"It is {r['answer']}." for r in rows[:500]], rows[:500]) == [1] * 500
    assert len(domains.load_rows("math", str(shared("math500/test.jsonl")))) == 500
    assert len(domains.load_rows("math", str(shared("aime25/test.jsonl")))) == 30
    rows = domains.load_rows("qa", str(shared("mmlu_pro/sample.jsonl")))
    assert len(rows) == 120 and domains.reward("qa", [f"The answer is ({r['answer']})." for r in rows], rows) == [1] * 120
    rows, raw = domains.load_rows("code", str(shared("humaneval/HumanEval.jsonl"))), rows_of("humaneval/HumanEval.jsonl")
    assert domains.reward("code", [r["canonical_solution"] for r in raw], rows) == [1] * 164
    rows, raw = domains.load_rows("code", str(shared("mbpp/mbpp.jsonl"))), rows_of("mbpp/mbpp.jsonl")
    # Task 123 computes for most of the 4 seconds that a program has: on a slow machine for longer.
    slow = next(i for i, r in enumerate(raw) if r["task_id"] == 123)
    assert slow < 200 and sandbox.run_tests([{"program": raw[slow]["code"], "tests": rows[slow]["tests"]}], timeout=30) == [1]
    some = [i for i in range(200) if i != slow]
    assert domains.reward("code", [f"```python\n{raw[i]['code']}\n```" for i in some], [rows[i] for i in some]) == [1] * 199


def test_the_rubric_scores_what_its_lines_say():
    row = {"prompt": "Write: fox, sea", "keywords": ["fox", "sea"]}
    for text, score in (("The fox saw the sea.", 1), ("The fox saw the moon.", 0.5), ("The sea and the fox", 0.5),
                        ("fox, sea", 0), ("The owl saw the moon.", 0), ("", 0), ("fox fox fox sea sea sea", 0.0),
                        ("Fox sea fox sea fox sea fox sea.", 0.5)):
        assert cw.rubric(["Write: fox, sea"], [text], [row]) == [score], text
    row = {"prompt": "Describe a stormy harbour at midnight"}
    good = "Midnight came, and the harbour was stormy and black; nobody dared to describe what the waves had taken."
    assert cw.rubric([row["prompt"]], [good], [row]) == [1.0]
    assert cw.rubric([row["prompt"]], ["I like cats."], [row]) == [0.0]


def test_the_judges_answer_is_parsed_strictly_and_nonsense_is_no_score():
    for answer, score in (("1", 1), ("0.5", 0.5), ("0", 0), (" Score: 1. ", 1), ("<think>well, 0?</think>\n0.5", 0.5),
                          ("**1**", 1), ("**Score:** 0.5", 0.5), ("0.50", 0.5), ("The score is 0.5.", 0.5), ("1.0", 1),
                          ("**Final score: 0**", 0), ('{"score": 0.5}', 0.5), ("\\boxed{0.5}", 0.5), ("<score>1</score>", 1)):
        assert cw.score(answer) == score, answer
    for answer in ("", "2", "10", "0.7", "1 or 0", "I give it 1", "0.5/1", "one", "-1", "1e0", "nan", "0.5 1", "1\n0", "Score: 2",
                   "The score is not 1", "0.5\n\nIt is good.", "score", "Score: -0.5", "1/2", "0,1"):
        assert math.isnan(cw.score(answer)), answer
    scores = llm_judge(tiny()[0])(["p", "p"], ["a", "b"], [{}, {}])  # random weights answer nonsense
    assert len(scores) == 2 and all(math.isnan(s) for s in scores)


def test_validation_rows_are_neither_trained_on_nor_those_of_the_test():
    path = WORK / "splits.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}+1=", "answer": i + 1}) + "\n" for i in range(200)))
    held = lambda **changes: {row["id"] for row in held_out_rows(settings(**changes))["math"]}
    part = lambda split: {row["id"] for row in domains.load_rows("math", str(path), split)}
    assert held(data={"math": str(path)}) == part("validation") and len(part("validation")) > 5
    assert held(data={"math": "synthetic"}, eval_data={"math": str(path)}, eval_prompts=999) == part("all")
    for changes in ({"data": {"math": "synthetic"}}, {"data": {"math": str(path)}, "eval_data": {"math": "synthetic"}}):
        assert all(domains.in_split(id, "validation") for id in held(**changes))
    args = settings(data={"math": str(path)}, eval_data={"math": "synthetic"})
    assert split_of(args, "math", "train") == "train"              # so its own tenth stays out of training
    assert set(held_out_rows(settings(data={"math": str(path)}, eval_domains=["math", "qa"]))) == {"math"}


# ---- a domain of one's own -----------------------------------------------------------------------------------------

SORT = '''"""Sort digits: 'sort: 3 1 2' -> '1 2 3'. A completion earns the share of digits that stand in their place."""

def synthetic(rng):
    digits = [str(rng.randint(0, 9)) for _ in range(5)]
    return {"digits": digits, "reference": " ".join(sorted(digits))}

def prompt(row):
    return "sort: " + " ".join(row["digits"])

def answer(completion, row):
    return completion.strip() or None

def reward(completions, rows):
    pairs = [(text.split(), sorted(row["digits"])) for text, row in zip(completions, rows)]
    return [sum(a == b for a, b in zip(*pair)) / max(map(len, pair)) for pair in pairs]
'''


def domain_file(name, text=SORT):
    path = WORK / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_file_of_fifteen_lines_is_a_domain():
    path = domain_file("own/sort.py")
    with replaced(domains, loaded={}):
        name = domains.use(path)
        assert name == "sort" == domains.use("sort") == domains.use(path) and not domains.votes("sort")
        rows = {split: domains.synthetic("sort", split, 50, seed=0) for split in ("train", "validation", "test")}
        assert domains.reward("sort", [row["reference"] for row in rows["test"]], rows["test"]) == [1.0] * 50
        assert domains.reward("sort", ["1 2 2 4 4", "", "1 2 3 4 4 5"], [{"digits": list("43214")}] * 3) == [0.8, 0, 5 / 6]
        assert all(domains.in_split(row["id"], split) for split, some in rows.items() for row in some)
        assert domains.sources(["sort=hub", "math=synthetic"], ["math", "sort"]) == {"sort": "hub", "math": "synthetic"}
        raises(lambda: domains.load_rows("sort", "hub"), "own/sort.py", "no row(record)")
        domain_file("own/sort.jsonl", '{"shuffled": "2 1", "sorted": "1 2"}\n')
        own = domain_file("own/pairs.py", SORT + "\ndef row(record):\n    return {'digits': record['letters'].split()}\n")
        row, = domains.load_rows(domains.use(own), str(WORK / "own" / "sort.jsonl"), fields="letters=shuffled")
        assert domains.prompt("pairs", row) == "sort: 2 1" and row["id"] == domains.row_id("pairs", row)


def test_what_is_no_domain_is_refused_in_a_line_that_says_why():
    without = lambda name: SORT.replace(f"def {name}(", f"def no_{name}(")
    for file, text, words in (
            ("a.py", without("reward"), "a.py is no domain: it has no reward(completions, rows)"),
            ("a.py", without("synthetic").replace("def answer", "answer = 1\ndef no"),
             "it has no synthetic(rng), no answer(completion, row)"),
            ("a.py", "def prompt(row:", "a.py cannot be imported: SyntaxError"),
            ("a.py", "import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
            ("a.py", SORT.replace('"reference"', '"solution"'), "the reference of its own synthetic row: KeyError: 'reference'"),
            ("a.py", SORT.replace("return [sum", "return [0.5 * sum"), "earns 0.5, and should earn 1"),
            ("math.py", SORT, "no domain can be called 'math'"), ("average.py", SORT, "no domain can be called 'average'"),
            ("Sort.py", SORT, "no domain can be called 'Sort'"), ("two words.py", SORT, "no domain can be called 'two words'"),
            ("code_.py", SORT, "no domain can be called 'code'"), ("a.txt", SORT, "unknown domain")):
        with replaced(domains, loaded={}):
            path = domain_file(f"wrong/{file}", text)
            raises(lambda: domains.use(path), words)
            assert not domains.loaded
    raises(lambda: domains.use("no/such/file.py"), "there is no domain file no/such/file.py")
    with replaced(domains, loaded={}, recorded={}):
        raises(lambda: domains.use("poetry"), "unknown domain 'poetry': choose from math, code, qa, cw, or give the path of a file")
    with replaced(domains, loaded={}):
        domains.use(domain_file("one/sort.py"))
        assert domains.use(domain_file("same/sort.py")) == "sort"
        raises(lambda: domains.use(domain_file("other/sort.py", SORT + "# another")), "two domains of one name")
    with replaced(domains, loaded={}):
        few = domains.use(domain_file("wrong/few.py", SORT.replace("rng.randint(0, 9)", "1")))     # one prompt, in one part
        raises(lambda: [domains.synthetic(few, split, 1, seed=0) for split in ("train", "test")], "few has too few")


def test_no_name_falls_through_to_another_domain():
    row = {"prompt": "p", "question": "q", "answer": "1", "options": ["1"], "tests": []}
    for ask in (lambda: domains.prompt("poetry", row), lambda: domains.answer("poetry", "x", row),
                lambda: domains.votes("poetry"), lambda: domains.use(""), lambda: domains.source("poetry"),
                lambda: domains.reward("poetry", ["x"], [row]), lambda: domains.synthetic("poetry", "train", 1, seed=0),
                lambda: domains.same_answer("poetry", "x", "x"), lambda: domains.load_rows("poetry", "hub"),
                lambda: domains.evaluation_rows("poetry", None, "", 1, "test")):
        raises(ask, "unknown domain")


def test_a_runs_domain_file_is_never_run_on_its_own_word_and_the_error_says_where_it_is():
    path = domain_file("followed/sort.py")
    with replaced(domains, loaded={}, recorded={}):
        run = {"domain_files": {domains.use(path): domains.source("sort")}}
    assert run["domain_files"]["sort"]["file"] == path and len(run["domain_files"]["sort"]["sha256"]) == 64
    with replaced(domains, loaded={}, recorded={}):
        domains.follow({}), domains.follow(run)
        raises(lambda: domains.use("sort"), "unknown domain", path)
        assert domains.use(path) == "sort" == domains.use("sort")


def test_a_reward_that_raises_or_leaves_its_range_hurts_no_other_completion():
    text = SORT + "\ndef reward(completions, rows):\n    return [1 if text == '1 2' else float(text) for text in completions]\n"
    text = text.replace("range(5)", "range(2)").replace("rng.randint(0, 9)", "_ + 1")
    with replaced(domains, loaded={}), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wild = domains.use(domain_file("own/wild.py", text))
        scores = domains.reward(wild, ["0.5", "2", "word", "nan", "-1", "1"], [{}] * 6)
    assert [score if score == score else None for score in scores] == [0.5, None, None, None, None, 1] and len(caught) == 3
    with replaced(domains, loaded={}), warnings.catch_warnings(action="ignore"):
        name = domains.use(domain_file("own/wild.py", text))
        raises(lambda: domains.reward(name, ["word", "words"], [{}, {}]), "reward of domains.wild", "could not convert string")


def test_no_file_hides_a_module_of_the_standard_library():
    found = [path for path in ROOT.rglob("*.py") if not {".venv", "checkpoints"} & {*path.relative_to(ROOT).parts}]
    assert len(found) > 40 and not [path for path in found if path.stem in sys.stdlib_module_names]
