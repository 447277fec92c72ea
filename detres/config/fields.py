"""What all parts of the schema share: strict models, unions chosen by `type`, and the common constrained numbers."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

OUTSIDE = "module:Class"  # stands for any `type` that names a class of the user's


class InconsistentSettings(ValueError):
    """Settings that are each possible but not together: (key relative to their group, what is wrong) pairs."""

    def __init__(self, mistakes: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {text}" for key, text in mistakes))
        self.mistakes = mistakes


class Settings(BaseModel):
    """A group of settings: unknown keys, NaN and infinity are refused, and values of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=(), allow_inf_nan=False)

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        """What is wrong between the settings of this group, as (key inside the group, got and expected)."""
        yield from ()

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if mistakes := list(self._mistakes()):
            raise InconsistentSettings(mistakes)
        return self


class ByType:
    """Marks a union of Settings whose member is chosen by the key `type`.

    Mistakes are then reported for that member only. The member whose `type` has a default is taken when `type` is
    absent; a `type` with a colon goes to the member for outside classes, if the union has one.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        variants: list[type[Settings]] = list(get_args(source))
        tags = {tag: variant for variant in variants for tag in type_tags(variant)}
        defaults = [variant.model_fields["type"].get_default() for variant in variants if _has_default_type(variant)]

        def choose(value: object) -> str | None:
            if isinstance(value, dict):
                name = value.get("type", defaults[0] if defaults else None)
            else:
                name = getattr(value, "type", None)
            if not isinstance(name, str):
                return None
            return OUTSIDE if ":" in name and OUTSIDE in tags else name

        choices = {tag: handler.generate_schema(variant) for tag, variant in tags.items()}
        return core_schema.tagged_union_schema(choices, discriminator=choose)


class OrAuto:
    """Marks a number that may also be the text "auto": `Annotated[int | Literal["auto"], OrAuto()]`, above 0."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: object, number: core_schema.ValidatorFunctionWrapHandler) -> object:
            return value if value == "auto" else number(value)

        as_it_is = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        number = core_schema.int_schema(gt=0, le=MOST, strict=True)
        return core_schema.no_info_wrap_validator_function(check, number, serialization=as_it_is)


def type_tags(variant: type[Settings]) -> tuple[str, ...]:
    """The values of `type` that choose this member of a ByType union."""
    annotation = variant.model_fields["type"].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else (OUTSIDE,)


def _has_default_type(variant: type[Settings]) -> bool:
    return not variant.model_fields["type"].is_required()


T = TypeVar("T")
MOST = 2**53  # larger whole numbers mean nothing, and floats cannot count them
PositiveInt = Annotated[int, Field(gt=0, le=MOST)]
Channels = Annotated[int, Field(gt=0, le=2**16)]  # those of a checkpoint are anybody's: they are to stay buildable
Layers = Annotated[int, Field(gt=0, le=1000)]
PositiveIntOrAuto = Annotated[int | Literal["auto"], OrAuto()]
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
OneOrMore = Annotated[  # one value is read as a list of one
    list[T], Field(min_length=1), BeforeValidator(lambda value: value if isinstance(value, list) else [value])
]


def _switched(value: object) -> object:
    return {} if value is True else None if value is False else value


Switch = Annotated[T | None, BeforeValidator(_switched)]  # null or false: off; true: on, with the defaults of T
