"""The engine's memory on a CPU: pages for weights, and what the allocator keeps and gives back."""

import os
import subprocess
import sys

import pytest
import torch

from engineroom.engines.huggingface.pages import Pages


def test_pages_hold_copies_side_by_side() -> None:
    weights = [
        torch.randn(3, 5),
        torch.randn(7, 2).t(),
        torch.arange(11, dtype=torch.bfloat16),
        torch.empty(0),
    ]
    pages = Pages([weight.nbytes for weight in weights])
    held = [pages.put(weight) for weight in weights]
    for weight, copy in zip(weights, held, strict=True):
        assert torch.equal(weight, copy)
        assert copy.is_contiguous()
        assert (copy.dtype, copy.shape) == (weight.dtype, weight.shape)
    held[0].zero_()
    assert torch.equal(held[1], weights[1])
    del pages  # the tensors keep the memory
    assert torch.equal(held[2], weights[2])


FAULTS = """
import resource, torch
from engineroom.engines.huggingface.allocator import give_back, keep_freed_memory
{keep}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        blocks = [torch.ones(1 << 19) for _ in range(16)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
blocks = [torch.ones(1 << 19) for _ in range(16)]
last = torch.ones(1 << 10)
full = resident()
del blocks
give_back()
print(full - resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again_and_given_back_when_asked() -> None:
    def run(keep: str, **environment: str) -> tuple[int, int]:
        code = FAULTS.format(keep=keep)
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
        )
        faults, freed = done.stdout.split()
        return int(faults), int(freed)

    faults, freed = run("keep_freed_memory()")
    assert faults < 1000  # 128 MiB were asked for and filled: 32,768 pages of 4 KiB
    assert freed > 24 << 20
    own, _ = run("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="131072")
    assert own > 10 * max(faults, 1)  # who has set something themselves is left alone
