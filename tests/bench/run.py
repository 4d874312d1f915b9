"""`make bench`: compares Headrace's speed with its alternatives, on the same records in the same run.

It also measures the growth of the cost, the latency, and a restart. The results are ratios, not times: the state of the
machine affects both sides of a ratio, and every second repeat runs in the reverse order. The bench never fails because
of speed. It fails if predictions are missing, or differ from those of the other programs.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import case
from comparison import PARTS, Comparison, Plan
from confluent_kafka import KafkaException
from lineup import INSTALL, PEERS_PYTHON, TITLES, Lineup
from meter import PeerFailed

from headrace.consumers.source import SourceAway
from headrace.pipeline.embedded import EmbeddedError
from headrace.pipeline.engine import columnar
from headrace.state.store.store_errors import StoreAway

_RECORDS_MIN = 20_000
# It takes millions of records, so it runs only if it is named.
_LONG = ("memory",)
_GROUPS = {"growth": case.PARTS, "all": PARTS}


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _parts(text: str) -> list[str]:
    """Parse the names of parts or of groups of parts, separated by commas."""
    asked = {part for name in text.split(",") for part in _GROUPS.get(name, (name,))}
    return _known(asked, PARTS, "part")


def _programs(text: str) -> list[str]:
    return _known(set(text.split(",")), tuple(TITLES), "peer")


def _known(asked: set[str], names: Sequence[str], what: str) -> list[str]:
    unknown = asked - set(names)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no {what} is called {', '.join(sorted(unknown))}; there are {', '.join(names)}"
        )
    return [name for name in names if name in asked]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare Headrace's speed with its alternatives.")
    add = parser.add_argument
    usual = [part for part in PARTS if part not in _LONG]
    add("--records", type=int, default=200_000, metavar="N", help="records of each peer's run; default: %(default)s")
    add("--growth-records", type=int, metavar="N", help="records of all other runs; default: half of --records")
    add(
        "--million-records",
        type=int,
        metavar="N",
        help="records of the run with a million keys; default: as with fewer keys",
    )
    add(
        "--memory-records",
        type=int,
        default=10_000_000,
        metavar="N",
        help="records of the part memory; default: %(default)s",
    )
    add("--behind", type=int, default=100_000, metavar="N", help="records to relearn in recovery; default: %(default)s")
    add("--seconds", type=float, default=6.0, metavar="S", help="time of each latency; default: %(default)s")
    add("--repeats", type=int, default=3, metavar="N", help="default: %(default)s")
    add("--partitions", type=int, default=2, metavar="N", help="default: %(default)s")
    add("--only", type=_parts, default=usual, metavar="PARTS", help=f"some of {','.join(PARTS)}; {', '.join(_GROUPS)}")
    add("--peers", type=_programs, default=list(TITLES), metavar="NAMES", help=f"some of {','.join(TITLES)}")
    add("--peers-python", type=Path, default=PEERS_PYTHON, metavar="FILE", help="the Python with the frameworks")
    add("--json", type=Path, metavar="FILE", help="also write all figures to a file")
    add("--plots", type=Path, metavar="DIR", help="draw the figures as SVG files, from this run or with --from")
    add("--from", type=Path, dest="drawn", metavar="FILE", help="measure nothing, and draw a file of --json")
    given = parser.parse_args()
    given.growth_records = given.growth_records or max(_RECORDS_MIN, given.records // 2)
    given.million_records = given.million_records or case.LONGER_TIMES * given.growth_records
    counts = (given.records, given.growth_records, given.million_records, given.behind)
    if given.repeats < 1 or given.partitions < 1 or min(counts) < _RECORDS_MIN:
        parser.error(f"at least {_RECORDS_MIN:,} records, 1 repeat and 1 partition are needed")
    if given.memory_records < 1_000_000:
        parser.error("at least a million --memory-records are needed")
    return given


def _measure(given: argparse.Namespace, lineup: Lineup) -> str:
    """Measure, and return all figures as JSON. Raises the error that stops it."""
    plan = Plan(
        count=given.records - given.records % given.partitions,
        growth_count=given.growth_records,
        million_count=given.million_records,
        memory_count=given.memory_records,
        behind=given.behind - given.behind % given.partitions,
        latency_s=given.seconds,
        repeats=given.repeats,
        partitions=given.partitions,
        parts=given.only,
        programs=lineup.present(given.peers),
    )
    # On a new machine the first run would have to wait for this.
    columnar.warm()
    comparison = Comparison(plan, lineup)
    comparison.run()
    return json.dumps(comparison.told, indent=2) + "\n"


def _draw(lineup: Lineup, text: str, directory: Path) -> int:
    """Draw the figures."""
    done = subprocess.run(lineup.plotter(str(directory)), input=text, text=True, check=False)
    return done.returncode


def main() -> int:
    """Read the arguments, measure, draw, and return the exit code."""
    # Both signals must also end the processes that it has started.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    given = _arguments()
    lineup = Lineup(given.peers_python)
    if lineup.missing and given.drawn is None and {"peers", "latency"}.intersection(given.only):
        _say(f"bench: not installed, and left out: {', '.join(lineup.missing)}\n  → {INSTALL}")
    if given.plots is not None and not lineup.plots:
        _say(f"bench: the plots need matplotlib\n  → {INSTALL}")
        return 1
    try:
        text = _measure(given, lineup) if given.drawn is None else given.drawn.read_text()
    except (EmbeddedError, PeerFailed) as error:
        _say(f"bench: {error}\n  → {error.hint}")
        return 1
    except (KafkaException, SourceAway, StoreAway, TimeoutError, subprocess.TimeoutExpired) as error:
        _say(f"bench: {error}\n  → run it again when the machine is less busy")
        return 1
    except KeyboardInterrupt:
        return 130
    if given.json is not None and given.drawn is None:
        given.json.write_text(text)
    return 0 if given.plots is None else _draw(lineup, text, given.plots)


if __name__ == "__main__":
    sys.exit(main())
