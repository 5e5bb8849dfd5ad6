"""What is said of a step that `SkipNonFinite` has skipped."""

import logging

logger = logging.getLogger("optirs")


def tell(rule: str, place: str, index: str, skipped: int, consecutive: int) -> None:
    """Says in the log that a step was skipped: by which rule, how often, and where a gradient was not finite."""
    logger.warning(
        "%s: the step was skipped, since element %s of the gradient at %s is not finite (%d skipped, %d in a row)",
        rule, index, place, skipped, consecutive,
    )  # fmt: skip
