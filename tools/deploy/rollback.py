"""Roll a product back: frontends read the version before the live one again."""

import argparse
import getpass
import os

from common.delivery.versions import roll_back
from common.errors import ArgumentError
from common.protocol import nearest
from tools.command_line import exit_on_task_error
from tools.tables import delivery, open_product, products, use_local_server


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
    use_local_server(arguments.environment)
    store = open_product(delivery(arguments.environment), arguments.product)
    with store.explained():
        left, live = roll_back(store, operator())
    print(f"{store.name} rolled back to version {live['version']}, {live['items']} items, from version")
    print(f"{left['version']}, {left['items']} items. No retry restores that one; rerun the pipeline for")
    print("a new version.")


if __name__ == "__main__":
    main()
