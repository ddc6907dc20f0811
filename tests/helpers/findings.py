"""Access to what `senna doctor` found."""

from senna.doctor.findings import Finding


def failures(found: dict[str, list[Finding]]) -> list[Finding]:
    """Return the failed checks of all topics."""
    return [finding for findings in found.values() for finding in findings if finding.level == "fail"]


def only_failure(found: dict[str, list[Finding]], topic: str) -> Finding:
    """Return the only failed check, after asserting that it has this topic and a remedy."""
    fails = failures(found)
    assert [finding.topic for finding in fails] == [topic], fails
    assert fails[0].remedy
    return fails[0]
