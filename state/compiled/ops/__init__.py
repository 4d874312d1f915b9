"""The compiled operations of a program, with River's arithmetic to the last bit.

Imported by `state.compiled.model_arena`, `state.compiled.program_runner`, `state.compiled.river`,
`state.compiled.vocabulary`, `state.promotion`.
"""
