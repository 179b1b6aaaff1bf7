"""A model's card, for people and from before."""

import json

from mim_ray.model_card import ModelCard, described

CARD = ModelCard(method="mae", overrides={"encoder": "micro"}, steps=1, dataset="x", metrics={}, mim_ray="0")


def test_the_licence_is_told_in_the_row_of_the_data() -> None:
    for licence, told in ((None, "not known here"), ("CC BY\n| 4.0", "CC BY / 4.0")):
        text = described(CARD.model_copy(update={"licence": licence}))
        assert f"| data | `x`, checksum not known; its licence: {told} |\n" in text


def test_a_card_from_before_licences_is_read() -> None:
    words = json.loads(CARD.model_dump_json())
    del words["licence"]
    assert ModelCard.model_validate_json(json.dumps(words)) == CARD
