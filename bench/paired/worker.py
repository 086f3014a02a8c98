"""One side of ``bench/paired``: makes a task, says ``ready``, and times it as often as it is asked.

Each line on stdin is a number of repetitions; the answer is the seconds of each, together.
"""

import sys
import time


def main():
    side, task = sys.argv[1:3]
    if side == "jax":
        import jax
        import jax_tasks

        version, run = f"jax {jax.__version__}", jax_tasks.TASKS[task]()
    else:
        import torch
        import torch_tasks

        torch.manual_seed(0)
        torch_tasks.COMPILE = side == "torch.compile"
        version, run = f"torch {torch.__version__}", torch_tasks.TASKS[task]()
    run()
    start = time.perf_counter()
    run()
    print("ready", time.perf_counter() - start, version, flush=True)
    for line in sys.stdin:
        run()  # memory of a process that has waited may have been taken away
        start = time.perf_counter()
        for _ in range(int(line)):
            run()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
