"""What every configuration file has: YAML, validated when it is loaded, with a digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ranktower.errors import ConfigError


class ConfigFile(BaseModel):
    """A frozen configuration that is read from, and written to, one YAML file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    unions: ClassVar[frozenset[str]] = frozenset()
    """Keys of the file that hold one of several sections, or a list of such; a section's ``name`` tells which."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a YAML file; keys left out keep their defaults.

        Raises:
            ConfigError: the file is missing or no YAML, or a key is unknown or its value wrong; names file, key, value.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: there is no such configuration file") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
        return cls.parse({} if content is None else content, where=str(path))

    @classmethod
    def parse(cls, content: Any, *, where: str) -> Self:
        """A configuration from plain values; ``where`` tells in an error where they came from.

        Raises:
            ConfigError: a key is unknown or its value wrong; names where, key and value.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            problems = "; ".join(
                f"{cls._key(item['loc']) or 'the file'}: {item['msg']}, got {item['input']!r}"
                for item in error.errors()
            )
            raise ConfigError(f"{where}: {problems}") from None
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def _key(cls, location: tuple[int | str, ...]) -> str:
        parts = list(location)
        if parts and parts[0] in cls.unions:
            # What pydantic puts behind the key, and behind a list's index, is the section's name, which is no key.
            name = next((place for place, part in enumerate(parts) if place and isinstance(part, str)), None)
            if name is not None:
                del parts[name]
        return ".".join(map(str, parts))

    def dump(self, path: Path) -> None:
        """Write every key with its value, the defaults too, aside and renamed."""
        aside = path.with_name(f".{path.name}.part")
        aside.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        aside.replace(path)

    def digest(self) -> str:
        """SHA-256 of the configuration: runs with the same digest on the same data give the same result."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
