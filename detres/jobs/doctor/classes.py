"""How the objects and images are spread over classes and splits."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from detres.jobs.doctor.boxes import Faults, shots_of, usable_boxes
from detres.jobs.doctor.findings import MAX_EXAMPLES, Example, Findings
from detres.jobs.doctor.records import Split

MAX_RATIO = 100  # of the most frequent class to the rarest
MAX_CROWDS = 0.2  # share of all objects
ROLES = ("train", "val", "test")


def check_classes(splits: Sequence[Split], faults: Sequence[Faults], findings: Findings) -> None:
    """Objects per class and split (detection), or images (classification)."""
    counts = count_classes(splits, faults)
    names = sorted({name for split in splits for name in split.class_names})
    roles = [role for role in ROLES if role in counts]
    balance = findings.by_key["class_balance"]
    balance.of = len(names)
    for name in sorted(names, key=lambda name: -counts["train"][name]):
        balance.rows.append({"class": name, **{role: counts[role][name] for role in roles}})
    _check_spelling(names, findings)
    train = counts["train"]
    present = {name: count for name, count in train.items() if count}
    for name in names:
        if not train[name] and any(name in split.class_names for split in splits if split.role == "train"):
            findings.add("classes_without_objects", f"{name!r}: none in the training set")
    if present and (most := max(present.values())) > MAX_RATIO * min(present.values()):
        top = max(present, key=lambda name: present[name])
        rare = sorted((name for name in present if most > MAX_RATIO * present[name]), key=lambda name: present[name])
        texts = (f"{name!r}: {present[name]} in the training set, {top!r}: {most}" for name in rare)
        findings.add_all("class_balance", len(rare), map(Example, texts))
    _check_splits(splits, counts, names, findings)


def count_classes(splits: Sequence[Split], faults: Sequence[Faults]) -> dict[str, Counter[str]]:
    """By role and class name, the objects to learn, or the images that have the class as their label."""
    counts: dict[str, Counter[str]] = {}
    for split, found in zip(splits, faults, strict=True):
        learned = usable_boxes(found) & ~split.boxes.ignore
        own_labels = np.array([image.label for image in split.images], dtype=np.int64)
        for role in [split.role, "val"] if split.held_out else [split.role]:
            here = split.of_role(role)
            labels = [split.boxes.labels[learned & here[split.boxes.images]], own_labels[here & (own_labels >= 0)]]
            counter = counts.setdefault(role, Counter())
            for label, count in enumerate(np.bincount(np.concatenate(labels), minlength=len(split.class_names))):
                counter[split.class_name(label)] += int(count)
    return counts


def _check_spelling(names: Sequence[str], findings: Findings) -> None:
    by_form: dict[str, list[str]] = {}
    for name in names:
        by_form.setdefault("".join(c for c in name.casefold() if c.isalnum()), []).append(name)
    for same in by_form.values():
        if len(same) > 1:
            findings.add("class_names", " and ".join(repr(name) for name in same))


def _check_splits(
    splits: Sequence[Split], counts: dict[str, Counter[str]], names: Sequence[str], findings: Findings
) -> None:
    """Classes with objects in training only or in a judging split only; one that training does not list stops it."""
    listed = {name for split in splits if split.role == "train" for name in split.class_names}
    judging = [role for role in ROLES[1:] if role in counts]
    is_judged = any(split.annotated and (split.held_out or split.role in judging) for split in splits)
    for name in names:
        elsewhere = [role for role in judging if counts[role][name]]
        strange = [split.name for split in splits if split.role != "train" and name in split.class_names]
        if name not in listed and strange:
            text = f"{name!r} is a class of {', '.join(strange)}, but not of the training set"
            findings.add("classes_in_one_split", text, severity="error")
        elif counts["train"][name] and is_judged and not elsewhere:
            findings.add("classes_in_one_split", f"{name!r} has {counts['train'][name]} in train, none elsewhere")
        elif not counts["train"][name] and elsewhere:
            found = ", ".join(f"{counts[role][name]} in {role}" for role in elsewhere)
            findings.add("classes_in_one_split", f"{name!r} has {found}, none in train")


def check_emptiness(splits: Sequence[Split], faults: Sequence[Faults], findings: Findings) -> None:
    """Images without objects, and objects that are ignored."""
    total = crowds = 0
    texts = []
    for split, found in zip(splits, faults, strict=True):
        if not split.annotated:
            continue
        usable, ignore = usable_boxes(found), split.boxes.ignore
        objects = np.bincount(split.boxes.images[usable], minlength=len(split.images))
        empty = np.flatnonzero(objects == 0)
        examples = (Example(split.describe(i), shots_of(split, [], i)) for i in empty[:MAX_EXAMPLES].tolist())
        findings.add_all("images_without_objects", len(empty), examples)
        finding = findings.by_key["images_without_objects"]
        finding.of = (finding.of or 0) + len(split.images)
        here, among = int(ignore[usable].sum()), int(usable.sum())
        total, crowds = total + among, crowds + here
        if among and here > MAX_CROWDS * among:
            texts.append(f"{split.name}: {here} of {among} objects ({here / among:.0%})")
        share = f"{here / among:.1%}" if among else "n/a"
        row = {"split": split.name, "objects": among, "ignored": here, "share": share}
        if here:
            findings.by_key["crowds"].rows.append(row)
    findings.add_all("crowds", crowds if texts else 0, map(Example, texts))
    findings.by_key["crowds"].of = total
