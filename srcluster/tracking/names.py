"""The names that MLflow takes."""

import hashlib
import re


def metric_name(name: str) -> str:
    """What a metric or parameter is called in MLflow: its own name, where MLflow's alphabet and paths allow it.

    Otherwise what they lack becomes `_`, and a digest keeps two such names apart: `psnr_y/Set5 _copy_-93b9f6`.
    """
    whole = "/".join(map(_part, name.split("/")))
    return whole if len(whole) <= 250 else f"{whole[:243]}-{_digest(name)}"


def _part(part: str) -> str:
    if re.fullmatch(r"(?!\.\.?$)[\w.: -]+", part):
        return part
    plain = re.sub(r"[^\w.: -]", "_", part).strip(".")
    return f"{plain}-{_digest(part)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:6]
