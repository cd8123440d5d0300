"""Configuration of a training of the counterfactual model, from YAML or an asset.

Belongs here: names, types and errors of what a user may set. Does not belong here: what it does
(`acie_pipelines.training.counterfactual_training`).
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.training.counterfactual_training import CounterfactualTraining

__all__ = ["parse_training", "read_training"]


def read_training(path: Path) -> tuple[Path, CounterfactualTraining]:
    """Read a YAML file.

    Parameters
    ----------
    path
        A mapping with ``data``, the file of `acie simulate` (relative to this one), and anything of
        `CounterfactualTraining`.

    Returns
    -------
    tuple[Path, CounterfactualTraining]
        The data and the training.

    Raises
    ------
    ConfigurationError
        If it cannot be read, or names or types are not those of a training.
    """
    import yaml

    try:
        body = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(path, f"cannot be read ({error})", "give a YAML file") from error
    if not isinstance(body, Mapping) or not isinstance(body.get("data"), str):
        raise ConfigurationError(
            path, "names no data", "add a line `data: FILE` with a file of `acie simulate`"
        )
    rest = {name: value for name, value in body.items() if name != "data"}
    return path.parent / body["data"], parse_training(rest, path)


def parse_training(body: Mapping[str, Any], where: object) -> CounterfactualTraining:
    """Build a training from nested mappings; what is absent has its default.

    Raises
    ------
    ConfigurationError
        If a name or a type is not that of a training.
    """
    parsed: CounterfactualTraining = _parse(CounterfactualTraining, body, where, "")
    return parsed


def _parse(kind: type[Any], body: object, where: object, prefix: str) -> Any:
    if not isinstance(body, Mapping):
        raise ConfigurationError(
            where, f"{prefix or 'training'} is no mapping", "nest its settings"
        )
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind)]
    unknown = [f"{prefix}{name}" for name in body if name not in known]
    if unknown:
        raise ConfigurationError(
            where, f"sets unknown {', '.join(unknown)}", f"choose from {', '.join(known)}"
        )
    return kind(
        **{
            name: _parse(hints[name], value, where, f"{prefix}{name}.")
            if is_dataclass(hints[name])
            else _value(hints[name], value, where, f"{prefix}{name}")
            for name, value in body.items()
        }
    )


def _value(hint: Any, value: object, where: object, name: str) -> object:
    if get_origin(hint) is not None:
        allowed = get_args(hint)
        if value in allowed:
            return value
        raise ConfigurationError(where, f"{name} is {value!r}", f"choose from {list(allowed)}")
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        if number >= 0:
            return number
    if hint is int and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ConfigurationError(
        where, f"{name} is {value!r}", f"give a {hint.__name__} that is not negative"
    )
