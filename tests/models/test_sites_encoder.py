"""The sites encoder: what it reads, that neither order nor neighbours in a batch matter, and its folders."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_core.models.checkpoint import load_encoder, save_encoder
from cloud_core.models.ensemble import Ensemble
from cloud_core.models.folder import CheckpointError
from cloud_core.models.geometry import (
    ELEMENTS,
    FIELDS,
    LETTERS,
    SITE_SYMMETRIES,
    WYCKOFF_POSITIONS,
    EncoderConfig,
    SitesConfig,
)
from cloud_core.models.heads import PropertyModel, geometry, take_encoder
from cloud_core.models.sites_encoder import MaskedSites, Sites, SitesEncoder
from cloud_core.models.targets import Target, TargetError
from cloud_core.scope import ScopeError, canonicalise, resolve
from cloud_core.scope.grammar import join
from cloud_core.scope.sites import CRYSTAL_CLASSES, letter_of_position, sites_of, standardised_properties
from cloud_core.scope.sites import LETTERS as LETTER_NAMES
from cloud_core.scope.tables import ATOMIC_NUMBERS, space_groups
from cloud_core.training.batches import Batches

TINY = SitesConfig("sites", hidden_size=16, layers=2, heads=2, feed_forward=32)
# Rock salt, the same with a mixture, and water without symmetry.
SALT = join(225, "4a Cl 4b Na", "Cl 0.5 Na 0.5")
MIXED = join(225, "4a Cl 4b K 0.25 Na 0.75", "Cl 0.5 K 0.12 Na 0.38")
WATER = join(1, "1a H 1a H 1a O", "H 0.67 O 0.33")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Resolved strings of real cells of many kinds."""
    import pandas as pd

    golden = pd.read_parquet(Path(__file__).parents[1] / "scope" / "golden.parquet")
    found = [text for text in golden["resolved"] if isinstance(text, str)]
    assert len(found) > 250
    return found


def encoder(config: SitesConfig = TINY) -> SitesEncoder:
    torch.manual_seed(0)
    made = SitesEncoder(config)
    made.set_properties(torch.from_numpy(standardised_properties().copy()))
    return made.eval()


def inputs(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    batches = Batches.of_sites(texts)
    ids, lengths = batches.padded(np.arange(len(texts)))
    return torch.from_numpy(ids), torch.from_numpy(lengths)


def test_rows_hold_what_the_strings_say() -> None:
    ids, lengths = inputs([SALT, MIXED, WATER])
    assert lengths.tolist() == [3, 4, 3]
    columns = dict(zip(FIELDS, ids.permute(2, 0, 1).tolist(), strict=True))
    assert columns["space_group"] == [[225, 0, 0, 0], [225, 0, 0, 0], [1, 0, 0, 0]]
    assert columns["element"][0] == [0, 17, 11, 0]
    assert columns["element"][1] == [0, 17, 19, 11]
    assert columns["occupancy"][1] == [0, 100, 25, 75]
    assert columns["multiplicity"][0] == [0, 4, 4, 0]
    assert columns["count"][2] == [0, 2, 1, 0]  # two hydrogen atoms on 1a
    assert [CRYSTAL_CLASSES[i - 1] for i in columns["site_symmetry"][0][1:3]] == ["m-3m", "m-3m"]
    assert [LETTER_NAMES[letter_of_position()[i]] for i in columns["position"][0][1:3]] == ["a", "b"]
    with pytest.raises(ScopeError, match="only the resolved form"):
        Batches.of_sites([SALT.replace(" Cl 4b Na |", " 4b |")])


def test_the_tables_have_room_for_every_position_and_element() -> None:
    positions = sum(len(group.multiplicities) for group in space_groups().values())
    assert WYCKOFF_POSITIONS == positions + 1 == len(letter_of_position())
    assert len(CRYSTAL_CLASSES) + 1 == SITE_SYMMETRIES
    assert len(ATOMIC_NUMBERS) + 1 == ELEMENTS == len(standardised_properties())
    assert len(LETTER_NAMES) == LETTERS
    for number in (1, 2, 47, 225, 230):
        symbols = space_groups()[number].symbols
        found = [
            int(sites_of([join(number, f"{each} Fe", "Fe 1.0")]).positions[0]) for each in symbols.values()
        ]
        before = sum(len(space_groups()[i].multiplicities) for i in range(1, number))
        assert found == list(range(before + 1, before + 1 + len(symbols)))


def test_shares_and_compositions_are_those_of_the_strings(texts: list[str]) -> None:
    sites = Sites.of_padded(*inputs(texts))
    known = sites_of(texts)
    own = sites.fields[:, 6] == 0
    np.testing.assert_allclose(sites.shares[own].numpy(), known.shares, atol=1e-6)
    assert not sites.shares[~own].any()
    np.testing.assert_allclose(sites.composition().numpy(), known.composition, atol=1e-6)


def test_neither_the_order_of_sites_nor_the_batch_matters(texts: list[str]) -> None:
    model = encoder()
    ids, lengths = inputs(texts)
    together = model.vectors(Sites.of_padded(ids, lengths))
    generator = torch.Generator().manual_seed(1)
    for row in range(0, len(texts), 23):
        one = ids[row : row + 1, : lengths[row]]
        alone = model.vectors(Sites.of_padded(one, lengths[row : row + 1]))
        torch.testing.assert_close(alone[0], together[row], atol=2e-5, rtol=1e-4)
        order = 1 + torch.randperm(int(lengths[row]) - 1, generator=generator)
        mixed = one[:, torch.cat([torch.zeros(1, dtype=torch.long), order])]
        torch.testing.assert_close(
            model.vectors(Sites.of_padded(mixed, lengths[row : row + 1]))[0],
            together[row],
            atol=2e-5,
            rtol=1e-4,
        )


def test_which_element_sits_where_makes_another_vector() -> None:
    one, other = (
        resolve(join(221, f"1a {a} 1b {b} 3d O", "O 0.6 Sr 0.2 Ti 0.2"))
        for a, b in (("Ti", "Sr"), ("Sr", "Ti"))
    )
    assert canonicalise(one) == canonicalise(other)
    ids, lengths = inputs([one, other])
    vectors = encoder().vectors(Sites.of_padded(ids, lengths))
    assert (vectors[0] - vectors[1]).abs().max() > 1e-2


def test_a_folder_holds_all_that_the_model_needs(tmp_path: Path, texts: list[str]) -> None:
    torch.manual_seed(0)
    model = PropertyModel(TINY, [Target("a"), Target("b")])
    assert isinstance(model.encoder, SitesEncoder)
    model.encoder.set_properties(torch.from_numpy(standardised_properties().copy()))
    ids, lengths = inputs(texts[:20])
    before = model.predict(ids, lengths)
    model.save(tmp_path / "model", {"form": "resolved"})
    back, metadata = PropertyModel.load(tmp_path / "model")
    after = back.predict(ids, lengths)
    assert metadata == {"form": "resolved"} and back.config == TINY == geometry(tmp_path / "model")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_property_starts_from_what_was_pretrained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    masked = MaskedSites(TINY)
    masked.encoder.set_properties(torch.from_numpy(standardised_properties().copy()))
    save_encoder(tmp_path / "encoder", masked, {"form": "resolved"})
    model = PropertyModel(TINY, [Target("a")])
    assert take_encoder(model, tmp_path / "encoder") == {"form": "resolved"}
    for name, tensor in masked.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor), name
    with pytest.raises(CheckpointError, match="an encoder of sites, not of strings"):
        load_encoder(tmp_path / "encoder")


def test_an_ensemble_reads_one_kind_of_input() -> None:
    strings = EncoderConfig(hidden_size=16, layers=1, heads=2, feed_forward=32)
    members = [PropertyModel(config, [Target("a")]) for config in (TINY, strings)]
    with pytest.raises(TargetError, match="all strings, or all sites"):
        Ensemble(members)


def test_impossible_geometries_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size 10 is not a multiple of heads 4"):
        SitesConfig("sites", hidden_size=10)
    with pytest.raises(ValueError, match="heads must be at least 1"):
        SitesConfig("sites", heads=0)
    with pytest.raises(ValueError, match="feed_forward must be at least 1"):
        SitesConfig("sites", feed_forward=0)
