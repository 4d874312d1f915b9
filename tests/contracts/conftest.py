"""Says at the end of a run how near compiled models were to River's."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for key, value in report.user_properties
        if key == "census"
    ]
    if not rows:
        return
    numbers, same, faults = (sum(row[at] for row in rows) for at in (1, 2, 4))
    widest = max(rows, key=lambda row: row[3])
    exact = sum(row[1] == row[2] for row in rows)
    terminalreporter.write_sep("=", "compiled models beside River's")
    terminalreporter.write_line(
        f"{len(rows)} models, {exact} of them to the bit; {same} of {numbers} numbers to the bit, {faults} faults; "
        f"largest relative difference {widest[3]:.2g} ({widest[0]})"
    )
    if terminalreporter.verbosity > 0:
        for row in sorted(rows, key=lambda row: -row[3]):
            terminalreporter.write_line(
                f"{row[0]:50} {row[2]:>7} of {row[1]:>7} equal  {row[3]:8.2g}  {row[4]} faults  {row[5]} differ"
            )
