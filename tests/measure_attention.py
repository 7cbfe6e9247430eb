"""Memory and time of a long row in blocks beside the architecture's own attention, on one thread:
python -m tests.measure_attention [TOKENS]
"""

import copy
import sys
import time

import torch

from rsr_ray.student.model import Student

from .test_attention import model_of, own_states, rows_of
from .test_long import peak_of_tensors

KINDS = ("mistral", "gemma2", "gpt_oss")
MORE = {"hidden_size": 128, "head_dim": 64, "sliding_window": 1024}


def main(tokens: int) -> None:
    torch.set_num_threads(1)
    (row,) = rows_of(tokens)
    for kind in KINDS:
        model = model_of(kind, **MORE)
        student = Student.around(copy.deepcopy(model))
        ways = {
            "in blocks": lambda student=student: student.hidden(row[None]),
            "its own": lambda model=model: own_states(model, row),
        }
        with torch.inference_mode():
            for name, way in ways.items():
                begun = time.process_time()
                way()
                taken = time.process_time() - begun
                print(
                    f"{kind}, {name}: {peak_of_tensors(way) / 2**20:,.0f} MiB, {taken:.2f} s of CPU"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 8192)
