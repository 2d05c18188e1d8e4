"""Run DAGs of a folder to their ends by dag.test(), one after the other, in Airflow's Python.

Arguments: the folder, and the IDs of DAGs.
"""

import sys

from airflow.dag_processing.dagbag import DagBag

sys.path.insert(0, sys.argv[1])  # for `tandem`
bag = DagBag(sys.argv[1])
if bag.import_errors:
    sys.exit("".join(bag.import_errors.values()))
for name in sys.argv[2:]:
    run = bag.dags[name].test(logical_date=None)
    if run.state != "success":
        failed = [f"{each.task_id}: {each.state}" for each in run.get_task_instances() if each.state != "success"]
        sys.exit(f"{name} ended as {run.state}; {', '.join(failed)}")
