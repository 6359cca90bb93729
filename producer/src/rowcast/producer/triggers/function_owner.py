"""Check the rights of the owner of PostgreSQL's trigger functions, and the rights of other roles on the functions.

The functions are SECURITY DEFINER. A function runs with the rights of its owner, because other roles need no rights on
the outbox. Therefore only the owner may choose the meaning of a name in a function, and only the owner may call the
function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rowcast.producer.triggers.base import TriggerDialect
from rowcast.shared.errors import ConfigurationError

_OWNED = """
SELECT r.rolname, c.relkind::text, c.relispartition,
  c.relrowsecurity AND NOT (r.rolsuper OR r.rolbypassrls)
    AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE')),
  has_table_privilege(r.oid, {outbox}::regclass, 'INSERT'),
  {readable}
FROM pg_class AS c, pg_roles AS r
WHERE c.oid = {table}::regclass AND r.rolname = {role}
"""

_CREATORS = """
SELECT DISTINCT n.nspname, CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END
FROM pg_namespace AS n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS acl
WHERE n.nspname IN ({schemas}) AND acl.privilege_type = 'CREATE' AND acl.grantee <> n.nspowner
AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = acl.grantee AND (r.rolsuper OR r.rolname = {role}))
AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = {table}::regclass AND c.relowner = acl.grantee)
ORDER BY 1, 2
"""


_UNSAFE = """
SELECT bool_or(acl.grantee <> p.proowner), bool_and(
  coalesce(array_to_string(p.proconfig, E'\\n'), '') ~ '(^|\\n)search_path=pg_catalog(, [^\\n]*)?, pg_temp(\\n|$)')
FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid,
aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS acl
WHERE t.tgrelid = {table}::regclass AND t.tgname LIKE 'rowcast!_%' ESCAPE '!' AND p.prosecdef
"""

_CALLERS = """
SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END
FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS acl
WHERE p.oid = {function} AND acl.grantee <> p.proowner
"""


@dataclass(frozen=True, slots=True)
class FunctionOwner:
    """Describe the rights of the role that owns the functions of a table's triggers."""

    name: str
    kind: str
    is_partition: bool
    rows_are_hidden: bool
    may_insert: bool
    may_select: bool

    def faults(self, outbox: str) -> Iterator[tuple[str, str]]:
        """Yield what keeps the functions from capturing the table, each with the next step."""
        if self.rows_are_hidden:
            fault = (
                f"row security hides rows of the table from {self.name}, which owns the functions of the triggers, so "
                "that they cannot read what was changed"
            )
            step = (
                f"Let a role with BYPASSRLS own them (triggers install --owner), or let {self.name} own the table, "
                "without FORCE ROW LEVEL SECURITY"
            )
            yield fault, step
        if not self.may_select:
            yield f"{self.name}, which owns the functions of the triggers, may not SELECT from the table", "Grant it"
        if not self.may_insert:
            yield f"{self.name}, which owns the functions of the triggers, may not INSERT into {outbox}", "Grant it"


class FunctionOwners:
    """Look up the owners of trigger functions.

    ``outbox``: the quoted name of the outbox with its schema.
    """

    def __init__(self, triggers: TriggerDialect, outbox: str) -> None:
        self._execute = triggers.execute
        self._literal = triggers.literal
        self._quote = triggers.quote
        self._outbox = outbox

    def current_role(self) -> str:
        """Return the role of the session."""
        return str(self._execute("SELECT current_user").scalar_one())

    def of_triggers(self, table: str) -> str | None:
        """Return the owner of the functions called by the table's triggers. None: the table has no triggers."""
        owner = self._execute(
            "SELECT DISTINCT pg_get_userbyid(p.proowner) FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid "
            f"WHERE t.tgrelid = {self._literal(table)}::regclass AND t.tgname LIKE 'rowcast!_%' ESCAPE '!' LIMIT 1"
        ).scalar()
        return None if owner is None else str(owner)

    def describe(self, table: str, role: str, columns: Sequence[str] | None = None) -> FunctionOwner:
        """Return what the role may do as the owner of the table's trigger functions.

        ``table``: the quoted name with its schema. ``columns``: the columns that the role must be able to read. None:
        any column. Raises ConfigurationError if the role does not exist.
        """
        name = self._literal(table)
        readable = f"has_any_column_privilege(r.oid, {name}::regclass, 'SELECT')"
        if columns is not None:
            each = (f"has_column_privilege(r.oid, {name}::regclass, {self._literal(c)}, 'SELECT')" for c in columns)
            readable = " AND ".join(each)
        row = self._execute(
            _OWNED.format(table=name, role=self._literal(role), outbox=self._literal(self._outbox), readable=readable)
        ).one_or_none()
        if row is None:
            raise ConfigurationError(f"there is no role {role!r} to own the functions of triggers. Create it first.")
        return FunctionOwner(*row)

    def unsafe(self, table: str) -> Iterator[str]:
        """Yield how other roles could act with the rights of the functions' owner."""
        executable, fixed = self._execute(_UNSAFE.format(table=self._literal(table))).one()
        if executable:
            yield "other roles may call the functions of the triggers, and so write false changes"
        if fixed is False:
            yield (
                "the search_path of the triggers' functions lets whoever may write to the table act with the rights of "
                "their owner (see SECURITY.md)"
            )

    def creators(self, table: str, role: str, schemas: Sequence[str]) -> list[str]:
        """Return who else may create objects in the schemas, such as ``PUBLIC in public``.

        The owner of the functions, of the table or of a schema, and superusers, are left out.
        """
        names = ", ".join(map(self._literal, schemas))
        found = self._execute(
            _CREATORS.format(schemas=names, role=self._literal(role), table=self._literal(table))
        ).all()
        return [f"{creator} in {schema}" for schema, creator in found]

    def give(self, function: str, role: str) -> None:
        """Let the role own the function. No other role may call the function.

        ``function``: the quoted name with ``()``.
        """
        oid = f"{self._literal(function)}::regprocedure"
        found = self._execute(f"SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE oid = {oid}")
        if found.scalar_one() != role:
            self._execute(f"ALTER FUNCTION {function} OWNER TO {self._quote(role)}")
        for grantee in self._execute(_CALLERS.format(function=oid)).scalars().all():
            self._execute(f"REVOKE ALL ON FUNCTION {function} FROM {grantee}")
