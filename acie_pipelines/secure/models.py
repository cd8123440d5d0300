"""Chains of linear layers that are evaluated without the private key.

Belongs here: the model, what its user must know of it, and the three steps: the owner encrypts, the
worker evaluates, the owner finishes.
Does not belong here: layers (`layers`), bytes (`model_format`), processes (`model_worker`).

A model holds no key. The worker learns the shapes and the number of samples, nothing of the values.
The owner learns the result of the linear chain and nothing else of the weights; whoever may ask
often enough can solve for them.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey
from acie_pipelines.crypto.packing import PackingLayout, layout_for
from acie_pipelines.errors import CryptoError, ModelError
from acie_pipelines.secure.layers import Layer
from acie_pipelines.secure.signals import Signal

__all__ = ["ACTIVATIONS", "Activation", "Interface", "SecureModel"]

Activation = Literal["identity", "sigmoid", "softmax"]
ACTIVATIONS: Final[tuple[Activation, ...]] = get_args(Activation)


@dataclass(frozen=True)
class Interface:
    """What the data owner must know of a model: no weights.

    Attributes
    ----------
    input, output
        What goes in and comes out.
    weight
        Greatest weight on the way, which sizes the guard bits.
    activation
        What the owner applies after decryption; softmax is over the first axis.
    """

    input: Signal
    output: Signal
    weight: int
    activation: Activation

    def layout(self, key_bits: int) -> PackingLayout:
        """Size slots so that nothing in the model can overflow.

        Parameters
        ----------
        key_bits
            Length of the modulus.

        Raises
        ------
        CryptoError
            If the numbers need slots of more than 64 bits.
        """
        signal = self.input
        return layout_for(
            signal.value_bits,
            key_bits=key_bits,
            additions=self.weight,
            fractional_bits=signal.fractional_bits,
        )

    def encode(self, samples: NDArray[Any]) -> NDArray[np.int64]:
        """Round samples to the integers that are encrypted.

        Parameters
        ----------
        samples
            Finite numbers, shape ``(n, *input.shape)``.

        Returns
        -------
        NDArray
            ``int64``, shape ``(*input.shape, n)``: samples share ciphertexts, so they come last.

        Raises
        ------
        ModelError
            If the shape differs, a number is out of bounds, or would be rounded where the model
            takes multiples of its scale only.
        """
        signal = self.input
        if samples.shape[1:] != signal.shape or not len(samples):
            raise ModelError(
                f"samples of shape {samples.shape}",
                f"are not (n, {', '.join(map(str, signal.shape))})",
                "cut or resize them first",
            )
        with np.errstate(over="ignore"):
            scaled = np.ldexp(samples.astype(np.float64), signal.fractional_bits)
        # Written so that NaN fails.
        if not (np.abs(np.rint(scaled)) <= signal.bound).all():
            raise ModelError(
                "samples",
                f"are not finite or beyond {signal.bound * signal.unit:g}",
                "mask invalid numbers and scale the others as the model says",
            )
        if signal.error == 0.0 and (np.rint(scaled) != scaled).any():
            raise ModelError(
                "samples", f"are no multiples of {signal.unit:g}", "round them yourself first"
            )
        return np.moveaxis(np.rint(scaled).astype(np.int64), 0, -1)

    def encrypt(
        self, samples: NDArray[Any], key: PaillierPublicKey | PaillierPrivateKey
    ) -> CipherTensor:
        """Encrypt samples, as the data owner.

        Parameters
        ----------
        samples
            See `encode`.
        key
            Either half of the owner's pair; the private one is faster.

        Returns
        -------
        CipherTensor
            Shape ``(*input.shape, samples)``, filled up with zeros to whole ciphertexts.
        """
        public_key = key.public_key if isinstance(key, PaillierPrivateKey) else key
        layout = self.layout(public_key.bits)
        integers = self.encode(samples)
        empty = -integers.shape[-1] % layout.slots_per_plaintext
        padded = np.pad(integers, [(0, 0)] * len(self.input.shape) + [(0, empty)])
        return CipherTensor.encrypt_integers(padded, key, layout)

    def finish(
        self, result: CipherTensor, private_key: PaillierPrivateKey, samples: int
    ) -> NDArray[np.float64]:
        """Decrypt a worker's result and apply the activation, as the data owner.

        Parameters
        ----------
        result
            What `SecureModel.evaluate` returned.
        private_key
            The owner's.
        samples
            How many went in.

        Returns
        -------
        NDArray
            Shape ``(n, *output.shape)``; before the activation, within ``output.error`` of the real
            chain.

        Raises
        ------
        CryptoError
            If the key is another one, or the result is not what this model makes.
        """
        values = self.decrypt_integers(result, private_key, samples)
        real = np.moveaxis(values.astype(np.float64) * self.output.unit, -1, 0)
        if self.activation == "sigmoid":
            # Both halves without overflow.
            decay = np.exp(-np.abs(real))
            return np.where(real >= 0, 1.0, decay) / (1.0 + decay)
        if self.activation == "softmax":
            powers = np.exp(real - real.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        return np.asarray(real)

    def decrypt_integers(
        self, result: CipherTensor, private_key: PaillierPrivateKey, samples: int
    ) -> NDArray[Any]:
        """Decrypt a worker's result to integers in units of `output`.

        Parameters
        ----------
        result, private_key, samples
            See `finish`.

        Returns
        -------
        NDArray
            Shape ``(*output.shape, n)``.
        """
        signal, layout = self.output, self.layout(private_key.public_key.bits)
        expected = (*signal.shape, layout.rows(samples) * layout.slots_per_plaintext)
        made = (result.shape, result.weight, result.layout.slot_bits, result.layout.value_bits)
        if made != (expected, signal.weight, layout.slot_bits, signal.value_bits):
            raise CryptoError(
                f"result under key {result.public_key.key_id}",
                f"has shape {result.shape} and weight {result.weight} where the model makes "
                f"{expected} and {signal.weight}",
                "evaluate this model on what was encrypted for it",
            )
        values = result.decrypt_integers(private_key)[..., :samples]
        if values.size and max(-int(values.min()), int(values.max())) > signal.bound:
            raise CryptoError(
                f"result under key {result.public_key.key_id}",
                "decrypts to numbers that the model cannot make",
                "do not trust this worker",
            )
        return values

    def to_json(self) -> dict[str, Any]:
        """Fields as a JSON object."""
        fields = asdict(self)
        return fields | {"input": self.input.to_json(), "output": self.output.to_json()}

    @classmethod
    def from_json(cls, fields: Any) -> "Interface":
        """Read what `to_json` wrote.

        Raises
        ------
        ModelError
            If it is something else.
        """
        try:
            made = cls(
                Signal.from_json(fields["input"]),
                Signal.from_json(fields["output"]),
                fields["weight"],
                fields["activation"],
            )
        except (TypeError, KeyError) as error:
            raise ModelError("interface", f"lacks {error}", "take another copy") from error
        if type(made.weight) is not int or made.activation not in ACTIVATIONS:
            raise ModelError("interface", "is malformed", "take another copy")
        return made


@dataclass(frozen=True, eq=False)
class SecureModel:
    """A chain of linear layers and what the owner applies to its result.

    Attributes
    ----------
    layers
        At least one; each takes what the one before it makes.
    activation
        Applied by the owner.
    """

    layers: tuple[Layer, ...]
    activation: Activation = "identity"

    def __post_init__(self) -> None:
        if not self.layers or self.activation not in ACTIVATIONS:
            raise ModelError("secure model", "has no layers or no such activation", "give both")
        for first, second in pairwise(self.layers):
            made, taken = first.output, second.input
            same = asdict(made) | {"shape": taken.shape} == asdict(taken)
            if not same or made.size != taken.size:
                raise ModelError(
                    "secure model", "has layers that do not fit", "build each on the one before"
                )

    @cached_property
    def interface(self) -> Interface:
        """What the data owner must know."""
        outputs = [layer.output for layer in self.layers]
        weight = max(signal.weight for signal in (self.layers[0].input, *outputs))
        return Interface(self.layers[0].input, outputs[-1], weight, self.activation)

    def evaluate(self, tensor: CipherTensor) -> CipherTensor:
        """Evaluate ciphertexts, as the worker: only the public key is needed.

        Parameters
        ----------
        tensor
            What `Interface.encrypt` made.

        Returns
        -------
        CipherTensor
            Re-randomised, so that it tells nothing of how it came about.

        Raises
        ------
        CryptoError
            If the tensor is not what the model takes, or any layer could overflow; nothing is
            computed then.
        """
        if tensor.layout.maximum_weight < self.interface.weight:
            raise CryptoError(
                f"tensor under key {tensor.public_key.key_id}",
                f"has guard bits for {tensor.layout.maximum_weight} where the model needs "
                f"{self.interface.weight}",
                "encrypt with the layout of the model",
            )
        first, *others = self.layers
        result = first.encrypted(tensor)
        for layer in others:
            result = layer.encrypted(result.reshape(*layer.input.shape, result.shape[-1]))
        return result.rerandomised()

    def integers(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Evaluate plain samples to the integers that decryption gives.

        Parameters
        ----------
        samples
            Shape ``(n, *input.shape)``.

        Returns
        -------
        NDArray
            Shape ``(*output.shape, n)``.
        """
        values: NDArray[Any] = self.interface.encode(samples)
        for layer in self.layers:
            values = layer.integers(values.reshape(*layer.input.shape, values.shape[-1]))
        return values
