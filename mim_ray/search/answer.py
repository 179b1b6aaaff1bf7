"""What a search answers: its trials, the best of them, and the command that trains it again."""

import json
import logging
import shlex
from collections.abc import Mapping
from typing import Any

from mim_ray.errors import Failure
from mim_ray.search.memory import Memory, Record
from mim_ray.search.plan import Plan, Search
from mim_ray.search.results import best_of, front, rows, seeds_of, spread

logger = logging.getLogger("mim_ray")
ANSWER = "answer.json"
Answer = dict[str, Any]


def known_answer(plan: Plan) -> Answer | None:
    """Of a search that was brought to its end."""
    return dict(json.loads(plan.folder.read(ANSWER))) if plan.folder.has(ANSWER) else None


def written_down(plan: Plan, answer: Answer) -> Answer:
    plan.folder.write(ANSWER, json.dumps(answer).encode())
    return answer


def answer_of(plan: Plan, memory: Memory) -> Answer:
    own, best = plan.search, best_of(memory, plan.search)
    result: Answer = {"name": plan.name, "run_id": plan.run_id, "metric": list(own.metric)}
    result |= {"finished": False, "trials": rows(memory, own)}
    if best is None:
        why = last_reason(memory) or "give it more time with --resume"
        raise Failure(f"{plan.name}: no trial has a value of {own.metric[0]} yet: {why}")
    for record in lost(memory):
        logger.warning("trial %d was lost: %s", record.number, record.reason)
    mean, deviation = spread(best, memory, own.metric[0])
    method, words = plan.of_trial(best)
    result["best"] = {
        "trial": best.number,
        "method": method,
        "overrides": dict(best.words),
        "command": shlex.join(["mim-ray", "train", method, *_told(words)]),
        "value": mean,
        "std": deviation,
        "seeds": 1 + len(seeds_of(best, memory)),
        "run_id": best.run_id,
    }
    if len(own.metric) > 1:
        result["front"] = [record.number for record in front(memory, own)]
    return result


def _told(words: Mapping[str, str]) -> list[str]:
    """What a trial was given, but for its name and place."""
    return [f"{path}={text}" for path, text in words.items() if path not in ("name", "storage")]


def lost(memory: Memory) -> list[Record]:
    return [record for record in memory if record.state == "lost"]


def last_reason(memory: Memory) -> str:
    return next((record.reason for record in reversed([*memory]) if record.reason), "")


def best_values(memory: Memory, own: Search) -> dict[str, float]:
    best = best_of(memory, own)
    if best is None:
        return {}
    return {name: spread(best, memory, name)[0] for name in own.metric if best.last(name) is not None}
