"""The pointer of a model: which release is served, and which ones are tried beside it. See ``docs/formats.md``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ranktower.embedding_store.ids import encode_ids
from ranktower.errors import ReleaseError
from ranktower.release import check_model_name, check_release_id

_MAX_PREVIOUS = 100

VariationRole = Literal["canary", "shadow"]
VARIATION_ROLES: tuple[VariationRole, ...] = get_args(VariationRole)


def _checked(check: Callable[[str], str]) -> AfterValidator:
    """A check that raises ReleaseError, for pydantic, which wants a ValueError."""

    def validate(value: str) -> str:
        try:
            return check(value)
        except ReleaseError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(validate)


ReleaseId = Annotated[str, _checked(check_release_id)]
ModelName = Annotated[str, _checked(check_model_name)]


class Variation(BaseModel):
    """A second release beside the current one, and the share of the traffic that it gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: ReleaseId
    share: float = Field(gt=0, le=1)
    """Of the users (canary), of the answers (shadow)."""
    model: ModelName | None = None
    """Whose release it is; None for a release of the pointer's own model."""

    def has_user(self, user_id: str | int) -> bool:
        """Whether a user belongs to the share, by the hash of ``docs/formats.md``.

        A user always does or never does. A larger share keeps the users of a smaller one; another release gets others.
        """
        (text,) = encode_ids([user_id])
        digest = hashlib.sha256(b"%b:%b" % (self.release.encode(), text)).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2**64


class Pointer(BaseModel):
    """Which release is served, which ones were before, latest first, and which ones are tried beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: ReleaseId
    previous: tuple[ReleaseId, ...] = ()
    canary: Variation | None = None
    shadow: Variation | None = None

    def variation(self, role: VariationRole) -> Variation | None:
        """The release of that role, None if there is none."""
        return self.canary if role == "canary" else self.shadow

    def promoted(self, release: str) -> Pointer:
        """The pointer after ``release`` is promoted, no longer its own canary or shadow; itself if that is served
        already."""
        if release == self.release:
            return self
        before = [self.release, *(one for one in self.previous if one != release)]
        return self._serving(release, tuple(before[:_MAX_PREVIOUS]))

    def rolled_back(self) -> Pointer:
        """The pointer to the release served before this one, no longer its own canary or shadow; itself if there was
        none."""
        return self._serving(self.previous[0], self.previous[1:]) if self.previous else self

    def _serving(self, release: str, previous: tuple[str, ...]) -> Pointer:
        pointer = self.model_copy(update={"release": release, "previous": previous})
        for role in VARIATION_ROLES:
            variation = self.variation(role)
            if variation is not None and (variation.model, variation.release) == (None, release):
                pointer = pointer.varied(role, None)
        return pointer

    def varied(self, role: VariationRole, variation: Variation | None) -> Pointer:
        """The pointer with another canary or shadow, or with none."""
        return self.model_copy(update={role: variation})

    def names(self, model: str) -> set[tuple[str, str]]:
        """(model, release) of all that ``model`` serves by this pointer, and of what a rollback would serve."""
        own = {(model, release) for release in (self.release, *self.previous[:1])}
        return own | {(one.model or model, one.release) for one in (self.canary, self.shadow) if one}

    def to_bytes(self) -> bytes:
        """JSON, one line; a canary or shadow only where there is one, so that older services read it too."""
        return self.model_dump_json(exclude_none=True).encode("utf-8") + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes, *, source: str) -> Pointer:
        """The pointer in ``content``; ``source`` names it in the ReleaseError of a wrong one."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise ReleaseError(f"{source}: not a pointer: {error.errors()[0]['msg']}, got {content!r:.100}") from error
