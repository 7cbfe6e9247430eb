"""pairs: what columns of a question and its answer are called."""

# Read as they are. Which columns are read, split into several answers, searched for marks of a
# cut-off answer, and made up by the fuzz test all follows from here.
PAIRS = (
    ("prompt", "response"),
    ("instruction", "output"),
    ("prompt", "completion"),
    ("query", "response"),
    ("input", "output"),
)
QUESTIONS = tuple(dict.fromkeys(question for question, _ in PAIRS))
ANSWERS = tuple(dict.fromkeys(answer for _, answer in PAIRS))
NAMES = tuple(dict.fromkeys(name for pair in PAIRS for name in pair))
