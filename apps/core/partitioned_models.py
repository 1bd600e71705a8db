"""Migration operations for partitioned tables.

operations = [CreatePartitionedModel("Event", partition_by="occurred_at", fields=[...]), CreatePartitions(EVENTS)]
"""

from typing import Any

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import ProjectState

from apps.core import partitions


class CreatePartitionedModel(migrations.CreateModel):
    """`CreateModel` whose table is `PARTITION BY RANGE (partition_by)`.

    Take the operation that `makemigrations` writes and rename it: the autodetector then sees an ordinary model. The
    primary key must contain `partition_by`, so the model declares a `CompositePrimaryKey`.
    """

    def __init__(self, name: str, *, partition_by: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.partition_by = partition_by

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        name, args, kwargs = super().deconstruct()
        return name, list(args), {**kwargs, "partition_by": self.partition_by}

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = to_state.apps.get_model(app_label, self.name)
        if not self.allow_migrate_model(schema_editor.connection.alias, model):
            return
        create, parameters = schema_editor.table_sql(model)
        column = schema_editor.quote_name(model._meta.get_field(self.partition_by).column)
        schema_editor.execute(f"{create} PARTITION BY RANGE ({column})", parameters or None)
        for index in model._meta.indexes:
            schema_editor.add_index(model, index)


class CreatePartitions(migrations.RunPython):
    """Creates the partitions around now, so that the table can be written as soon as it exists."""

    reduces_to_sql = False

    def __init__(self, table: partitions.PartitionedTable) -> None:
        super().__init__(lambda _apps, _editor: _create(table), migrations.RunPython.noop)
        self.table = table

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        return self.__class__.__qualname__, [self.table], {}


def _create(table: partitions.PartitionedTable) -> None:
    partitions.ensure(table)
