"""`acie secure classify`.

Belongs here: parsing and printing of that command. Does not belong here: work.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from acie_pipelines.cli_vault import open_owner

__all__ = ["classify"]


def classify(
    stamps: Annotated[list[Path], typer.Argument(help="JPEG or PNG stamps of 88 x 88 pixels.")],
    model: Annotated[Path, typer.Option(help="Classifier that `acie train-images` wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per stamp.")] = False,
) -> None:
    """Classify galaxy stamps whose pixels the computing process never sees.

    The stamps are encrypted here; a process that holds only the public key evaluates the first
    stage of the classifier; its result is decrypted and finished here.
    """
    from acie_pipelines.models.file_classifier import load_classifier
    from acie_pipelines.models.stamp_files import read_stamps
    from acie_pipelines.secure.model_worker import evaluate_in_process
    from acie_pipelines.secure.split_inference import SplitClassifier

    console = Console(stderr=True)
    pixels = read_stamps(stamps)
    classifier, _ = load_classifier(model)
    owner = open_owner()
    key = owner.vault.private_key()
    split = SplitClassifier.of(classifier, stamps=len(stamps), key_bits=key.public_key.bits)
    with console.status("encrypting") as status:
        request = split.encrypt(pixels, key)
        status.update(f"worker: first stage on {len(request.ciphertexts)} ciphertexts")
        result = evaluate_in_process(split.model, request, owner.public_keys())
        status.update("decrypting")
        chances = split.finish(result, key, len(stamps))
    for path, row in zip(stamps, chances, strict=True):
        best = classifier.classes[int(row.argmax())]
        named = dict(zip(classifier.classes, row.tolist(), strict=True))
        if as_json:
            typer.echo(json.dumps({"path": str(path), "class": best, "probabilities": named}))
        else:
            shown = ", ".join(f"{name} {chance:.3f}" for name, chance in named.items())
            typer.echo(f"{path}  {best}  ({shown})")
