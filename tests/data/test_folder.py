from __future__ import annotations

from pathlib import Path

import pytest

from onnx_basisprune.data.folder import find_images
from onnx_basisprune.errors import DataError


def _touch(folder: Path, *files: str) -> None:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_class_folders_are_sorted_and_nested_files_found(tmp_path: Path) -> None:
    _touch(tmp_path, "dog/2.jpg", "dog/more/1.PNG", "cat/z.jpeg", "Ant/a.webp")
    files, names = find_images(tmp_path, classes_wanted=True)
    assert names == ("Ant", "cat", "dog")
    assert files == ("Ant/a.webp", "cat/z.jpeg", "dog/2.jpg", "dog/more/1.PNG")


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    _touch(tmp_path, "cat/a.png", "cat/._a.png", "cat/notes.txt", ".git/b.png", "readme.md", "cat/Thumbs.db")
    _touch(tmp_path, "__MACOSX/cat/c.png")
    assert find_images(tmp_path, classes_wanted=True) == (("cat/a.png",), ("cat",))


def test_flat_folder_has_no_classes(tmp_path: Path) -> None:
    _touch(tmp_path, "b.png", "a.png", "notes/todo.txt")
    assert find_images(tmp_path, classes_wanted=True) == (("a.png", "b.png"), None)


def test_images_beside_class_folders_are_refused_unless_labels_say_what_they_are(tmp_path: Path) -> None:
    _touch(tmp_path, "stray.png", "cat/a.png")
    with pytest.raises(DataError, match=r"1 images \(such as 'stray\.png'\) beside class folders"):
        find_images(tmp_path, classes_wanted=True)
    assert find_images(tmp_path, classes_wanted=False) == (("cat/a.png", "stray.png"), None)


def test_empty_class_folder_is_refused_as_it_would_shift_the_classes(tmp_path: Path) -> None:
    _touch(tmp_path, "cat/a.png", "bird/readme.txt")
    with pytest.raises(DataError, match=r"bird' has no images"):
        find_images(tmp_path, classes_wanted=True)


@pytest.mark.parametrize("files", [(), ("notes.txt",), ("cat/notes.txt",)])
def test_folder_without_images_is_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    _touch(tmp_path, *files)
    with pytest.raises(DataError, match=r"has no images"):
        find_images(tmp_path, classes_wanted=True)


def _link(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("symbolic links aren't allowed here")


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    elsewhere, data = tmp_path / "elsewhere", tmp_path / "data"
    _touch(elsewhere, "a.png")
    _touch(data, "cat/b.png")
    _link(data / "dog", elsewhere)
    _link(data / "cat" / "loop", data)
    _link(data / "cat" / "c.png", elsewhere / "a.png")
    files, names = find_images(data, classes_wanted=True)
    assert names == ("cat", "dog")
    assert files == ("cat/b.png", "cat/c.png", "dog/a.png")
