"""What each architecture is made of, written down from the modelling sources of `transformers` and `timm`.

Nothing here was read off a program: each row says which classes were read. The words mean the same in every row:

- **blocks**: the depth that the configuration states (`num_hidden_layers`, the sum of `depths`), in the order the
  source calls them: an encoder before a decoder, the blocks of a stage before those of the next stage.
- **head**: what the classifier class adds to the base model, so a pooler of the base model is no head, while a dense
  layer beside the base model is. For timm it is what `get_classifier()` returns.
- **stem**: what runs before the first block. **neck**: what runs after the last block and is no head.
- **between**: what runs between two blocks and is part of neither, such as the downsampling between stages.
- **unused**: what the classifier class creates and never reads, such as the pooling of a tower it does not ask for.

Two kinds of model are left out because the words do not decide them: those whose last norm stands beside the base model
(CvT, PoolFormer, SwiftFormer: head or neck), and those whose depth is no list of modules (XLM and FlauBERT run four
parallel lists, ALBERT calls one block again and again, MobileNetV1 is a flat list of single convolutions).

Three labels and two attention heads throughout; depths are other numbers, so that a mix-up shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

TEXT = {
    **{"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4},
    **{"num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0},
}
DECODER = TEXT | {"num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
IMAGE = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2},
    **{"image_size": 32, "patch_size": 8},
}


@dataclass(frozen=True, eq=False)
class Truth:
    """One architecture: how to build it tiny, and what its source says about every parameter.

    `head` is the full set of parameter names. `blocks` are module names in the order they run; `stem`, `neck` and
    `unused` are names of modules or parameters. `between` maps such a name to the position, counted in blocks, that
    it stands before: 2 is what runs after `blocks[1]` and before `blocks[2]`, and either may own it.
    """

    model: str
    config: Mapping[str, Any]
    blocks: tuple[str, ...]
    head: frozenset[str]
    stem: tuple[str, ...]
    neck: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    between: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join(filter(None, (self.model, self.config.get("architecture"))))


def build(truth: Truth) -> transformers.PreTrainedModel:
    """The architecture with random weights and three labels."""
    torch.manual_seed(0)
    model_class = getattr(transformers, truth.model)
    return model_class(model_class.config_class(num_labels=3, **truth.config)).eval()


def batch(truth: Truth) -> dict[str, torch.Tensor]:
    """One input: an image of the size in the row, or eight tokens of which only the last ends a sentence."""
    if "Image" not in truth.model:
        model_class = getattr(transformers, truth.model)
        tokens = torch.arange(3, 11).unsqueeze(0)
        config = model_class.config_class(**truth.config).get_text_config()
        tokens[:, -1] = getattr(config, "eos_token_id", None) or 2
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    settings = truth.config.get("vision_config", truth.config.get("model_args", truth.config))
    size = settings.get("image_size", settings.get("img_size", 224))
    height, width = size if isinstance(size, list) else (size, size)
    return {"pixel_values": torch.rand(1, 3, height, width)}


def numbered(name: str, count: int) -> tuple[str, ...]:
    """The elements of one list of blocks."""
    return tuple(f"{name}.{i}" for i in range(count))


def staged(pattern: str, depths: tuple[int, ...]) -> tuple[str, ...]:
    """The blocks of all stages; the pattern has a place for the stage and one for the block in it."""
    return tuple(pattern.format(stage, i) for stage, depth in enumerate(depths) for i in range(depth))


def layers(*names: str) -> frozenset[str]:
    """Weight and bias of each layer."""
    return frozenset(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))


SCORE = frozenset({"score.weight"})
"""The head of `GenericForSequenceClassification`: `score`, a linear layer without bias."""

ENCODERS = [
    # BertModel: embeddings, encoder, pooler. BertForSequenceClassification reads the pooler and adds `classifier`.
    Truth(
        "BertForSequenceClassification",
        TEXT,
        numbered("bert.encoder.layer", 4),
        layers("classifier"),
        stem=("bert.embeddings",),
        neck=("bert.pooler",),
    ),
    # BertForTokenClassification builds BertModel with add_pooling_layer=False.
    Truth(
        "BertForTokenClassification",
        TEXT,
        numbered("bert.encoder.layer", 4),
        layers("classifier"),
        stem=("bert.embeddings",),
    ),
    # DistilBertForSequenceClassification: pre_classifier and classifier stand beside the base model.
    Truth(
        "DistilBertForSequenceClassification",
        {"vocab_size": 120, "dim": 32, "hidden_dim": 48, "n_layers": 4, "n_heads": 2, "max_position_embeddings": 64},
        numbered("distilbert.transformer.layer", 4),
        layers("pre_classifier", "classifier"),
        stem=("distilbert.embeddings",),
    ),
    # RobertaForSequenceClassification: no pooler (add_pooling_layer=False); RobertaClassificationHead has two layers.
    Truth(
        "RobertaForSequenceClassification",
        TEXT,
        numbered("roberta.encoder.layer", 4),
        layers("classifier.dense", "classifier.out_proj"),
        stem=("roberta.embeddings",),
    ),
    # ElectraModel: embeddings_project when embedding_size differs. ElectraClassificationHead has two layers.
    Truth(
        "ElectraForSequenceClassification",
        TEXT | {"embedding_size": 16},
        numbered("electra.encoder.layer", 4),
        layers("classifier.dense", "classifier.out_proj"),
        stem=("electra.embeddings", "electra.embeddings_project"),
    ),
    # DebertaV2ForSequenceClassification: the ContextPooler stands beside the base model, so it is head.
    # DebertaV2Encoder: rel_embeddings and their LayerNorm enter every layer, thus before the first; `conv` is added
    # to what layer 0 returns, as in the xlarge checkpoints.
    Truth(
        "DebertaV2ForSequenceClassification",
        TEXT
        | {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}
        | {"pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "share_att_key": True},
        numbered("deberta.encoder.layer", 4),
        layers("pooler.dense", "classifier"),
        stem=("deberta.embeddings", "deberta.encoder.rel_embeddings", "deberta.encoder.LayerNorm"),
        between={"deberta.encoder.conv": 1},
    ),
    # ModernBertForSequenceClassification: ModernBertPredictionHead (dense and norm, no biases by default) stands
    # beside ModernBertModel. Masked-language checkpoints carry a `head` of the same shape, so "neck" for head.dense
    # and head.norm could be argued for; the class of the base model does not have them, so they are head here.
    Truth(
        "ModernBertForSequenceClassification",
        TEXT | {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        numbered("model.layers", 4),
        layers("classifier") | {"head.dense.weight", "head.norm.weight"},
        stem=("model.embeddings",),
        neck=("model.final_norm",),
    ),
    # XLNetModel: mask_emb is read only with a target_mapping. XLNetForSequenceClassification: XLNetSequenceSummary
    # has a linear layer (summary_use_proj is on by default) before logits_proj.
    Truth(
        "XLNetForSequenceClassification",
        {"vocab_size": 120, "d_model": 32, "n_layer": 4, "n_head": 2, "d_inner": 48, "pad_token_id": 0},
        numbered("transformer.layer", 4),
        layers("sequence_summary.summary", "logits_proj"),
        stem=("transformer.word_embedding",),
        unused=("transformer.mask_emb",),
    ),
    # MPNetEncoder: relative_attention_bias makes the position bias that every layer is given, so it runs before them.
    Truth(
        "MPNetForSequenceClassification",
        TEXT,
        numbered("mpnet.encoder.layer", 4),
        layers("classifier.dense", "classifier.out_proj"),
        stem=("mpnet.embeddings", "mpnet.encoder.relative_attention_bias"),
    ),
    # EuroBertForSequenceClassification: `dense` and `classifier` stand beside EuroBertModel, which ends in `norm`.
    Truth(
        "EuroBertForSequenceClassification",
        TEXT | {"num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2},
        numbered("model.layers", 4),
        layers("dense", "classifier"),
        stem=("model.embed_tokens",),
        neck=("model.norm",),
    ),
    # SqueezeBertEncoder calls `layer.forward(...)`, which no hook sees. SqueezeBertModel has a pooler.
    Truth(
        "SqueezeBertForSequenceClassification",
        TEXT | {"embedding_size": 32, "intermediate_size": 64},
        numbered("transformer.encoder.layers", 4),
        layers("classifier"),
        stem=("transformer.embeddings",),
        neck=("transformer.pooler",),
    ),
    # MobileBertLayer: its `ffn` is a list of three FFNLayer that run one after another inside one block.
    Truth(
        "MobileBertForSequenceClassification",
        TEXT | {"embedding_size": 16, "intra_bottleneck_size": 16},
        numbered("mobilebert.encoder.layer", 4),
        layers("classifier"),
        stem=("mobilebert.embeddings",),
        neck=("mobilebert.pooler",),
    ),
    # FunnelEncoder.blocks: a list of lists of layers; the pooling between them has no parameters. Sequence
    # classification uses FunnelBaseModel, which has no decoder.
    Truth(
        "FunnelForSequenceClassification",
        {"vocab_size": 120, "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48, "block_sizes": [2, 1, 4]}
        | {"pad_token_id": 0},
        staged("funnel.encoder.blocks.{}.{}", (2, 1, 4)),
        layers("classifier.linear_hidden", "classifier.linear_out"),
        stem=("funnel.embeddings",),
    ),
    # CanineModel: num_hidden_layers counts `encoder`. Before it run the character embeddings, an encoder of one layer
    # and chars_to_molecules; the pooler reads the encoder. `projection` and `final_char_encoder` make the sequence
    # output, which CanineForSequenceClassification does not read. (That the one layer before is a block of its own
    # could be argued for; the configuration does not count it.)
    Truth(
        "CanineForSequenceClassification",
        TEXT | {"num_hash_buckets": 120, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2},
        numbered("canine.encoder.layer", 4),
        layers("classifier"),
        stem=("canine.char_embeddings", "canine.initial_char_encoder", "canine.chars_to_molecules"),
        neck=("canine.pooler",),
        unused=("canine.projection", "canine.final_char_encoder"),
    ),
]

ENCODER_DECODERS = [
    # BartModel.forward: encoder, then decoder. The decoder's own embeddings (positions and norm) run after the
    # encoder, before the decoder's first layer. `shared` is tied to both embed_tokens.
    Truth(
        "BartForSequenceClassification",
        {"vocab_size": 120, "d_model": 32, "max_position_embeddings": 64}
        | {"encoder_layers": 4, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
        | {"decoder_layers": 5, "decoder_attention_heads": 2, "decoder_ffn_dim": 48},
        numbered("model.encoder.layers", 4) + numbered("model.decoder.layers", 5),
        layers("classification_head.dense", "classification_head.out_proj"),
        stem=("model.shared", "model.encoder.embed_positions", "model.encoder.layernorm_embedding"),
        between={"model.decoder.embed_positions": 4, "model.decoder.layernorm_embedding": 4},
    ),
    # T5Stack: blocks, then final_layer_norm; T5Model runs one stack after the other. The relative position bias is
    # a part of each stack's block 0.
    Truth(
        "T5ForSequenceClassification",
        {"vocab_size": 120, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_heads": 2, "decoder_start_token_id": 0}
        | {"num_layers": 4, "num_decoder_layers": 5},
        numbered("transformer.encoder.block", 4) + numbered("transformer.decoder.block", 5),
        layers("classification_head.dense", "classification_head.out_proj"),
        stem=("transformer.shared",),
        neck=("transformer.decoder.final_layer_norm",),
        between={"transformer.encoder.final_layer_norm": 4},
    ),
]

DECODERS = [
    # GPT2Model: wte, wpe, h, ln_f. GPT2ForSequenceClassification.score has no bias.
    Truth(
        "GPT2ForSequenceClassification",
        {"vocab_size": 120, "n_embd": 32, "n_layer": 4, "n_head": 2, "n_positions": 64, "pad_token_id": 0}
        | {"bos_token_id": 1, "eos_token_id": 2},
        numbered("transformer.h", 4),
        SCORE,
        stem=("transformer.wte", "transformer.wpe"),
        neck=("transformer.ln_f",),
    ),
    # OPTDecoder with word_embed_proj_dim, as in the 350M checkpoint: project_in before, project_out after.
    Truth(
        "OPTForSequenceClassification",
        {"vocab_size": 120, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
        | {"max_position_embeddings": 64, "word_embed_proj_dim": 16, "pad_token_id": 0},
        numbered("model.decoder.layers", 4),
        SCORE,
        stem=("model.decoder.embed_tokens", "model.decoder.embed_positions", "model.decoder.project_in"),
        neck=("model.decoder.final_layer_norm", "model.decoder.project_out"),
    ),
    # LlamaModel: embed_tokens, layers, norm.
    Truth(
        "LlamaForSequenceClassification",
        DECODER,
        numbered("model.layers", 4),
        SCORE,
        stem=("model.embed_tokens",),
        neck=("model.norm",),
    ),
    # MixtralDecoderLayer: MixtralSparseMoeBlock holds all experts as two stacked parameters: one block, not many.
    Truth(
        "MixtralForSequenceClassification",
        DECODER | {"num_local_experts": 5, "num_experts_per_tok": 2},
        numbered("model.layers", 4),
        SCORE,
        stem=("model.embed_tokens",),
        neck=("model.norm",),
    ),
    # Qwen2MoeDecoderLayer: a plain MLP where mlp_only_layers says so, else experts beside a shared expert.
    Truth(
        "Qwen2MoeForSequenceClassification",
        DECODER | EXPERTS | {"num_experts": 5, "mlp_only_layers": [1]},
        numbered("model.layers", 4),
        SCORE,
        stem=("model.embed_tokens",),
        neck=("model.norm",),
    ),
    # JambaModel: layers of two classes, JambaMambaDecoderLayer and (offset 1, period 2) JambaAttentionDecoderLayer,
    # each with experts in every other one.
    Truth(
        "JambaForSequenceClassification",
        DECODER
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 0}
        | {"num_experts": 5, "num_experts_per_tok": 2, "mamba_d_state": 8, "mamba_dt_rank": 4},
        numbered("model.layers", 4),
        SCORE,
        stem=("model.embed_tokens",),
        neck=("model.final_layernorm",),
    ),
    # ZambaModel: ZambaMambaDecoderLayer, or ZambaHybridLayer around one, whose `shared_transf` is the same module in
    # every hybrid layer (tied to the first). Its parameters carry the first one's name.
    Truth(
        "ZambaForSequenceClassification",
        DECODER
        | {"num_hidden_layers": 5, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba"]}
        | {"n_mamba_heads": 2, "mamba_d_state": 8, "use_mamba_kernels": False},
        numbered("model.layers", 5),
        SCORE,
        stem=("model.embed_tokens",),
        neck=("model.final_layernorm",),
    ),
    # Qwen3NextDecoderLayer: a gated delta net (linear attention) in three of four layers, full attention in the last.
    Truth(
        "Qwen3NextForSequenceClassification",
        DECODER
        | EXPERTS
        | {"num_experts": 5, "head_dim": 16, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 2},
        numbered("model.layers", 4),
        SCORE,
        stem=("model.embed_tokens",),
        neck=("model.norm",),
    ),
    # Gemma3Model: vision_tower and multi_modal_projector run only where there are pictures; a text classifier has
    # none. The depth is that of the language model.
    Truth(
        "Gemma3ForSequenceClassification",
        {"text_config": DECODER | {"head_dim": 16}, "vision_config": IMAGE, "mm_tokens_per_image": 4},
        numbered("model.language_model.layers", 4),
        SCORE,
        stem=("model.language_model.embed_tokens",),
        neck=("model.language_model.norm",),
        unused=("model.vision_tower", "model.multi_modal_projector"),
    ),
]

PLAIN_VISION = [
    # ViTModel: embeddings, layers (directly in it), layernorm; ViTForImageClassification builds it without pooler.
    Truth(
        "ViTForImageClassification",
        IMAGE,
        numbered("vit.layers", 4),
        layers("classifier"),
        stem=("vit.embeddings",),
        neck=("vit.layernorm",),
    ),
    # DeiTForImageClassificationWithTeacher: two heads on two tokens, and the logits are their mean.
    Truth(
        "DeiTForImageClassificationWithTeacher",
        IMAGE,
        numbered("deit.layers", 4),
        layers("cls_classifier", "distillation_classifier"),
        stem=("deit.embeddings",),
        neck=("deit.layernorm",),
    ),
    # BeitModel with use_mean_pooling (default): its layernorm is an identity and BeitPooler holds the last norm.
    # Each BeitLayer has a position bias of its own.
    Truth(
        "BeitForImageClassification",
        IMAGE | {"use_relative_position_bias": True},
        numbered("beit.layers", 4),
        layers("classifier"),
        stem=("beit.embeddings",),
        neck=("beit.pooler",),
    ),
    # Dinov2Embeddings: mask_token is read only with bool_masked_pos, which Dinov2ForImageClassification never gives.
    Truth(
        "Dinov2ForImageClassification",
        {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        numbered("dinov2.encoder.layer", 4),
        layers("classifier"),
        stem=(
            "dinov2.embeddings.cls_token",
            "dinov2.embeddings.position_embeddings",
            "dinov2.embeddings.patch_embeddings",
        ),
        neck=("dinov2.layernorm",),
        unused=("dinov2.embeddings.mask_token",),
    ),
    # CLIPForImageClassification averages last_hidden_state, which CLIPVisionModel returns as it leaves the encoder:
    # post_layernorm is for the pooled output alone and has no effect on the logits.
    Truth(
        "CLIPForImageClassification",
        {"vision_config": IMAGE, "text_config": TEXT},
        numbered("vision_model.encoder.layers", 4),
        layers("classifier"),
        stem=("vision_model.embeddings", "vision_model.pre_layrnorm"),
        unused=("vision_model.post_layernorm",),
    ),
    # SiglipForImageClassification averages last_hidden_state after post_layernorm; the attention pooling `head` of
    # SiglipVisionModel makes the pooled output, which it does not read. It is no classification head.
    Truth(
        "SiglipForImageClassification",
        {"vision_config": IMAGE, "text_config": TEXT},
        numbered("vision_model.encoder.layers", 4),
        layers("classifier"),
        stem=("vision_model.embeddings",),
        neck=("vision_model.post_layernorm",),
        unused=("vision_model.head",),
    ),
    # timm VisionTransformer: cls_token, pos_embed, patch_embed; blocks; norm; head.
    Truth(
        "TimmWrapperForImageClassification",
        {"architecture": "vit_tiny_patch16_224"}
        | {"model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}},
        numbered("timm_model.blocks", 4),
        layers("timm_model.head"),
        stem=("timm_model.cls_token", "timm_model.pos_embed", "timm_model.patch_embed"),
        neck=("timm_model.norm",),
    ),
]

STAGED_VISION = [
    # SwinStage: `blocks`, then `downsample` in all stages but the last. The downsampling lies in the stage before it
    # and feeds the stage after it.
    Truth(
        "SwinForImageClassification",
        {"embed_dim": 16, "depths": [2, 1, 4], "num_heads": [2, 2, 2], "image_size": 32, "patch_size": 4}
        | {"window_size": 2},
        staged("swin.encoder.layers.{}.blocks.{}", (2, 1, 4)),
        layers("classifier"),
        stem=("swin.embeddings",),
        neck=("swin.layernorm",),
        between={"swin.encoder.layers.0.downsample": 2, "swin.encoder.layers.1.downsample": 3},
    ),
    # ConvNextStage: downsampling_layer (none in the first), then `layers`. ConvNextModel ends in a layernorm.
    Truth(
        "ConvNextForImageClassification",
        {"hidden_sizes": [8, 16, 16, 32], "depths": [2, 1, 4, 2], "image_size": 64},
        staged("convnext.encoder.stages.{}.layers.{}", (2, 1, 4, 2)),
        layers("classifier"),
        stem=("convnext.embeddings",),
        neck=("convnext.layernorm",),
        between={
            "convnext.encoder.stages.1.downsampling_layer": 2,
            "convnext.encoder.stages.2.downsampling_layer": 3,
            "convnext.encoder.stages.3.downsampling_layer": 7,
        },
    ),
    # ResNetStage.layers; a stage's stride is inside its first ResNetBottleNeckLayer. Classifier: Flatten and Linear.
    Truth(
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "depths": [2, 1, 4, 2], "layer_type": "bottleneck"},
        staged("resnet.encoder.stages.{}.layers.{}", (2, 1, 4, 2)),
        layers("classifier.1"),
        stem=("resnet.embedder",),
    ),
    # EfficientNetEncoder: one flat list of EfficientNetBlock (MBConv), of which those that change the size have no
    # residual connection; then top_conv and top_bn. round_repeats: ceil(2.0 * [1, 2, 1]).
    Truth(
        "EfficientNetForImageClassification",
        {"width_coefficient": 0.25, "depth_coefficient": 2.0, "hidden_dim": 320, "image_size": 64}
        | {"in_channels": [32, 32, 64], "out_channels": [32, 64, 96], "kernel_sizes": [3, 3, 5], "strides": [1, 2, 2]}
        | {"num_block_repeats": [1, 2, 1], "expand_ratios": [1, 4, 4]},
        numbered("efficientnet.encoder.blocks", 2 + 4 + 2),
        layers("classifier"),
        stem=("efficientnet.embeddings",),
        neck=("efficientnet.encoder.top_conv", "efficientnet.encoder.top_bn"),
    ),
    # MobileNetV2Model: conv_stem, sixteen MobileNetV2InvertedResidual in one list, conv_1x1.
    Truth(
        "MobileNetV2ForImageClassification",
        {"depth_multiplier": 0.25, "image_size": 64},
        numbered("mobilenet_v2.layer", 16),
        layers("classifier"),
        stem=("mobilenet_v2.conv_stem",),
        neck=("mobilenet_v2.conv_1x1",),
    ),
    # PvtEncoder: two parallel lists, taken in turn: patch_embeddings[i], then the layers of block[i]. The class token
    # joins in the last patch embedding.
    Truth(
        "PvtForImageClassification",
        {"hidden_sizes": [16, 16, 32, 32], "depths": [2, 1, 4, 2], "num_attention_heads": [2, 2, 2, 2]}
        | {"mlp_ratios": [2, 2, 2, 2], "image_size": 64},
        staged("pvt.encoder.block.{}.{}", (2, 1, 4, 2)),
        layers("classifier"),
        stem=("pvt.encoder.patch_embeddings.0",),
        neck=("pvt.encoder.layer_norm",),
        between={
            "pvt.encoder.patch_embeddings.1": 2,
            "pvt.encoder.patch_embeddings.2": 3,
            "pvt.encoder.patch_embeddings.3": 7,
        },
    ),
    # LevitStage.layers: for each unit of depth a LevitResidualLayer around LevitAttention and one around
    # LevitMLPLayer; then, but for the last stage, LevitAttentionSubsample (no residual) and a LevitResidualLayer
    # around an MLP. Each element of that list is a step that the source runs on its own, and the smallest one that
    # carries a residual connection, so each is a block: 2 * (2 + 3 + 1) + 2 * 2. Counting attention and MLP in pairs
    # (`depths` as written, and timm's LevitBlock) would be as good, but no module holds a pair. The three stages
    # would be too coarse. LevitClassificationLayer has a norm before its linear layer.
    Truth(
        "LevitForImageClassification",
        {"hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 2], "depths": [2, 3, 1], "key_dim": [8, 8, 8]}
        | {"image_size": 64},
        staged("levit.encoder.stages.{}.layers.{}", (2 * 2 + 2, 2 * 3 + 2, 2 * 1)),
        layers("classifier.batch_norm", "classifier.linear"),
        stem=("levit.patch_embeddings",),
    ),
    # As above with two heads; the logits are their mean.
    Truth(
        "LevitForImageClassificationWithTeacher",
        {"hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 2], "depths": [2, 3, 1], "key_dim": [8, 8, 8]}
        | {"image_size": 64},
        staged("levit.encoder.stages.{}.layers.{}", (2 * 2 + 2, 2 * 3 + 2, 2 * 1)),
        layers("classifier.batch_norm", "classifier.linear")
        | layers("classifier_distill.batch_norm", "classifier_distill.linear"),
        stem=("levit.patch_embeddings",),
    ),
    # MobileViTEncoder.layer: two MobileViTMobileNetLayer, stages of one and of three inverted residuals, and three
    # MobileViTLayer. These are opened no further: MobileViTLayer.forward concatenates what entered its transformer
    # with what left it (`fusion`), so the transformer layers inside are one residual unit. The five elements of the
    # list would be acceptable; opening the transformers (thirteen) would not, as `fusion` then belongs nowhere.
    Truth(
        "MobileViTForImageClassification",
        {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 64], "num_attention_heads": 2}
        | {"image_size": 64},
        (
            "mobilevit.encoder.layer.0.layer.0",
            *numbered("mobilevit.encoder.layer.1.layer", 3),
            *(f"mobilevit.encoder.layer.{i}" for i in (2, 3, 4)),
        ),
        layers("classifier"),
        stem=("mobilevit.conv_stem",),
        neck=("mobilevit.conv_1x1_exp",),
    ),
    # timm ResNet: conv1, bn1, layer1 to layer4 as attributes, two BasicBlock each, fc.
    Truth(
        "TimmWrapperForImageClassification",
        {"architecture": "resnet18"},
        tuple(f"timm_model.layer{stage}.{i}" for stage in (1, 2, 3, 4) for i in (0, 1)),
        layers("timm_model.fc"),
        stem=("timm_model.conv1", "timm_model.bn1"),
    ),
    # timm EfficientNet.forward_features: conv_stem, bn1, blocks, conv_head, bn2. The b0 layout of `_gen_efficientnet`:
    # ds_r1, ir_r2, ir_r2, ir_r3, ir_r3, ir_r4, ir_r1.
    Truth(
        "TimmWrapperForImageClassification",
        {"architecture": "efficientnet_b0"},
        staged("timm_model.blocks.{}.{}", (1, 2, 2, 3, 3, 4, 1)),
        layers("timm_model.classifier"),
        stem=("timm_model.conv_stem", "timm_model.bn1"),
        neck=("timm_model.conv_head", "timm_model.bn2"),
    ),
    # timm `_gen_efficientnet_lite`, a source model of the extra `pretrained`: the repeats of b0, fixed stem and head.
    Truth(
        "TimmWrapperForImageClassification",
        {"architecture": "tf_efficientnet_lite0"},
        staged("timm_model.blocks.{}.{}", (1, 2, 2, 3, 3, 4, 1)),
        layers("timm_model.classifier"),
        stem=("timm_model.conv_stem", "timm_model.bn1"),
        neck=("timm_model.conv_head", "timm_model.bn2"),
    ),
    # timm SwinTransformerStage: `downsample` stands before the blocks of its stage, unlike in transformers.
    Truth(
        "TimmWrapperForImageClassification",
        {"architecture": "swin_tiny_patch4_window7_224"}
        | {
            "model_args": {
                "img_size": 32,
                "window_size": 2,
                "embed_dim": 16,
                "depths": (2, 1, 4),
                "num_heads": (2, 2, 2),
            }
        },
        staged("timm_model.layers.{}.blocks.{}", (2, 1, 4)),
        layers("timm_model.head.fc"),
        stem=("timm_model.patch_embed",),
        neck=("timm_model.norm",),
        between={"timm_model.layers.1.downsample": 2, "timm_model.layers.2.downsample": 3},
    ),
    # timm RegStage keeps its blocks as attributes b1, b2, ... and runs its children in turn. regnetx_002: widths and
    # depths come from RegNetCfg, depth=13 in four stages of 1, 1, 4 and 7; final_conv is an identity.
    Truth(
        "TimmWrapperForImageClassification",
        {"architecture": "regnetx_002"},
        tuple(
            f"timm_model.s{stage}.b{i + 1}" for stage, depth in ((1, 1), (2, 1), (3, 4), (4, 7)) for i in range(depth)
        ),
        layers("timm_model.head.fc"),
        stem=("timm_model.stem",),
    ),
    # RegNetStage: as ResNetStage, its `layers` called as one Sequential.
    Truth(
        "RegNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "depths": [2, 1, 4, 2], "groups_width": 8},
        staged("regnet.encoder.stages.{}.layers.{}", (2, 1, 4, 2)),
        layers("classifier.1"),
        stem=("regnet.embedder",),
    ),
    # HGNetV2Stage: downsample (none in the first stage), then `blocks`. HGNetV2BasicLayer runs a list of convolutions
    # and concatenates what entered them with what each returns. There is no base model; the head is `fc`.
    Truth(
        "HGNetV2ForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "stem_channels": [3, 8, 8]}
        | {"stage_in_channels": [8, 16, 16, 32], "stage_mid_channels": [8, 8, 8, 8], "stage_numb_of_layers": [3] * 4}
        | {"stage_out_channels": [16, 16, 32, 32], "stage_num_blocks": [2, 1, 4, 2]},
        staged("encoder.stages.{}.blocks.{}", (2, 1, 4, 2)),
        layers("fc"),
        stem=("embedder",),
        between={f"encoder.stages.{stage}.downsample": position for stage, position in ((1, 2), (2, 3), (3, 7))},
    ),
    # SegformerStage: patch_embeddings, blocks, layer_norm, in every stage.
    Truth(
        "SegformerForImageClassification",
        {"hidden_sizes": [16, 16, 32, 32], "depths": [2, 1, 4, 2], "num_attention_heads": [2, 2, 2, 2]},
        staged("segformer.stages.{}.blocks.{}", (2, 1, 4, 2)),
        layers("classifier"),
        stem=("segformer.stages.0.patch_embeddings",),
        neck=("segformer.stages.3.layer_norm",),
        between={
            **{f"segformer.stages.{stage}.layer_norm": position for stage, position in ((0, 2), (1, 3), (2, 7))},
            **{f"segformer.stages.{stage}.patch_embeddings": position for stage, position in ((1, 2), (2, 3), (3, 7))},
        },
    ),
    # FocalNetStage: `layers`, then downsample in all stages but the last.
    Truth(
        "FocalNetForImageClassification",
        {"embed_dim": 16, "depths": [2, 1, 4], "focal_levels": [2, 2, 2], "focal_windows": [3, 3, 3]}
        | {"hidden_sizes": [16, 32, 64], "image_size": 32},
        staged("focalnet.encoder.stages.{}.layers.{}", (2, 1, 4)),
        layers("classifier"),
        stem=("focalnet.embeddings",),
        neck=("focalnet.layernorm",),
        between={"focalnet.encoder.stages.0.downsample": 2, "focalnet.encoder.stages.1.downsample": 3},
    ),
    # HieraStage.layers; the change of width is inside the first HieraLayer of a stage. HieraPooler holds a norm.
    Truth(
        "HieraForImageClassification",
        {"embed_dim": 8, "depths": [2, 1, 4, 2], "num_heads": [1, 2, 2, 2], "image_size": [32, 32]},
        staged("hiera.encoder.stages.{}.layers.{}", (2, 1, 4, 2)),
        layers("classifier"),
        stem=("hiera.embeddings",),
        neck=("hiera.pooler",),
    ),
]

TRUTHS = ENCODERS + ENCODER_DECODERS + DECODERS + PLAIN_VISION + STAGED_VISION
