"""What the doctor looks for: every check with its title, what it means when it finds something, and the remedy.

"error": training or evaluation would stop, or its numbers would mean nothing. "warning": it goes on, but objects are
lost or something looks wrong.
"""

from typing import Literal, NamedTuple

Severity = Literal["ok", "warning", "error"]


class Check(NamedTuple):
    """One line of the table.

    title     what is looked for
    severity  of a finding, unless the finding has its own
    remedy    what it means and what to do about it, in a sentence or two
    boxes     whether it is about boxes, which classification sets do not have
    """

    title: str
    severity: Severity
    remedy: str
    boxes: bool = True


_DROPPED = "Such objects are left out (data.on_bad_box), and what they show counts as background; --fix removes them."
_EMPTY = "They are background in training (data.keep_empty_images). Make sure that nothing was forgotten in them."
_LEAKED = "What is measured on images that were trained on says nothing; --fix removes them from the training set."

CHECKS: dict[str, Check] = {
    "annotation_files": Check(
        "annotation files", "error", "Files or entries that are not in the form that the format asks for.", boxes=False
    ),
    "image_ids": Check(
        "image ids", "error", "Each image needs an id of its own: which one do annotations belong to?", boxes=False
    ),
    "image_entries": Check(
        "image entries", "error", "Each image needs a file name and a positive width and height; --fix writes sizes."
    ),
    "files_twice": Check(
        "files listed twice", "warning", "One image file stands under several ids: its objects may be split among them."
    ),
    "categories": Check("categories", "error", "Each category needs an integer id and a name, each used once."),
    "annotation_ids": Check("annotation ids", "error", "Each annotation needs an id of its own; --fix renumbers."),
    "unknown_images": Check(
        "annotations of unknown images", "error", "The list of images is incomplete; --fix removes these annotations."
    ),
    "unknown_categories": Check(
        "annotations of unknown classes", "error", "These objects count as background; --fix removes the annotations."
    ),
    "missing_images": Check(
        "missing images", "error", "Fetch them, or correct the folder; --fix removes their entries.", boxes=False
    ),
    "unreadable_images": Check(
        "unreadable images", "error", "Fetch or export the files again; --fix removes their entries.", boxes=False
    ),
    "image_sizes": Check(
        "image sizes", "error", "The annotation gives another size than the file has: its boxes are of another picture."
    ),
    "boxes_not_finite": Check("boxes that are no four numbers", "warning", _DROPPED),
    "boxes_without_size": Check("boxes of zero or negative size", "warning", _DROPPED),
    "boxes_outside": Check("boxes outside the image", "warning", _DROPPED),
    "boxes_partly_outside": Check(
        "boxes partly outside", "warning", "By more than a pixel. They are cut at the border in training; --fix cuts."
    ),
    "boxes_twice": Check(
        "duplicate boxes", "warning", "The same box and class again: a detector finds it once; --fix removes copies."
    ),
    "boxes_of_two_classes": Check(
        "one box, several classes", "warning", "The same box under another class: one of the two is likely wrong."
    ),
    "tiny_boxes": Check(
        "tiny boxes", "warning", "A side below 3 pixels at the smallest training scale: hard or impossible to learn."
    ),
    "areas": Check(
        "areas", "warning", "COCO sorts objects into small, medium and large by them; --fix writes those of the boxes."
    ),
    "class_balance": Check(
        "class balance", "warning", "The rarest classes are hardly seen: data.repeat_threshold=0.001 shows them more.",
        boxes=False,
    ),
    "class_names": Check(
        "class names", "warning", "Names that differ in case or spaces only are likely one class.", boxes=False
    ),
    "classes_without_objects": Check(
        "classes without objects", "warning", "In the training set: they cannot be learned.", boxes=False
    ),
    "classes_in_one_split": Check(
        "classes in one split only", "warning", "They are trained but never judged, or judged but never trained.",
        boxes=False,
    ),
    "leaks": Check("images shared by splits", "error", f"The same file. {_LEAKED}", boxes=False),
    "pixel_leaks": Check("pictures shared by splits", "error", f"Other files, same pixels. {_LEAKED}", boxes=False),
    "same_split": Check(
        "splits that are one", "warning", "Two splits name the same data: what is measured is what was memorised.",
        boxes=False,
    ),
    "repeated_images": Check(
        "repeated images", "warning", "The same picture again in one split: it counts as often, perhaps with other "
        "objects.", boxes=False,
    ),
    "images_without_objects": Check("images without objects", "warning", _EMPTY),
    "crowds": Check(
        "crowds and difficult objects", "warning", "Neither object nor background in training: little is left to learn."
    ),
    "anchor_coverage": Check(
        "anchor coverage", "warning", "Objects that no anchor fits are learned from bad anchors only: choose "
        "model.anchors.sizes and aspect_ratios by the table, or resize the images differently."
    ),
    "loading": Check(
        "loading as training does", "error", "Training would stop with this message.", boxes=False
    ),
}  # fmt: skip
