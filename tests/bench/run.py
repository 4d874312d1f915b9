"""`make bench`: how fast Headrace is beside what one would write by hand, on the same records in the same run.

Ratios, not times: the machine's mood is in both sides of a ratio, and each repeat is turned round, so that none
is always the first. Nothing here fails for being slow; it fails when a peer's answers are not all there.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import report
from confluent_kafka import KafkaException
from meter import PeerFailed, Speed, speed, watch
from topic import FEATURES, Board, digest

from consumers.source import SourceAway
from pipeline.embedded import Addresses, EmbeddedError, Stack
from state.store import Store, StoreAway

_HERE = Path(__file__).parent
_FEATURES = "bench.features"
# A broker that gets no time on a machine that is full must not be taken for a dead one.
_PATIENT = {"broker.session.timeout.ms": "30000"}


class Bench:
    """Peers on one stack, which all read the same topic of `count` records."""

    def __init__(self, addresses: Addresses, directory: Path, *, count: int, partitions: int) -> None:
        self._addresses = addresses
        self._directory = directory
        self._count = count
        self._partitions = partitions
        self._board = Board(addresses.kafka, partitions=partitions)
        self._digest = ""
        self.snapshots = 0

    def prepare(self) -> None:
        """Fill the topic and write Headrace's project."""
        self._board.make(_FEATURES)
        self._board.fill(_FEATURES, self._count)
        shutil.copy(_HERE / "model.py", self._directory)

    def measure(self, peer: str, repeat: int) -> Speed:
        """Run one peer over all records, check its answers, and return its speed. Raises PeerFailed."""
        name = f"bench.{peer}.{repeat}"
        self._board.make(name)
        command, env = self._headrace(name) if peer == "headrace" else self._by_hand(peer, name)
        log = self._directory / f"{name}.log"
        samples = watch(command, env=env, log=log, count=self._count, ends=lambda: self._board.ends(name))
        values = self._board.read(name)
        self._check(peer, values)
        if peer == "headrace":
            self._check_promise(name, sum(samples[-1].ends))
        return speed(samples, [sorted(values[partition]) for partition in range(self._partitions)], self._count)

    def _by_hand(self, peer: str, name: str) -> tuple[list[str], dict[str, str]]:
        words = [peer, self._addresses.kafka, _FEATURES, name, str(self._count)]
        return [sys.executable, str(_HERE / "peer.py"), *words], dict(os.environ)

    def _headrace(self, name: str) -> tuple[list[str], dict[str, str]]:
        file = self._directory / f"{name}.toml"
        file.write_text(
            f'name = "{name}"\n'
            f'[kafka]\nbootstrap_servers = "{self._addresses.kafka}"\n'
            f'[topics]\nfeatures = "{_FEATURES}"\npredictions = "{name}"\n'
            f'[redis]\nurl = "{self._addresses.redis}"\n'
        )
        env = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
        return [sys.executable, "-m", "pipeline", "run", "--until-end", "-c", str(file)], env

    def _check(self, peer: str, values: dict[int, dict[int, bytes]]) -> None:
        found = sum(len(held) for held in values.values())
        if found != self._count:
            raise PeerFailed(f"{peer} gave {found} answers to {self._count} records")
        if peer == "copy":
            return
        answers = digest(values)
        self._digest = self._digest or answers
        if answers != self._digest:
            raise PeerFailed(f"{peer} did not predict what the others did")

    def _check_promise(self, name: str, ends: int) -> None:
        """See that the run was what the table says it was: transactions and snapshots."""
        if ends <= self._count:
            raise PeerFailed("headrace wrote without transactions")
        store = Store(self._addresses.redis, name=name)
        notes = [store.notes(partition) for partition in range(self._partitions)]
        if not all(held and held[0]["learned"] == self._count // self._partitions for held in notes):
            raise PeerFailed("headrace did not save its models")
        self.snapshots = sum(held[0]["version"] for held in notes)


def run(*, count: int, repeats: int, partitions: int, file: Path | None) -> None:
    """Measure all peers in turn and print what came out. Raises PeerFailed, EmbeddedError."""
    machine = report.machine()
    with (
        tempfile.TemporaryDirectory(prefix="headrace-bench-") as directory,
        Stack(progress=_say, kafka_settings=_PATIENT) as stack,
    ):
        if stack.addresses.kind == "mock":
            raise EmbeddedError("the mock cluster knows no transactions", hint="measure where Kafka can be fetched")
        bench = Bench(stack.addresses, Path(directory), count=count, partitions=partitions)
        _say(f"filling a topic with {count:,} records")
        bench.prepare()
        runs = [_repeat(bench, repeat, repeats) for repeat in range(repeats)]
        snapshots = bench.snapshots
    found = report.summary(runs)
    what = (
        f"run:     {count:,} records of {FEATURES} features, {partitions} partitions; median (min-max) of "
        f"{repeats} repeats; headrace saved {snapshots} snapshots on the way"
    )
    sys.stdout.write("\n".join([report.note(machine), what, report.table(found)]) + "\n")
    if file is not None:
        told = [{p: {"records_s": s.records_s, "cpu_us": s.cpu_us} for p, s in one.items()} for one in runs]
        arguments = {"records": count, "repeats": repeats, "partitions": partitions}
        whole = {"machine": machine, "arguments": arguments, "summary": found, "runs": told}
        file.write_text(json.dumps(whole, indent=2) + "\n")


def _repeat(bench: Bench, repeat: int, repeats: int) -> dict[str, Speed]:
    peers = list(report.TITLES) if repeat % 2 == 0 else list(reversed(report.TITLES))
    speeds: dict[str, Speed] = {}
    for peer in peers:
        speeds[peer] = bench.measure(peer, repeat)
        _say(f"{repeat + 1}/{repeats} {report.TITLES[peer]}: {speeds[peer].records_s:,.0f} records/s")
    return speeds


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main() -> int:
    """Read the arguments, measure, and return the exit code."""
    parser = argparse.ArgumentParser(description="Measure Headrace beside hand-written loops, on a Kafka of its own.")
    parser.add_argument("--records", type=int, default=100_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--partitions", type=int, default=2, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file as well")
    given = parser.parse_args()
    if given.repeats < 1 or given.partitions < 1 or given.records < 20_000:
        parser.error("at least 20,000 records, 1 repeat and 1 partition are needed")
    # As many in each partition, so that each partition's end can be told beforehand.
    count = given.records - given.records % given.partitions
    try:
        run(count=count, repeats=given.repeats, partitions=given.partitions, file=given.json)
    except (EmbeddedError, PeerFailed) as error:
        _say(f"bench: {error}\n  → {error.hint}")
        return 1
    except (KafkaException, SourceAway, StoreAway, TimeoutError) as error:
        _say(f"bench: {error}\n  → run it again when the machine is less busy")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
