"""The view of a table, as the configuration describes it, fitted to a shape of the source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rowcast.consumer.views.conditions import ConditionColumn, compile_condition
from rowcast.consumer.views.masks import Mask, mask_of
from rowcast.consumer.views.syntax import Condition, ConditionError, columns_of, parse_condition
from rowcast.shared.config.view_settings import ViewSettings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.suggestions import did_you_mean
from rowcast.shared.tables.shape import ColumnShape, TableShape, ViewedColumn, ViewShape


@dataclass(frozen=True, slots=True)
class TableView:
    """The columns, masks and condition of a replica for a table.

    ``taken``: the names in the replica by the names at the source. ``masks``: by the names at the source.
    ``condition``: the condition over the rows, or None. ``names``: the present name at the source of each column in the
    condition.
    """

    settings: ViewSettings
    taken: Mapping[str, str]
    masks: Mapping[str, Mask]
    condition: Condition | None
    names: Mapping[str, str]

    @property
    def clear(self) -> frozenset[str]:
        """Return the replica's columns with the values of the source."""
        return frozenset(self.taken) - self.masks.keys()

    def viewed(self, shape: TableShape) -> ViewShape:
        """Return the description of the view, to be recorded with the shape."""
        columns = tuple(
            ViewedColumn(
                column.name,
                self.taken.get(column.name),
                self.masks[column.name].recorded if column.name in self.masks else None,
            )
            for column in shape.columns
        )
        return ViewShape(self.settings.schema_, self.settings.name, self.settings.where, columns)


def fit_view(settings: ViewSettings, shape: TableShape, key: bytes | None, *, is_pattern: bool) -> TableView:
    """Fit a view to the newest shape of a table. ``key``: the secret key of the masks.

    ``is_pattern``: the view is for several tables, and columns missing in the table are left out. Raise
    ConfigurationError, with the table and the key of the configuration, for an impossible view.
    """
    try:
        return _Fitting(settings, shape, is_pattern=is_pattern).fit(key)
    except ConfigurationError as error:
        raise ConfigurationError(f"the view of {shape.full_name}: {error}") from None


class _Fitting:
    def __init__(self, settings: ViewSettings, shape: TableShape, *, is_pattern: bool) -> None:
        self._settings = settings
        self._shape = shape
        self._is_pattern = is_pattern
        self._columns = {column.name: column for column in shape.columns}

    def fit(self, key: bytes | None) -> TableView:
        taken = self._taken()
        masks = {name: mask_of(text, self._columns[name], key) for name, text in self._of("mask", taken).items()}
        if masked := sorted(masks.keys() & set(self._shape.primary_key)):
            raise ConfigurationError(f"column {masked[0]} belongs to the primary key, which cannot be masked")
        condition, names = self._condition()
        return TableView(self._settings, taken, masks, condition, names)

    def _taken(self) -> dict[str, str]:
        settings = self._settings
        chosen = self._columns.keys() - self._present("without", settings.without)
        if settings.columns is not None:
            chosen = set(self._present("columns", settings.columns))
        if missing := [name for name in self._shape.primary_key if name not in chosen]:
            raise ConfigurationError(
                f"column {missing[0]} belongs to the primary key, which finds the row of each event. Take it too"
            )
        # The columns have the order of the source.
        kept = {name: name for name in self._columns if name in chosen}
        renamed = self._of("rename", kept)
        if keys := [name for name in self._shape.primary_key if renamed.get(name, name) != name]:
            raise ConfigurationError(f"column {keys[0]} belongs to the primary key, which keeps its names")
        taken = {name: renamed.get(name, name) for name in kept}
        self._require_different(taken)
        return taken

    def _require_different(self, taken: Mapping[str, str]) -> None:
        """Raise ConfigurationError if two columns have one name. Some engines do not distinguish upper and lower case.

        Columns with names from the source are not compared.
        """
        by_name: dict[str, str] = {}
        for name, new in sorted(taken.items(), key=lambda item: item[0] != item[1]):
            other = by_name.setdefault(new.lower(), name)
            if other != name and new != name:
                raise ConfigurationError(
                    f"rename: {name} would have the name {new}, as column {other} has. Choose another name"
                )

    def _of(self, key: str, taken: Mapping[str, str]) -> dict[str, str]:
        """Return the values of ``rename`` or ``mask`` by the present names of the columns."""
        values: Mapping[str, str] = getattr(self._settings, key)
        names = self._present(key, values)
        if left_out := [name for name in names if name not in taken]:
            raise ConfigurationError(f"{key} names column {left_out[0]}, which the replica does not take")
        return {name: values[configured] for name, configured in names.items()}

    def _present(self, key: str, names: Iterable[str]) -> dict[str, str]:
        """Return the names in the configuration by the present names of the columns.

        A configured name may be a former name of a renamed column.
        """
        wanted = list(names)
        formers = self._shape.new_names(wanted)
        found: dict[str, str] = {}
        for name in wanted:
            present = name if name in self._columns else formers.get(name)
            if present is not None:
                found[present] = name
            elif not self._is_pattern:
                meant = did_you_mean(name, self._columns)
                raise ConfigurationError(f"{key} names column {name}, which the table does not have.{meant}")
        return found

    def _condition(self) -> tuple[Condition | None, dict[str, str]]:
        text = self._settings.where
        if text is None:
            return None, {}
        try:
            condition = parse_condition(text)
            self._is_pattern = False
            names = {old: new for new, old in self._present("where", dict.fromkeys(columns_of(condition))).items()}
            columns = {old: ConditionColumn(new, self._type(new)) for old, new in names.items()}
            compile_condition(condition, columns)
        except ConditionError as error:
            raise ConfigurationError(f"where: {error}") from None
        return condition, names

    def _type(self, name: str) -> str:
        return self._columns[name].type.name


def masked_column(view: TableView, name: str, column: ColumnShape) -> ColumnShape:
    """Return the column of the replica, under its name at the source, for a column of any shape of the table.

    ``name``: the column's present name.
    """
    mask = view.masks.get(name)
    return column if mask is None else mask.shape
