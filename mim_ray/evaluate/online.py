"""A run looked at while it goes on: do neighbours share a class, do features collapse, what is painted."""

from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mim_ray.data.loader import Loader
from mim_ray.encoders.target import Labels
from mim_ray.evaluate.features import Features, evaluating, features_of, few_pictures
from mim_ray.evaluate.knn import Score, knn
from mim_ray.evaluate.linear import linear_probe
from mim_ray.evaluate.loss import loss_of
from mim_ray.evaluate.pictures import save_sheet
from mim_ray.evaluate.verdict import Verdict, judged
from mim_ray.run import Run
from mim_ray.scores import LINEAR, LOSS
from mim_ray.siamese import Siamese
from mim_ray.transforms.crop import CenterCrop

COLLAPSED_SPREAD = 0.05
ALIKE_PATCHES = 0.99


class Onlooker:
    """Takes the same pictures every time; all workers look together."""

    def __init__(self, run: Run, device: torch.device) -> None:
        self.run, self.device = run, device
        self.verdict: Verdict | None = None
        """The last one, where classes are learnt, or where neighbours are all that is asked for."""

    def look(self, model: Siamese) -> dict[str, float]:
        """What classes are learnt is asked of the classifier; of everything else the features tell."""
        if isinstance(self.run.method.target, Labels) and self._val is not None:
            self.verdict = judged(model, self._val)
            return self.verdict.metrics()
        train = self._features(model, self._train)
        seen = train if self._val is None else self._features(model, self._val)
        bank, queries = F.normalize(train.pooled), F.normalize(seen.pooled)
        found = {"collapse/feature_spread": spread_of(queries), "collapse/patch_similarity": seen.similarity}
        if self._val is not None and self.run.steps != 0:  # or its sentence says nothing
            found[LOSS] = loss_of(model, self._val)
        if train.labels is not None and seen.labels is not None and len(train.labels) > 1:
            votes = knn(
                queries,
                seen.labels,
                bank,
                train.labels,
                neighbours=self.run.eval.neighbours,
                temperatures=self.run.eval.temperature,
                leave_one_out=seen is train,
            )
            first = next(iter(votes.scores.values()))
            found |= {"eval/knn_top1": first.top1, "eval/knn_top5": first.top5}
            if len(votes.scores) > 1:
                every = votes.scores.items()
                found |= {f"eval/knn_top1_k{count}_t{t:g}": score.top1 for (count, t), score in every}
            if self.run.eval.linear and seen is not train:
                found[LINEAR] = max(score.top1 for score in self._probed(train, seen).values())
            if self.run.steps == 0:
                classes = int(max(train.labels.max(), seen.labels.max())) + 1
                self.verdict = Verdict(seen.labels, {"knn": votes.ranked}, classes)
        return found | {"collapse/alarms": float(len(alarms(found)))}

    @property
    def val_checksum(self) -> str | None:
        """Of the pictures in data.val; of a file without one, its place."""
        return None if self._val is None else self._val.beton.checksum or self.run.data.val

    def _probed(self, train: Features, seen: Features) -> dict[float, Score]:
        assert train.labels is not None
        assert seen.labels is not None
        return linear_probe(train.pooled, train.labels, seen.pooled, seen.labels, seed=self.run.seed)

    def draw(self, model: Siamese, path: Path) -> None:
        """The first pictures, as the method shows and paints them."""
        loader = self._val or self._train
        batch = next(loader.batches(0, 1))
        few = slice(min(self.run.eval.pictures, len(batch.samples)))
        crops = (batch.crops[0][few],) * self.run.method.crops
        with evaluating(model):
            save_sheet(model, crops, batch.position[few], path)

    def _features(self, model: Siamese, loader: Loader) -> Features:
        with evaluating(model):
            return features_of(model.online.encoder, model.normalise, loader, self.run.pool)

    @cached_property
    def _train(self) -> Loader:
        assert self.run.data.train is not None
        return self._pictures(self.run.data.train)

    @cached_property
    def _val(self) -> Loader | None:
        return None if self.run.data.val is None else self._pictures(self.run.data.val)

    def _pictures(self, path: str) -> Loader:
        run = self.run
        return few_pictures(
            path,
            run.eval.most,
            CenterCrop(size=run.looked_at, share=run.eval.share),
            device=self.device,
            backend=run.data.backend,
            stage=run.data.stage,
        )


def spread_of(features: Tensor) -> float:
    """Deviation of features of unit length: 1 if they point everywhere, 0 if all pictures look alike."""
    return float(features.std(0).mean() * features.shape[1] ** 0.5)


def alarms(found: dict[str, float]) -> list[str]:
    """What is wrong, in words."""
    words = []
    if found.get("collapse/feature_spread", 1.0) < COLLAPSED_SPREAD:
        words.append(f"all pictures look alike to the encoder (spread {found['collapse/feature_spread']:.4f})")
    if found.get("collapse/patch_similarity", 0.0) > ALIKE_PATCHES:
        words.append(f"all patches of a picture look alike ({found['collapse/patch_similarity']:.4f})")
    return words
