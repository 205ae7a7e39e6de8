"""Every claim and every exercise of the series, by name."""

from typing import Any

from quants.lab import (
    batch_task,
    brownout,
    conservation,
    cost_task,
    counters,
    drift,
    engine_records,
    engines_compared,
    fan_out_task,
    fanned,
    fat_print,
    fence,
    freezing,
    gated,
    gc_policy_task,
    gil_free,
    group_commit,
    growing,
    hist_task,
    kills,
    lanes,
    leak_task,
    leaks,
    loops,
    message_cost,
    nesting,
    observer,
    omission,
    opening,
    outage,
    own_loop,
    pages,
    pauses,
    percentiles,
    pick_task,
    planted,
    policed,
    pool_claim,
    pool_threads,
    prices,
    profilers,
    risk_gate_task,
    rolling_task,
    safe_log_task,
    scraped,
    shared_vwap,
    slow_consumers,
    stops,
    supervise_task,
    tasks,
    timing,
    turns_taken,
    two_loops,
    waits,
    window_costs,
)
from quants.lab.claims import Claim, Verdict
from quants.lab.exercise import Answer, Exercise

CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claims in (
        opening.CLAIMS,
        *(loops.CLAIMS, tasks.CLAIMS, stops.CLAIMS, own_loop.CLAIMS, nesting.CLAIMS),
        *(timing.CLAIMS, profilers.CLAIMS, prices.CLAIMS, planted.CLAIMS),
        turns_taken.CLAIMS,
        *(message_cost.CLAIMS, slow_consumers.CLAIMS, fanned.CLAIMS),
        fence.CLAIMS,
        *(group_commit.CLAIMS, pool_threads.CLAIMS, kills.CLAIMS),
        *(window_costs.CLAIMS, gil_free.CLAIMS, drift.CLAIMS, fat_print.CLAIMS),
        *(leaks.CLAIMS, pages.CLAIMS, pool_claim.CLAIMS, leak_task.CLAIMS),
        *(pauses.CLAIMS, growing.CLAIMS, freezing.CLAIMS, policed.CLAIMS),
        *(omission.CLAIMS, percentiles.CLAIMS, scraped.CLAIMS, observer.CLAIMS),
        *(counters.CLAIMS, engines_compared.CLAIMS, engine_records.CLAIMS),
        *(two_loops.CLAIMS, pick_task.CLAIMS),
        *(brownout.CLAIMS, waits.CLAIMS, outage.CLAIMS, lanes.CLAIMS, gated.CLAIMS),
    )
    for claim in claims
}
EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for exercise in (
        conservation.CONSERVED,
        supervise_task.SUPERVISE,
        cost_task.COST_OF,
        shared_vwap.SHARED_VWAP,
        fan_out_task.FAN_OUT,
        batch_task.CHOOSE_BATCH,
        safe_log_task.SAFE_LOG,
        rolling_task.ROLLING_VWAP,
        leak_task.FIND_LEAK,
        gc_policy_task.GC_POLICY,
        hist_task.LATENCY_HIST,
        pick_task.PICK_ENGINE,
        risk_gate_task.RISK_GATE,
    )
}


def judge(id: str, *evidence: Any) -> Verdict:
    """Decide a claim by its evidence."""
    return CLAIMS[id].decided(*evidence)


def verdict(id: str, *evidence: Any) -> None:
    """Print what the evidence says of a claim: one word and one sentence."""
    print(judge(id, *evidence))


def check(answer: Answer) -> None:
    """Say how far an answer is; a stub is "not yet"."""
    print(EXERCISES[answer.__name__].check(answer))


def solved(answer: Answer) -> Answer:
    """The answer if it is right, else the reference; says which."""
    function, whose = EXERCISES[answer.__name__].solved(answer)
    print(f"{answer.__name__}: {whose}")
    return function
