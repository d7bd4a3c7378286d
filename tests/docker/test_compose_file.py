"""What is written in the files of the stack; what it does is tested by ``make test-compose``."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# No shell in their images that could ask.
WITHOUT_CHECK = {"collector", "jaeger"}


def is_once(service: dict[str, Any]) -> bool:
    return service["restart"] == "no"


def test_the_services_and_their_profiles() -> None:
    profiles: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for profile in service.get("profiles", [""]):
            profiles.setdefault(profile, set()).add(name)
    cluster = {f"redis-cluster-{number}" for number in range(1, 7)} | {"redis-cluster-init"}
    assert profiles == {
        "": {"secrets", "redis", "offline", "service", "proxy", "prometheus", "grafana"},
        "cluster": cluster,
        "loadtest": {"locust"},
        "tracing": {"collector", "jaeger"},
        "keys": {"keys"},
    }
    assert SERVICES["service"]["deploy"]["replicas"] == 2


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_has_a_version(name: str) -> None:
    image = SERVICES[name]["image"]
    own = image in {f"ranktower-{target}" for target in ("service", "offline", "loadtest")}
    assert own or re.fullmatch(r"[\w./-]+:v?\d+(\.\d+)*(-[a-z]+)?", image), image


def test_nothing_listens_for_other_machines() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:${") for port in ports)
    for name, service in SERVICES.items():
        assert "ports" not in service or not name.startswith("redis"), "Redis is for the compose network only"


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - WITHOUT_CHECK))
def test_what_goes_on_running_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    if is_once(service):
        return
    assert "healthcheck" in service or "HEALTHCHECK" in DOCKERFILE.split(f" AS {service['image'][10:]}\n")[-1]


def test_they_start_in_order() -> None:
    def waits(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in SERVICES[name].get("depends_on", {}).items()}

    assert waits("redis") == {"secrets": "service_completed_successfully"}
    assert waits("offline")["redis"] == "service_healthy"
    assert waits("service") == {"offline": "service_completed_successfully"}
    assert waits("proxy") == {"service": "service_healthy"}
    for name in SERVICES:
        for other, condition in waits(name).items():
            assert condition == ("service_completed_successfully" if is_once(SERVICES[other]) else "service_healthy")


def test_no_password_stands_in_the_files() -> None:
    files = [ROOT / "docker-compose.yml", *(path for path in (ROOT / "docker").iterdir())]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"redis://[^\s\"']*:[^\s\"'/]*@", text), path
        assert not re.search(r"(?i)password\s*[:=]\s*[\"']?[\w-]{6,}[\"']?\s*$", text, re.MULTILINE), path
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            if "/run/secrets/" in volume:
                assert volume.endswith(":ro"), f"{name}: {volume}"


def test_the_service_only_reads_what_it_shares() -> None:
    assert all(volume.endswith(":ro") for volume in SERVICES["service"]["volumes"])


def test_what_is_mounted_from_here_is_here() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"]


def test_the_grace_period_covers_the_drain() -> None:
    from service.settings import HttpSettings

    (delay,) = re.findall(r"HTTP__DRAIN_DELAY_S=(\d+)", DOCKERFILE)
    grace_s = int(SERVICES["service"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= int(delay) + HttpSettings().drain_timeout_s
    assert SERVICES["proxy"]["stop_grace_period"] == SERVICES["service"]["stop_grace_period"]


def test_the_proxy_takes_the_bodies_that_the_service_takes() -> None:
    from service.settings import BudgetSettings, LimitSettings

    text = (ROOT / "docker/nginx.conf").read_text(encoding="utf-8")
    (megabytes,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(megabytes) << 20 == LimitSettings().max_body_bytes
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(seconds) * 1000 >= BudgetSettings().max_ms


def test_the_proxy_leaves_idle_connections_before_the_service_does() -> None:
    from uvicorn import Config

    text = (ROOT / "docker/nginx.conf").read_text(encoding="utf-8")
    (upstream,) = re.findall(r"upstream service {.*?\n    }", text, re.DOTALL)
    (seconds,) = re.findall(r"keepalive_timeout (\d+)s;", upstream)
    assert int(seconds) < Config("service").timeout_keep_alive


def test_the_environment_files_name_settings_that_there_are() -> None:
    passed_on = {key for service in SERVICES.values() for key in service.get("environment", {})} | {"COMPOSE_PROFILES"}
    for path in (ROOT / "docker").glob("*.env"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        assert {line.split("=")[0] for line in lines} <= passed_on, path


def test_what_the_pages_tell_docker_is_there() -> None:
    """Most of these lines are typed by no test: their variables, profiles, targets and files."""
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")]
    blocks = [block for page in pages for block in re.findall(r"```(?:text|sh)\n(.*?)```", page, re.DOTALL)]
    lines = re.findall(r"^(?:\w+=\S+ )*docker .*", "".join(blocks), re.MULTILINE)
    options = [pair for line in lines for pair in pairwise(shlex.split(line))]
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert {"loadtest"} <= {value for option, value in options if option == "--profile"} <= profiles | {"*"}
    targets = {value for option, value in options if option == "--target"}
    assert targets == {"service", "offline"} <= set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    files = {value for option, value in options if option == "-f"}
    assert "docker/Dockerfile" in files
    assert [name for name in files if not (ROOT / name).is_file()] == []
    variables = set(re.findall(r"^(\w+)=", "\n".join(lines), re.MULTILINE))
    assert {"RANKTOWER_DATA"} <= variables <= set(re.findall(r"\$\{(\w+)", str(COMPOSE)))


def test_what_a_page_turns_on_stays_on() -> None:
    """``--env-file`` holds for one command: the next one without it would serve without keys again."""
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert "--env-file" not in pages
    appended = set(re.findall(r"cat (docker/\S+\.env) >> \.env\b", pages))
    assert appended == {f"docker/{path.name}" for path in (ROOT / "docker").glob("*.env")}


def test_what_is_turned_on_after_another_profile_leaves_it_on() -> None:
    for path in (ROOT / "docker").glob("*.env"):
        for value in re.findall(r"^COMPOSE_PROFILES=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert value == f"${{COMPOSE_PROFILES:-}},{path.stem}"


def test_slow_clients_cannot_fill_the_proxys_memory() -> None:
    text = (ROOT / "docker/nginx.conf").read_text(encoding="utf-8")

    def number(directive: str) -> int:
        (value,) = re.findall(rf"^\s*{directive} (\d+)k?;", text, re.MULTILINE)
        return int(value)

    (count, size) = map(int, re.findall(r"proxy_buffers (\d+) (\d+)k;", text)[0])
    headers_k = 4 * 8  # large_client_header_buffers, nginx's default
    reading_k = number("client_body_buffer_size") + headers_k
    answering_k = reading_k + number("proxy_buffer_size") + count * size
    connections = number("worker_processes") * number("worker_connections")
    # A request that is answered has two connections, the client's and the replica's.
    buffers_k = max(connections * reading_k, connections // 2 * answering_k)
    (tmpfs_m,) = re.findall(r"/tmp:size=(\d+)m", SERVICES["proxy"]["tmpfs"][0])
    limit_m = int(SERVICES["proxy"]["mem_limit"].removesuffix("m"))
    assert buffers_k / 1024 + int(tmpfs_m) + 32 <= limit_m, "32 MB for nginx itself"


def test_the_images_stages() -> None:
    assert "# syntax=" not in DOCKERFILE
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert [name for _, name in stages if name in {"service", "offline", "loadtest"}] == [
        "offline",
        "loadtest",
        "service",
    ]
    assert stages[-1][1] == "service", "docker build without a target makes the service"
    assert [base for base, _ in stages if base not in {name for _, name in stages}] == ["${PYTHON_IMAGE}"]


def test_the_images_are_not_root_and_take_signals() -> None:
    runtime = DOCKERFILE[DOCKERFILE.index(" AS runtime") :]
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert "USER" in runtime
    for command in re.findall(r"^(?:ENTRYPOINT|CMD|\s+CMD) (.+)$", DOCKERFILE, re.MULTILINE):
        assert command.startswith("["), command
    assert "ARG PIP" not in runtime, "an address of a package index would stay in the image"


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert allowed == {name for line in copied for name in line.split()}
