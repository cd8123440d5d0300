"""Typed errors with one-line messages that name the thing at fault and the fix.

Belongs here: every exception a caller may want to catch by type.
Does not belong here: error handling, or messages that carry secrets or pixel values.
"""

__all__ = [
    "AcieError",
    "ChecksumMismatchError",
    "ConfigurationError",
    "CryptoError",
    "DecompressionBombError",
    "EmptyFileError",
    "FluxConservationError",
    "FormatMismatchError",
    "IntegrityError",
    "InvalidGeometryError",
    "KeyVaultError",
    "LostKeyError",
    "ModelError",
    "NoImagePlaneError",
    "ObservationError",
    "PromotionError",
    "RevokedKeyError",
    "RoleError",
    "RollbackError",
    "StorageError",
    "TamperedDataError",
    "TruncatedFileError",
    "UnreadableObservationError",
    "UnsupportedDtypeError",
]


class AcieError(Exception):
    """Base of every error raised on purpose by ACIE.

    Parameters
    ----------
    subject
        What is at fault: a file path, an observation key, a model version.
    reason
        What is wrong with it, without a trailing full stop.
    fix
        What the reader can do about it.
    """

    def __init__(self, subject: object, reason: str, fix: str) -> None:
        self.subject = str(subject)
        self.reason = " ".join(reason.split())
        self.fix = " ".join(fix.split())
        super().__init__(self.subject, self.reason, self.fix)

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}; {self.fix}"


class ConfigurationError(AcieError):
    """A setting is missing or contradicts another."""


class StorageError(AcieError):
    """A write or read of the store failed; earlier versions are intact."""


class IntegrityError(AcieError):
    """Stored data do not match the manifest that describes them."""


class RollbackError(IntegrityError):
    """An earlier generation of a dataset was put in the place of a newer one."""


class ObservationError(AcieError):
    """An input file cannot become an observation; it belongs in quarantine."""


class EmptyFileError(ObservationError):
    """The file holds no bytes."""


class TruncatedFileError(ObservationError):
    """The file ends before the data its header declares."""


class FormatMismatchError(ObservationError):
    """The content is not what the file name claims, or no known format."""


class InvalidGeometryError(ObservationError):
    """Declared axes are negative, zero, absurd or inconsistent."""


class ChecksumMismatchError(ObservationError):
    """A checksum stored in the file disagrees with its content."""


class DecompressionBombError(ObservationError):
    """Decompression would expand the file beyond the permitted size."""


class UnsupportedDtypeError(ObservationError):
    """The samples have a type that cannot be read as numbers."""


class NoImagePlaneError(ObservationError):
    """The file is valid but holds neither an image plane nor a spectrum."""


class UnreadableObservationError(ObservationError):
    """The format's library cannot decode the file for another reason."""


class CryptoError(AcieError):
    """An operation on keys or ciphertexts was refused."""


class KeyVaultError(CryptoError):
    """The key vault is missing, unreadable or too widely readable."""


class LostKeyError(KeyVaultError):
    """The data name a key that is not there."""


class RevokedKeyError(KeyVaultError):
    """The key was revoked: it protects nothing any more, and reading with it must be asked for."""


class RoleError(CryptoError):
    """A process holds, or was asked for, what its role must not have."""


class TamperedDataError(CryptoError):
    """Authentication failed: the data were changed, cut, reordered or swapped."""


class ModelError(AcieError):
    """A model cannot be fitted, loaded or applied."""


class FluxConservationError(AcieError):
    """Light was gained or lost: a total is not what went in."""


class PromotionError(AcieError):
    """A registry move is not allowed from the present state."""
