"""Flat folders with a list of classes: the development kit's, Kaggle's, Tiny-ImageNet's, and what can be wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detres.data.annotations import DatasetError
from detres.data.flat_images import FlatImagesDataset
from detres.data.flat_labels import FlatLabel, move_into_class_folders, read_flat_labels
from detres.data.image_folder import ImageFolderDataset
from detres.data.image_io import ImageError
from detres.data.samples import SampleKey, TransformedClassificationDataset
from detres.data.transforms import DetectionTransforms


def touch(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def labelled(data: FlatImagesDataset) -> dict[str, str]:
    return {str(data.image_id(i)): data.class_names[data.label(i)] for i in range(len(data))}


WNIDS = {1: "n02119789", 2: "n02100735", 3: "n02110185"}


def write_devkit(folder: Path, numbers: Sequence[int], wnids: Mapping[int, str] = WNIDS) -> Path:
    """These classes and one inner node, as the kit's meta.mat has them."""
    scipy_io = pytest.importorskip("scipy.io")
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [*((number, wnid, 0) for number, wnid in wnids.items()), (1001, "n00001740", 3)]
    synsets = np.array([[(i, wnid, "words", "gloss", children)] for i, wnid, children in rows], dtype=fields)
    folder.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(str(folder / "meta.mat"), {"synsets": synsets})
    return write(folder / "ILSVRC2012_validation_ground_truth.txt", "".join(f"{number}\n" for number in numbers))


def test_missing_folder_missing_list_and_empty_list(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="val: no such folder; expected the images that"):
        FlatImagesDataset(tmp_path / "val", tmp_path / "x.csv")
    root = touch(tmp_path / "val", ["a.jpg"])
    with pytest.raises(DatasetError, match=r"x.csv: no such file; .* come from it: the development kit's ILSVRC2012_"):
        FlatImagesDataset(root, tmp_path / "x.csv")
    with pytest.raises(DatasetError, match=r"x.csv: empty; expected"):
        FlatImagesDataset(root, write(tmp_path / "x.csv", "\n \n"))


def test_the_development_kit(tmp_path: Path) -> None:
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3, 4)]
    root = touch(tmp_path / "val", names)
    truth = write_devkit(tmp_path / "devkit" / "data", [3, 1, 3, 2])
    data = FlatImagesDataset(root, truth)
    assert data.class_names == ("n02100735", "n02110185", "n02119789")
    assert list(labelled(data).items()) == list(
        zip(names, ["n02110185", "n02119789", "n02110185", "n02100735"], strict=True)
    )
    with pytest.raises(DatasetError, match="line 2: got class 1001, expected one of the 3 in meta.mat"):
        FlatImagesDataset(root, write_devkit(tmp_path / "devkit" / "data", [3, 1001]))

    (tmp_path / "devkit" / "data" / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file" * 20)
    with pytest.raises(DatasetError, match="meta.mat: not the development kit's meta.mat, or damaged .* again"):
        FlatImagesDataset(root, truth)
    (tmp_path / "devkit" / "data" / "meta.mat").unlink()
    with pytest.raises(DatasetError, match="meta.mat: no such file; it belongs beside"):
        FlatImagesDataset(root, truth)


def test_kaggles_csv(tmp_path: Path) -> None:
    root = touch(tmp_path / "val", ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"])
    text = "ImageId,PredictionString\nILSVRC2012_val_00000002,n03995372 85 1 499 272 n03995372 3 4 5 6 \n"
    path = write(tmp_path / "LOC_val_solution.csv", text + "ILSVRC2012_val_00000001,n01440764 1 2 3 4 \n")
    assert labelled(FlatImagesDataset(root, path)) == {
        "ILSVRC2012_val_00000002.JPEG": "n03995372",
        "ILSVRC2012_val_00000001.JPEG": "n01440764",
    }


def test_tiny_imagenet_as_it_is_published(tmp_path: Path) -> None:
    for wnid in ("n02", "n01"):
        images = touch(tmp_path / "train" / wnid / "images", [f"{wnid}_{i}.JPEG" for i in range(3)])
        write(images.parent / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    root = touch(tmp_path / "val" / "images", ["val_0.JPEG", "val_1.JPEG"])
    text = "val_0.JPEG\tn02\t0\t32\t44\t62\nval_1.JPEG\tn01\t5\t0\t9\t9\n"
    path = write(tmp_path / "val" / "val_annotations.txt", text)
    train = ImageFolderDataset(tmp_path / "train")
    val = FlatImagesDataset(root, path, class_names=train.class_names)
    assert len(train) == 6 and train.class_names == val.class_names == ("n01", "n02")
    assert [val.label(i) for i in range(2)] == [1, 0]
    assert FlatImagesDataset(tmp_path / "val", path).image_id(0) == "images/val_0.JPEG", "the folder above does too"
    with pytest.raises(DatasetError, match=r"class folders 'images' are not .*\{type: flat_images\}"):
        ImageFolderDataset(tmp_path / "val", class_names=train.class_names)
    with pytest.raises(DatasetError, match=r"images without class folders; .*\{type: flat_images"):
        ImageFolderDataset(root, class_names=train.class_names)


def test_own_lists(tmp_path: Path) -> None:
    root = touch(tmp_path / "val", ["a.b.jpg", "c.png", "d.jpg"])
    table = 'file,class,more\na.b.jpg,golden retriever,1\n"c.png","cat, tabby",2\n\nd.jpg , cat\n'
    data = FlatImagesDataset(root, write(tmp_path / "x.csv", "\ufeff" + table))
    assert labelled(data) == {"a.b.jpg": "golden retriever", "c.png": "cat, tabby", "d.jpg": "cat"}
    assert [label.line for label in read_flat_labels(tmp_path / "x.csv")] == [2, 3, 5]
    quotes = write(tmp_path / "x.txt", 'a.b\tdog "a"\nc\tcat\nd\tcat\n')
    assert labelled(FlatImagesDataset(root, quotes))["a.b.jpg"] == 'dog "a"'


def test_the_order_of_classes(tmp_path: Path) -> None:
    root = touch(tmp_path / "val", ["1.jpg", "2.jpg"])
    path = write(tmp_path / "x.csv", "1.jpg,b\n2.jpg,a\n")
    classes = write(tmp_path / "classes.txt", "c\nb\n\na\n")
    assert FlatImagesDataset(root, path).class_names == ("a", "b")
    data = FlatImagesDataset(root, path, classes=classes)
    assert data.class_names == ("c", "b", "a") and [data.label(i) for i in range(2)] == [1, 2]
    assert FlatImagesDataset(root, path, classes=classes, class_names=["a", "b"]).label(0) == 1
    with pytest.raises(DatasetError, match="classes.txt: class names must be unique, 'b' occur"):
        FlatImagesDataset(root, path, classes=write(classes, "b\na\nb\n"))
    with pytest.raises(DatasetError, match="nowhere: no such file; expected the class names"):
        FlatImagesDataset(root, path, classes=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text, error",
    [
        ("1.jpg,a\n2.jpg,z\n", r"x.csv, line 2: class 'z' of 2.jpg is not among the expected classes 'a', 'b'"),
        ("1.jpg,a\n", r"val: 2 images, but .*x.csv lists 1; without a class: '2.jpg'"),
        ("1.jpg,a\n2.jpg,b\n3.jpg,b\n", r"1 of the 3 images listed in .*x.csv are not among the 2 there: '3.jpg'"),
        ("1.jpg,a\n2.jpg,b\n1,b\n", r"x.csv, line 3: 1 is listed again \(first in line 1\)"),
        ("1.jpg,a\n2.jpg\n", r"x.csv, line 2: got '2.jpg', expected the development kit's"),
        ("1.jpg,a\n2.jpg,\n", r"x.csv, line 2: got '2.jpg,', expected"),
        ("\x80", r"x.csv: not a text file in UTF-8"),
    ],
)
def test_lists_that_do_not_fit(tmp_path: Path, text: str, error: str) -> None:
    root = touch(tmp_path / "val", ["1.jpg", "2.jpg"])
    (tmp_path / "x.csv").write_bytes(text.encode("latin1"))
    with pytest.raises(DatasetError, match=error):
        FlatImagesDataset(root, tmp_path / "x.csv", class_names=["a", "b"])


def test_the_fullest_name_decides(tmp_path: Path) -> None:
    root = touch(tmp_path / "val", ["1.jpg"])
    touch(root / "deep", ["1.jpg"])
    path = write(tmp_path / "x.csv", "deep/1,a\n1.jpg,b\n")
    assert labelled(FlatImagesDataset(root, path)) == {"deep/1.jpg": "a", "1.jpg": "b"}


def test_names_that_lead_outside_are_not_moved(tmp_path: Path) -> None:
    touch(tmp_path / "images", ["a.jpg"])
    for image, name in (("a.jpg", "../x"), ("a.jpg", ".."), ("../images/a.jpg", "x"), ("a.jpg", "/tmp")):
        with pytest.raises(DatasetError, match="line 7: .* is not a plain name of a file"):
            move_into_class_folders(tmp_path / "images", [FlatLabel(image, name, 7)], tmp_path / "val")
    move_into_class_folders(tmp_path / "images", [FlatLabel("b.jpg", "x", 1), FlatLabel("a.jpg", "y", 2)], tmp_path)
    assert (tmp_path / "y" / "a.jpg").is_file() and not (tmp_path / "x").exists()


def test_corrupt_images_follow_the_policy(tmp_path: Path) -> None:
    root = touch(tmp_path / "val", ["bad.png"])
    Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(root / "good.png")
    data = FlatImagesDataset(root, write(tmp_path / "x.csv", "bad,a\ngood,b\n"))
    with pytest.raises(ImageError, match=r"bad.png: .*data.on_bad_image to skip"):
        TransformedClassificationDataset(data, DetectionTransforms([]))[SampleKey(0, 0, 0)]
    sample = TransformedClassificationDataset(data, DetectionTransforms([]), on_bad_image="skip")[SampleKey(0, 0, 0)]
    assert sample.image_id == "good.png" and int(sample.labels) == 1 and "bad.png" in sample.skipped[0]


def test_real_photographs_with_their_list(real_data: Path) -> None:
    folder = real_data / "imagenet-sample"
    if not folder.is_dir():
        pytest.skip("needs imagenet-sample/")
    data = FlatImagesDataset(folder, folder / "labels.csv")
    assert len(data) == 100 == len(data.class_names)
    assert all(Path(data.file(i)).name.startswith(data.class_names[data.label(i)]) for i in range(100))
    assert data.read(0).shape == (375, 500, 3)
