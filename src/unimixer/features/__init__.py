"""From a batch of ids and numbers to embeddings and tokens."""

from unimixer.features.batch import Batch
from unimixer.features.embedding import EmbeddingTables, PackedEmbedding
from unimixer.features.embedding_options import EmbeddingOptions
from unimixer.features.events import EventEmbedding, EventGroup, SequenceTokens
from unimixer.features.fields import FieldEmbedding, FieldSlice
from unimixer.features.managed import ManagedIds, ManagedTables
from unimixer.features.numeric import NumericEmbedding, VectorProjection
from unimixer.features.request import Request, RequestLayout
from unimixer.features.sequence import SmallTransformer, TargetAttention
from unimixer.features.spec import DenseField, FeatureSpec, IdField, SequenceField
from unimixer.features.tokenizers import build_tokenizer

__all__ = [
    "Batch",
    "DenseField",
    "EmbeddingOptions",
    "EmbeddingTables",
    "EventEmbedding",
    "EventGroup",
    "FeatureSpec",
    "FieldEmbedding",
    "FieldSlice",
    "IdField",
    "ManagedIds",
    "ManagedTables",
    "NumericEmbedding",
    "PackedEmbedding",
    "Request",
    "RequestLayout",
    "SequenceField",
    "SequenceTokens",
    "SmallTransformer",
    "TargetAttention",
    "VectorProjection",
    "build_tokenizer",
]
