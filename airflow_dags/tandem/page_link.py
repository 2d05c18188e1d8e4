"""A link on the page of a task in Airflow to a page about its attempt, such as its pod or its driver's log."""

from typing import Any

from airflow.sdk import BaseOperatorLink


class PageLink(BaseOperatorLink):
    """One of the links of a JobOperator, which keeps their addresses by label."""

    def __init__(self, label: str) -> None:
        self.label = label

    @property
    def name(self) -> str:
        return self.label

    @property
    def xcom_key(self) -> str:
        return f"link: {self.label}"

    def get_link(self, operator: Any, *, ti_key: Any = None) -> str:
        """The address of the page, empty if there is none: a name, such as a pod's, is only for the card."""
        address: str = operator.pages.get(self.label, "")
        return address if address.startswith(("https://", "http://")) else ""
