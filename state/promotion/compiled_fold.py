"""The fold of `e_process` over many pairs, in compiled code, with the same operations in the same order."""

from typing import Any

from headrace.state.compiled.ops.jit import entry

_BETS = 12
_SPACING = 1_024
_CAP = 1e300


@entry
def fold(table: Any, used: int, count: int, ratios: Any, evidence: Any, best: Any) -> int:  # noqa: PLR0917 compiled functions have only positional arguments
    """Add the pairs `ratios` (float64) to the first `used` rows of `table`, which is full of ones behind them.

    Fills `evidence` and `best`, and returns the number of rows that are in use then.
    """
    for i in range(len(ratios)):
        begins = 0 if used == 0 else _SPACING << (used - 1)
        if count == begins:
            used += 1
        total, most, number = 0.0, -1.0, 0
        for j in range(used):
            products = 0.0
            bet = 1.0
            for k in range(_BETS):
                bet *= 0.5
                value = min(table[j, k] * (1.0 + bet * ratios[i]), _CAP)
                table[j, k] = value
                products += value
            part = products / 12.0 * (1.0 / ((j + 1) * (j + 2)))
            total += part
            if part > most:
                most, number = part, j
        evidence[i] = total + 1.0 / (used + 1)
        best[i] = number
        count += 1
    return used
