"""Models of six libraries, as these build them, with random weights: the head is found, or the reason is named, and
what is collected there equals a hook of this test's own.

None is downloaded. Where a library is not installed, its models are skipped; `pip install torchvision timm transformers
peft stable-baselines3 torch_geometric rtdl_revisiting_models tabm` brings them all.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nrc
import nrc.models._torchvision  # the other libraries import torchvision, which may not load as it is
from nrc.errors import UserError
from nrc.metrics import measure_with_reasons

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROWS = 24
COMPARED = ("nrc1", "nrc2", "nrc3", "noise", "evr_1", "weight_norm", "feature_norm", "cka", "mse", "r2")


@dataclass
class Case:
    """A model and what a user would do with it.

    Attributes:
        inputs: what it takes: a tensor, or a dict by keyword; the first axis holds the samples.
        head: the layer that is expected to be found as the last one.
        options: further arguments of `nrc.CollapseMonitor`.
        predict: the prediction in what the model puts out.
        features: the rows that the head reads for the prediction, of all that enter it.
        weight: weight and bias that the head applies; None: those that it stores.
        targets: number of targets.
        direct: whether the prediction is W h + b of the head as it stands.
        whole: the samples belong together (nodes of a graph): one batch.
    """

    model: nn.Module
    inputs: Any
    head: str
    options: dict[str, Any] = field(default_factory=dict)
    predict: Callable[[Any], Tensor] = lambda out: out
    features: Callable[[Tensor], Tensor] = lambda h: h.flatten(1)
    weight: Callable[[Any], tuple[Tensor, Tensor]] | None = None
    targets: int = 2
    direct: bool = True
    whole: bool = False


def images(size: int) -> Tensor:
    return torch.randn(ROWS, 3, size, size)


def tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(1, 50, (ROWS, 10))}


SMALL = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "pad_token_id": 0,
}  # fmt: skip


def logits(out: Any) -> Tensor:
    return out.logits


def last(h: Tensor) -> Tensor:
    return h[:, -1]


# --- torchvision


def tv_resnet18(tv: Any) -> Case:
    return Case(tv.models.resnet18(num_classes=2), images(32), "fc")


def tv_vit(tv: Any) -> Case:
    model = tv.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=2)
    nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero
    return Case(model, images(32), "heads.head")


def tv_mobilenet(tv: Any) -> Case:
    return Case(tv.models.mobilenet_v3_small(num_classes=2), images(32), "classifier.3")


def tv_convnext(tv: Any) -> Case:
    blocks = [
        tv.models.convnext.CNBlockConfig(12, 24, 1),
        tv.models.convnext.CNBlockConfig(24, None, 1),
    ]
    return Case(tv.models.ConvNeXt(blocks, num_classes=2), images(32), "classifier.2")


def tv_densenet(tv: Any) -> Case:
    return Case(tv.models.DenseNet(8, (2, 2), 16, num_classes=2), images(32), "classifier")


def tv_swin(tv: Any) -> Case:
    model = tv.models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [2, 2], num_classes=2)
    return Case(model, images(32), "head")


# --- timm


def timm_resnet(timm: Any) -> Case:
    return Case(timm.create_model("resnet10t", num_classes=2), images(32), "fc")


def timm_vit(timm: Any) -> Case:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_classes=2
    )
    return Case(model, images(32), "head")


def timm_mixer(timm: Any) -> Case:
    model = timm.models.MlpMixer(img_size=32, patch_size=8, embed_dim=24, num_blocks=2, num_classes=2)
    nn.init.normal_(model.head.weight)  # timm starts it at zero
    return Case(model, images(32), "head")


def timm_convnext(timm: Any) -> Case:
    return Case(
        timm.create_model("convnext_atto", num_classes=2, dims=(8, 16, 24, 32)), images(64), "head.fc"
    )


def timm_regnet(timm: Any) -> Case:
    return Case(timm.create_model("regnetx_002", num_classes=2), images(32), "head.fc")


# --- transformers


def hf_bert(hf: Any) -> Case:
    config = hf.BertConfig(**SMALL, num_labels=2, problem_type="regression")
    return Case(hf.BertForSequenceClassification(config), tokens(), "classifier", predict=logits)


def hf_distilbert(hf: Any) -> Case:
    config = hf.DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=48, num_labels=2)
    return Case(hf.DistilBertForSequenceClassification(config), tokens(), "classifier", predict=logits)


def hf_roberta(hf: Any) -> Case:
    config = hf.RobertaConfig(**SMALL, num_labels=2)
    return Case(hf.RobertaForSequenceClassification(config), tokens(), "classifier.out_proj", predict=logits)


def hf_gpt2_last_token(hf: Any) -> Case:
    config = hf.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2, num_labels=1, pad_token_id=0
    )
    return Case(
        hf.GPT2ForSequenceClassification(config), tokens(), "score", predict=logits, features=last, targets=1
    )


def hf_llama_last_token(hf: Any) -> Case:
    config = hf.LlamaConfig(**SMALL, num_labels=2)
    return Case(hf.LlamaForSequenceClassification(config), tokens(), "score", predict=logits, features=last)


def hf_vit(hf: Any) -> Case:
    sizes = {k: v for k, v in SMALL.items() if "vocab" not in k and "pad" not in k}
    config = hf.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=2)
    return Case(
        hf.ViTForImageClassification(config), {"pixel_values": images(32)}, "classifier", predict=logits
    )


def hf_patchtst_regression(hf: Any) -> Case:
    config = hf.PatchTSTConfig(
        num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, d_model=16, num_hidden_layers=1,
        num_attention_heads=2, ffn_dim=16, num_targets=2, loss="mse", pooling_type="mean",
    )  # fmt: skip
    model = hf.PatchTSTForRegression(config)
    return Case(
        model, {"past_values": torch.randn(ROWS, 32, 3)}, "head.projection",
        predict=lambda out: out.regression_outputs,
    )  # fmt: skip


def hf_t5(hf: Any) -> Case:
    config = hf.T5Config(
        vocab_size=50, d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2, num_labels=2, pad_token_id=0,
        decoder_start_token_id=0, eos_token_id=1,
    )  # fmt: skip
    inputs = tokens()
    inputs["input_ids"] = inputs["input_ids"].clamp_min(2)
    inputs["input_ids"][:, -1] = 1  # the end, whose state is read
    return Case(
        hf.T5ForSequenceClassification(config), inputs, "classification_head.out_proj", predict=logits
    )


def hf_wav2vec2(hf: Any) -> Case:
    config = hf.Wav2Vec2Config(
        vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, num_labels=2,
        conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    inputs = {"input_values": torch.randn(ROWS, 800)}
    return Case(hf.Wav2Vec2ForSequenceClassification(config), inputs, "classifier", predict=logits)


# --- peft


def base_network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))


def adapted(peft: Any, config: Any) -> Case:
    model = peft.get_peft_model(base_network(), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "hada_" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))  # B starts at zero

    def weight(layer: Any) -> tuple[Tensor, Tensor]:
        base = layer.get_base_layer()
        merged = base.weight + layer.get_delta_weight("default")
        return merged, base.bias

    return Case(model, torch.randn(ROWS, 6), "base_model.model.4", weight=weight)


def peft_lora(peft: Any) -> Case:
    return adapted(peft, peft.LoraConfig(r=2, lora_alpha=8, target_modules=["2", "4"]))


def peft_loha(peft: Any) -> Case:
    return adapted(peft, peft.LoHaConfig(r=2, alpha=4, target_modules=["2", "4"]))


def peft_dora(peft: Any) -> Case:
    case = adapted(peft, peft.LoraConfig(r=2, lora_alpha=8, target_modules=["2", "4"], use_dora=True))

    def weight(layer: Any) -> tuple[Tensor, Tensor]:
        """DoRA: each row of W + s B A at the length that was learned for it."""
        base = layer.get_base_layer()
        merged = base.weight + layer.get_delta_weight("default")
        length = layer.lora_magnitude_vector["default"].weight
        return length[:, None] * merged / merged.norm(dim=1, keepdim=True), base.bias

    case.weight = weight
    return case


# --- stable-baselines3


def agent(sb3: Any, kind: str) -> Any:
    import gymnasium

    spaces = gymnasium.spaces
    actions = spaces.Discrete(2) if kind == "DQN" else spaces.Box(-1, 1, (2,))

    class Still(gymnasium.Env):
        observation_space = spaces.Box(-5, 5, (5,))
        action_space = actions

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> Any:
            return self.observation_space.sample(), 0.0, True, False, {}

    more = {} if kind in ("PPO", "A2C") else {"buffer_size": 10}
    return getattr(sb3, kind)("MlpPolicy", Still(), seed=0, device="cpu", **more).policy


def sb3_ppo(sb3: Any) -> Case:
    inputs = {"obs": torch.randn(ROWS, 5), "deterministic": True}
    return Case(
        agent(sb3, "PPO"), inputs, "action_net", options={"head": "action_net", "output": 0}, predict=lambda out: out[0]
    )  # fmt: skip


def sb3_sac_mean(sb3: Any) -> Case:
    """The squashed mean: tanh stands between the last layer and the action."""
    actor = agent(sb3, "SAC").actor
    inputs = {"obs": torch.randn(ROWS, 5), "deterministic": True}
    return Case(actor, inputs, "mu", options={"head": "mu"}, direct=False)


def sb3_dqn(sb3: Any) -> Case:
    return Case(agent(sb3, "DQN").q_net, torch.randn(ROWS, 5), "q_net.4")


# --- PyTorch Geometric


def ring() -> Tensor:
    here = torch.arange(ROWS)
    return torch.cat([torch.stack([here, (here + k) % ROWS]) for k in (1, 2, -1, -2)], 1)


def pyg_gcn(pyg: Any) -> Case:
    models = importlib.import_module("torch_geometric.nn")

    class Nodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = models.GCN(5, 16, 2)
            self.head = models.Linear(16, 2)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.head(self.body(x, edge_index).relu())

    return Case(Nodes(), {"x": torch.randn(ROWS, 5), "edge_index": ring()}, "head", whole=True)


def pyg_mlp(pyg: Any) -> Case:
    models = importlib.import_module("torch_geometric.nn")
    return Case(models.MLP([5, 16, 16, 2], norm=None), torch.randn(ROWS, 5), "lins.2")


# --- networks for tables


def rtdl_mlp(rtdl: Any) -> Case:
    model = rtdl.MLP(d_in=6, d_out=2, n_blocks=2, d_block=16, dropout=0.1)
    return Case(model, torch.randn(ROWS, 6), "output")


def rtdl_resnet(rtdl: Any) -> Case:
    model = rtdl.ResNet(
        d_in=6, d_out=2, n_blocks=2, d_block=16, d_hidden=None, d_hidden_multiplier=2.0, dropout1=0.1, dropout2=0.0
    )  # fmt: skip
    return Case(model, torch.randn(ROWS, 6), "output.linear")


def rtdl_ft_transformer(rtdl: Any) -> Case:
    model = rtdl.FTTransformer(
        n_cont_features=6, cat_cardinalities=[], d_out=2, n_blocks=1, d_block=16, attention_n_heads=2,
        attention_dropout=0.1, ffn_d_hidden=None, ffn_d_hidden_multiplier=2.0, ffn_dropout=0.1, residual_dropout=0.0,
    )  # fmt: skip
    inputs = {"x_cont": torch.randn(ROWS, 6), "x_cat": None}
    return Case(model, inputs, "backbone.output.linear")


LIBRARIES = {
    "tv": "torchvision", "timm": "timm", "hf": "transformers", "peft": "peft", "sb3": "stable_baselines3",
    "pyg": "torch_geometric", "rtdl": "rtdl_revisiting_models",
}  # fmt: skip
CASES = [
    tv_resnet18, tv_vit, tv_mobilenet, tv_convnext, tv_densenet, tv_swin, timm_resnet, timm_vit, timm_mixer,
    timm_convnext, timm_regnet, hf_bert, hf_distilbert, hf_roberta, hf_gpt2_last_token, hf_llama_last_token, hf_vit,
    hf_patchtst_regression, hf_t5, hf_wav2vec2, peft_lora, peft_loha, peft_dora, sb3_ppo, sb3_sac_mean, sb3_dqn, pyg_gcn, pyg_mlp, rtdl_mlp,
    rtdl_resnet, rtdl_ft_transformer,
]  # fmt: skip


def part(inputs: Any, at: slice) -> Any:
    """The same rows of every tensor that has one for each sample."""
    if isinstance(inputs, dict):
        return {k: part(v, at) for k, v in inputs.items()}
    return inputs[at] if isinstance(inputs, Tensor) and len(inputs) == ROWS else inputs


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_what_is_collected_is_what_a_hook_sees(make: Callable[[Any], Case]) -> None:
    name = LIBRARIES[make.__name__.partition("_")[0]]
    library = pytest.importorskip(name, reason=f"{name} is not installed")
    torch.manual_seed(0)
    case = make(library)
    y = torch.randn(ROWS, case.targets)
    cuts = [slice(0, ROWS)] if case.whole else [slice(0, 14), slice(14, ROWS)]
    monitor = nrc.CollapseMonitor(case.model, **case.options)
    training = case.model.training
    table = monitor.measure([(part(case.inputs, at), y[at]) for at in cuts])
    assert case.model.training == training

    module, seen = case.model.get_submodule(case.head), []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    with torch.no_grad():
        case.model.eval()
        out = case.model(**case.inputs) if isinstance(case.inputs, dict) else case.model(case.inputs)
    handle.remove()
    h, prediction = case.features(seen[0]).double(), case.predict(out).double()
    weight, bias = case.weight(module) if case.weight else (module.weight, module.bias)
    weight, bias = (t.detach().double() for t in (weight, torch.zeros(len(weight)) if bias is None else bias))

    assert monitor.head == case.head
    expected = measure_with_reasons(h, y, weight, bias=bias)
    assert table[case.head]["mse"] == pytest.approx(float((prediction - y).square().mean()), rel=1e-5)
    if case.direct:
        assert torch.allclose(h @ weight.T + bias, prediction, rtol=1e-4, atol=1e-5)
    for metric in COMPARED:
        if metric in expected.undefined:
            assert monitor.undefined[case.head][metric], metric
        elif case.direct or metric not in ("mse", "r2"):
            assert table[case.head][metric] == pytest.approx(expected[metric], rel=1e-4, abs=1e-6), metric


# --- without a head


def tv_squeezenet(tv: Any) -> tuple[nn.Module, Any]:
    """A ReLU and the mean over positions stand after the last convolution."""
    return tv.models.squeezenet1_1(num_classes=2), images(64)


def sb3_ppo_that_samples(sb3: Any) -> tuple[nn.Module, Any]:
    return agent(sb3, "PPO"), torch.randn(ROWS, 5)


def sb3_td3(sb3: Any) -> tuple[nn.Module, Any]:
    return agent(sb3, "TD3").actor, torch.randn(ROWS, 5)


@pytest.mark.parametrize(
    ("make", "metric", "words"),
    [
        (tv_squeezenet, "nrc2", "W h + b is not the network's output"),
        (sb3_ppo_that_samples, "mse", "the network's output is random"),
        (sb3_td3, "nrc2", "W h + b is not the network's output"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_where_no_layer_is_the_head_a_reason_says_why(make: Any, metric: str, words: str) -> None:
    name = LIBRARIES[make.__name__.partition("_")[0]]
    library = pytest.importorskip(name, reason=f"{name} is not installed")
    torch.manual_seed(0)
    model, inputs = make(library)
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(inputs, torch.randn(ROWS, 2))])
    last = list(table)[-1]
    assert monitor.head is None and math.isnan(table[last][metric])
    assert words in monitor.undefined[last][metric]


def test_a_model_of_ensembles_names_what_to_measure() -> None:
    tabm = pytest.importorskip("tabm", reason="tabm is not installed")
    model = tabm.TabM.make(n_num_features=6, d_out=2, k=4, n_blocks=2, d_block=16)
    batches = [({"x_num": torch.randn(ROWS, 6)}, torch.randn(ROWS, 2))]
    with pytest.raises(UserError, match=r"LinearBatchEnsemble.*layers=\['backbone.blocks.0.0:out'\]"):
        nrc.CollapseMonitor(model).measure(batches)
