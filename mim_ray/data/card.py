"""The summary card that lies beside a beton."""

import json
import shlex
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from mim_ray.config import Spec
from mim_ray.data.pools import part_of, remove_parts_of_the_dead
from mim_ray.errors import Failure, Mistake


class SetCard(Spec):
    source: str = Field(description="what it was imported from")
    licence: str | None = Field(None, description="of the pictures, in words")
    options: dict[str, str] = Field(description="the import's options, pasteable")
    samples: int
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    label_fields: tuple[str, ...]
    width: tuple[int, int, int] = Field(description="least, median, most")
    height: tuple[int, int, int] = Field(description="least, median, most")
    mean: tuple[float, float, float] = Field(description="of each channel, in 0 … 1")
    std: tuple[float, float, float]
    kept_originals: int = Field(description="pictures stored as the original JPEG bytes")
    skipped: tuple[tuple[str, str], ...] = Field(description="name and reason of what could not be used")
    bytes: int
    checksum: str = Field(description="of the samples: equal for equal content, wherever it was written")
    sha256: str = Field(description="of the whole file")
    mim_ray: str = Field(description="version that wrote it")

    @staticmethod
    def path_beside(beton: Path) -> Path:
        return beton.with_name(f"{beton.name}.card.json")

    @classmethod
    def read(cls, beton: Path) -> "SetCard":
        path = cls.path_beside(beton)
        if not beton.exists():
            raise Mistake(f"no file {beton}")
        try:
            card = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise Mistake(f"{beton} has no card beside it ({path.name}): it was not imported by mim-ray") from None
        except ValidationError as error:
            raise Failure(f"{path} is damaged: {error.errors()[0]['msg']}: import the set anew") from None
        if card.bytes != beton.stat().st_size:
            raise Failure(f"{path} describes {card.bytes:,} bytes, not the {beton.stat().st_size:,} of {beton}")
        return card

    def write(self, beton: Path) -> None:
        path = self.path_beside(beton)
        remove_parts_of_the_dead(path)
        aside = part_of(path)
        try:
            aside.write_text(json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def lines(self) -> list[tuple[str, str]]:
        """What a person reads: name and value."""
        shown: dict[str, Any] = self.model_dump()
        counts = sorted(self.class_counts)
        shown["classes"] = f"{len(self.classes)}" + (
            f" ({', '.join(self.classes[:12])}{', …' * (len(self.classes) > 12)})" if self.classes else ""
        )
        shown["class_counts"] = f"{counts[0]} to {counts[-1]} images each" if counts else "unlabelled"
        shown["options"] = shlex.join(f"{key}={value}" for key, value in self.options.items())
        shown["skipped"] = f"{len(self.skipped)}" + "".join(f"; {name}: {why}" for name, why in self.skipped[:5])
        for name in ("width", "height"):
            shown[name] = "least {} · median {} · most {}".format(*shown[name])
        for name in ("mean", "std"):
            shown[name] = " ".join(f"{value:.4f}" for value in shown[name])
        shown["label_fields"] = ", ".join(self.label_fields) or "none"
        shown["licence"] = self.licence or "not known"
        shown["samples"], shown["bytes"] = f"{self.samples:,}", f"{self.bytes:,}"
        return [(name, str(value)) for name, value in shown.items()]
