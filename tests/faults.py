"""The fault matrix: what can go wrong, what must hold then, and who shows it.

`pytest --faults FILE` writes it with what the tests of that run found out: they
tell by pytest's own `record_property`. Of several tests or parameters whole
numbers add up, of other numbers the largest counts, words stand beside it.
"""

import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from itertools import chain

import pytest

from quants.host import available_cores

Figure = tuple[str, object]  # what, and how many, how much or which


@dataclass(frozen=True)
class Fault:
    """A row: `shown_by` are test functions, by their file."""

    number: int
    what: str
    holds: str
    shown_by: dict[str, tuple[str, ...]]


@dataclass
class Shown:
    """What a test did in a run, all its parameters together."""

    outcomes: Counter[str] = field(default_factory=Counter)
    figures: list[Figure] = field(default_factory=list)

    def __str__(self) -> str:
        return ", ".join(f"{n:,} {how}" for how, n in self.outcomes.items()) or NOT_RUN


NOT_RUN = "not run"
Run = dict[tuple[str, str], Shown]  # by file and function

FAULTS = (
    Fault(
        1,
        "kill -9 while logging",
        "every acknowledged tick is recovered, none is wrong, no person is needed",
        {
            "test_ticklog.py": (
                "test_kill_9_loses_nothing_that_was_acknowledged",
                "test_50_kills_lose_nothing_that_was_acknowledged",
            )
        },
    ),
    Fault(
        2,
        "a torn tail, at any byte",
        "whole frames are kept, the tail is set aside",
        {
            "test_recovery.py": (
                "test_a_log_cut_at_any_byte_keeps_every_whole_frame",
                "test_a_log_of_64_kib_cut_at_any_byte_keeps_every_whole_frame",
                "test_a_second_tear_at_the_same_byte_keeps_the_first_tail",
            ),
            "test_verify.py": (
                "test_a_log_cut_at_any_byte_is_repaired_to_its_whole_frames",
            ),
        },
    ),
    Fault(
        3,
        "bits flipped, blocks zeroed or random",
        "never a wrong tick; the hole is a gap",
        {
            "test_recovery.py": (
                "test_rot_never_makes_a_wrong_tick_and_its_hole_is_a_gap",
                "test_rot_never_makes_a_wrong_tick_in_20_000_logs",
                "test_rot_inside_is_a_gap_of_just_the_ticks_it_hit",
                "test_ticks_behind_a_rotted_segment_are_not_given_to_another_stream",
            ),
            "test_fuzz.py": (
                "test_a_damaged_log_never_tells_a_wrong_tick",
                "test_a_log_whose_checksums_are_right_again_is_read_in_order_or_passed"
                "_over",
            ),
            "test_frame.py": (
                "test_every_single_flipped_bit_is_refused",
                "test_a_frame_changed_anywhere_is_refused_or_the_same",
            ),
        },
    ),
    Fault(
        4,
        "disk full, EIO, a short write",
        "nothing half acknowledged; a full disk is waited for, then told",
        {
            "test_ticklog.py": (
                "test_a_short_write_is_completed",
                "test_a_full_disk_keeps_whole_frames_and_acknowledges_just_those",
                "test_run_ends_with_the_fault_of_the_disk",
                "test_a_failed_fsync_makes_nothing_durable",
                "test_a_file_at_its_size_limit_keeps_just_what_was_acknowledged",
            ),
            "test_cli.py": (
                "test_a_full_disk_ends_the_run_and_keeps_every_whole_frame",
            ),
            "test_lifecycle.py": (
                "test_a_full_disk_stops_the_feed_until_there_is_space",
                "test_a_disk_that_stays_full_ends_the_run_in_one_sentence",
            ),
            "test_export.py": ("test_a_full_disk_leaves_nothing",),
        },
    ),
    Fault(
        5,
        "an fsync that takes 500 ms",
        "the feed and VWAP go on, what waits is bounded",
        {
            "test_lifecycle.py": (
                "test_while_an_fsync_takes_long_the_feed_and_vwap_go_on",
                "test_a_slow_fsync_does_not_make_vwap_later",
            ),
            "test_ticklog.py": (
                "test_a_slow_disk_makes_the_feed_wait_and_not_the_loop",
            ),
        },
    ),
    Fault(
        6,
        "the connection is reset, at each step of the protocol",
        "resumed: no duplicate, no loss, or an explicit gap",
        {
            "test_network_faults.py": (
                "test_cuts_at_any_step_lose_nothing_and_repeat_nothing",
            ),
            "test_feed_client.py": (
                "test_cuts_anywhere_lose_nothing_and_repeat_nothing",
                "test_a_cut_before_the_welcome_is_one_more_reason_to_try_again",
                "test_another_stream_after_a_cut_ends_the_run",
            ),
        },
    ),
    Fault(
        7,
        "a half-open peer",
        "found within two heartbeats, on either side",
        {
            "test_network_faults.py": (
                "test_a_server_that_fell_silent_is_left_within_two_heartbeats",
                "test_a_client_that_fell_silent_is_let_go_within_two_heartbeats",
            ),
            "test_feed_client.py": (
                "test_a_silent_peer_is_found_within_two_heartbeats",
            ),
            "test_feed_server.py": (
                "test_who_never_answers_is_let_go_after_forty_pings",
            ),
        },
    ),
    Fault(
        8,
        "100 clients reconnect",
        "full jitter and a cap: no herd",
        {
            "test_network_faults.py": (
                "test_a_hundred_clients_of_a_feed_that_is_away_do_not_come_back"
                "_together",
            ),
            "test_feed_client.py": (
                "test_a_pause_is_a_share_of_what_doubles_up_to_five_seconds",
                "test_a_hundred_clients_do_not_come_back_together",
            ),
        },
    ),
    Fault(
        9,
        "a gap, inside the ring and beyond ring and log",
        "filled in order; else an explicit gap, VWAP incomplete, one alert",
        {
            "test_network_faults.py": (
                "test_what_the_network_loses_is_a_gap_and_every_number_comes_once",
                "test_each_hole_in_what_arrives_becomes_one_gap_with_its_numbers",
                "test_what_has_left_the_ring_is_one_gap_and_the_rest_is_filled",
            ),
            "test_feed_server.py": (
                "test_a_resume_inside_the_ring_is_served_from_it",
                "test_beyond_the_ring_a_gap_says_what_is_gone",
            ),
            "test_history.py": (
                "test_what_the_ring_has_lost_comes_from_the_log",
                "test_hand_over_to_live_loses_nothing_whenever_it_comes",
            ),
            "test_pipeline.py": (
                "test_a_gap_makes_the_report_incomplete_and_names_the_loss",
            ),
            "test_rules.py": (
                "test_a_gap_is_an_alert_at_the_time_of_the_tick_before_it",
                "test_of_a_hundred_gaps_within_a_second_one_is_an_alert",
            ),
        },
    ),
    Fault(
        10,
        "duplicates, reordering, a clock that steps back",
        "each number once; event time is kept",
        {
            "test_network_faults.py": (
                "test_what_arrives_again_is_counted_and_changes_nothing",
                "test_the_vwap_is_that_of_exactly_the_rows_that_count",
            ),
            "test_feed.py": (
                "test_whatever_the_network_does_every_number_is_accounted_for_once",
            ),
            "test_windows.py": (
                "test_a_time_window_is_exact_in_any_order_and_any_batches",
            ),
            "test_gate.py": (
                "test_any_framing_lets_the_same_breaches_pass_even_if_clocks_step_back",
            ),
            "test_rules.py": (
                "test_alerts_are_those_that_fractions_find_in_any_framing",
            ),
        },
    ),
    Fault(
        11,
        "a client stops reading",
        "the others are not slowed, memory is bounded, the policy counts",
        {
            "test_network_faults.py": (
                "test_a_client_that_does_not_read_costs_the_others_nothing",
            ),
            "test_feed_server.py": (
                "test_disconnect_lets_go_of_a_stalled_client_only",
                "test_drop_oldest_tells_its_client_what_it_dropped",
                "test_what_is_held_for_a_stalled_client_is_bounded_in_bytes",
            ),
        },
    ),
    Fault(
        12,
        "a consumer ten times too slow, under each policy",
        "received = processed + dropped + conflated + queued",
        {
            "test_channel.py": (
                "test_ticks_are_conserved_at_every_step",
                "test_a_consumer_ten_times_too_slow_leaves_no_tick_unaccounted",
            ),
            "test_pipeline.py": ("test_ticks_are_conserved_at_every_moment",),
        },
    ),
    Fault(
        13,
        "a consumer raises, or hangs",
        "alone, started again within a budget; then the pump ends and says why",
        {
            "test_supervisor.py": (
                "test_a_consumer_that_raises_goes_on_with_the_next_batch",
                "test_a_consumer_that_hangs_is_cancelled_and_started_again",
                "test_the_budget_spent_its_fault_ends_the_pump",
            )
        },
    ),
    Fault(
        14,
        "a VWAP worker is killed in the middle of a batch",
        "the batch is done again, the sums are exact, nothing counts twice",
        {
            "test_workers.py": (
                "test_a_batch_whose_worker_is_killed_over_it_is_done_again",
                "test_workers_killed_while_nothing_is_in_flight_are_replaced",
                "test_a_pump_whose_workers_are_killed_loses_and_doubles_nothing",
            )
        },
    ),
    Fault(
        15,
        "a batch that kills every worker",
        "set aside after three tries, the rest flows, VWAP is marked incomplete",
        {
            "test_workers.py": (
                "test_a_batch_that_kills_every_worker_is_set_aside_and_the_rest_flows",
                "test_a_pump_that_sets_a_batch_aside_says_that_it_is_incomplete",
            )
        },
    ),
    Fault(
        16,
        "the GIL is held, or the loop stands still, for long",
        "the lag is seen, and whose fault it is; nobody is taken for gone",
        {
            "test_network_faults.py": (
                "test_a_loop_that_stood_still_takes_nobody_for_gone",
            ),
            "test_monitor.py": ("test_a_blocked_loop_shows_up_as_lag",),
            "test_stalls.py": (
                "test_a_loop_that_python_code_stalls_has_its_culprit_and_who_called_it",
                "test_the_culprit_is_found_while_a_call_in_c_holds_the_gil",
            ),
        },
    ),
    Fault(
        17,
        "Redis is down, killed, stopped, half open, full, read-only or locked",
        "the breaker opens within 1 s, the last limits hold with their age; alerts "
        "wait, in a file if need be, and arrive once each, in order",
        {
            "test_outages.py": (
                "test_whatever_ails_redis_alerts_wait_and_then_arrive_once_in_order",
                "test_a_redis_that_refuses_alerts_is_still_asked_for_limits",
                "test_a_stopped_redis_opens_the_breaker_and_does_not_hold_the_loop",
                "test_a_connection_that_swallows_all_is_found_out_and_left",
                "test_through_many_outages_no_alert_is_lost_and_none_doubled",
                "test_a_pump_whose_redis_is_killed_and_started_again_loses_no_alert"
                "_and_tells",
                "test_alerts_that_wait_when_a_pump_ends_are_delivered_by_the_next_one",
            ),
            "test_waiting.py": (
                "test_a_stopped_redis_costs_two_deadlines_and_then_nothing",
                "test_one_call_more_than_threads_is_refused_at_once",
            ),
            "test_tracking.py": (
                "test_a_stopped_redis_is_lost_and_what_changed_meanwhile_is_read",
            ),
            "test_risk.py": (
                "test_alerts_survive_a_kill_of_redis_and_arrive_once_each",
                "test_a_delivery_whose_answer_got_lost_is_not_repeated",
                "test_with_redis_gone_the_last_limits_hold_and_the_end_is_not_late",
            ),
            "test_alerts.py": (
                "test_a_redis_without_memory_takes_all_of_a_call_or_nothing",
            ),
            "test_outbox.py": (
                "test_a_full_outbox_keeps_the_oldest_and_counts_the_lost",
                "test_a_torn_last_line_is_set_aside_and_counted",
            ),
        },
    ),
    Fault(
        18,
        "10,000 identical breaches",
        "one alert, 9,999 counted as suppressed",
        {
            "test_rules.py": (
                "test_of_10_000_identical_breaches_one_is_an_alert_and_9_999_are"
                "_suppressed",
            ),
            "test_gate.py": (
                "test_of_10_000_identical_breaches_one_passes_and_9_999_are_suppressed",
                "test_a_breach_that_lasts_an_hour_is_one_alert_in_any_framing",
            ),
        },
    ),
    Fault(
        19,
        "told to stop under full load, once and twice; interrupted in a notebook",
        "drained within 5 s, the log complete; the second time it stops now",
        {
            "test_lifecycle.py": (
                "test_a_pump_told_to_stop_under_load_drains_and_loses_nothing",
                "test_a_pump_told_twice_stops_now_and_its_log_is_whole",
            ),
            "test_cli.py": (
                "test_the_first_signal_drains_and_the_log_is_complete",
                "test_the_second_signal_stops_now",
            ),
            "test_workers.py": (
                "test_an_interrupt_of_the_whole_group_drains_the_pump",
            ),
            "test_lab.py": ("test_a_session_beats_so_that_stop_is_seen",),
        },
    ),
    Fault(
        20,
        "started and stopped again and again in one process",
        "no task, thread, file, child or shared memory is left",
        {
            "test_lifecycle.py": (
                "test_a_pump_started_again_and_again_leaves_nothing",
            ),
            "test_engines.py": (
                "test_an_engine_opened_and_closed_again_and_again_leaves_nothing",
            ),
        },
    ),
    Fault(
        21,
        "kill -9 of the pump, of a kernel, of a parent, of a whole group",
        "no worker, no Redis, no shared memory is left",
        {
            "test_workers.py": (
                "test_a_killed_pump_leaves_no_worker_no_redis_and_no_shared_memory",
                "test_a_pump_killed_with_its_whole_group_leaves_no_shared_memory",
            ),
            "test_redis_server.py": (
                "test_our_redis_dies_with_a_parent_that_is_killed",
                "test_our_redis_outlives_the_thread_that_asked_for_it",
            ),
            "test_turns.py": ("test_a_worker_ends_with_a_parent_that_is_killed",),
            "test_lab_killed.py": ("test_a_kernel_that_is_killed_leaves_nothing",),
        },
    ),
    Fault(
        22,
        "frames that are none or too large, garbage HTTP, a scraper that stalls",
        "refused, counted, closed; nobody else notices",
        {
            "test_fuzz.py": (
                "test_a_frame_is_refused_or_says_what_its_bytes_say",
                "test_a_damaged_frame_is_refused_or_says_what_its_bytes_say",
                "test_a_stream_yields_only_what_was_sent_and_every_number_once",
                "test_a_tick_of_json_is_refused_or_what_json_and_decimal_read",
                "test_a_welcome_is_refused_or_one_can_live_by_it",
                "test_a_hostile_subscriber_is_refused_counted_and_closed",
                "test_a_bomb_is_unpacked_a_block_at_a_time",
            ),
            "test_network_faults.py": (
                "test_a_frame_with_a_flipped_bit_is_refused_and_asked_for_again",
            ),
            "test_feed_client.py": (
                "test_a_frame_that_is_broken_every_time_ends_the_subscription",
                "test_a_message_larger_than_any_frame_never_becomes_a_batch",
            ),
            "test_feed_server.py": (
                "test_a_request_it_cannot_read_closes_that_connection_only",
                "test_compression_is_never_agreed_to",
                "test_rubbish_on_the_port_disturbs_nobody",
            ),
            "test_prometheus.py": (
                "test_stalled_scrapers_cost_the_pump_and_the_others_nothing",
            ),
        },
    ),
    Fault(
        23,
        "the same seed, another wire, engine, framing, number of workers",
        "the same rows (their SHA-256 is pinned), sums and alerts",
        {
            "test_lifecycle.py": (
                "test_one_seed_gives_one_state_whatever_wire_engine_cores_and_framing",
            ),
            "test_market.py": (
                "test_the_rows_are_pinned",
                "test_the_framing_changes_no_row",
            ),
            "test_engines.py": ("test_every_engine_gives_the_same_exact_sums",),
        },
    ),
    Fault(
        24,
        "a log is replayed",
        "the very state of the live run, at any speed",
        {
            "test_lifecycle.py": (
                "test_a_replay_of_the_log_is_the_state_of_the_live_run",
            ),
            "test_serve.py": ("test_a_log_replays_and_loops",),
        },
    ),
    Fault(
        25,
        "50,000 ticks a second for long",
        "memory does not grow, all is counted, VWAP is that of the log",
        {
            "test_lifecycle.py": (
                "test_for_long_no_tick_is_lost_every_sum_is_exact_and_memory_does_not"
                "_grow",
            ),
            "test_pipeline.py": (
                "test_the_log_holds_the_ticks_whose_sums_the_report_gives",
            ),
        },
    ),
    Fault(
        26,
        "someone else on the machine or the network",
        "loopback, else a token; no page of another site; no pickle on a wire",
        {
            "test_access.py": (
                "test_only_loopback_addresses_stay_on_this_machine",
                "test_a_host_others_can_reach_needs_a_token",
                "test_a_page_of_another_site_reads_nothing",
                "test_no_module_that_has_a_wire_can_unpickle",
            ),
            "test_feed_server.py": (
                "test_beyond_loopback_a_token_is_needed",
                "test_a_page_of_another_site_may_not_subscribe",
            ),
            "test_server.py": (
                "test_loopback_is_the_default_and_others_need_a_token",
                "test_a_server_others_can_reach_answers_to_its_token",
                "test_a_page_of_another_site_is_refused",
            ),
        },
    ),
)


# ---- what a run found out


def shown(reports: Iterable[pytest.TestReport]) -> Run:
    """The tests of a run: what came of each, and what it recorded."""
    run: Run = defaultdict(Shown)
    for report in reports:
        if report.when != "call" and report.passed:
            continue  # set up and torn down
        file, _, test = report.nodeid.rpartition("/")[2].partition("::")
        found = run[file, test.partition("[")[0]]
        found.outcomes[report.outcome] += 1
        # A file that cannot be collected has a report without them.
        found.figures += getattr(report, "user_properties", [])
    return run


def added_up(figures: Iterable[Figure]) -> str:
    """The figures of several tests as one line."""
    counts: Counter[str] = Counter()
    largest: dict[str, float] = {}
    words: dict[str, set[str]] = defaultdict(set)
    for name, value in figures:
        if isinstance(value, int):
            counts[name] += value
        elif isinstance(value, float):
            largest[name] = max(value, largest.get(name, value))
        else:
            words[name].add(str(value))
    said = [f"{count:,} {name}" for name, count in counts.items()]
    said += [f"{name} {value:.3g}" for name, value in largest.items()]
    said += [f"{name} {' and '.join(sorted(them))}" for name, them in words.items()]
    return ", ".join(said)


# ---- as a page


def matrix(run: Run, facts: str, faults: Iterable[Fault] = FAULTS) -> str:
    """The matrix of a run, as Markdown."""
    rows, tests = [], []
    for fault in faults:
        found = {key: run.get(key, Shown()) for key in keys(fault)}
        rows.append(f"| {' | '.join(cells(fault, list(found.values())))} |")
        tests.append(f"\n**{fault.number}. {fault.what}**\n")
        tests += [f"- `{file}` `{test}`: {it}" for (file, test), it in found.items()]
    return "\n".join([*HEAD, facts, *TABLE, *rows, *TESTS, *tests, ""])


HEAD = (
    "# What the pump survives",
    "",
    "Written by `make long` (`pytest --faults FILE`), never by hand.",
)
TABLE = (
    "",
    "| # | fault | must hold | tests | figures |",
    "|--:|---|---|---|---|",
)
TESTS = ("", "## Shown by")


def keys(fault: Fault) -> Iterator[tuple[str, str]]:
    """File and function of each of a row's tests."""
    for file, tests in fault.shown_by.items():
        yield from ((file, test) for test in tests)


def cells(fault: Fault, found: list[Shown]) -> Iterator[str]:
    """One row of the table; a test that failed makes it bold."""
    outcomes = sum((it.outcomes for it in found), Counter[str]())
    verdict = str(Shown(outcomes))
    yield from (str(fault.number), fault.what, fault.holds)
    yield f"**{verdict}**" if outcomes["failed"] else verdict
    yield added_up(chain.from_iterable(it.figures for it in found))


def facts() -> str:
    """Where and when a run was."""
    system = f"{platform.python_implementation()} {platform.python_version()}"
    where = f"{platform.system()}, {platform.machine()}, {available_cores()} cores"
    return f"{system}, {where}, {date.today().isoformat()}."
