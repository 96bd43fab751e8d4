"""The container file and the Kubernetes manifests name what the code really has, and break no rule of theirs."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from fastapi.testclient import TestClient

from serving.run import DRAIN_SECONDS, main
from stores.home import Home
from stores.settings import Settings, load_settings

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "serving" / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
DOCUMENTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [document for document in DOCUMENTS if document["kind"] == kind]
    return found


POD = of_kind("Deployment")["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def instructions(word: str) -> list[str]:
    """The arguments of every `word` instruction of the container file, continuation lines joined."""
    joined = CONTAINERFILE.replace("\\\n", " ")
    return re.findall(rf"^{word} (.+)$", joined, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_the_schema_holds(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_schema_would_notice() -> None:
    wrong = {**of_kind("Service"), "spec": {"selectors": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_names_point_at_each_other() -> None:
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("Service")["spec"]["selector"] == labels
    assert of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    target = of_kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", of_kind("Deployment")["metadata"]["name"])
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert of_kind("Service")["spec"]["ports"][0]["targetPort"] in ports
    allowed = of_kind("NetworkPolicy")["spec"]["ingress"][0]["ports"]
    assert [port["port"] for port in allowed] == [ports["http"]] == [Settings().serving.port]
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == volumes


def test_replicas_survive_each_other() -> None:
    scaling = of_kind("HorizontalPodAutoscaler")["spec"]
    assert 2 <= scaling["minReplicas"] == of_kind("Deployment")["spec"]["replicas"] < scaling["maxReplicas"]
    assert of_kind("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert of_kind("Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert CONTAINER["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in CONTAINER["resources"]["limits"]


def test_nothing_runs_with_more_rights_than_it_needs() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    user = str(POD["securityContext"]["runAsUser"])
    assert instructions("USER") == [f"{user}:{POD['securityContext']['runAsGroup']}"]
    assert user != "0"
    written = {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")}
    home = Home(Path("/var/lib/ratchet"))
    assert written == {str(home.landing), str(home.preferences), str(home.run), "/tmp"}


def test_a_pod_that_goes_has_time_to_drain() -> None:
    """preStop counts towards the grace period; the logs' last rows come after the requests."""
    grace, before = POD["terminationGracePeriodSeconds"], CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before >= 5
    assert grace >= before + DRAIN_SECONDS + 10
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize(
    ("probe", "ready", "unready"),
    [("startupProbe", 200, 200), ("readinessProbe", 200, 503), ("livenessProbe", 200, 200)],
)
def test_probes_ask_what_the_app_answers(shop: Any, start: Any, probe: str, ready: int, unready: int) -> None:
    """Without anything to recommend a replica is out of the service, and is not restarted."""
    asked = CONTAINER[probe]["httpGet"]
    assert asked["port"] == "http"
    client: TestClient = start()
    assert client.get(asked["path"]).status_code == unready
    shop.publish("a")
    client.app.state.service.watcher.refresh()  # type: ignore[attr-defined]
    assert client.get(asked["path"]).status_code == ready


def test_the_images_healthcheck_asks_the_same() -> None:
    (check,) = instructions("HEALTHCHECK")
    command = ast.literal_eval(check.partition("CMD ")[2])
    url = re.search(r"urlopen\('http://127\.0\.0\.1:(\d+)(/\w+)'", command[-1])
    assert url is not None
    assert (int(url[1]), url[2]) == (Settings().serving.port, CONTAINER["livenessProbe"]["httpGet"]["path"])
    assert instructions("EXPOSE") == [str(Settings().serving.port)]


def test_the_command_is_one_that_serving_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (entry,) = [ast.literal_eval(stated) for stated in instructions("ENTRYPOINT")]
    assert entry[:3] == ["python", "-m", "serving.run"]
    assert entry[3:] == ["--home", "/var/lib/ratchet"]
    (default,) = [ast.literal_eval(stated) for stated in instructions("CMD")]
    for arguments in (default, CONTAINER["args"]):
        # All is understood: what it complains of is the absent home.
        assert main(["--home", str(tmp_path), *arguments]) == 2
        assert "no Ratchet home here" in capsys.readouterr().err


def test_settings_and_variables_are_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "ratchet.toml"
    stated = of_kind("ConfigMap")["data"]
    assert CONTAINER["args"][-1] == f"/etc/ratchet/{next(iter(stated))}"
    file.write_text(stated["ratchet.toml"])
    values = {"RATCHET_LEDGER__URL": "postgresql+psycopg://x", "RATCHET_SERVING__USER_STATE": "redis://x"}
    assert {variable["name"] for variable in CONTAINER["env"]} == set(values)
    settings = load_settings(file, environment=values)  # an unknown one is an error
    assert (settings.ledger.url, settings.serving.user_state) == tuple(values.values())
    assert (settings.serving.host, settings.serving.port) == ("0.0.0.0", Settings().serving.port)


def test_no_secret_is_written_down() -> None:
    for variable in CONTAINER["env"]:
        assert "value" not in variable, variable["name"]
        assert "secretKeyRef" in variable["valueFrom"]
    assert not any(document["kind"] == "Secret" for document in DOCUMENTS)
    assert not re.search(r"(?i)(password|secret|token|rk_)\w*=", CONTAINERFILE)


def folders_mounted() -> Iterator[tuple[str, str]]:
    for mount in CONTAINER["volumeMounts"]:
        if mount["name"] == "home":
            yield mount["mountPath"], mount["subPath"]


def test_the_volumes_folders_are_the_homes() -> None:
    home = Home(Path("/var/lib/ratchet"))
    for path, inside in folders_mounted():
        assert path == str(home.root / inside)
    needed = {home.releases, home.serving, home.landing, home.preferences, home.root / "home.json"}
    assert {path for path, _ in folders_mounted()} == {str(path) for path in needed}


def test_the_images_build_sees_all_that_the_wheel_needs() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    rooms = set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert let_in == rooms | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    (extras,) = re.findall(r"whl\)\[([\w,]+)\]", CONTAINERFILE)
    assert set(extras.split(",")) <= PYPROJECT["project"]["optional-dependencies"].keys()
    python = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert CONTAINERFILE.count(f"python:{python}-slim") == 2
