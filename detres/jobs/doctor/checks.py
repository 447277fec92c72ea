"""What the doctor looks for: every check with its title, what it means when it finds something, and the remedy.

"error": training or evaluation would stop, or its numbers would mean nothing. "warning": it goes on, but objects are
lost or something looks wrong. "unchecked": there was nothing to look at.
"""

from typing import Literal, NamedTuple

from detres.jobs.doctor.duplicates import NEAR

Severity = Literal["ok", "warning", "error", "unchecked"]


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
        "annotation files",
        "error", "Files or entries that are not there, or not in the form that the format asks for: "
        "correct the path, fetch the data, or export the file again.", boxes=False
    ),
    "image_ids": Check(
        "image ids", "error", "Each image needs an id of its own: which one do annotations belong to?", boxes=False
    ),
    "image_entries": Check(
        "image entries", "error", "Each image needs a file name and a positive width and height; --fix writes sizes."
    ),
    "files_twice": Check(
        "files listed twice", "warning", "One image file stands under several ids: its objects may be split "
        "among them. Join them under one id."
    ),
    "categories": Check("categories", "error", "Each category needs an integer id and a name, each used once."),
    "annotation_ids": Check("annotation ids", "error", "Each annotation needs an id of its own; --fix renumbers."),
    "unknown_images": Check(
        "annotations of unknown images", "error", "The list of images is incomplete: complete it, or let --fix remove "
        "these annotations."
    ),
    "unknown_categories": Check(
        "annotations of unknown classes", "error", "These objects count as background: name their classes, or let "
        "--fix remove them."
    ),
    "missing_images": Check(
        "missing images", "error", "Fetch them, or correct the folder; --fix removes their entries.", boxes=False
    ),
    "unreadable_images": Check(
        "unreadable images", "error", "Fetch or export the files again; --fix removes their entries.", boxes=False
    ),
    "image_sizes": Check(
        "image sizes", "error", "The annotation gives another size than the file has: its boxes are of another "
        "picture. Put the original file back; --fix removes such images, and corrects sizes that are merely turned."
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
    "boxes_nearly_twice": Check(
        "near duplicate boxes", "warning", f"Two boxes of a class with an IoU of at least {NEAR}: one object, marked "
        "twice? Delete the worse one; --fix leaves both, as it cannot know which that is."
    ),
    "boxes_of_two_classes": Check(
        "one box, several classes", "warning", "The same box under another class: one of the two is likely wrong. "
        "Delete it; --fix leaves both."
    ),
    "tiny_boxes": Check(
        "tiny boxes", "warning", "A side below 3 pixels at the smallest training scale: hard or impossible to learn. "
        "Train on larger images (data.train_transforms), or leave such objects out by data.min_box_size."
    ),
    "areas": Check(
        "areas", "warning", "COCO sorts objects into small, medium and large by them; --fix writes those of the boxes."
    ),
    "class_balance": Check(
        "class balance", "warning", "The rarest classes are hardly seen: data.repeat_threshold=0.001 shows them more.",
        boxes=False,
    ),
    "class_names": Check(
        "class names", "warning", "Names that differ in case or spaces only are likely one class: rename one of them.",
        boxes=False,
    ),
    "classes_without_objects": Check(
        "classes without objects", "warning", "In the training set: they cannot be learned. Add images of them, or "
        "take them out of the list of classes.", boxes=False,
    ),
    "classes_in_one_split": Check(
        "classes in one split only", "warning", "They are trained but never judged, or judged but never trained: "
        "divide the images anew, so that every class is in each split.", boxes=False,
    ),
    "leaks": Check("images shared by splits", "error", f"The same file. {_LEAKED}", boxes=False),
    "pixel_leaks": Check("pictures shared by splits", "error", f"Other files, same pixels. {_LEAKED}", boxes=False),
    "same_split": Check(
        "splits that are one", "warning", "Two splits name the same data: what is measured is what was memorised. "
        "Name other data, unless that is what you want to see.", boxes=False,
    ),
    "repeated_images": Check(
        "repeated images", "warning", "The same picture again in one split: it counts as often, perhaps with other "
        "objects. Delete the copies; --fix does so only where data.val is held out of these images.", boxes=False,
    ),
    "images_without_objects": Check("images without objects", "warning", _EMPTY),
    "crowds": Check(
        "crowds and difficult objects", "warning", "Neither object nor background in training: little is left to "
        "learn. VOC's difficult objects are used by use_difficult: true in the entry of `data`."
    ),
    "anchor_coverage": Check(
        "anchor coverage", "warning", "Objects that no anchor fits are learned from bad anchors only: choose "
        "model.anchors.sizes and aspect_ratios by the table, or resize the images differently."
    ),
    "loading": Check(
        "loading as training does", "error", "Training would stop with this message.", boxes=False
    ),
}  # fmt: skip
