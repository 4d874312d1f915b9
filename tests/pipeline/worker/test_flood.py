import pytest

from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.refusal import Refusal
from headrace.pipeline.engine.dead_letter import DeadLetter
from headrace.pipeline.worker.flood import FloodError, flood_of


def letters(code: str, field: str, message: str, *, count: int = 3) -> list[DeadLetter]:
    refusal = Refusal(code, "decode", message, field)
    return [DeadLetter(Record(2, n, 0, None, b"", None), refusal, "in", "fraud") for n in range(10, 10 + count)]


def test_a_flood_names_the_most_frequent_code_and_field_with_an_example() -> None:
    flood = flood_of([*letters("not_json", "", "no"), *letters("wrong_type", "amount", "amount is null", count=4)])
    assert flood.reason == (
        "flood of bad records (wrong_type in amount): nearly every record is refused, for example "
        "in[2]@10: amount is null; none of this batch was dead-lettered"
    )
    assert "fix their producer" in str(flood)
    assert str(flood).endswith("then start again")


@pytest.mark.parametrize(
    ("code", "what", "remedy"),
    [
        ("learn_failed", "the model raises an error on nearly every record", "correct the code of the model"),
        ("transform_failed", "records.transform fails on nearly every record", "correct the function"),
    ],
)
def test_the_users_own_code_is_named_as_the_fault_and_not_the_records(code: str, what: str, remedy: str) -> None:
    flood = flood_of(letters(code, "", "the model raised ValueError: math\n domain\terror"))
    assert flood.what == f"{what}, for example on in[2]@10: the model raised ValueError: math domain error"
    assert "producer" not in str(flood)
    assert remedy in FloodError(flood).hint
    assert "dlq.flood_guard = false" in FloodError(flood).hint


def test_the_example_is_one_line_of_bounded_length_and_names_the_labels_topic() -> None:
    record = LabelRecord(0, 7, 0, None, b"", None)
    flood = flood_of([DeadLetter(record, Refusal("bad_label", "join", "x" * 5_000, "truth"), "labels", "fraud")])
    assert "(bad_label in truth)" in flood.what
    assert "labels[0]@7" in flood.what
    assert len(flood.what) < 500
