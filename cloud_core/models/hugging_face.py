"""The same weights as Hugging Face's `BertForMaskedLM`, both ways.

Only files are exchanged: `transformers` is not needed here. Every tensor has one counterpart, but for query,
key and value, which are one matrix here, and the head's output matrix, which is the word embedding.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cloud_core.models.checkpoint import load_encoder, load_weights, write_folder
from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.folder import CONFIG, WEIGHTS, CheckpointError
from cloud_core.models.geometry import EncoderConfig

PICKLED = "pytorch_model.bin"
VOCABULARY = "scope_vocabulary"
WORDS = "vocab.txt"
METADATA = "cloud_metadata"

# What EncoderConfig calls what BertConfig calls …
GEOMETRY = {
    "vocabulary_size": "vocab_size",
    "hidden_size": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "positions": "max_position_embeddings",
    "feed_forward": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "segments": "type_vocab_size",
    "norm_epsilon": "layer_norm_eps",
}
# … and modules: outside the layers, and inside them.
OUTSIDE = {
    "encoder.embeddings.words": "bert.embeddings.word_embeddings",
    "encoder.embeddings.positions": "bert.embeddings.position_embeddings",
    "encoder.embeddings.segments": "bert.embeddings.token_type_embeddings",
    "encoder.embeddings.norm": "bert.embeddings.LayerNorm",
    "transform": "cls.predictions.transform.dense",
    "norm": "cls.predictions.transform.LayerNorm",
}
INSIDE = {
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
QUERY_KEY_VALUE = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))
HEAD_BIAS = "cls.predictions.bias"
# Of a checkpoint, without a counterpart: copies of tied tensors, buffers, and what other heads of BERT use.
IGNORED = (
    "cls.predictions.decoder.",
    "bert.embeddings.position_ids",
    "bert.pooler.",
    "cls.seq_relationship.",
)


def to_hugging_face(folder: str | Path, destination: str | Path, words: Sequence[str]) -> Path:
    """Write the encoder in model folder `folder` as one that `BertForMaskedLM.from_pretrained` loads.

    `words` are the vocabulary by id (`Tokenizer().words`): `config.json` says under `scope_vocabulary` which
    it is and how many of the rows it uses; `vocab.txt` and `added_tokens.json` list it as published.
    """
    model, metadata = load_encoder(folder)
    config = model.config
    fractions = {word: i for i, word in enumerate(words) if "." in word and word != "."}
    about = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        "pad_token_id": words.index("[PAD]"),
        "dtype": "float32",
        **{theirs: getattr(config, ours) for ours, theirs in GEOMETRY.items()},
        VOCABULARY: {
            "name": "SCOPE words of CLOUD (vocab.txt, added_tokens.json)",
            "words": len(words),
            "rows": config.vocabulary_size,
            "sha256": digest_of(words),
            "form": metadata.get("form"),
        },
        METADATA: metadata,
    }
    # By default transformers would write the symbols of the elements in lower case.
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    texts = {
        CONFIG: json.dumps(about, indent=1),
        "tokenizer_config.json": json.dumps(tokenizer, indent=1),
        WORDS: "".join(f"{word}\n" for word in words if word not in fractions),
        "added_tokens.json": json.dumps(fractions, indent=1),
    }
    return write_folder(destination, {WEIGHTS: to_bert(model.state_dict(), config.layers)}, texts)


def from_hugging_face(
    folder: str | Path, words: Sequence[str], vocabulary_size: int | None = None
) -> tuple[MaskedLanguageModel, dict[str, Any]]:
    """A `BertForMaskedLM` folder as our model, with metadata to save it with.

    `words` are the vocabulary by id, as in `to_hugging_face`. `vocabulary_size` keeps the first rows only:
    the published checkpoint has 30,522, of which 564 are in use.

    Raises:
        CheckpointError: no BERT in there, other words, a tensor is missing, or a choice that the encoder does
            not know.
    """
    folder = Path(folder)
    config, theirs = bert_config(folder)
    refuse_other_words(folder, theirs, words)
    rows = config.vocabulary_size if vocabulary_size is None else vocabulary_size
    if rows < len(words):
        raise CheckpointError(f"{folder}: {rows} rows are fewer than the vocabulary's {len(words)} words")
    weights = from_bert(read_bert(folder), config.layers, folder)
    if vocabulary_size is not None:
        if vocabulary_size > config.vocabulary_size:
            raise CheckpointError(
                f"{folder}: has {config.vocabulary_size} words, fewer than {vocabulary_size}"
            )
        config = EncoderConfig(**vars(config) | {"vocabulary_size": vocabulary_size})
        for name in ("encoder.embeddings.words.weight", "bias"):
            weights[name] = weights[name][:vocabulary_size].clone()
    model = MaskedLanguageModel(config)
    load_weights(model, weights, folder)
    origin = {"parent": folder.resolve().name, "vocabulary_rows": config.vocabulary_size}
    return model, dict(theirs.get(METADATA) or {}) | origin


def digest_of(words: Sequence[str]) -> str:
    """What `config.json` says of the words."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def refuse_other_words(folder: Path, theirs: Mapping[str, Any], words: Sequence[str]) -> None:
    """Compare the vocabulary that a folder carries, where it carries one, with ours.

    Raises:
        CheckpointError: a word has another id there.
    """
    # `vocab.txt` lacks the words at the end, fractions, which are added tokens.
    listed = (folder / WORDS).read_text(encoding="utf-8").split() if (folder / WORDS).is_file() else []
    said = (theirs.get(VOCABULARY) or {}).get("sha256", digest_of(words))
    if said != digest_of(words) or listed != list(words[: len(listed)]):
        raise CheckpointError(f"{folder}: has other words than SCOPE's; give an encoder of SCOPE strings")


def bert_config(folder: Path) -> tuple[EncoderConfig, dict[str, Any]]:
    """(our geometry, their whole config) of a folder."""
    path = folder / CONFIG
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); give a folder that transformers wrote"
        ) from error
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in expected.items():
        if theirs.get(key, value) != value or (key == "model_type" and key not in theirs):
            raise CheckpointError(f"{path}: {key} is {theirs.get(key)!r}; the encoder knows {value!r} only")
    geometry = {ours: theirs[name] for ours, name in GEOMETRY.items() if name in theirs}
    # What transformers leaves out stands at BertConfig's default.
    defaults = {"vocabulary_size": 30_522, "positions": 512}
    return EncoderConfig(**defaults | geometry), theirs


def read_bert(folder: Path) -> dict[str, Tensor]:
    """Tensors of a folder, from safetensors or an old `pytorch_model.bin` (no pickles but of tensors)."""
    if (folder / WEIGHTS).is_file():
        return dict(load_file(folder / WEIGHTS))
    if (folder / PICKLED).is_file():
        return dict(torch.load(folder / PICKLED, map_location="cpu", weights_only=True))
    raise CheckpointError(f"{folder}: neither {WEIGHTS} nor {PICKLED}; the folder is incomplete")


def module_names(layers: int) -> dict[str, str]:
    """Our module → theirs, for all that differ in name only."""
    inside = {
        f"encoder.layers.{layer}.{ours}": f"bert.encoder.layer.{layer}.{theirs}"
        for layer in range(layers)
        for ours, theirs in INSIDE.items()
    }
    return OUTSIDE | inside


def to_bert(weights: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Our tensors under Hugging Face's names."""
    names = module_names(layers)
    renamed = {HEAD_BIAS: weights["bias"]}
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        if module in names:
            renamed[f"{names[module]}.{kind}"] = tensor
        elif module.endswith("query_key_value"):
            layer = module.split(".")[2]
            for part, piece in zip(QUERY_KEY_VALUE, tensor.chunk(3), strict=True):
                renamed[f"bert.encoder.layer.{layer}.{part}.{kind}"] = piece
    return renamed


def from_bert(weights: Mapping[str, Tensor], layers: int, source: Path) -> dict[str, Tensor]:
    """Their tensors under our names; `source` is named in errors."""
    # Names before 2019, and of a BertModel alone.
    modern = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): tensor
        for name, tensor in weights.items()
    }
    used: set[str] = set()

    def take(name: str) -> Tensor:
        if name not in modern:
            raise CheckpointError(
                f"{source}: no tensor {name}; a BertForMaskedLM is needed, with its prediction head"
            )
        used.add(name)
        return modern[name]

    ours = {"bias": take(HEAD_BIAS)}
    for module, theirs in module_names(layers).items():
        embedding = module.startswith("encoder.embeddings.") and not module.endswith("norm")
        for kind in ("weight",) if embedding else ("weight", "bias"):
            ours[f"{module}.{kind}"] = take(f"{theirs}.{kind}")
    for layer in range(layers):
        for kind in ("weight", "bias"):
            parts = [take(f"bert.encoder.layer.{layer}.{part}.{kind}") for part in QUERY_KEY_VALUE]
            ours[f"encoder.layers.{layer}.attention.query_key_value.{kind}"] = torch.cat(parts)
    left = sorted(name for name in set(modern) - used if not name.startswith(IGNORED))
    if left:
        raise CheckpointError(f"{source}: {len(left)} tensors have no place in the encoder, first {left[0]}")
    untied = modern.get("cls.predictions.decoder.weight")
    if untied is not None and not torch.equal(untied, ours["encoder.embeddings.words.weight"]):
        raise CheckpointError(f"{source}: the head's matrix is not tied to the word embedding, as it is here")
    return ours
