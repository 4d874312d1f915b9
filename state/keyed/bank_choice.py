"""Chooses the bank for a model: compiled, or River's own objects."""

import importlib
from typing import Any

from headrace.state.compiled import compiler
from headrace.state.keyed.bank import Bank, RiverBank
from headrace.state.models.learner import RiverLearner
from headrace.state.models.task import ModelError


def bank_of(first: RiverLearner, *, compiles: bool, prior: bool = False) -> Bank:
    """Return an empty bank of copies of `first`, compiled if `compiles` and if the compiler knows all of its steps."""
    # `RiverLearner` fixes the order of sets. Both banks must sum in that order.
    program = compiler.draft(first.model) if compiles else None
    if program is None:
        return RiverBank(first, prior=prior)
    # It imports numba, which takes time.
    module: Any = importlib.import_module("headrace.state.keyed.compiled_bank")
    try:
        bank: Bank = module.CompiledBank(first, program, prior=prior)
    except ModelError:
        # The factory's model has learned something that the compiler can't take over.
        return RiverBank(first, prior=prior)
    return bank
