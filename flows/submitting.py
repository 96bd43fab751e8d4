"""Who submits what a run trains or starts."""

from prefect.runtime import deployment, flow_run

from stores.people import deployment_identity


def submitted_by(stated: str) -> str:
    """`stated`, by who called the flow; in a run of a deployment the deployment, whatever its parameters state.

    Prefect's open-source server knows no users: whoever reaches it may run a deployment with any parameters, so that a
    name in them says nothing about who it was.
    """
    if deployment.id is None:
        return stated
    return deployment_identity(f"{flow_run.flow_name}/{deployment.name}")
