"""Errors of this project as errors of vLLM, which its server answers with status 400."""

from vllm.exceptions import VLLMValidationError

from senna.errors import DataError


def refusal(error: DataError, parameter: str | None = None) -> VLLMValidationError:
    """Return the error for the client; ``parameter`` is the field that it concerns, by default the error's record."""
    named = error.record if parameter is None else parameter
    reason = error.message + (f"; {error.remedy}" if error.remedy else "")
    return VLLMValidationError(reason, parameter=None if named is None else str(named))
