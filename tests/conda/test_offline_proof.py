"""One package through the conda path without a network: built, tested, solved, installed, run.

Every package and one CUDA build go the same way in test_offline_proof_of_all.py, with --full.
"""

import hashlib
import json
from pathlib import Path

import pytest
import workspace
from predicted import metadata
from shipping import artifacts, recipes

NAME = "spconv-lite"
MODULE = NAME.replace("-", "_")


@pytest.fixture(scope="module")
def build(find_variant, own_version):
    if own_version not in ("3.10", "3.11", "3.12"):
        pytest.skip(
            f"no recipe is built with Python {own_version}: run the tests with 3.10 to 3.12"
        )
    return find_variant(NAME, "cpu", own_version)


@pytest.fixture(scope="module")
def proof(build, make_proof):
    (dev,) = (b for b in recipes.render(NAME) if b.name == f"{NAME}-dev" and b.kind == "cpu")
    proof = make_proof([build, dev])
    proof.release.build(build)  # raises unless it builds, passes its tests and is fit for release
    proof.release.build(dev)
    proof.release.index()
    return proof


@pytest.fixture(scope="module")
def artifact(proof):
    return proof.release.artifacts[0]


def test_archives_and_headers_are_in_the_dev_package_only(proof):
    runtime, dev = ({Path(n).suffix for n in a.names} for a in proof.release.artifacts)
    assert {".a", ".h", ".cmake"} <= dev
    assert not {".a", ".h", ".cmake"} & runtime
    assert {".so", ".pyi"} <= runtime


@pytest.fixture(scope="module")
def prefix(proof, build, own_version, tmp_path_factory):
    return proof.installed(build, own_version, tmp_path_factory.mktemp("prefix") / "env")


def test_the_index_holds_what_was_predicted_from_the_recipe(build, artifact):
    index, predicted = artifact.index, metadata(build)
    for key in ("name", "version", "build", "build_number", "subdir"):
        assert index[key] == predicted[key]
    assert sorted(set(index["depends"])) == predicted["depends"]
    assert sorted(index.get("constrains", [])) == predicted["constrains"]


def test_it_is_installed_without_any_other_of_our_packages(prefix):
    assert prefix.packages() & set(workspace.SIX) == {NAME}


def test_its_main_function_runs_from_the_prefix(prefix, build):
    code = (
        "import importlib.metadata as m; "
        f"import {MODULE}; print({MODULE}.__file__, m.version('{NAME}'))"
    )
    done = prefix.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    place, version = done.stdout.split()
    assert place.startswith(str(prefix.folder))
    assert version == build.version
    prefix.run_main_function()


def test_such_a_build_is_marked_and_can_not_be_published(proof, artifact):
    assert any("python" in line for line in artifacts.built_with_standins(artifact))
    manifest = proof.release.write_manifest([], tested=True)
    assert not manifest["publishable"]
    assert any("stand-ins" in text for text in manifest["objections"])


def test_manifest_and_checksums_describe_the_files(proof, artifact):
    proof.release.write_manifest([], tested=True)
    digest = hashlib.sha256(artifact.path.read_bytes()).hexdigest()
    line, _ = (proof.folder / "SHA256SUMS").read_text().splitlines()
    assert line == f"{digest}  {artifact.path.relative_to(proof.folder)}"
    manifest = json.loads((proof.folder / "manifest.json").read_text())
    entry, _ = manifest["packages"]
    assert (entry["sha256"], entry["size"]) == (digest, artifact.path.stat().st_size)
