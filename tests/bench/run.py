"""`make bench`: how fast Headrace is beside what one would pick instead, on the same records in the same run.

Then how its cost grows, how long a record takes, and how long a restart. Ratios, not times: the machine's mood is in
both sides of a ratio, and each repeat is turned round, so that none is always the first. Nothing here fails for being
slow; it fails when answers are not all there, or not the ones that the others gave.
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
from headrace.state.keyed.rows import kernel
from headrace.state.store.store_errors import StoreAway

_RECORDS_MIN = 20_000
# Millions of records go through it: only for who asks.
_LONG = ("memory",)
_GROUPS = {"growth": case.PARTS, "all": PARTS}


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _parts(text: str) -> list[str]:
    """Read the names of parts, or of groups of them, with commas between them."""
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
    parser = argparse.ArgumentParser(description="Measure Headrace beside what one would pick instead of it.")
    add = parser.add_argument
    usual = [part for part in PARTS if part not in _LONG]
    add("--records", type=int, default=200_000, metavar="N", help="records of the peers' runs; default: %(default)s")
    add("--growth-records", type=int, metavar="N", help="of all other runs; default: half of --records")
    add("--million-records", type=int, metavar="N", help="of a million keys, if others than of fewer")
    add("--memory-records", type=int, default=10_000_000, metavar="N", help="of the part memory; default: %(default)s")
    add("--behind", type=int, default=100_000, metavar="N", help="records behind in recovery; default: %(default)s")
    add("--seconds", type=float, default=6.0, metavar="S", help="of each latency; default: %(default)s")
    add("--repeats", type=int, default=3, metavar="N", help="default: %(default)s")
    add("--partitions", type=int, default=2, metavar="N", help="default: %(default)s")
    add("--only", type=_parts, default=usual, metavar="PARTS", help=f"of {','.join(PARTS)}; {', '.join(_GROUPS)}")
    add("--peers", type=_programs, default=list(TITLES), metavar="NAMES", help=f"of {','.join(TITLES)}")
    add("--peers-python", type=Path, default=PEERS_PYTHON, metavar="FILE", help="the Python that has the frameworks")
    add("--json", type=Path, metavar="FILE", help="write all figures to a file as well")
    add("--plots", type=Path, metavar="DIR", help="draw them as SVG files, from this run or with --from")
    add("--from", type=Path, dest="drawn", metavar="FILE", help="measure nothing, and draw what --json wrote")
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
    """Measure, and return all figures as JSON. Raises what stops it."""
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
    # Where none has run here before, the first run would stand still while this goes on.
    columnar.warm()
    kernel()
    comparison = Comparison(plan, lineup)
    comparison.run()
    return json.dumps(comparison.told, indent=2) + "\n"


def _draw(lineup: Lineup, text: str, directory: Path) -> int:
    """Draw the figures."""
    done = subprocess.run(lineup.plotter(str(directory)), input=text, text=True, check=False)
    return done.returncode


def main() -> int:
    """Read the arguments, measure, draw, and return the exit code."""
    # However it is asked to end, it takes along what it has started.
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
