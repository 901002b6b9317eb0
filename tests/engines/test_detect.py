"""Manifests found out from files alone, and what is refused."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rewardd.engines.manifest import StepTag, read_manifest, write_manifest
from rewardd.engines.torch.checkpoint import load_checkpoint
from rewardd.engines.torch.detect import detect, load_tokenizer, resolve_model, tokenizer_directory
from rewardd.engines.torch.directory import FETCHED, read_directory
from rewardd.engines.torch.reference import Reference
from rewardd.errors import StartRefused
from rewardd_types import Group, Response

Tiny = Callable[[str], Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a tiny model to write to."""
    return lambda name: Path(shutil.copytree(tiny(name), tmp_path / name))


def edit(path: Path, file: str = "config.json", /, **values: Any) -> Path:
    """Set keys of a JSON file; None removes one."""
    content = {**json.loads((path / file).read_text()), **values}
    content = {key: value for key, value in content.items() if value is not None}
    (path / file).write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "head", "kind", "num_labels"),
    [
        ("qwen3", "sequence_classification", "classify", 1),
        ("gpt_neox", "sequence_classification", "classify", 1),
        ("qwen3_two_labels", "sequence_classification", "classify", 2),
        ("qwen3_tokens", "token_classification", "token_classify", 2),
        ("qwen2_prm", "two_layer", "token_classify", 2),
        ("qwen2_rm", "two_layer", "classify", 1),
        ("trl_value_head", "value_head", "classify", 1),
        ("openrlhf", "openrlhf", "classify", 1),
        ("peft_score", "peft_score", "classify", 1),
        ("bert", "encoder", "classify", 1),
        ("modernbert", "encoder", "classify", 1),
        ("qwen3_lm", "lm", "lm", 0),
    ],
)
def test_head(tiny: Tiny, name: str, head: str, kind: str, num_labels: int) -> None:
    manifest = detect(tiny(name))
    assert (manifest.head, manifest.kind, manifest.num_labels) == (head, kind, num_labels)


def test_a_manifest_survives_the_disk(tiny: Tiny, tmp_path: Path) -> None:
    manifest = detect(tiny("qwen2_prm"))
    write_manifest(tmp_path / "rewardd.json", manifest)
    assert read_manifest(tmp_path / "rewardd.json") == manifest


class TestTemplateAndBos:
    def test_a_template_that_emits_bos(self, tiny: Tiny) -> None:
        assert detect(tiny("llama")).begins_with_bos

    def test_a_template_without_bos(self, tiny: Tiny) -> None:
        assert not detect(tiny("qwen3")).begins_with_bos

    def test_without_a_template_the_tokenizer_decides(self, copy: Callable[[str], Path]) -> None:
        for name, begins in (("llama", True), ("qwen3", False)):
            path = copy(name)
            (path / "chat_template.jinja").unlink()
            manifest = detect(path)
            assert (manifest.begins_with_bos, manifest.chat_template) == (begins, None)

    def test_the_template_is_kept_with_its_hash(self, tiny: Tiny) -> None:
        manifest = detect(tiny("qwen3"))
        assert manifest.chat_template == (tiny("qwen3") / "chat_template.jinja").read_text()
        digest = hashlib.sha256(str(manifest.chat_template).encode()).hexdigest()
        assert manifest.template_hash == digest[:12]

    def test_encoders_without_a_template_read_pairs(self, tiny: Tiny) -> None:
        manifest = detect(tiny("bert"))
        assert (manifest.causal, manifest.pairs, manifest.begins_with_bos) == (False, True, False)

    def test_an_adapter_without_a_tokenizer_uses_its_bases(
        self, tiny: Tiny, tmp_path: Path
    ) -> None:
        adapter = Path(shutil.copytree(tiny("peft_score"), tmp_path / "adapter"))
        for file in adapter.glob("*token*"):
            file.unlink()
        read = read_directory(adapter)
        assert tokenizer_directory(read) == tiny("peft_score").parent / "base"
        assert load_tokenizer(read)("a")["input_ids"]


class TestMaxLength:
    def test_the_smaller_of_model_and_tokenizer(self, copy: Callable[[str], Path]) -> None:
        path = copy("qwen3")
        assert detect(edit(path, max_position_embeddings=300)).max_length == 300
        assert detect(edit(path, "tokenizer_config.json", model_max_length=200)).max_length == 200

    def test_a_tokenizer_without_a_limit(self, copy: Callable[[str], Path]) -> None:
        path = edit(copy("qwen3"), "tokenizer_config.json", model_max_length=int(1e30))
        assert detect(path).max_length == 1024

    def test_roberta_counts_positions_from_the_pad_id(self, copy: Callable[[str], Path]) -> None:
        path = edit(copy("roberta"), max_position_embeddings=130, pad_token_id=1)
        assert detect(path).max_length == 128


class TestStepTag:
    def test_qwens_tag_by_its_text(self, tiny: Tiny) -> None:
        assert detect(tiny("qwen2_prm")).step_tag == StepTag("<extra_0>", 6, positive=1)

    def test_the_configs_own(self, tiny: Tiny, copy: Callable[[str], Path]) -> None:
        assert detect(tiny("qwen3_tokens")).step_tag == StepTag("<step>", 5, positive=1)
        path = edit(copy("qwen2_prm"), step_tag_id=5)
        assert detect(path).step_tag == StepTag("<step>", 5, positive=1)

    def test_skywork_o1_ends_steps_with_newlines(self, copy: Callable[[str], Path]) -> None:
        path = edit(copy("trl_value_head"), architectures=["Qwen2ForPrmModel"])
        manifest = detect(path)
        assert manifest.kind == "token_classify"
        assert manifest.step_tag is not None
        assert (manifest.step_tag.token, manifest.step_tag.positive) == ("\n", 0)
        group = Group([Response(steps=["2 + 2", "4"])], prompt="2 + 2?")
        tokens = Reference(path, manifest).tokens(group, group.responses[0])
        text = load_tokenizer(read_directory(path)).decode(tokens.inputs["input_ids"][0])
        assert text == "<bos>2 + 2?\n2 + 2\n4\n"

    @pytest.mark.parametrize("tag", ["two tokens", None])
    def test_unknown_or_of_several_tokens(
        self, copy: Callable[[str], Path], tag: str | None
    ) -> None:
        path = edit(copy("qwen3_tokens"), step_tag=tag)
        if tag is None:
            rename_tokens(path, {"<step>": "<s_>", "<extra_0>": "<e_>"})
        with pytest.raises(StartRefused, match="set `step_tag`"):
            detect(path)


def rename_tokens(path: Path, names: dict[str, str]) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (path / file).read_text()
        for old, new in names.items():
            text = text.replace(old, new)
        (path / file).write_text(text)


class TestRevision:
    def test_follows_config_and_weights(self, copy: Callable[[str], Path]) -> None:
        path = copy("qwen3")
        first = detect(path).revision
        assert detect(path).revision == first
        assert len(first) == 12
        edited = detect(edit(path, rms_norm_eps=1e-5)).revision
        assert edited != first
        tensors = load_file(path / "model.safetensors")
        tensors["score.weight"][0, 0] += 1
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        assert detect(path).revision not in (first, edited)

    def test_an_adapters_follows_its_base(self, tiny: Tiny, tmp_path: Path) -> None:
        root = Path(shutil.copytree(tiny("peft_score").parent, tmp_path / "both"))
        edit(root / "adapter", "adapter_config.json", base_model_name_or_path="../base")
        first = detect(root / "adapter").revision
        edit(root / "base", rms_norm_eps=1e-5)
        assert detect(root / "adapter").revision != first

    def test_a_snapshots_is_the_hub_commit(self, tiny: Tiny, tmp_path: Path) -> None:
        path = tmp_path / "models--acme--judge" / "snapshots" / COMMIT
        shutil.copytree(tiny("qwen3"), path)
        manifest = detect(path)
        assert (manifest.model, manifest.revision) == ("acme/judge", COMMIT)


class TestRemoteCode:
    """S4: `auto_map` names code; a tripwire in the directory shows whether it was imported."""

    @pytest.fixture
    def trapped(self, copy: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
        def path_of(name: str) -> Path:
            path = copy(name)
            trap = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
            (path / "tripwire.py").write_text(trap)
            classes = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")
            edit(path, auto_map={each: f"tripwire.{each}" for each in classes})
            return edit(
                path, "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tripwire.T"]}
            )

        return path_of

    @pytest.mark.parametrize("name", ["qwen2_prm", "qwen3", "qwen3_lm", "bert"])
    def test_a_known_architecture_is_read_without_it(
        self, trapped: Callable[[str], Path], tmp_path: Path, name: str
    ) -> None:
        path = trapped(name)
        manifest = detect(path)
        load_checkpoint(path, manifest, dtype=torch.float32, device=torch.device("cpu"))
        assert not (tmp_path / "ran").exists()
        assert not [module for module in sys.modules if "tripwire" in module]

    @pytest.mark.parametrize(
        "change",
        [{"model_type": "acme"}, {"architectures": ["AcmeRewardModel"]}, {"architectures": None}],
    )
    def test_an_unknown_one_is_refused(
        self, trapped: Callable[[str], Path], tmp_path: Path, change: dict[str, Any]
    ) -> None:
        with pytest.raises(StartRefused, match="never run"):
            detect(edit(trapped("qwen3"), **change))
        assert not (tmp_path / "ran").exists()

    def test_a_tokenizer_of_code_is_refused(
        self, trapped: Callable[[str], Path], tmp_path: Path
    ) -> None:
        path = trapped("qwen3")
        (path / "tokenizer.json").unlink()
        with pytest.raises(StartRefused, match="tokenizer is code"):
            detect(path)
        assert not (tmp_path / "ran").exists()


class TestRefused:
    def test_the_message_lists_what_is_known(self, copy: Callable[[str], Path]) -> None:
        path = edit(copy("qwen3"), architectures=["Qwen3ForQuestionAnswering"])
        with pytest.raises(StartRefused, match="Qwen3ForQuestionAnswering") as refused:
            detect(path)
        assert "OpenRLHF" in refused.value.message
        assert "Qwen2ForProcessRewardModel" in refused.value.message

    def test_no_directory_no_config_no_weights(self, tmp_path: Path) -> None:
        with pytest.raises(StartRefused, match="no such directory"):
            detect(tmp_path / "absent")
        with pytest.raises(StartRefused, match=r"no config\.json"):
            detect(tmp_path)
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(StartRefused, match="no safetensors weights"):
            detect(tmp_path)

    def test_a_shard_that_is_not_there(self, copy: Callable[[str], Path]) -> None:
        path = copy("qwen3")
        index = {"weight_map": {"score.weight": "model-00001-of-00002.safetensors"}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(StartRefused, match="shards are not all there"):
            detect(path)

    @pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x10\0\0\0\0\0\0\0{not json"])
    def test_damaged_safetensors(self, copy: Callable[[str], Path], content: bytes) -> None:
        path = copy("qwen3")
        (path / "model.safetensors").write_bytes(content)
        with pytest.raises(StartRefused, match="not a readable safetensors file"):
            detect(path)

    @pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000])
    def test_damaged_config(self, copy: Callable[[str], Path], content: str) -> None:
        path = copy("qwen3")
        (path / "config.json").write_text(content)
        with pytest.raises(StartRefused, match=r"config\.json"):
            detect(path)

    def test_quantised_weights(self, copy: Callable[[str], Path]) -> None:
        with pytest.raises(StartRefused, match="quantised"):
            detect(edit(copy("qwen3"), quantization_config={"quant_method": "fp8"}))

    def test_an_adapter_without_a_score(self, tiny: Tiny, tmp_path: Path) -> None:
        adapter = Path(shutil.copytree(tiny("peft_score"), tmp_path / "adapter"))
        edit(adapter, "adapter_config.json", task_type="CAUSAL_LM")
        with pytest.raises(StartRefused, match="no known head"):
            detect(adapter)


class TestResolve:
    def test_a_directory_is_itself(self, tiny: Tiny) -> None:
        assert resolve_model(str(tiny("qwen3"))) == tiny("qwen3").resolve()

    @pytest.mark.parametrize("name", ["./models/absent", "judge", "/absent/model", "a/b/c"])
    def test_neither_a_directory_nor_an_id(self, name: str) -> None:
        with pytest.raises(StartRefused, match="no such directory, and not a hub id"):
            resolve_model(name)

    def test_an_unreachable_hub_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        offline(monkeypatch, tmp_path)
        with pytest.raises(StartRefused, match="serve the directory") as refused:
            resolve_model("acme/judge@main")
        assert "acme/judge" in refused.value.message

    def test_the_cache_serves_without_a_network(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        offline(monkeypatch, tmp_path)
        repository = tmp_path / "models--acme--judge"
        shutil.copytree(tiny("qwen3"), repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        for name in ("acme/judge", "acme/judge@main", f"acme/judge@{COMMIT}"):
            assert detect(resolve_model(name)).revision == COMMIT

    def test_no_code_and_no_pickles_are_fetched(self) -> None:
        never = ("modeling.py", "tokenizer.py", "pytorch_model.bin", "consolidated.00.pth")
        assert not [name for name in never for pattern in FETCHED if fnmatch(name, pattern)]


def offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
