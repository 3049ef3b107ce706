import hashlib
from pathlib import Path

import pytest

from courant_local import aot_cache, jars
from courant_local.jars import Jar, JarsMissing, class_path

RIGHT = b"what the list means"
JAR = Jar("org.example", "thing", "1.0", hashlib.sha256(RIGHT).hexdigest())


class Registry:
    """Returns the given bytes one after the other, then fails as a network does."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    def bring(self, jar: Jar, folder: Path) -> Path:
        if not self.answers:
            raise ConnectionError("no route to host")
        folder.mkdir()
        file = folder / jar.name
        file.write_bytes(self.answers.pop(0))
        return file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "courant"


def test_the_list_names_each_jar_once_with_its_sum() -> None:
    names = [jar.name for jar in jars.listed()]
    assert len(names) == len(set(names)) == 46
    assert all(len(jar.sha256) == 64 for jar in jars.listed())
    # The broker says nothing at all with a binding of another line than its API.
    assert {"slf4j-api-1.7.36.jar", "slf4j-simple-1.7.36.jar"} <= set(names)


def test_a_jar_is_fetched_once() -> None:
    heard: list[tuple[int, int]] = []
    registry = Registry(RIGHT)
    (file,) = class_path(lambda *told: heard.append(told), [JAR], registry.bring)
    assert file.read_bytes() == RIGHT
    assert heard == [(1, 1)]
    assert class_path(None, [JAR], registry.bring) == [file]


def test_a_jar_that_differs_in_the_cache_is_fetched_again() -> None:
    (file,) = class_path(None, [JAR], Registry(RIGHT).bring)
    file.write_bytes(RIGHT[:5])
    class_path(None, [JAR], Registry(RIGHT).bring)
    assert file.read_bytes() == RIGHT


def test_what_comes_wrong_is_tried_again_and_never_kept(cache: Path) -> None:
    (file,) = class_path(None, [JAR], Registry(b"wrong", RIGHT).bring)
    assert file.read_bytes() == RIGHT
    other = Jar("org.example", "other", "1.0", "0" * 64)
    with pytest.raises(JarsMissing, match=r"other-1.0.jar .* another SHA-256"):
        class_path(None, [other], Registry(RIGHT, RIGHT, RIGHT).bring)
    assert not (cache / "jars" / other.name).exists()


def test_without_a_network_the_error_names_jar_and_reason() -> None:
    with pytest.raises(
        JarsMissing, match=r"thing-1.0.jar cannot be had \(ConnectionError: no route"
    ):
        class_path(None, [JAR], Registry().bring)


def test_the_jvms_cache_is_used_only_whole(cache: Path) -> None:
    place = aot_cache.file([cache / "a.jar"])
    assert aot_cache.options([cache / "a.jar"]) == []
    place.parent.mkdir(parents=True)
    place.write_bytes(b"classes")
    assert aot_cache.options([cache / "a.jar"]) == []
    place.with_suffix(".sha256").write_text(hashlib.sha256(b"classes").hexdigest())
    assert f"-XX:AOTCache={place}" in aot_cache.options([cache / "a.jar"])
    place.write_bytes(b"cLasses")
    assert aot_cache.options([cache / "a.jar"]) == []
    assert aot_cache.file([cache / "b.jar"]) != place
