"""Roll a product back: frontends read the version before the live one again."""

import argparse
import getpass
import os

from common.delivery.tables import Table, client, explained, table_name
from common.delivery.versions import roll_back
from common.errors import ArgumentError
from common.protocol import nearest
from tools.command_line import exit_on_task_error
from tools.tables import delivery, products, use_local_server


def operator() -> str:
    """Return the user of this process, by name if there is one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--product", required=True, metavar="NAME", help=f"one of {', '.join(products())}")
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    arguments = parser.parse_args()
    if arguments.product not in products():
        raise ArgumentError(f"There is no product '{arguments.product}'{nearest(arguments.product, products())}.")
    name = table_name(delivery(arguments.environment)["tables"], arguments.product)
    use_local_server(arguments.environment)
    with explained(name):
        left, live = roll_back(Table(client(), name, 1), operator())
    print(f"{name} rolled back to version {live['version']['S']}, {live['items']['N']} items, from version")
    print(f"{left['version']['S']}, {left['items']['N']} items. No retry restores that one; rerun the pipeline for")
    print("a new version.")


if __name__ == "__main__":
    main()
