"""The encoder against Hugging Face's BERT, which nobody here wrote."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from cloud_core.models.checkpoint import load_encoder, save_encoder
from cloud_core.models.encoder import MaskedLanguageModel, Packing, attend
from cloud_core.models.folder import CheckpointError
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.hugging_face import from_hugging_face, to_hugging_face
from cloud_core.scope.tokenizer import Tokenizer

SMALL = EncoderConfig(hidden_size=64, layers=3, heads=4, feed_forward=160)
LENGTHS = torch.tensor([64, 3, 17, 29, 29])
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def random_model(config: EncoderConfig) -> MaskedLanguageModel:
    """Every tensor random, norms and biases too: a swapped or forgotten one must show."""
    torch.manual_seed(1)
    model = MaskedLanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def batch(words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, attention mask) with padding."""
    ids = torch.randint(5, words, (len(LENGTHS), 64), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(64) < LENGTHS[:, None]
    return torch.where(mask, ids, Tokenizer().pad_id), mask


@torch.no_grad()
def test_export_gives_the_logits_of_hugging_face(tmp_path: Path) -> None:
    model = random_model(SMALL)
    save_encoder(tmp_path / "ours", model, {"form": "canonical"})
    to_hugging_face(tmp_path / "ours", tmp_path / "theirs", Tokenizer().words)
    theirs = BertForMaskedLM.from_pretrained(tmp_path / "theirs").eval()
    ids, mask = batch(564)
    expected = theirs(input_ids=ids, attention_mask=mask.long()).logits
    assert expected.abs().max() > 1  # not a comparison of zeros
    torch.testing.assert_close(model(ids, LENGTHS)[mask], expected[mask], **TOLERANCE)
    about = json.loads((tmp_path / "theirs" / "config.json").read_text())["scope_vocabulary"]
    assert (about["words"], about["rows"], about["form"]) == (564, 564, "canonical")


@torch.no_grad()
@pytest.mark.parametrize("words", [564, 30_522])
def test_import_gives_the_logits_of_hugging_face(tmp_path: Path, words: int) -> None:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=words, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    theirs = BertForMaskedLM(config).eval()
    with torch.no_grad():
        theirs.cls.predictions.bias.normal_()
    theirs.save_pretrained(tmp_path / "theirs")
    ids, mask = batch(564)
    expected = theirs(input_ids=ids, attention_mask=mask.long()).logits[mask]

    model, metadata = from_hugging_face(tmp_path / "theirs", Tokenizer().words)
    assert metadata["vocabulary_rows"] == words
    torch.testing.assert_close(model.eval()(ids, LENGTHS)[mask], expected, **TOLERANCE)

    cut, _ = from_hugging_face(tmp_path / "theirs", Tokenizer().words, vocabulary_size=564)
    torch.testing.assert_close(cut.eval()(ids, LENGTHS)[mask], expected[:, :564], **TOLERANCE)

    save_encoder(tmp_path / "ours", model, metadata)
    to_hugging_face(tmp_path / "ours", tmp_path / "again", Tokenizer().words)
    again = BertForMaskedLM.from_pretrained(tmp_path / "again").state_dict()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again[name], tensor), name


@torch.no_grad()
@pytest.mark.slow
def test_the_published_shape(tmp_path: Path) -> None:
    """BERT-base with 64 positions and 30,522 rows, as the authors' script makes it."""
    torch.manual_seed(4)
    theirs = BertForMaskedLM(BertConfig(vocab_size=30_522, max_position_embeddings=64)).eval()
    theirs.save_pretrained(tmp_path)
    ids, mask = batch(564)
    expected = theirs(input_ids=ids, attention_mask=mask.long()).logits[mask]
    model, _ = from_hugging_face(tmp_path, Tokenizer().words)
    assert model.config == EncoderConfig(vocabulary_size=30_522)
    torch.testing.assert_close(model.eval()(ids, LENGTHS)[mask], expected, **TOLERANCE)


@torch.no_grad()
def test_old_names_and_pickled_tensors_are_read(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=564, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=64,
    )  # fmt: skip
    theirs = BertForMaskedLM(config).eval()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in theirs.state_dict().items()
    }
    torch.save(old, tmp_path / "pytorch_model.bin")
    ids, mask = batch(564)
    model, _ = from_hugging_face(tmp_path, Tokenizer().words)
    expected = theirs(input_ids=ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(model.eval()(ids, LENGTHS)[mask], expected[mask], **TOLERANCE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"num_hidden_layers": 2}, "no tensor bert.encoder.layer.1"),
        ({"num_hidden_layers": 0}, "layers must be at least 1"),
    ],
)
def test_what_is_not_this_bert_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    save_encoder(tmp_path / "ours", MaskedLanguageModel(EncoderConfig(hidden_size=32, layers=1, heads=2)), {})
    to_hugging_face(tmp_path / "ours", tmp_path / "theirs", Tokenizer().words)
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        from_hugging_face(tmp_path / "theirs", Tokenizer().words)


def test_an_encoder_of_other_words_is_refused(tmp_path: Path) -> None:
    words = Tokenizer().words
    theirs, config = tmp_path / "theirs", tmp_path / "theirs" / "config.json"
    save_encoder(tmp_path / "ours", MaskedLanguageModel(EncoderConfig(hidden_size=32, layers=1, heads=2)), {})
    to_hugging_face(tmp_path / "ours", theirs, words)
    from_hugging_face(theirs, words)
    with pytest.raises(CheckpointError, match="100 rows are fewer than the vocabulary's 564 words"):
        from_hugging_face(theirs, words, vocabulary_size=100)
    swapped = (words[1], words[0], *words[2:])
    with pytest.raises(CheckpointError, match="theirs: has other words than SCOPE's"):
        from_hugging_face(theirs, swapped)
    # as published: a list of words and nothing in the configuration
    config.write_text(
        json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "scope_vocabulary"})
    )
    from_hugging_face(theirs, words)
    with pytest.raises(CheckpointError, match="theirs: has other words than SCOPE's"):
        from_hugging_face(theirs, swapped)
    (theirs / "vocab.txt").unlink()
    from_hugging_face(theirs, swapped)  # it does not say


def test_what_is_no_model_is_not_replaced(tmp_path: Path) -> None:
    model = MaskedLanguageModel(EncoderConfig(hidden_size=32, layers=1, heads=2))
    (tmp_path / "data").mkdir()
    save_encoder(tmp_path / "data", model, {})  # an empty folder may be filled
    save_encoder(tmp_path / "data", model, {"second": True})
    assert load_encoder(tmp_path / "data")[1] == {"second": True}
    (tmp_path / "data" / "config.json").unlink()
    (tmp_path / "notes").write_text("mine")
    for place in ("data", "notes"):
        with pytest.raises(
            CheckpointError, match=f"{place}: is there and no model folder; name a new folder"
        ):
            save_encoder(tmp_path / place, model, {})
    assert (tmp_path / "notes").read_text() == "mine"
    assert (tmp_path / "data" / "model.safetensors").is_file()


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    model = random_model(SMALL)
    ids, _ = batch(564)
    together = model(ids, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model(ids[row : row + 1, :length], LENGTHS[row : row + 1])[0]
        torch.testing.assert_close(together[row, :length], alone, **TOLERANCE)
    assert not model.encoder(ids, LENGTHS)[1, 3:].any()


@torch.no_grad()
def test_masked_logits_are_those_of_the_whole_grid() -> None:
    model = random_model(SMALL)
    ids, mask = batch(564)
    places = torch.tensor([0, 5, 63, 65, 141])
    chosen = model.masked_logits(ids[mask], Packing.of(LENGTHS, 64), places)
    torch.testing.assert_close(chosen, model(ids, LENGTHS)[mask][places], **TOLERANCE)


def test_strings_longer_than_the_encoder_are_refused() -> None:
    model = MaskedLanguageModel(EncoderConfig(hidden_size=32, layers=1, heads=2, positions=16))
    with pytest.raises(ValueError, match="17 tokens do not fit the encoder's 16 positions"):
        model(torch.zeros(1, 17, dtype=torch.long), torch.tensor([17]))


def test_geometry_is_checked() -> None:
    with pytest.raises(ValueError, match="hidden_size 100 is not a multiple of heads 12"):
        EncoderConfig(hidden_size=100)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "debye"}')
    with pytest.raises(CheckpointError, match="of kind 'debye', not 'encoder'"):
        load_encoder(tmp_path)


def test_attention_written_out_is_torchs() -> None:
    """In bfloat16 on a CPU: the values and gradients of torch's kernel in float64, to bfloat16's digits."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(5, 2, 9, 16, generator=generator).bfloat16() for _ in range(3)]
    mask = (torch.arange(9) < torch.tensor([[9], [1], [4], [7], [2]]))[:, None, None]
    outcomes = []
    for dtype in (torch.bfloat16, torch.float64):
        leaves = [tensor.to(dtype).detach().requires_grad_() for tensor in inputs]
        mixed = attend(*leaves, mask, 0.0)
        mixed.square().sum().backward()
        outcomes.append([mixed.detach(), *(leaf.grad for leaf in leaves)])
    for written_out, fused in zip(*outcomes, strict=True):
        assert written_out.dtype == torch.bfloat16
        torch.testing.assert_close(written_out.double(), fused, atol=0.02, rtol=0.02)

    ones = torch.ones(2, 2, 4096, 16, dtype=torch.bfloat16)
    dropped = attend(ones[..., :1, :], ones, ones, None, 0.25)
    assert dropped.float().mean() == pytest.approx(1, abs=0.05) and len(dropped.unique()) > 1
