"""Every method by its name."""

from collections.abc import Callable, Mapping

from mim_ray.config import drafted, resolve
from mim_ray.errors import Mistake, nearest
from mim_ray.methods import a2mim, byol, cmae, mae, mocov3, protocols, rmae, simmim, supervised
from mim_ray.methods.sizes import encoder_overrides
from mim_ray.run import Run

METHODS: dict[str, Callable[[], Run]] = {
    "mae": mae.mae,
    "mae_few": mae.mae_few,
    "mae_jitter_whole": mae.mae_jitter_whole,
    "mae_jitter_visible": mae.mae_jitter_visible,
    "rmae": rmae.rmae,
    "rmae_25": rmae.rmae_25,
    "rmae_0": rmae.rmae_0,
    "cmae": cmae.cmae,
    "cmae_no_mask_token": cmae.cmae_no_mask_token,
    "cmae_byol": cmae.cmae_byol,
    "cmae_byol_no_mask_token": cmae.cmae_byol_no_mask_token,
    "cmae_class": cmae.cmae_class,
    "cmae_mean": cmae.cmae_mean,
    "cmae_token_class": cmae.cmae_token_class,
    "simmim": simmim.simmim,
    "simmim_r50": simmim.simmim_r50,
    "a2mim": a2mim.a2mim,
    "a2mim_r50": a2mim.a2mim_r50,
    "a2mim_code": a2mim.a2mim_code,
    "a2mim_r50_code": a2mim.a2mim_r50_code,
    "mocov3": mocov3.mocov3,
    "mocov3_r50": mocov3.mocov3_r50,
    "byol": byol.byol,
    "supervised": supervised.supervised,
}
PROTOCOLS: dict[str, Callable[[], Run]] = {
    "finetune": protocols.finetune,
    "finetune_a3": protocols.finetune_a3,
    "finetune_a2": protocols.finetune_a2,
    "linear": protocols.linear,
    "linear_r50": protocols.linear_r50,
    "knn": protocols.knn,
}
"""How a model is judged."""


def recipe(name: str) -> Run:
    """The published settings of a method or a protocol."""
    known = METHODS | PROTOCOLS
    if name not in known:
        raise Mistake(f"no method {name!r}{nearest(name, known)}")
    return known[name]()


def resolved(method: str, overrides: Mapping[str, object]) -> Run:
    """The published settings of a method with a user's changes. `encoder=WORD` names an encoder in short."""
    run, changes = recipe(method), dict(overrides)
    word = changes.pop("encoder", None)
    if word is not None:
        changes = encoder_overrides(str(word), drafted(run, changes)) | changes
    return resolve(run, changes)
