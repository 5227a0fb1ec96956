"""The MLflow server: where it is, whether it answers, and what its errors mean."""

import logging
import os
import time
from collections.abc import Callable
from textwrap import shorten
from typing import TypeVar
from urllib.parse import urlsplit

from mlflow import environment_variables
from mlflow.exceptions import MlflowException, RestException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response

from srcluster.errors import UserError

PATIENCE_S = 120
"""How long a server that is away is waited for where there is nothing to do without it."""

_CHECK_TIMEOUT_S = 5

_log = logging.getLogger(__name__)

T = TypeVar("T")

# MLflow's own patience is 7 retries of 120 s, in which nothing else would be sent; the outbox does the retrying.
# Its defaults are changed, not the environment: child processes keep theirs, and a person's setting still counts.
environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.default = 0
environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT.default = 20
environment_variables.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.default = True


class AwayError(UserError):
    """MLflow does not answer now."""


def check() -> str:
    """The address of the MLflow server, which answers and lets this host and this user in.

    Raises:
        UserError: There is no address, nothing answers there, or it is no MLflow server for us.
    """
    uri = address()
    # What MLflow's client asks, but for its patience. Not every server that it works with knows /health.
    endpoint = "/api/2.0/mlflow/experiments/search"
    try:
        answer = http_request(
            *(get_default_host_creds(uri), endpoint, "POST"),
            json={"max_results": 1},
            timeout=_CHECK_TIMEOUT_S,
            max_retries=0,
            raise_on_status=False,
        )
        verify_rest_response(answer, endpoint)
    except MlflowException as error:
        raise _refused(error) or UserError(
            f"no MLflow server answers at {uri} ({reason(error)}): start it, or correct MLFLOW_TRACKING_URI"
        ) from error
    return uri


def address() -> str:
    """The address of the server, from MLFLOW_TRACKING_URI.

    Raises:
        UserError: There is none, it is no http address, or there is a password in it.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise UserError(
            "no MLflow server is set: give its address in MLFLOW_TRACKING_URI, "
            "or start one on this machine with `python -m srcluster.local up`"
        )
    if urlsplit(uri).password is not None:
        raise UserError(
            "MLFLOW_TRACKING_URI has a password in it, which would be printed and logged with it: give it in "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if urlsplit(uri).scheme not in ("http", "https"):
        raise UserError(
            f"MLFLOW_TRACKING_URI is {uri}, which the workers of a cluster can't share: set it to the address of "
            "an MLflow server, http://... or https://..."
        )
    return uri.rstrip("/")


def patiently(action: Callable[[], T], timeout_s: float = PATIENCE_S) -> T:
    """The result of `action`, which is repeated while the server is away.

    Raises:
        AwayError: The server is still away after `timeout_s`.
        UserError: It refuses.
    """
    deadline_s = time.monotonic() + timeout_s
    waiting = False
    while True:
        try:
            return action()
        except MlflowException as error:
            if refused := _refused(error):
                raise refused from error
            if time.monotonic() > deadline_s:
                raise AwayError(
                    f"MLflow at {address()} has not answered for {timeout_s:g} s ({reason(error)}): start it again"
                ) from error
            if not waiting:
                _log.warning("MLflow at %s is away (%s); waiting for it", address(), reason(error))
        waiting = True
        time.sleep(1)


def is_refusal(error: Exception) -> bool:
    """Whether trying again is useless: it's the request that is wrong, not the state of the server."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        # A bare 404 comes from something that stands in the server's place, such as a gateway while it restarts.
        return status in (400, 409) or (status == 404 and isinstance(error, RestException))
    # An artifact's upload through the server fails with the exception of `requests`.
    return getattr(getattr(error, "response", None), "status_code", None) == 400


def reason(error: BaseException) -> str:
    """What is behind an exception of MLflow, in a few words."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return shorten(str(error).partition(". Response body")[0] or type(error).__name__, 200)


def _refused(error: MlflowException) -> UserError | None:
    """What the server refuses, for a person; None if it is away."""
    uri = address()
    if "Invalid Host header" in str(error):
        return UserError(
            f"MLflow at {uri} refuses requests for the host {urlsplit(uri).netloc}: add it to "
            "MLFLOW_SERVER_ALLOWED_HOSTS where the server is started"
        )
    if error.get_http_status_code() in (401, 403):
        return UserError(
            f"MLflow at {uri} does not let us in: set MLFLOW_TRACKING_TOKEN, or "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return UserError(f"MLflow at {uri} refuses: {reason(error)}") if is_refusal(error) else None
