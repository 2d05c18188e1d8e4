"""Show frontends the version of a product again that they saw before the one in place."""

import argparse
import getpass
import os
import sys

from common.delivery.tables import Table, client, explained, table_name
from common.delivery.versions import roll_back
from common.errors import ArgumentError, TaskError
from common.protocol import nearest
from tools.tables import delivery, products, reach


def operator() -> str:
    """The user of this process, by name if it has one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--product", required=True, metavar="NAME", help=f"one of {', '.join(products())}")
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    arguments = parser.parse_args()
    try:
        if arguments.product not in products():
            raise ArgumentError(f"There is no product '{arguments.product}'{nearest(arguments.product, products())}.")
        name = table_name(delivery(arguments.environment)["tables"], arguments.product)
        reach(arguments.environment)
        with explained(name):
            left, shown = roll_back(Table(client(), name, 1), operator())
    except TaskError as error:
        sys.exit(str(error))
    print(f"{name} shows version {shown['version']['S']} again, {shown['items']['N']} items; it showed")
    print(f"{left['version']['S']}, {left['items']['N']} items. No retry brings that back; run the pipeline again for")
    print("a new version.")


if __name__ == "__main__":
    main()
