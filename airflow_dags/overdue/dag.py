"""Reports each pipeline that has not succeeded for too long, as an Airflow pipeline of one task."""

from tandem import Pipeline
from tandem.overdue import ReportOverdue

with Pipeline(__file__, tags=["operations"], default_args={"owner": "data"}) as dag:
    ReportOverdue(
        task_id="report_overdue", pipelines=dag.environment.overdue_hours, notice=dag.environment.failure_notice
    )
