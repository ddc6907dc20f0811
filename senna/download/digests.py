"""Digests that do not come from the mirror that sends the files: those in this package, and those of the first download.

The digests of the first download of an asset are written to OUT/NAME.lock.json, beside the asset's folder. All later downloads
into OUT are compared with them, from any mirror, even if the folder was deleted. The file can be copied to other machines.
"""

from collections.abc import Mapping
from pathlib import Path

from senna.download.assets import Asset
from senna.errors import UsageError
from senna.files import write_json
from senna.run_folder import read_settings

PACKAGED: dict[str, dict[str, str]] = {
    "openai/clip-vit-large-patch14-336@ce19dc912ca5cd21c8a653c79e251e808ccabcd1": {
        "pytorch_model.bin": "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
    },
    "lmsys/vicuna-7b-v1.5@3321f76e3f527bd14065daf69dad9344000a201d": {
        "tokenizer.model": "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347",
    },
}
"""repository@commit -> file -> sha256. Only digests that several independent public sources state are listed."""


class LockFile:
    """The digests of the first download of an asset.

    Attributes:
        revision: the commit of the first download; None before it.
    """

    def __init__(self, asset: Asset, out: Path) -> None:
        """Read the file, if there is one.

        Raises:
            UsageError: the file is damaged or belongs to another repository.
        """
        self.path = out / f"{asset.name}.lock.json"
        self._asset = asset
        content = read_settings(self.path)
        self.revision: str | None = None
        self._digests: dict[str, str] = {}
        if content is None:
            return
        if content.get("repository") != asset.repo or not isinstance(content.get("files"), dict):
            raise UsageError(
                f"{self.path} is damaged, or it is not the lock file of {asset.repo}",
                remedy="restore it, or delete it to trust the hashes that the mirror states",
            )
        self.revision, self._digests = content.get("revision"), dict(content["files"])

    def check(self, revision: str, stated: Mapping[str, str], source: str) -> list[str]:
        """Compare digests with those of the package and of the first download; return the files that neither of them knows.

        Args:
            stated: file -> digest, as a hub states it.
            source: who states them, for the message.

        Raises:
            UsageError: a digest differs.
        """
        locked = self._digests if revision == self.revision else {}
        packaged = PACKAGED.get(f"{self._asset.repo}@{revision}", {})
        for name, digest in stated.items():
            if packaged.get(name, digest) != digest:
                raise UsageError(
                    f"{name} of {self._asset.repo}: {source} states the hash {digest[:12]}..., but this package knows "
                    f"{packaged[name][:12]}...; nothing was downloaded",
                    remedy="use another mirror (--endpoint URL)",
                )
            if locked.get(name, digest) != digest:
                raise UsageError(
                    f"{name} of {self._asset.repo}: {source} states the hash {digest[:12]}..., but {self.path} has "
                    f"{locked[name][:12]}... from the first download of this commit; nothing was downloaded",
                    remedy=f"use another mirror (--endpoint URL); if the first one was wrong, delete {self.path}",
                )
        return [name for name in stated if name not in packaged and name not in locked]

    def record(self, revision: str, digests: Mapping[str, str]) -> None:
        """Add the digests of verified files; those of another commit are replaced."""
        locked = self._digests if revision == self.revision else {}
        if revision == self.revision and all(locked.get(name) == digest for name, digest in digests.items()):
            return
        self.revision, self._digests = revision, {**locked, **digests}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"repository": self._asset.repo, "revision": revision, "files": self._digests}
        write_json(self.path, content)
