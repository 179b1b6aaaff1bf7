"""Memory that is freed and needed again is the same memory."""

import json
import os
import subprocess
import sys

import pytest

from mim_ray.memory import give_back, keep_what_is_freed

PROCESS = """
import json, resource, sys
import torch
from mim_ray.memory import give_back, keep_what_is_freed
if "keep" in sys.argv:
    keep_what_is_freed()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def held():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def step():
    for _ in range(4):
        [torch.ones(2_000_000) for _ in range(8)]

step()
before = faults()
step()
found, most = faults() - before, held()
give_back()
print(json.dumps([found, most - held()]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing happens")
def test_a_second_step_asks_for_no_new_pages_and_all_can_be_given_back() -> None:
    surely = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}  # as happens by itself now and then
    (kept, returned), (anew, _) = (
        json.loads(subprocess.check_output([sys.executable, "-c", PROCESS, *words], env=surely))
        for words in (["keep"], [])
    )
    assert kept < 200 < 2_000 < anew
    assert returned > 8 * 2_000_000 * 4 // 2


def test_where_the_library_is_another_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_what_is_freed()
    give_back()
