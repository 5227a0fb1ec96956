"""The actor between the workers of a training and its driver.

It has a file of its own, since its process imports what this imports: torch and MLflow would take it seconds.
"""


class ReportQueue:
    """An actor for what workers report until their driver takes it: words, or else a step and its metrics."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, int, dict[str, float]]] = []

    def put(self, words: str, step: int, metrics: dict[str, float]) -> None:
        self.reports.append((words, step, metrics))

    def take(self) -> list[tuple[str, int, dict[str, float]]]:
        reports, self.reports = self.reports, []
        return reports
