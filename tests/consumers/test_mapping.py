import pytest

from headrace.consumers.mapping import FieldPath, RecordMapping, check_pattern, header_value, path_of


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", FieldPath("nowhere")),
        ("id", FieldPath("value", ("id",))),
        ("payload.after.id", FieldPath("value", ("payload", "after", "id"))),
        ("$key", FieldPath("key")),
        ("$timestamp", FieldPath("timestamp")),
        ("$headers.ce_id", FieldPath("header", ("ce_id",))),
        ("$headers.x.y", FieldPath("header", ("x.y",))),
    ],
)
def test_a_path_is_read(text: str, path: FieldPath) -> None:
    assert path_of(text) == path


@pytest.mark.parametrize("text", ["a..b", ".a", "a.", ".", "$headers", "$headers.", "$header.x", "$key.id", "$value"])
def test_a_path_that_leads_nowhere_by_mistake_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"empty: put|header is missing: write|must be \$headers"):
        path_of(text)


def test_the_default_mapping_takes_all_features_and_none_of_its_own_fields_is_among_them() -> None:
    mapping = RecordMapping()
    assert mapping.is_default
    assert mapping.takes_all
    assert mapping.changed == {}


def test_patterns_are_of_the_shell_and_exclude_wins() -> None:
    mapping = RecordMapping(features="", include=("a*", "card.*"), exclude=("*_id", "card.[xy]"))
    kept = ["a", "amount", "a.b", "card.country", "card.a.b"]
    left = ["b", "card", "a_id", "card.x", "A", "id", "ts", "label"]
    assert [name for name in kept + left if mapping.takes(name)] == kept
    assert [name for name in kept + left if mapping.leaves_out(name)] == ["a_id", "card.x", "id", "ts", "label"]


def test_the_fields_of_id_time_and_label_are_no_features_where_they_lie_among_them() -> None:
    below = RecordMapping(features="after", id="after.key", ts="source.ts", label="after.truth.fraud")
    assert below.own_fields == {"key"}, "without flatten a field of an inner object is no feature"
    assert RecordMapping(features="", id="meta.id", ts="", flatten=True).own_fields == {"meta.id", "label"}
    assert RecordMapping(id="$key", ts="$timestamp", label="$headers.truth", features="").own_fields == frozenset()


def test_what_differs_from_the_defaults_is_told_by_name() -> None:
    assert RecordMapping(flatten=True, exclude=("a",)).changed == {"flatten": True, "exclude": ("a",)}
    assert not RecordMapping(empty="skip").is_default


@pytest.mark.parametrize("pattern", ["amount", "card.*", "?x", "[a-c]x", "[!a]x", "[]]", "[[]x", "price ($)", "*"])
def test_a_shell_pattern_is_accepted(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize("pattern", ["", "!amount", "^amount$", "card[", "[]", "card.{a,b}", "card\\.x", "[ab]["])
def test_another_kind_of_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        check_pattern(pattern)


def test_of_several_headers_of_one_name_the_last_counts() -> None:
    assert header_value([("a", b"1"), ("b", b"2"), ("a", b"3")], "a") == b"3"
    assert header_value([("a", None)], "a") is None
    assert header_value(None, "a") is None
