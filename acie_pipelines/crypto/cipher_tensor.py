"""Encrypted arrays that whoever holds the public key can compute with.

Belongs here: encrypting an array, taking over ciphertexts, and decrypting.
Does not belong here: arithmetic (`tensor_arithmetic`), selection (`tensor_selection`), storage
(`tile_encryption`), layouts (`packing`), bytes (`tensor_format`).
"""

from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from acie_native import unpack_slots
from acie_pipelines.crypto.kept import KeptCiphertexts, check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey
from acie_pipelines.crypto.packing import PackingLayout, decode_fixed_point, encode_fixed_point
from acie_pipelines.crypto.plaintexts import plaintext_rows, signed_from_limbs
from acie_pipelines.crypto.tensor_arithmetic import TensorArithmetic
from acie_pipelines.errors import CryptoError

__all__ = ["CipherTensor"]


class CipherTensor(TensorArithmetic):
    """An array of fixed-point numbers in Paillier ciphertexts.

    Make it with `encrypt`, or with `from_ciphertexts` from limbs that came from elsewhere. With a
    packed layout (`layout_for`) many values share a ciphertext: tensors are added, shifted by
    plaintexts and scaled by one number; along the first axis they are also indexed, summed and
    multiplied by matrices if each row fills whole ciphertexts. With `unpacked_layout` everything
    below works.

    Operators are ``+ - * @`` with tensors (``+ -``), numbers and arrays. Weights are exact: those
    of floats add their fractional bits to the scale. Added plaintexts are rounded to the scale.
    The attributes are those of `TensorSelection`.
    """

    @classmethod
    def encrypt(
        cls,
        array: NDArray[Any],
        key: PaillierPublicKey | PaillierPrivateKey,
        layout: PackingLayout,
    ) -> Self:
        """Encrypt an array.

        Parameters
        ----------
        array
            Integers, or finite floats that are rounded to the layout's scale.
        key
            Public key of the future reader; who holds the private key encrypts faster with it.
        layout
            See `acie_pipelines.crypto.packing.layout_for` and `unpacked_layout`.

        Raises
        ------
        CryptoError
            If a value does not fit the layout, or the layout the key.
        """
        return cls.encrypt_integers(encode_fixed_point(array, layout), key, layout)

    @classmethod
    def encrypt_integers(
        cls,
        integers: NDArray[np.int64],
        key: PaillierPublicKey | PaillierPrivateKey,
        layout: PackingLayout,
    ) -> Self:
        """Encrypt what is already in units of the layout's scale.

        Parameters
        ----------
        integers
            Integers that the layout can hold.
        key, layout
            See `encrypt`.

        Raises
        ------
        CryptoError
            See `encrypt`.
        """
        public_key = key.public_key if isinstance(key, PaillierPrivateKey) else key
        layout.check_key(public_key.bits)
        checked = encode_fixed_point(integers, replace(layout, fractional_bits=0))
        rows = key.context.encrypt(plaintext_rows(checked, public_key, layout))
        kept = KeptCiphertexts.of_rows(rows, public_key)
        return cls(public_key, layout, integers.shape, kept)

    @classmethod
    def from_ciphertexts(
        cls,
        ciphertexts: NDArray[np.uint64],
        public_key: PaillierPublicKey,
        layout: PackingLayout,
        shape: tuple[int, ...],
        *,
        weight: int = 1,
    ) -> Self:
        """Take over ciphertexts from a file or a peer, without a copy.

        Parameters
        ----------
        ciphertexts
            ``uint64[rows, limbs]``, contiguous.
        public_key, layout, shape, weight
            The tensor's attributes.

        Raises
        ------
        CryptoError
            If a ciphertext is zero, not below n^2, or not coprime to n.
        """
        check_ciphertexts(ciphertexts, public_key)
        kept = KeptCiphertexts.of_rows(ciphertexts, public_key)
        return cls(public_key, layout, shape, kept, weight)

    def decrypt_integers(self, private_key: PaillierPrivateKey) -> NDArray[Any]:
        """Decrypt to the stored integers, without the scale.

        Returns
        -------
        NDArray
            ``int64``; Python integers for an unpacked tensor whose bound is beyond that.

        Raises
        ------
        CryptoError
            If the key is another one, or the plaintexts are not what such a tensor can hold.
        """
        if private_key.public_key != self.public_key:
            raise CryptoError(
                f"tensor under key {self.public_key.key_id}",
                f"cannot be decrypted with key {private_key.key_id}",
                "take the key of that id from the vault",
            )
        plaintexts = private_key.context.decrypt(self.ciphertexts)
        if not self.layout.packed:
            numbers = signed_from_limbs(plaintexts, self.public_key.n)
            if any(abs(number) > self.bound for number in numbers):
                raise self._corrupt()
            dtype = np.int64 if self.bound < 2**63 else object
            return np.array(numbers, dtype=dtype).reshape(self.shape)
        self._check_unused_bits(plaintexts)
        try:
            values = unpack_slots(
                plaintexts,
                self.size,
                slot_bits=self.layout.slot_bits,
                bias_multiple=self.weight,
                value_bits=self.layout.value_bits,
                slots_per_plaintext=self.layout.slots_per_plaintext,
            )
        except OverflowError:
            raise self._corrupt() from None
        if values.size and not -self.bound <= int(values.min()) <= int(values.max()) <= self.bound:
            raise self._corrupt()
        return values.reshape(self.shape)

    def decrypt(self, private_key: PaillierPrivateKey) -> NDArray[Any]:
        """Decrypt to numbers at the layout's scale.

        Returns
        -------
        NDArray
            As `decrypt_integers` if the layout has no fractional bits, else ``float64``, rounded
            to nearest.

        Raises
        ------
        CryptoError
            See `decrypt_integers`.
        """
        integers = self.decrypt_integers(private_key)
        bits = self.layout.fractional_bits
        if bits == 0:
            return integers
        if integers.dtype != object:
            return decode_fixed_point(integers, self.layout)
        # Division of Python integers rounds correctly.
        numbers = [(k << max(0, -bits)) / (1 << max(0, bits)) for k in integers.reshape(-1)]
        return np.array(numbers, dtype=np.float64).reshape(self.shape)

    def _check_unused_bits(self, plaintexts: NDArray[np.uint64]) -> None:
        limb, bit = divmod(self.layout.slots_per_plaintext * self.layout.slot_bits, 64)
        above = plaintexts[:, limb:].copy()
        if above.shape[1]:
            above[:, 0] >>= np.uint64(bit)
        if above.any():
            raise self._corrupt()

    def _corrupt(self) -> CryptoError:
        return self._refusal(
            "decrypts to numbers that no such tensor can hold",
            "its layout or weight is not the true one, or the ciphertexts were made by others",
        )
