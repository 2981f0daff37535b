"""Signing a bundle, so that who receives it knows whose it is: OpenSSF Model Signing with an elliptic-curve key.

The signature lies in the bundle as ``model.sig`` and covers every other file but what is ``built`` on a machine and the
user's ``extra`` files. The manifest, which it covers, lists the checksums of those that came with --extra.
Keys are PEM files as openssl writes them (prime256v1, secp384r1 or secp521r1). Needs the extra ``signing``; anybody
can verify without mvp-deploy, with the command ``model_signing verify key``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import EnvironmentMissing, InputError
from mvp_deploy.base.files import atomic_write
from mvp_deploy.bundle import BUILT, EXTRA, SIGNATURE
from mvp_deploy.exporters.formats import plain_file, reading_errors

UNSIGNED = [SIGNATURE, BUILT, EXTRA]


def sign(bundle: Path, private_key: Path) -> None:
    """Sign the bundle as it is.

    Raises:
        MvpError: (INPUT) the file is not a key; (ENVIRONMENT) the extra ``signing`` is not installed.
    """
    public_half(private_key)
    package = _package()
    hashing = package.hashing.Config().set_ignored_paths(paths=UNSIGNED, ignore_git_paths=False)
    config = package.signing.Config().set_hashing_config(hashing).use_elliptic_key_signer(private_key=private_key)
    with atomic_write(bundle / SIGNATURE) as temporary:
        hashing.add_ignored_paths(model_path=bundle, paths=[temporary.name])
        config.sign(bundle, temporary)


def verify(bundle: Path, public_key: Path) -> None:
    """Refuse a bundle that the owner of the key did not sign as it is.

    Raises:
        MvpError: (INPUT) it is not signed, by somebody else, or was changed; (ENVIRONMENT) without the extra.
    """
    if not is_signed(bundle):
        raise InputError(f"{bundle} is not signed: make it with --sign-key.")
    with reading_errors(public_key):
        plain_file(public_key)
    package = _package()
    hashing = package.hashing.Config().set_ignored_paths(paths=UNSIGNED, ignore_git_paths=False)
    config = package.verifying.Config().set_hashing_config(hashing)
    try:
        config.use_elliptic_key_verifier(public_key=public_key).verify(bundle, bundle / SIGNATURE)
    except Exception as error:  # whatever the package raises: nothing but its silence is a proof
        raise InputError(
            f"{bundle} is not what the owner of {public_key} signed ({error}): get it from them again."
        ) from error


def is_signed(bundle: Path) -> bool:
    return (bundle / SIGNATURE).is_file()


def public_half(private_key: Path) -> str:
    """A checksum of a private key's public half. Raises InputError if the file holds no usable key."""
    _package()
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    try:
        plain_file(private_key)
        key = pem.load_pem_private_key(private_key.read_bytes(), None)
        if not isinstance(key, EllipticCurvePrivateKey):
            raise ValueError("it is not an elliptic-curve key")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{private_key} is not a key to sign with ({error}): make one with "
            "`openssl ecparam -name prime256v1 -genkey -noout -out key.pem`."
        ) from error
    public = key.public_key().public_bytes(pem.Encoding.DER, pem.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()


def _package() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise EnvironmentMissing(
            f"signatures need the package model-signing ({error}): pip install 'mvp-deploy[signing]'.",
        ) from error
    return model_signing
