"""What is known of users, beside the events of a training: as of each event, never later."""

from collections.abc import Collection
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from model.attributes import as_of
from model.sequences import Histories
from stores.lake import Lake


def with_user_attributes(lake: Lake, histories: Histories, *, names: Collection[str]) -> Histories:
    """`histories` with the attributes `names` of the users table; an attribute that nobody has is missing everywhere.

    A later statement that leaves an attribute out takes it back: each row of the table is the whole of what holds.
    """
    if not names or not len(histories):
        return histories
    users = lake.relation("users")
    stated = users.select("user", "valid_from", "attributes").order_by("valid_from").to_pyarrow()
    stated = stated.filter(pc.is_in(stated["user"], value_set=pa.array(histories.users, pa.string())))
    since = stated["valid_from"].cast(pa.int64()).to_pylist()
    said = [dict(attributes or ()) for attributes in stated["attributes"].to_pylist()]
    found = {
        name: as_of(
            users=histories.users,
            user_N=histories.user_N(),
            time_N=histories.time_N,
            told=[
                (user, instant, attributes.get(name))
                for user, instant, attributes in zip(stated["user"].to_pylist(), since, said, strict=True)
            ],
        )
        for name in sorted(names)
    }
    return replace(histories, attributes={**histories.attributes, **found})
