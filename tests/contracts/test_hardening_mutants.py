"""Bugs that are seeded into the locks, one at a time, and the test that each turns red.

A lock is a check of bytes that somebody else may have written: in the store, in a topic, in a file. None of these
needs a broker; those that do stand in `tests/e2e/test_mutants.py`.
"""

from pathlib import Path

import pytest
from mutant import Mutant, assert_caught

MUTANTS: list[Mutant] = [
    Mutant(
        name="scope unchecked",
        file="pipeline/origin.py",
        old="if snapshot.scope != scope:",
        new="if False:",
        test="pipeline/test_origin.py::test_another_scope_is_named_and_no_release_of_river_is_asked_for",
        says="assert found is not None",
    ),
    Mutant(
        name="code unwatched",
        file="state/spec.py",
        old="sums = definition.checksums(frozenset(own))",
        new="sums: dict[str, str] = {}",
        test="state/test_definition.py::test_a_subclass_of_rivers_and_what_it_was_given_are_found",
        says="assert [] ==",
    ),
    Mutant(
        name="marks of any model",
        file="pipeline/origin.py",
        old="if not last.records or not last.model:",
        new="if True:",
        test="pipeline/test_origin.py::test_a_mark_of_another_model_or_scope_is_told_and_an_empty_one_tells_nothing",
        says="assert (found is None) == fits",
    ),
    Mutant(
        name="time of any record",
        file="state/moment.py",
        old="limit_ms = max(most, most_logged) + self._lead_ms",
        new="limit_ms = 2**63",
        test="state/test_moment.py::test_a_record_a_day_ahead_moves_nothing_and_is_told",
        says="assert not True",
    ),
    Mutant(
        name="clocks of keys unwatched",
        file="state/moment.py",
        old="            if not self.tick(told_ms, logged):",
        new="            if not self.tick(told_ms, 2**62):",
        test="pipeline/test_lane.py::test_one_fast_clock_makes_no_key_forgotten_in_both_lanes",
        says="the fast lane takes it",
    ),
    Mutant(
        name="partitioners not compared",
        file="pipeline/placement.py",
        old='if first and second and ways != {"other"}',
        new="if first and second and not ways",
        test="pipeline/test_placement.py::test_labels_that_are_placed_in_another_way_name_both_partitioners_and_what_to_set",
        says="ValueError: not enough values",
    ),
    Mutant(
        name="stored keys not looked at",
        file="pipeline/placement.py",
        old="kept = judge(stored, partitions)",
        new="kept = judge({}, partitions)",
        test="pipeline/test_placement.py::test_the_stores_keys_are_looked_at_and_a_store_that_is_away_is_no_harm",
        says="IndexError",
    ),
    Mutant(
        name="an empty key is none",
        file="pipeline/engine.py",
        old="if record.key is None:",
        new="if not record.key:",
        test="pipeline/test_lane.py::test_an_empty_key_is_a_key_and_none_is_refused_in_both_lanes",
        says="{'no_key': 3}",
    ),
    Mutant(
        name="any key is shown",
        file="pipeline/disclosure.py",
        old="return value if may_show(key) else HIDDEN",
        new="return _plain(value)",
        test="pipeline/test_disclosure.py::test_show_prints_what_is_harmless_and_hides_all_else",
        says="assert 'm4rk-hunter2' not in",
    ),
    Mutant(
        name="errors quote any key",
        file="pipeline/config.py",
        old="hidden = not may_show(key) or any(",
        new="hidden = any(",
        test="pipeline/test_disclosure.py::test_no_error_has_the_value_of_a_variable_either[property]",
        says="assert 'm4rk-hunter2' not in",
    ),
    Mutant(
        name="what a reference put in is shown",
        file="pipeline/disclosure.py",
        old="if key in secrets:",
        new="if False:",
        test="pipeline/test_reference.py::test_what_a_reference_put_in_is_hidden_whatever_its_key",
        says="assert 'm4rked' not in",
    ),
    Mutant(
        name="standard output is everyone's",
        file="pipeline/output.py",
        old="os.dup2(2, 1)",
        new="os.dup(2)",
        test="pipeline/test_output.py::test_data_is_all_that_standard_output_gets_whatever_the_user_s_code_prints"
        "[model explain]",
        says="JSONDecodeError",
    ),
    Mutant(
        name="letters that a terminal lacks",
        file="pipeline/output.py",
        old="errors=_JSON if json else _WORDS",
        new='errors="strict"',
        test="pipeline/test_output.py::test_every_command_writes_to_a_terminal_of_any_encoding[cp037-environment2]",
        says="Unicode",
    ),
    Mutant(
        name="a folder of anybody's",
        file="pipeline/rundir.py",
        old="if _is_own(found) and not found.st_mode & _OTHERS_WRITE:",
        new="if _is_own(found):",
        test="pipeline/test_rundir.py::test_what_somebody_else_has_put_there_is_refused_and_not_touched"
        "[True-plant_open_folder]",
        says="DID NOT RAISE",
    ),
    Mutant(
        name="links are followed",
        file="pipeline/rundir.py",
        old="_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        new="_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        test="pipeline/test_rundir.py::test_what_somebody_else_has_put_there_is_refused_and_not_touched[True-plant_link]",
        says="DID NOT RAISE",
    ),
    Mutant(
        name="the metrics' port waits",
        file="pipeline/exposition.py",
        old="if left <= 0 or len(request) > REQUEST_BYTES_MAX:",
        new="if len(request) > REQUEST_BYTES_MAX:",
        test="pipeline/test_exposition.py::test_a_client_that_drips_is_hung_up_on_in_time",
        says="assert",
        also=("pipeline/exposition.py", "connection.settimeout(left)", "connection.settimeout(60)"),
    ),
    Mutant(
        name="only the value is weighed",
        file="producers/parcel.py",
        old="record_bytes(keys[place], values[place], self.headers.get(place))",
        new="record_bytes(None, values[place], None)",
        test="pipeline/test_engine.py::"
        "test_what_its_topic_does_not_take_is_learned_and_only_its_prediction_is_a_dead_letter",
        says="too_large",
    ),
    Mutant(
        name="a batch that was refused keeps its mark",
        file="pipeline/fitting.py",
        old="mark=mark.withdraw(output.mark, before - len(result.predictions)),",
        new="mark=output.mark,",
        test="pipeline/test_fitting.py::"
        "test_a_limit_that_was_lowered_is_read_anew_and_what_it_excludes_is_dead_lettered",
        says="Counts(",
    ),
    Mutant(
        name="a foreign letter is replayed",
        file="pipeline/replay.py",
        old="return origin in {self.features, self.labels} or (not origin and self.is_own)",
        new="return bool(origin) or self.is_own",
        test="pipeline/test_replay.py::test_a_dead_letter_of_another_topic_is_foreign_in_every_dialect[connect]",
        says="assert not True",
    ),
    Mutant(
        name="headers of a replay need no proof",
        file="producers/proof.py",
        old='return claim if secret and hmac.compare_digest(wanted, named[REPLAY_PROOF] or b"") else NEVER',
        new="return claim if wanted else NEVER",
        test="pipeline/test_engine.py::"
        "test_a_record_that_carries_the_headers_of_a_replay_by_itself_is_learned_and_never_was_replayed[headers2]",
        says="assert (1, 0) == (1, 1)",
    ),
    Mutant(
        name="a store's words are told as they are",
        file="pipeline/output.py",
        old='super().write(_CREDENTIALS.sub("***@", self._conceal(text)))',
        new="super().write(text)",
        test="pipeline/test_secrets.py::test_no_command_prints_or_writes_a_secret[NOAUTH-unknown property]",
        says="assert 'm4rk-hunter2' not in",
        also=(
            "pipeline/doctor.py",
            "config.conceal(finding.message), config.conceal(finding.hint)",
            "finding.message, finding.hint",
        ),
    ),
    Mutant(
        name="a sink's words are told as they are",
        file="producers/webhook.py",
        old="self._conceal(_words(answer, until=until))",
        new="_words(answer, until=until)",
        test="producers/test_webhook.py::test_a_server_that_quotes_the_request_does_not_get_its_secrets_told[422-dumps]",
        says="assert not any",
    ),
    Mutant(
        name="a note tells what it heard",
        file="pipeline/worker.py",
        old='"reason": self._config.conceal(str(whole.get("reason", "")))',
        new='"reason": str(whole.get("reason", ""))',
        test="pipeline/test_secrets.py::test_a_note_that_says_why_a_worker_waits_has_no_secret",
        says="assert '***' in",
    ),
    Mutant(
        name="a question asked before confirms",
        file="pipeline/identity.py",
        old="self._confirmed_at = began",
        new="self._confirmed_at = time.monotonic()",
        also=(
            "pipeline/identity.py",
            "self._asked_at, self._away, self._is_told = began, away, False",
            "self._asked_at, self._away, self._is_told = time.monotonic(), away, False",
        ),
        test="pipeline/test_identity.py::test_a_question_that_was_asked_before_confirms_nothing",
        says="DID NOT RAISE",
    ),
    Mutant(
        name="a topic made again is the old one",
        file="pipeline/standing.py",
        old="return bool(told and found) and told != found",
        new="return False",
        test="pipeline/test_standing.py::test_what_does_not_fit_is_named_with_what_to_do"
        "[a topic made again, seen by the mark]",
        says="DID NOT RAISE",
    ),
    Mutant(
        name="an offset without a mark is gone on from",
        file="pipeline/standing.py",
        old="if place.committed > saved.offset:",
        new="if False:",
        test="pipeline/test_standing.py::test_what_does_not_fit_is_named_with_what_to_do[an offset set forward]",
        says="DID NOT RAISE",
    ),
    Mutant(
        name="an offset past the log's end is nothing to do",
        file="consumers/places.py",
        old="if self.committed is not None and self.committed > self.high:",
        new="if False:",
        test="pipeline/test_status.py::test_the_lag_of_a_group_that_stands_past_the_end_of_a_log_is_not_known",
        says="assert (",
    ),
    Mutant(
        name="another project's models are overwritten",
        file="pipeline/standing.py",
        old="if saved is not None and saved.topic != facts.topic.name and",
        new="if False and",
        test="pipeline/test_standing.py::test_what_does_not_fit_is_named_with_what_to_do"
        "[another project of the same name]",
        says="Error",
    ),
    Mutant(
        name="a record that is refused is waited for",
        file="producers/fault.py",
        old="        INVALID_RECORD INVALID_TIMESTAMP",
        new="        INVALID_TIMESTAMP",
        test="contracts/test_faults.py::test_a_record_that_kafka_will_never_take_is_no_outage[INVALID_RECORD]",
        says="AssertionError",
    ),
    Mutant(
        name="attributes of any name",
        file="state/trust.py",
        old='if (name.startswith("__") and name.endswith("__")) or len(name) > _NAME_MAX:',
        new="if False:",
        test="state/test_model_codec.py::test_the_chain_that_ran_code_can_not_be_written_down",
        says="Regex pattern did not match",
    ),
    Mutant(
        name="classes of any module",
        file="state/trust.py",
        old="if not (is_ours or is_listed or name in _DATA or self._is_users(module_name)):",
        new="if False:",
        test="state/test_model_codec.py::test_what_is_not_trusted_can_not_be_named[subprocess:Popen]",
        says="Regex pattern did not match",
    ),
    Mutant(
        name="functions in any place",
        file="state/trust.py",
        old="elif (key, place) not in self._places and not (place in {FACTORY, ARGUMENT} and _is_ours(value)):",
        new="elif False:",
        test="state/test_model_codec.py::test_a_function_may_stand_where_the_models_own_stood_and_nowhere_else",
        says="DID NOT RAISE",
    ),
    Mutant(
        name="wild places in native states",
        file="state/values.py",
        old="_require(key not in _PLACES_MAX or filled[key] <= _PLACES_MAX[key], ",
        new="_require(True, ",
        test="state/test_model_codec.py::test_wild_values_are_refused[a place beyond MT19937's state]",
        says="it was made",
    ),
    Mutant(
        name="a file that hides a module",
        file="state/beside.py",
        old="for name in sorted(_stems(directory) - _HARMLESS):",
        new="for name in ():",
        test="state/test_learner.py::test_a_file_that_hides_a_module_of_ours_or_of_a_library_is_refused[state]",
        says="DID NOT RAISE",
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_seeded_bug_turns_its_test_red(mutant: Mutant, tmp_path: Path) -> None:
    assert_caught(mutant, tmp_path)
