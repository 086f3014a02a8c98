"""What each room of the suite may cost, and the table that says what it did cost.

The suite has 15 minutes on two cores: 1,800 processor seconds, linting and installing included. A
room's budget is in processor seconds, its child processes' included, so that other load on the
machine does not matter much. A room over its budget is marked and nothing fails. The seconds of
starting a worker and of collecting (some 10 each) belong to no room.
"""

import os
import time
from pathlib import PurePosixPath

import pytest

from tests.tiers import NIGHTLY

__all__ = ["BUDGET"]

# Processor seconds of `make test`, nothing compiled before. They add up to what 15 minutes of two
# cores leave beside installing, linting and starting.
BUDGET = {
    "cluster": 5,
    "data": 10,
    "diffusion": 155,
    "evals": 5,
    "interop": 110,
    "launch": 250,
    "models": 250,
    "nn": 95,
    "ops": 95,
    "reliability": 310,
    "train": 70,
    "configs": 100,
    "docs": 35,
    "protocols": 70,
    "others": 80,
}
NUM_SLOWEST = 20


def room_of(nodeid):
    """Name the room of a test: its folder, or what the file at the top tests."""
    path = PurePosixPath(nodeid.partition("::")[0])
    inside = path.parts[1:]  # without tests/
    name = inside[0] if len(inside) > 1 else path.stem.removeprefix("test_")
    return name if name in BUDGET else "others"


def _processor_seconds():
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


_began = {}


def pytest_runtest_logstart(nodeid):
    _began[nodeid] = (time.monotonic(), _processor_seconds())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "teardown":
        began, processor = _began.pop(item.nodeid)
        cost = (time.monotonic() - began, _processor_seconds() - processor)
        outcome.get_result().user_properties.append(("cost", cost))


def pytest_terminal_summary(terminalreporter):
    costs = {
        report.nodeid: cost
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, cost in report.user_properties
        if name == "cost"
    }
    if not costs:
        return
    say = terminalreporter.write_line
    terminalreporter.section(f"{NUM_SLOWEST} slowest tests")
    say("  wall s  processor s")
    slowest = sorted(costs.items(), key=lambda x: -x[1][1])
    for nodeid, (wall, processor) in slowest[:NUM_SLOWEST]:
        say(f"{wall:8.1f} {processor:12.1f}  {nodeid}")
    terminalreporter.section("processor seconds by room")
    say(f"{'room':14} {'tests':>6} {'seconds':>8} {'' if NIGHTLY else 'budget':>7}")
    total = 0.0
    for room, budget in BUDGET.items():
        own = [processor for nodeid, (_, processor) in costs.items() if room_of(nodeid) == room]
        if not own:
            continue
        total += sum(own)
        line = f"{room:14} {len(own):6} {sum(own):8.1f}"
        if not NIGHTLY:  # the budget is that of make test
            line += f" {budget:7}{'  over budget' if sum(own) > budget else ''}"
        say(line)
    say(f"{'all':14} {len(costs):6} {total:8.1f} {'' if NIGHTLY else sum(BUDGET.values()):>7}")
