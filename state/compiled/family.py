"""The arrays of a family of models, which the machine hands to the family's own functions (`ops/families`)."""

from typing import TYPE_CHECKING, Any, Protocol

from headrace.state.compiled.program import NoArrays

if TYPE_CHECKING:
    from headrace.state.compiled.model_arrays import ModelArrays


class FamilyArrays(Protocol):
    """The arrays of one program's family. They hold a new model at first."""

    def own(self, arrays: "ModelArrays") -> Any:
        """Return the arrays as they are now, a NamedTuple, with room for the names, classes and rows of `arrays`."""

    def help(self, arrays: "ModelArrays") -> None:
        """Do what the machine has stopped for with FAMILY_WANTED. `own` is called afterwards."""

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays."""


class NoFamilyArrays(FamilyArrays):
    """What a family has that needs no arrays of its own."""

    def own(self, arrays: "ModelArrays") -> Any:  # noqa: ARG002 it needs none
        """Return a value whose type says so."""
        return NoArrays()

    @property
    def nbytes(self) -> int:
        """No bytes."""
        return 0
