"""Generate the shop's traffic: a seeded mix of all actions of an application.

Each action is a transaction through the ORM. The result is the number of finally changed rows, and all must arrive on
the replica.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session, sessionmaker

from rowcast.producer.demo.models import Account, Customer, Order, OrderLine, Product

_FIRST = (
    "Ada", "Björn", "Chloé", "Dmitri", "Ece", "Fatima", "Grace", "Hiro", "Inès", "Jürgen", "Kofi", "Łucja", "María",
    "Nia", "Omar", "Priya", "Zoë",
)  # fmt: skip
_LAST = (
    "Adeyemi", "Brown", "Çelik", "Dubois", "Eriksson", "Fernández", "García", "Haddad", "Ivanova", "Jones", "Kim",
    "Lindqvist", "Müller", "Nowak",
)  # fmt: skip
_KINDS = ("red", "blue", "oak", "steel", "woollen", "folding", "antique", "tiny", "grand", "paper")
_THINGS = ("lamp", "kettle", "chair", "desk", "clock", "scarf", "teapot", "notebook", "bicycle", "umbrella", "radio")

ACCOUNTS = 20
CENTS_AN_ACCOUNT = 100_000
BANK_SUM = ACCOUNTS * CENTS_AN_ACCOUNT
"""The sum of all accounts, in cents. No transaction changes it."""

_FIRST_DAY = datetime(2026, 1, 1, 8, 0, 0)


class _ChangedTheirMind(Exception):
    """Roll back the transaction of a customer who leaves before paying."""


class Shop:
    """Run transactions through ``sessions``. The seed decides the actions and the order."""

    def __init__(self, sessions: sessionmaker[Session], seed: int) -> None:
        self._sessions = sessions
        self._random = random.Random(seed)
        self._customers: list[int] = []
        self._products: list[int] = []
        self._orders: list[int] = []
        self._registered = 0
        self.visitor = 0
        """The id of a customer who never orders, so no row depends on this customer."""
        self._clock = _FIRST_DAY
        self._actions: list[tuple[int, Callable[[Session], int]]] = [
            (42, self._place_order),
            (10, self._transfer),
            (14, self._register),
            (18, self._move_on),
            (8, self._change_order),
            (6, self._cancel),
            (4, self._leave_before_paying),
            (4, self._take_back_a_gift),
            (2, self._raise_prices),
            (2, self._import_customers),
        ]

    def open(self) -> int:
        """Insert the products and the first customers, unless an earlier run did. Return the number of new rows."""
        with self._sessions.begin() as session:
            is_open = session.scalar(select(Product.id).limit(1)) is not None
            new = [] if is_open else [*self._stock(), *self._first_customers(), *self._accounts()]
            session.add_all(new)
            session.flush()
            self._products = list(session.scalars(select(Product.id).order_by(Product.id)))
            self._customers = list(session.scalars(select(Customer.id).order_by(Customer.id)))
            self._orders = list(session.scalars(select(Order.id).order_by(Order.id)))
            # E-mail addresses must be unique. Each customer took a number, and no number is above the highest id.
            self._registered = self._customers[-1]
            self.visitor = self._customers.pop()
            return len(new)

    def _stock(self) -> list[Product]:
        return [
            Product(
                sku=f"SKU-{n:04}",
                name=f"{self._random.choice(_KINDS)} {self._random.choice(_THINGS)}",
                price=Decimal(self._random.randint(150, 20_000)) / 100,
                stock=self._random.randint(200, 900),
            )
            for n in range(60)
        ]

    def _first_customers(self) -> list[Customer]:
        return [self._new_customer() for _ in range(40)]

    def _accounts(self) -> list[Account]:
        return [Account(balance=CENTS_AN_ACCOUNT) for _ in range(ACCOUNTS)]

    def trade(self, transactions: int | None = None) -> Iterator[int]:
        """Run a transaction at each step, and yield the number of changed rows. Without a number, never end."""
        weights = [weight for weight, _ in self._actions]
        while transactions is None or transactions > 0:
            transactions = transactions and transactions - 1
            (_, act) = self._random.choices(self._actions, weights)[0]
            try:
                with self._sessions.begin() as session:
                    changed = act(session)
            except _ChangedTheirMind:
                changed = 0
            yield changed

    # -- what happens in a shop

    def _place_order(self, session: Session) -> int:
        order, changed = self._filled_basket(session)
        session.flush()
        self._orders.append(order.id)
        return changed

    def _register(self, session: Session) -> int:
        customer = self._new_customer()
        session.add(customer)
        session.flush()
        self._customers.append(customer.id)
        return 1

    def _move_on(self, session: Session) -> int:
        """Pay an order, or send a paid order."""
        order = self._some_order(session)
        if order is None or order.status == "sent":
            return 0
        order.status = "paid" if order.status == "placed" else "sent"
        return 1

    def _change_order(self, session: Session) -> int:
        """Increase a line of an order, and remove another line. The ORM deletes the removed line as an orphan."""
        order = self._some_order(session)
        if order is None:
            return 0
        changed = 0
        if len(order.lines) > 1:
            order.lines.remove(order.lines[0])
            changed += 1
        order.lines[-1].quantity += 1
        return changed + 1

    def _cancel(self, session: Session) -> int:
        """Delete an order with its lines."""
        order = self._some_order(session)
        if order is None or order.status == "sent":
            return 0
        self._orders.remove(order.id)
        changed = 1 + len(order.lines)
        session.delete(order)
        return changed

    def _transfer(self, session: Session) -> int:
        """Move money from an account to another."""
        payer, payee = self._random.sample(range(1, ACCOUNTS + 1), k=2)
        cents = self._random.randint(1, 5_000)
        # The database computes both balances, because several shops may move money at the same time.
        session.get_one(Account, payer).balance = Account.balance - cents
        session.get_one(Account, payee).balance = Account.balance + cents
        return 2

    def _leave_before_paying(self, session: Session) -> int:
        """Roll back an order after its rows were written. No row of the order may arrive."""
        self._filled_basket(session)
        session.flush()
        raise _ChangedTheirMind

    def _take_back_a_gift(self, session: Session) -> int:
        """Place an order, and roll back a savepoint inside."""
        order, changed = self._filled_basket(session)
        session.flush()
        savepoint = session.begin_nested()
        session.add(self._line(order.id, 99, self._some_product(session)))
        order.note = "with a gift"
        session.flush()
        savepoint.rollback()
        order.note = "without a gift"
        self._orders.append(order.id)
        # The order is inserted and updated in one transaction. Both changes count as one row.
        return changed

    def _raise_prices(self, session: Session) -> int:
        """Update many rows in a statement, without objects in the session."""
        chosen = self._random.sample(self._products, k=len(self._products) // 3)
        result = session.execute(
            update(Product).where(Product.id.in_(chosen)).values(price=func.round(Product.price + Decimal("0.10"), 2))
        )
        assert isinstance(result, CursorResult)
        return result.rowcount

    def _import_customers(self, session: Session) -> int:
        """Insert several rows by a Core statement, without objects."""
        rows = [self._customer_values() for _ in range(10)]
        session.execute(insert(Customer.__table__), rows)  # type: ignore[arg-type]  # it is a Table
        return len(rows)

    # -- pieces

    def _filled_basket(self, session: Session) -> tuple[Order, int]:
        """Return a new order with one to four lines, and the number of changed rows."""
        self._clock += timedelta(seconds=self._random.randint(5, 90), microseconds=self._random.randrange(1_000_000))
        order = Order(customer_id=self._random.choice(self._customers), placed=self._clock, status="placed")
        session.add(order)
        session.flush()
        chosen = self._random.sample(self._products, k=self._random.randint(1, 4))
        for number, product_id in enumerate(chosen, start=1):
            product = session.get_one(Product, product_id)
            line = self._line(order.id, number, product)
            product.stock -= line.quantity
            session.add(line)
        return order, 1 + 2 * len(chosen)

    def _line(self, order_id: int, number: int, product: Product) -> OrderLine:
        return OrderLine(
            order_id=order_id,
            line=number,
            product_id=product.id,
            quantity=self._random.randint(1, 3),
            price=product.price,
        )

    def _some_order(self, session: Session) -> Order | None:
        return session.get_one(Order, self._random.choice(self._orders)) if self._orders else None

    def _some_product(self, session: Session) -> Product:
        return session.get_one(Product, self._random.choice(self._products))

    def _new_customer(self) -> Customer:
        return Customer(**self._customer_values())

    def _customer_values(self) -> dict[str, object]:
        self._registered += 1
        first, last = self._random.choice(_FIRST), self._random.choice(_LAST)
        return {
            "name": f"{first} {last}",
            "email": f"{first}.{last}.{self._registered}@example.org".lower(),
            "vip": self._random.random() < 0.1,
            "joined": self._clock,
        }
