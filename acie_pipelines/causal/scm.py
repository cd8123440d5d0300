"""Structural causal models: sample, abduct, intervene, ask for counterfactuals, save, load.

Belongs here: mechanisms joined along a graph. Does not belong here: the fit loop
(`acie_pipelines.causal.fitting`), tables or stores.

Batches are tensors of shape ``(n, nodes)`` with columns in the graph's node order, NaN where a
value is missing; `StructuralCausalModel.tensor` makes one from named columns.

Noise is a tensor of shape ``(n, noise columns)`` in double precision, so that abduction is undone
to the rounding of the batch: one standard normal column per continuous node, one Gumbel column per
category of a categorical one, in node order.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from acie_pipelines.causal.build import build_mechanism
from acie_pipelines.causal.categorical import CategoricalMechanism, gumbel
from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.mechanisms import Mechanism, MechanismConfig, Standardisation
from acie_pipelines.causal.threads import one_thread_each
from acie_pipelines.errors import ModelError

__all__ = ["StructuralCausalModel"]

_FORMAT = "acie.scm/2"


def _where_finite(answer: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """Answer of the rows whose arguments are all finite, NaN for the others; shape ``(n,)``."""
    ready = torch.isfinite(torch.cat(arguments, dim=1)).all(dim=1)
    if bool(ready.all()):
        return answer(*arguments)
    result = torch.full(ready.shape, torch.nan, dtype=torch.float64, device=ready.device)
    result[ready] = answer(*(each[ready] for each in arguments))
    return result


class StructuralCausalModel(nn.Module):
    """A causal graph with one invertible mechanism per node.

    Parameters
    ----------
    graph
        Variables and edges.
    config
        Shape of the mechanisms.
    seed
        Of the initial weights.
    """

    def __init__(self, graph: CausalGraph, config: MechanismConfig, *, seed: int) -> None:
        super().__init__()
        self.graph, self.config = graph, config
        self.names = tuple(graph.nodes)
        self.column = {name: k for k, name in enumerate(self.names)}
        self._parent_columns = {n: [self.column[p] for p in graph.parents(n)] for n in self.names}
        widths = [max(len(graph.nodes[name].categories), 1) for name in self.names]
        ends = np.cumsum(widths)
        self.noise_columns = {
            name: slice(int(end) - width, int(end))
            for name, end, width in zip(self.names, ends, widths, strict=True)
        }
        self.noise_width = int(ends[-1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mechanisms = nn.ModuleDict(
                {name: build_mechanism(graph, name, config) for name in self.names}
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def mechanism(self, name: str) -> Mechanism:
        """Mechanism of a node."""
        found = self.mechanisms[name]
        if not isinstance(found, Mechanism):
            raise ModelError(name, "is no mechanism", "build the model again")
        return found

    def tensor(self, columns: Mapping[str, NDArray[Any]]) -> Tensor:
        """Batch from named columns; nodes without one are missing.

        Raises
        ------
        ModelError
            If a column is no node, or lengths differ.
        """
        unknown = [name for name in columns if name not in self.column]
        lengths = {len(values) for values in columns.values()}
        if unknown or len(lengths) != 1:
            raise ModelError(
                "batch", f"unknown columns {unknown} or lengths {lengths}", "name nodes only"
            )
        batch = torch.full((lengths.pop(), len(self.names)), torch.nan, device=self.device)
        for name, values in columns.items():
            batch[:, self.column[name]] = torch.as_tensor(
                np.asarray(values, dtype=np.float32), device=self.device
            )
        return batch

    def columns(self, batch: Tensor) -> dict[str, NDArray[np.float32]]:
        """Named columns of a batch."""
        values = batch.detach().cpu().numpy()
        return {name: values[:, k] for name, k in self.column.items()}

    def set_standardisation(self, location: Tensor, scale: Tensor) -> None:
        """Give every mechanism the location and scale of its variables.

        Parameters
        ----------
        location, scale
            Of the values after `Standardisation.flatten`, shape ``(nodes,)``.
        """
        for name in self.names:
            mechanism = self.mechanism(name)
            pairs: list[tuple[Standardisation | None, list[int]]] = [
                (mechanism.own, [self.column[name]]),
                (mechanism.parents, self._parent_columns[name]),
            ]
            for part, columns in pairs:
                if part is not None:
                    part.location.copy_(location[columns])
                    part.scale.copy_(scale[columns])

    def _complete(self, batch: Tensor, name: str) -> Tensor:
        """Rows with the node and all its parents."""
        columns = [self.column[name], *self._parent_columns[name]]
        return torch.isfinite(batch[:, columns]).all(dim=1)

    def node_log_prob(self, batch: Tensor, name: str) -> Tensor:
        """Log density of one node given its parents, on the rows that have both.

        Returns
        -------
        Tensor
            Nats per unit of the node's values, shape ``(complete rows,)``.
        """
        return self.mechanism(name).log_prob(*self.node_rows(batch, name))

    def node_rows(self, batch: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Values of a node and of its parents, on the rows that have both."""
        complete = self._complete(batch, name)
        rows = batch if bool(complete.all()) else batch[complete]
        return rows[:, self.column[name]], rows[:, self._parent_columns[name]]

    def log_prob(self, batch: Tensor) -> Tensor:
        """Joint log density of complete rows [nats], shape ``(n,)``; NaN for incomplete ones."""
        total = torch.zeros(batch.shape[0], device=batch.device)
        for name in self.names:
            term = torch.full_like(total, torch.nan)
            complete = self._complete(batch, name)
            term[complete] = self.node_log_prob(batch, name).to(term.dtype)
            total = total + term
        return total

    @torch.no_grad()
    def sample(self, count: int, *, seed: int, do: Sequence[Intervention] = ()) -> Tensor:
        """Draw galaxies, if asked under interventions; shape ``(count, nodes)``."""
        return self.predict(self.draw_noise(count, seed=seed), do=do)

    def draw_noise(self, count: int, *, seed: int) -> Tensor:
        """Independent noise, shape ``(count, noise columns)``."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, self.noise_width, generator=generator, dtype=torch.float64)
        for name, columns in self.noise_columns.items():
            if self.graph.nodes[name].categories:
                noise[:, columns] = gumbel((count, columns.stop - columns.start), generator)
        return noise.to(self.device)

    @torch.no_grad()
    def abduct(self, batch: Tensor, *, seed: int = 0, only: Collection[str] = ()) -> Tensor:
        """Find the noise behind every row.

        Parameters
        ----------
        batch
            Shape ``(n, nodes)``.
        seed
            Of the posterior draw of the noise behind categories; continuous noise is unique.
        only
            Nodes whose noise is wanted, all if empty; the others' is NaN.

        Returns
        -------
        Tensor
            Shape ``(n, noise columns)``; NaN where the node or a parent is missing.
        """
        generator = torch.Generator().manual_seed(seed)
        noise = torch.full(
            (batch.shape[0], self.noise_width), torch.nan, dtype=torch.float64, device=batch.device
        )
        for name in only or self.names:
            complete = self._complete(batch, name)
            x, parents = self.node_rows(batch, name)
            mechanism = self.mechanism(name)
            if isinstance(mechanism, CategoricalMechanism):
                u = mechanism.posterior_noise(x, parents, generator)
            else:
                u = mechanism.noise(x.double(), parents)[0][:, None]
            noise[complete, self.noise_columns[name]] = u
        return noise

    @torch.no_grad()
    def predict(
        self, noise: Tensor, *, do: Sequence[Intervention] = (), factual: Tensor | None = None
    ) -> Tensor:
        """Values from noise, in topological order.

        Parameters
        ----------
        noise
            Shape ``(n, noise columns)``; NaN makes the node and all its effects NaN.
        do
            Interventions, at most one per node.
        factual
            Batch from which nodes that no intervention reaches are copied unchanged.

        Returns
        -------
        Tensor
            Shape ``(n, nodes)``, in the precision of `factual`, else single.

        Raises
        ------
        ModelError
            If a node is named twice.
        ConfigurationError
            If an intervention leaves the support of its node.
        """
        dtype = torch.float32 if factual is None else factual.dtype
        values = torch.full(
            (noise.shape[0], len(self.names)), torch.nan, dtype=dtype, device=noise.device
        )
        return self._act(values, do, factual, partial(self._value, noise))

    def _act(
        self,
        values: Tensor,
        do: Sequence[Intervention],
        factual: Tensor | None,
        mechanism: Callable[[str, Tensor], Tensor],
    ) -> Tensor:
        """Fill values in topological order; a mechanism gives those that nothing else decides."""
        targets = {intervention.node: intervention for intervention in do}
        if len(targets) != len(do):
            raise ModelError("intervention", "names a node twice", "merge the two")
        for intervention in do:
            intervention.check(self.graph)
        touched = set(targets) | self.graph.descendants(*targets)
        for name in self.graph.order:
            k, target = self.column[name], targets.get(name)
            if factual is not None and name not in touched:
                values[:, k] = factual[:, k]
            elif target is not None and target.kind == "set":
                values[:, k] = target.value
            elif target is not None and factual is not None:
                values[:, k] = factual[:, k] + target.value
            else:
                values[:, k] = mechanism(name, values).to(values.dtype)
                if target is not None:
                    values[:, k] += target.value
        return values

    def _value(self, noise: Tensor, name: str, values: Tensor) -> Tensor:
        parents, own = values[:, self._parent_columns[name]], noise[:, self.noise_columns[name]]
        mechanism = self.mechanism(name)

        def answer(own: Tensor, parents: Tensor) -> Tensor:
            if isinstance(mechanism, CategoricalMechanism):
                return mechanism.category(own, parents)
            return mechanism.value(own[:, 0], parents)

        return _where_finite(answer, own, parents)

    def do(self, *interventions: Intervention, count: int, seed: int) -> Tensor:
        """Draw from the model under interventions; shape ``(count, nodes)``."""
        return self.sample(count, seed=seed, do=interventions)

    @torch.no_grad()
    def counterfactual(self, batch: Tensor, do: Iterable[Intervention], *, seed: int = 0) -> Tensor:
        """Say what the same galaxies would have been: abduct, intervene, predict.

        Noise terms keep their factual values; nodes that no intervention reaches keep theirs
        exactly. A node whose noise cannot be abducted, because it or a parent is missing, is NaN
        if an intervention reaches it. Below a categorical node the answer is one draw from the
        posterior, decided by `seed`.
        """
        generator = torch.Generator().manual_seed(seed)

        def mechanism(name: str, values: Tensor) -> Tensor:
            own, columns = self.column[name], self._parent_columns[name]
            found = self.mechanism(name)

            def answer(x: Tensor, parents: Tensor, changed: Tensor) -> Tensor:
                if isinstance(found, CategoricalMechanism):
                    noise = found.posterior_noise(x[:, 0], parents, generator)
                    return found.category(noise, changed)
                return found.moved(x[:, 0], parents, changed)

            x, parents = batch[:, own : own + 1], batch[:, columns]
            return _where_finite(answer, x, parents, values[:, columns])

        with one_thread_each():
            return self._act(torch.empty_like(batch), tuple(do), batch, mechanism)

    def spec(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values."""
        return {"format": _FORMAT, "graph": self.graph.to_dict(), "mechanisms": asdict(self.config)}

    def weights(self) -> bytes:
        """Weights and standardisation, loadable with ``weights_only=True``."""
        buffer = BytesIO()
        torch.save({k: v.cpu() for k, v in self.state_dict().items()}, buffer)
        return buffer.getvalue()

    @classmethod
    def load(
        cls, spec: bytes, weights: bytes, *, device: torch.device | str = "cpu"
    ) -> "StructuralCausalModel":
        """Build from what `spec` (as JSON) and `weights` gave.

        Raises
        ------
        ModelError
            If either is damaged or they do not belong together.
        """
        try:
            body = json.loads(spec)
            if body["format"] != _FORMAT:
                raise ValueError(f"unknown format {body['format']!r}")
            model = cls(
                CausalGraph.from_dict(body["graph"]), MechanismConfig(**body["mechanisms"]), seed=0
            )
            state = torch.load(BytesIO(weights), map_location="cpu", weights_only=True)
            model.load_state_dict(state)
        except Exception as error:  # a damaged archive can fail in any way
            raise ModelError("model", f"cannot be loaded ({error})", "train it again") from error
        return model.to(device).eval()
