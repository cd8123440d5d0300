"""What a causal graph says about an effect, and what has to be believed for it to be true.

Belongs here: the answer to "can this effect be computed from observations?" and its assumptions.
Does not belong here: the search for adjustment sets (`acie_native.CausalDag`) or any estimate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Identification", "Status", "assumptions"]


class Status(StrEnum):
    """By which criterion an effect is identified.

    ``NEITHER`` does not mean that the effect cannot be identified: the do-calculus reaches further
    than these two criteria.
    """

    NO_EFFECT = "no directed path"
    BACK_DOOR = "back-door"
    FRONT_DOOR = "front-door"
    NEITHER = "neither criterion"


@dataclass(frozen=True)
class Identification:
    """Whether observations determine the effect of one variable on another.

    Attributes
    ----------
    treatment, outcome
        Cause and effect asked about.
    status
        Criterion that identifies the effect, or ``NEITHER``.
    adjustment
        Minimal set of observed variables to adjust for, in topological order: confounders for the
        back-door criterion, mediators for the front-door criterion.
    assumptions
        What the answer rests on, one sentence each.
    """

    treatment: str
    outcome: str
    status: Status
    adjustment: tuple[str, ...]
    assumptions: tuple[str, ...]

    @property
    def identified(self) -> bool:
        """Whether observations determine the effect, given the assumptions."""
        return self.status is not Status.NEITHER


def assumptions(
    treatment: str, status: Status, adjustment: Sequence[str], latent: Sequence[str]
) -> tuple[str, ...]:
    """List what an answer rests on.

    After Hernan and Robins 2020, "Causal Inference: What If", chapters 3, 7 and 8.

    Parameters
    ----------
    treatment, status, adjustment
        See `Identification`.
    latent
        Unobserved variables of the graph.
    """
    hidden = (
        f"no unobserved variable but {', '.join(latent)} causes two of the graph's variables"
        if latent
        else "no unobserved variable causes two of the graph's variables"
    )
    common = (
        "correct graph: every arrow that is missing stands for an effect that is absent",
        f"causal sufficiency: {hidden}",
        "no selection: whether an object is in the data depends on no effect of these variables",
    )
    if status is Status.NEITHER:
        return common
    interpretation = (
        f"consistency: setting {treatment} to a value does what having that value does",
        "no interference: one object's treatment leaves the others' outcomes alone",
    )
    if status is Status.NO_EFFECT:
        return common + interpretation
    return common + interpretation + (_positivity(treatment, status, adjustment),)


def _positivity(treatment: str, status: Status, adjustment: Sequence[str]) -> str:
    names = ", ".join(adjustment)
    if status is Status.FRONT_DOOR:
        return f"positivity: every value of {names} occurs at every value of {treatment}"
    if not adjustment:
        return f"positivity: every value of {treatment} asked about occurs"
    return f"positivity: every value of {treatment} asked about occurs at every value of {names}"
