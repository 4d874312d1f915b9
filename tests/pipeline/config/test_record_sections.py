"""The tables that say how records are read: what they accept, and what each error says."""

from pathlib import Path

import pytest

from headrace.consumers.mapping import RecordMapping
from headrace.pipeline.config.config import Config, ConfigError, load


def loaded(directory: Path, text: str) -> Config:
    file = directory / "headrace.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def test_without_the_table_records_have_the_default_mapping(tmp_path: Path) -> None:
    config = loaded(tmp_path, "")
    assert config.records.mapping == RecordMapping()
    assert config.records.labels_mapping(config.labels).is_default
    assert (config.predictions.features, config.predictions.threshold) == (False, 0.5)


def test_every_key_of_the_mapping_reaches_it(tmp_path: Path) -> None:
    text = """
    [records]
    features = "payload.after"
    id = "payload.after.id"
    ts = "payload.ts"
    ts_unit = "us"
    label = "$headers.fraud"
    include = ["a*", "card.[xy]"]
    exclude = ["*_id"]
    flatten = true
    nulls = "skip"
    empty = "skip"
    numbers = "parse"
    [labels]
    id = "$key"
    label = "after.fraud"
    """
    config = loaded(tmp_path, text)
    mapping = RecordMapping(
        features="payload.after",
        id="payload.after.id",
        ts="payload.ts",
        ts_unit="us",
        label="$headers.fraud",
        include=("a*", "card.[xy]"),
        exclude=("*_id",),
        flatten=True,
        nulls="skip",
        empty="skip",
        numbers="parse",
    )
    assert config.records.mapping == mapping
    labels = RecordMapping(id="$key", label="after.fraud", ts="payload.ts", ts_unit="us", nulls="skip", empty="skip")
    assert config.records.labels_mapping(config.labels) == labels


def test_patterns_in_the_environment_are_a_json_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE__RECORDS__EXCLUDE", '["a*", "b"]')
    assert loaded(tmp_path, "").records.exclude == ("a*", "b")
    monkeypatch.setenv("HEADRACE__RECORDS__EXCLUDE", "a*,b")
    with pytest.raises(ConfigError, match="HEADRACE__RECORDS__EXCLUDE in the environment is not a list") as caught:
        loaded(tmp_path, "")
    assert caught.value.hint == """write it as JSON: HEADRACE__RECORDS__EXCLUDE='["FIRST", "SECOND"]'"""


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ('id = "a..b"', "records.id = 'a..b'", "put one dot between two names"),
        ('label = ".x"', "records.label", "put one dot"),
        ('ts = "$headers."', "records.ts", "write $headers.NAME"),
        ('id = "$header.x"', "records.id", "$headers.NAME, $key or $timestamp"),
        ('features = "$key"', "records.features = '$key'", "write its path, or an empty one"),
        ('features = "a."', "records.features", "put one dot"),
        ('ts_unit = "minutes"', "records.ts_unit", "'ms'"),
        ('include = ["{a,b}"]', "records.include", "use * for any text"),
        ('exclude = ["card["]', "records.exclude", "a [ without its ]"),
        ('exclude = ["!a"]', "records.exclude", "exclude leaves features out"),
        ('transform = "model"', "records.transform", "pattern"),
        ('transform = "model:f"\nfeatures = ""\nts_unit = "s"', "records", "features and ts_unit would have no effect"),
        ('ts = "$timestamp"\nts_unit = "s"', "records", "is in milliseconds: remove ts_unit"),
        ('ts = ""\nts_unit = "iso"', "records", "names no field: remove ts_unit"),
        ('features = "a.b"\nid = "a"', "records", "id = 'a' is an object that holds the features"),
        ('features = "a"\nlabel = "a"', "records", "label = 'a' is an object that holds the features"),
        ('nulls = "drop"', "records.nulls", "'refuse' or 'skip'"),
        ("value_bytes_max = 0", "records.value_bytes_max", "greater than"),
        ('[labels]\nid = ""', "labels.id", "at least 1 character"),
        ('[labels]\nlabel = "a..b"', "labels.label = 'a..b'", "put one dot"),
        ("[predictions]\nthreshold = 1.5", "predictions.threshold = 1.5", "less than or equal to 1"),
    ],
)
def test_a_mapping_that_can_not_be_is_refused_with_its_key_and_what_to_write(
    tmp_path: Path, text: str, key: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, f"[records]\n{text}\n")
    assert f"{key}" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("records", "labels", "found"),
    [
        ("avro", "", ("avro", "avro")),
        ("json", "avro", ("avro", "avro")),
        ("protobuf", "json", ("json", "protobuf")),
        ("json", "", ("json", "json")),
    ],
)
def test_labels_have_the_records_format_or_one_of_the_two_is_json(
    tmp_path: Path, records: str, labels: str, found: tuple[str, str]
) -> None:
    text = f'topics.labels = "labels"\nrecords.format = "{records}"\nlabels.format = "{labels}"\n'
    config = loaded(tmp_path, text + 'registry.url = "http://127.0.0.1:1"\n')
    assert (config.label_format, config.schema_format) == found


def test_labels_of_a_third_format_and_a_registry_that_is_missing_are_refused_by_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'labels\.format = "protobuf" does not go with records\.format = "avro"'):
        loaded(tmp_path, 'records.format = "avro"\nlabels.format = "protobuf"\nregistry.url = "http://127.0.0.1:1"\n')
    with pytest.raises(ConfigError, match=r'labels\.format = "avro" needs a schema registry: set registry\.url'):
        loaded(tmp_path, 'labels.format = "avro"\n')
