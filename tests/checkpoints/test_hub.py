"""Names → folders, against a stand-in of the hub's functions with the real signatures."""

import inspect
import os
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from flax import nnx
from huggingface_hub import errors

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation
from segformer_jax.checkpoints import hub
from segformer_jax.checkpoints.flat import flat_state
from segformer_jax.errors import WeightsError

SNAPSHOT = inspect.signature(huggingface_hub.snapshot_download)
CREATE = inspect.signature(huggingface_hub.create_repo)
UPLOAD = inspect.signature(huggingface_hub.upload_folder)
LIST = inspect.signature(huggingface_hub.list_repo_files)


class StandIn:
    """A hub in a folder: `repositories/owner/name/file`."""

    def __init__(self, folder: Path):
        self.folder, self.calls, self.error = folder, [], None

    def add(self, repo_id: str, *files: str) -> Path:
        for file in files:
            path = self.folder / repo_id / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        return self.folder / repo_id

    def snapshot_download(self, *args, **kwargs):
        call = SNAPSHOT.bind(*args, **kwargs).arguments
        self.calls.append(call)
        if self.error:
            raise self.error
        source, target = self.folder / call["repo_id"], self.folder / "cache" / call["repo_id"]
        for file in source.rglob("*"):
            name = str(file.relative_to(source))
            if file.is_file() and any(Path(name).match(p) for p in call["allow_patterns"]):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(file.read_bytes())
        target.mkdir(parents=True, exist_ok=True)
        return str(target)

    def create_repo(self, *args, **kwargs):
        self.calls.append(CREATE.bind(*args, **kwargs).arguments)

    def list_repo_files(self, *args, **kwargs):
        call = LIST.bind(*args, **kwargs).arguments
        self.calls.append(call)
        return found(self.folder / call["repo_id"])

    def upload_folder(self, *args, **kwargs):
        call = UPLOAD.bind(*args, **kwargs).arguments
        self.calls.append(call | {"files": sorted(os.listdir(call["folder_path"]))})
        shutil.copytree(call["folder_path"], self.folder / call["repo_id"], dirs_exist_ok=True)
        return "https://hub.example/commit/1"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    own = StandIn(tmp_path / "repositories")
    for name in ("snapshot_download", "create_repo", "list_repo_files", "upload_folder"):
        monkeypatch.setattr(huggingface_hub, name, getattr(own, name))
    return own


def found(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def test_an_installed_weights_package_goes_first(stand_in, tmp_path, monkeypatch):
    (tmp_path / "scene-b0").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"the package in .* is used; write \./scene-b0 to"):
        path = hub.resolve("scene-b0")
    assert (path / "model.safetensors").is_file()
    assert not stand_in.calls


def test_a_path_is_never_a_weights_package(stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scene-b0").mkdir()
    for given in ("./scene-b0", Path("scene-b0"), str(tmp_path / "scene-b0")):
        assert hub.resolve(given).resolve() == tmp_path / "scene-b0"
    Path("scene-b0").rmdir()
    with pytest.raises(WeightsError, match="there is no model 'scene-b0'"):
        hub.resolve(Path("scene-b0"))


def test_a_folder_and_a_file_are_themselves(stand_in, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "x.bin").touch()
    assert hub.resolve(str(tmp_path)) == tmp_path
    assert hub.resolve(tmp_path, subfolder="sub") == tmp_path / "sub"
    assert hub.resolve(tmp_path / "x.bin") == tmp_path / "x.bin"
    with pytest.raises(WeightsError, match="there is no folder other in"):
        hub.resolve(tmp_path, subfolder="other")


def test_safetensors_are_fetched_and_pickles_left(stand_in):
    stand_in.add("a/b", "config.json", "preprocessor_config.json", "model.safetensors",
                 "pytorch_model.bin", "tf_model.h5", "README.md")  # fmt: skip
    path = hub.resolve("a/b", revision="v1", token="secret", cache_dir="c", local_files_only=True)
    assert found(path) == ["README.md", "config.json", "model.safetensors",
                           "preprocessor_config.json"]  # fmt: skip
    (call,) = stand_in.calls
    assert call["revision"] == "v1"
    assert call["token"] == "secret"
    assert call["cache_dir"] == "c"
    assert call["local_files_only"] is True


def test_pickles_are_fetched_where_there_is_nothing_else(stand_in):
    stand_in.add("a/b", "config.json", "pytorch_model.bin")
    assert found(hub.resolve("a/b")) == ["config.json", "pytorch_model.bin"]
    stand_in.add("a/c", "config.json", "pytorch_model.bin.index.json",
                 "pytorch_model-00001-of-00001.bin")  # fmt: skip
    assert len(found(hub.resolve("a/c"))) == 3


def test_adapters_are_fetched_where_there_is_nothing_else(stand_in):
    stand_in.add("a/b", "adapter_config.json", "adapter_model.safetensors", "README.md")
    assert found(hub.resolve("a/b")) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip


def test_int8_is_fetched_where_there_are_no_floats(stand_in):
    stand_in.add("a/b", "config.json", "model.int8.safetensors")
    assert found(hub.resolve("a/b")) == ["config.json", "model.int8.safetensors"]
    stand_in.add("a/c", "config.json", "model.int8.safetensors", "pytorch_model.bin")
    assert found(hub.resolve("a/c")) == ["config.json", "pytorch_model.bin"]
    stand_in.add("a/d", "model.int8.safetensors", "model-00001-of-00001.safetensors",
                 "model.safetensors.index.json", "small/model.int8.safetensors")  # fmt: skip
    assert found(hub.resolve("a/d")) == ["model-00001-of-00001.safetensors",
                                         "model.safetensors.index.json"]  # fmt: skip
    assert found(hub.resolve("a/d", subfolder="small")) == ["model.int8.safetensors"]


def test_a_subfolder_of_a_repository_is_fetched_alone(stand_in):
    stand_in.add("a/b", "config.json", "small/config.json", "small/model.safetensors")
    path = hub.resolve("a/b", subfolder="small")
    assert found(path) == ["config.json", "model.safetensors"]


def answered(error: type[Exception]) -> Exception:
    """An error of the hub without the HTTP response that it came with."""
    own = error.__new__(error)
    Exception.__init__(own, "Not so.\nDetails.")
    return own


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (answered(errors.RepositoryNotFoundError), "there is no a/b on the hub, or it is priv"),
        (answered(errors.GatedRepoError), "a/b is gated: accept its terms"),
        (answered(errors.RevisionNotFoundError), "a/b has no such revision"),
        (
            errors.LocalEntryNotFoundError("no"),
            "a/b is not in the local cache, and the hub can't be",
        ),
        (ConnectionError("refused"), r"could not be downloaded \(refused\)"),
        (Exception("of another client"), r"could not be downloaded \(of another client\)"),
    ],
)
def test_what_the_hub_says_becomes_one_line(stand_in, error, message):
    stand_in.error = error
    with pytest.raises(WeightsError, match=message) as caught:
        hub.resolve("a/b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["street-b9", "./missing", "a/b/c", "/no/where"])
def test_an_unknown_name_names_what_there_is(stand_in, name):
    with pytest.raises(
        WeightsError, match=r"installed: scene-b0\); or use a name on the hub, such as"
    ):
        hub.resolve(name)
    assert not stand_in.calls


def test_without_the_weights_package_both_ways_out_are_named(stand_in, monkeypatch):
    monkeypatch.setattr(hub, "_weights_packages", dict)
    message = (
        r"no model 'scene-b0'.*installed: none\); pip install segformer-jax-scene-b0, or use a "
        r"name on the hub, such as nvidia/segformer-b0-finetuned-ade-512-512"
    )
    with pytest.raises(WeightsError, match=message):
        hub.resolve("scene-b0")


def test_the_former_default_names_the_one_that_took_its_place(stand_in, monkeypatch):
    for packages, installed in (({}, "none"), ({"scene-b0": "package"}, "scene-b0")):
        monkeypatch.setattr(hub, "_weights_packages", packages.copy)
        message = (
            rf"^street-b0 was replaced by scene-b0 \(installed: {installed}\): "
            r"pip install segformer-jax-scene-b0, and use that name \(--model scene-b0\)$"
        )
        with pytest.raises(WeightsError, match=message):
            hub.resolve("street-b0")
    assert not stand_in.calls


def test_a_model_is_pushed_as_it_is_saved(stand_in):
    config = SegformerConfig(depths=(1, 1, 1, 1), num_labels=3)
    model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0))
    address = model.push_to_hub("me/mine", token="secret", private=True, commit_message="First")
    created, uploaded = stand_in.calls
    assert address == "https://hub.example/commit/1"
    assert created["repo_id"] == uploaded["repo_id"] == "me/mine"
    assert created["private"] is created["exist_ok"] is True
    assert uploaded["commit_message"] == "First"
    assert uploaded["files"] == ["config.json", "model.safetensors"]


def test_int8_weights_go_to_the_hub_and_back(stand_in):
    model = SegformerForSemanticSegmentation(
        SegformerConfig(depths=(1, 1, 1, 1), num_labels=3), rngs=nnx.Rngs(0)
    )
    model.push_to_hub("me/small", weights="int8", token="secret", revision="v1")
    _, listed, uploaded = stand_in.calls
    assert (listed["token"], listed["revision"]) == ("secret", "v1")
    assert uploaded["files"] == ["config.json", "model.int8.safetensors"]
    own = flat_state(SegformerForSemanticSegmentation.from_pretrained("me/small"))
    name = "decode_head.linear_fuse.kernel"
    step = np.abs(flat_state(model)[name]).max(0) / 127
    assert (np.abs(own[name] - flat_state(model)[name]) <= 0.501 * step).all()
    assert not np.array_equal(own[name], flat_state(model)[name])


@pytest.mark.parametrize("held", ["model.safetensors", "pytorch_model-00001-of-00002.bin"])
def test_int8_weights_are_not_pushed_beside_floats(stand_in, held):
    stand_in.add("me/mine", "config.json", held)
    model = SegformerForSemanticSegmentation(
        SegformerConfig(depths=(1, 1, 1, 1), num_labels=3), rngs=nnx.Rngs(0)
    )
    with pytest.raises(WeightsError, match=f"me/mine holds {held}, which is read before") as caught:
        model.push_to_hub("me/mine", weights="int8")
    assert "\n" not in str(caught.value)
    assert found(stand_in.folder / "me/mine") == ["config.json", held]
