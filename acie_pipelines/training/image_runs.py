"""One tracked training run of the stamp classifier, from pictures to a tested model.

Belongs here: the order of training, test and report. Does not belong here: any of the three.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from acie_pipelines.evaluation.classification import require_skill
from acie_pipelines.evaluation.galaxy_images import ClassifierScore, score_on
from acie_pipelines.training.efigi import ImageSet, Task, split
from acie_pipelines.training.image_training import (
    ClassifierEpoch,
    ClassifierFitConfig,
    fit_classifier,
)
from acie_pipelines.training.tracking import ClassifierTracker

__all__ = ["train_classifier"]


def train_classifier(
    images: ImageSet,
    task: Task,
    config: ClassifierFitConfig,
    *,
    fold: int,
    out: Path,
    tracker: ClassifierTracker,
    progress: Callable[[ClassifierEpoch], None],
) -> ClassifierScore:
    """Train on one fold, test on the galaxies held out from it, and write the model.

    Parameters
    ----------
    images
        The whole set.
    task, config
        Classes, and shape of the run.
    fold
        0 to 4; also the seed.
    out
        File of the model; its checkpoint lies beside it while training.
    tracker
        Where to report.
    progress
        Called after each epoch.

    Raises
    ------
    ModelError
        If training fails, or the classifier is no better than chance; nothing is written then.
    """
    parts = split(images, fold)
    digest = hashlib.sha256("".join(sorted(images.digests)).encode()).hexdigest()
    tracker.start(task, config, seed=fold, fold=fold, digest=digest)
    reported: set[int] = set()

    def report(losses: ClassifierEpoch) -> None:
        tracker.epoch(losses)
        reported.add(losses.epoch)
        progress(losses)

    try:
        model, history = fit_classifier(
            parts["train"],
            parts["validation"],
            task,
            config,
            seed=fold,
            checkpoint=out.with_name(out.name + ".checkpoint"),
            progress=report,
        )
        for losses in history:
            if losses.epoch not in reported:  # those of the interrupted run
                tracker.epoch(losses)
        score = score_on(model, parts["test"], task)
        require_skill(score.confusion)
        data = model.save()
        out.write_bytes(data)
        tracker.finish(task, history, score, data)
    except BaseException:
        tracker.fail()
        raise
    return score
