"""ImageNet's ids and words."""

from detres.weights.imagenet import imagenet_ids, with_words


def test_the_ids_are_a_thousand_in_order() -> None:
    ids = imagenet_ids()
    assert len(set(ids)) == 1000 and list(ids) == sorted(ids)
    assert (ids[0], ids[281], ids[999]) == ("n01440764", "n02123045", "n15075141")


def test_words_stand_behind_ids_and_nothing_else_changes() -> None:
    assert with_words([]) == ()
    assert with_words(["cat", "n99999999"]) == ("cat", "n99999999")
    assert with_words(["n02123045", "n00000000"]) == ("n02123045 tabby", "n00000000")
    assert len(set(with_words(imagenet_ids()))) == 1000, "two machines and birds may share a word, not a name"
