"""A signature over a run, so that somebody else can hand it on: Ed25519, with the keys that people have for SSH.

What is signed is what a run is about and every file of the stages before verification, by sha256. Verifying it again,
measuring and reporting leave the signature valid.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenedge.errors import GreenedgeError, ToolError, VerificationError
from greenedge.files.atomic_write import atomic_write
from greenedge.run.manifest import Manifest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

NAME = "manifest.sig"
_SIGNED = ("train", "export", "lower", "build")  # stages; the later ones are made from them
_MAX_BYTES = 64 << 10


def sign(run: Path, manifest: Manifest, key: Path) -> Path:
    """Writes manifest.sig with the private key in that file; returns its path. Raises GreenedgeError for a file that
    is no unencrypted Ed25519 key."""
    private = _load_private(key)
    signature = private.sign(_statement(manifest))
    with atomic_write(run / NAME) as path:
        path.write_text(base64.b64encode(signature).decode() + "\n")
    return run / NAME


def require_signature(run: Path, manifest: Manifest, key: Path) -> None:
    """Raises VerificationError where the run is not signed by the owner of the public key in that file, and
    GreenedgeError for a file that is no such key."""
    public, path = _load_public(key), run / NAME
    if path.is_symlink() or not path.is_file():
        raise VerificationError(f"{run} is not signed; ask its maker for `greenedge verify {run.name} --sign KEY`.")
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(base64.b64decode(_read(path)), _statement(manifest))
    except (InvalidSignature, ValueError):
        raise VerificationError(
            f"{path} is no signature of {key} over this run: it was changed after it was signed, or somebody else "
            "signed it."
        ) from None


def _statement(manifest: Manifest) -> bytes:
    """The bytes that are signed."""
    stages = {name: dict(manifest.stages[name].outputs) for name in _SIGNED if name in manifest.stages}
    content = {"format": "greenedge-signature/1", "about": dict(manifest.about), "stages": stages}
    return json.dumps(content, sort_keys=True).encode()


def _load_private(path: Path) -> Ed25519PrivateKey:
    content = _read(path)
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    loaders: tuple[Callable[..., Any], ...] = (
        serialization.load_ssh_private_key,
        serialization.load_pem_private_key,
    )
    key = _first(loaders, content, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise GreenedgeError(
            f"{path} is no Ed25519 private key without a passphrase; make one with "
            "`ssh-keygen -t ed25519 -N '' -f KEY`."
        )
    return key


def _load_public(path: Path) -> Ed25519PublicKey:
    content = _read(path)
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = _first((serialization.load_ssh_public_key, serialization.load_pem_public_key), content)
    if not isinstance(key, Ed25519PublicKey):
        raise GreenedgeError(f"{path} is no Ed25519 public key; give the maker's .pub file.")
    return key


def _first(loaders: tuple[Callable[..., Any], ...], content: bytes, **options: object) -> object:
    """What the first loader that understands the content makes of it; None where none does."""
    from cryptography.exceptions import UnsupportedAlgorithm

    for load in loaders:
        try:
            return load(content, **options)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
    return None


def _read(path: Path) -> bytes:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise ToolError('cryptography is not installed: pip install "greenedge[sign]".') from None
    if not path.is_file():
        raise GreenedgeError(f"there is no file {path}.")
    if os.path.getsize(path) > _MAX_BYTES:
        raise GreenedgeError(f"{path} has {os.path.getsize(path):,} bytes; a key or signature has a few hundred.")
    return path.read_bytes()
