"""A small bank in one SQLite file.

Every conversation has a customer of its own, a copy of the same seed, so that
no demonstration or test disturbs another. Amounts are whole pence.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

MAX_CUSTOMERS = 1_000
LOCK_TIMEOUT_S = 10.0
SEEN_EVERY_S = 60  # how often it is noted that a customer was seen: every write waits for the disk, and the caller with it

SCHEMA = """
CREATE TABLE customers (
    id INTEGER PRIMARY KEY,
    conversation TEXT NOT NULL UNIQUE,
    last_seen TEXT NOT NULL,
    address TEXT NOT NULL
);
CREATE TABLE accounts (
    customer INTEGER NOT NULL UNIQUE REFERENCES customers ON DELETE CASCADE,
    balance_pence INTEGER NOT NULL CHECK (balance_pence >= 0),
    transfer_limit_pence INTEGER NOT NULL
);
CREATE TABLE cards (
    customer INTEGER NOT NULL UNIQUE REFERENCES customers ON DELETE CASCADE,
    last4 TEXT NOT NULL,
    atm_limit_pence INTEGER NOT NULL,
    frozen_since TEXT,
    travel_country TEXT NOT NULL,
    travel_until TEXT NOT NULL
);
CREATE TABLE bills (
    id INTEGER PRIMARY KEY,
    customer INTEGER NOT NULL REFERENCES customers ON DELETE CASCADE,
    service TEXT NOT NULL,
    payee TEXT NOT NULL,
    amount_pence INTEGER NOT NULL,
    due TEXT NOT NULL,
    paid_at TEXT
);
CREATE TABLE direct_debits (
    customer INTEGER NOT NULL REFERENCES customers ON DELETE CASCADE,
    payee TEXT NOT NULL,
    amount_pence INTEGER NOT NULL,
    UNIQUE (customer, payee)
);
CREATE TABLE transactions (
    id INTEGER PRIMARY KEY,
    customer INTEGER NOT NULL REFERENCES customers ON DELETE CASCADE,
    payee TEXT NOT NULL,
    amount_pence INTEGER NOT NULL,
    booked_at TEXT NOT NULL
);
CREATE INDEX bills_of ON bills (customer);
CREATE INDEX transactions_of ON transactions (customer);
PRAGMA user_version = 1
"""


class InsufficientFunds(Exception):
    """The account does not hold enough for a payment."""


@dataclass(frozen=True)
class Card:
    last4: str
    atm_limit_pence: int  # a day
    frozen_since: date | None  # None: the card works
    travel_country: str
    travel_until: date


@dataclass(frozen=True)
class Bill:
    id: int
    service: str
    payee: str
    amount_pence: int
    due: date


@dataclass(frozen=True)
class Payment:
    payee: str
    amount_pence: int


class Customer:
    """One conversation's customer, inside one open transaction. Not thread-safe."""

    def __init__(self, connection: sqlite3.Connection, row_id: int):
        self._connection = connection
        self._id = row_id

    def balance_pence(self) -> int:
        return self._one("SELECT balance_pence FROM accounts WHERE customer = ?")[0]

    def transfer_limit_pence(self) -> int:
        """The most one day's transfers may come to."""
        return self._one("SELECT transfer_limit_pence FROM accounts WHERE customer = ?")[0]

    def address(self) -> str:
        return self._one("SELECT address FROM customers WHERE id = ?")[0]

    def card(self) -> Card:
        row = self._one("SELECT * FROM cards WHERE customer = ?")
        frozen = row["frozen_since"]
        return Card(
            last4=row["last4"],
            atm_limit_pence=row["atm_limit_pence"],
            frozen_since=datetime.fromisoformat(frozen).date() if frozen else None,
            travel_country=row["travel_country"],
            travel_until=date.fromisoformat(row["travel_until"]),
        )

    def freeze_card(self) -> None:
        """Freeze the card; one that is frozen keeps the date of its first freezing."""
        self._run("UPDATE cards SET frozen_since = coalesce(frozen_since, ?) WHERE customer = ?", _now())

    def set_atm_limit(self, limit_pence: int) -> None:
        self._run("UPDATE cards SET atm_limit_pence = ? WHERE customer = ?", limit_pence)

    def open_bill(self) -> Bill | None:
        """The unpaid bill that is due first, or None."""
        row = self._one(
            "SELECT id, service, payee, amount_pence, due FROM bills"
            " WHERE customer = ? AND paid_at IS NULL ORDER BY due, id LIMIT 1"
        )
        return Bill(*row[:-1], due=date.fromisoformat(row["due"])) if row else None

    def pay_open_bill(self) -> Bill | None:
        """Pay the open bill and return it, or return None when there is none.

        Raises:
            InsufficientFunds: the balance is smaller than the bill; nothing changed.
        """
        bill = self.open_bill()
        if bill is None:
            return None
        balance_pence = self.balance_pence()
        if bill.amount_pence > balance_pence:
            raise InsufficientFunds(f"the bill is {bill.amount_pence}, the balance {balance_pence}")
        self._connection.execute("UPDATE bills SET paid_at = ? WHERE id = ?", (_now(), bill.id))
        self._run(
            "UPDATE accounts SET balance_pence = balance_pence - ? WHERE customer = ?",
            bill.amount_pence,
        )
        self._book(Payment(bill.payee, bill.amount_pence), _now())
        return bill

    def latest_transactions(self, count: int) -> list[Payment]:
        """Up to count payments, newest first."""
        rows = self._all(
            f"SELECT payee, amount_pence FROM transactions WHERE customer = ? ORDER BY booked_at DESC, id DESC LIMIT {int(count)}"
        )
        return [Payment(*row) for row in rows]

    def direct_debits(self) -> list[Payment]:
        """What leaves the account every month, by payee."""
        rows = self._all("SELECT payee, amount_pence FROM direct_debits WHERE customer = ? ORDER BY payee")
        return [Payment(*row) for row in rows]

    def cancel_direct_debit(self, payee: str) -> bool:
        """Whether there was one to cancel."""
        cursor = self._connection.execute("DELETE FROM direct_debits WHERE customer = ? AND payee = ?", (self._id, payee))
        return cursor.rowcount == 1

    def _book(self, payment: Payment, booked_at: str) -> None:
        self._connection.execute(
            "INSERT INTO transactions (customer, payee, amount_pence, booked_at) VALUES (?, ?, ?, ?)",
            (self._id, payment.payee, payment.amount_pence, booked_at),
        )

    def _one(self, query: str) -> sqlite3.Row:
        return self._connection.execute(query, (self._id,)).fetchone()

    def _all(self, query: str) -> list[sqlite3.Row]:
        return self._connection.execute(query, (self._id,)).fetchall()

    def _run(self, statement: str, value: object) -> None:
        self._connection.execute(statement, (value, self._id))


def default_path() -> Path:
    """The file named by BANK_DB, otherwise bank.db beside config.yml."""
    return Path(os.environ.get("BANK_DB") or Path(__file__).parents[1] / "bank.db")


@contextmanager
def customer(conversation: str, path: Path | None = None) -> Iterator[Customer]:
    """The customer of a conversation, created at first touch.

    The block is one transaction: it is written when the block ends, and undone when
    the block raises. Blocks of other threads and processes wait for their turn.

    Args:
        conversation: the tracker's sender_id.
        path: the database file; default_path() when None.
    """
    connection = sqlite3.connect(path or default_path(), LOCK_TIMEOUT_S, isolation_level=None)
    with closing(connection):
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        # Taking the write lock at once keeps two first touches from seeding twice.
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield Customer(connection, _find_or_seed(connection, conversation))
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _find_or_seed(connection: sqlite3.Connection, conversation: str) -> int:
    """The id of the conversation's customer, marked as seen now, or less than `SEEN_EVERY_S` ago."""
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
    row = connection.execute("SELECT id FROM customers WHERE conversation = ?", (conversation,)).fetchone()
    row_id = row["id"] if row else _seed(connection, conversation)
    lately = (datetime.now() - timedelta(seconds=SEEN_EVERY_S)).isoformat()
    connection.execute("UPDATE customers SET last_seen = ? WHERE id = ? AND last_seen < ?", (_now(), row_id, lately))
    return row_id


def _seed(connection: sqlite3.Connection, conversation: str) -> int:
    """The id of a new customer; the customers longest unseen make room for it."""
    today = date.today()
    row_id = connection.execute(
        "INSERT INTO customers (conversation, last_seen, address) VALUES (?, ?, ?)",
        (conversation, _now(), "12 Mill Lane, Bristol"),
    ).lastrowid
    connection.execute("INSERT INTO accounts VALUES (?, 124050, 1000000)", (row_id,))
    connection.execute(
        "INSERT INTO cards VALUES (?, '4471', 50000, NULL, 'Spain', ?)",
        (row_id, str(today + timedelta(days=14))),
    )
    connection.execute(
        "INSERT INTO bills (customer, service, payee, amount_pence, due) VALUES (?, 'electricity', 'Brightside Energy', 8420, ?)",
        (row_id, str(today + timedelta(days=5))),
    )
    connection.executemany(
        "INSERT INTO direct_debits VALUES (?, ?, ?)",
        [(row_id, "City Gym", 2999), (row_id, "Clearwater", 3850), (row_id, "Talk Mobile", 1800)],
    )
    new = Customer(connection, row_id)
    for days_ago, payment in (
        (3, Payment("Northline Trains", 3150)),
        (2, Payment("Blue Door Cafe", 480)),
        (1, Payment("Corner Market", 2310)),
    ):
        new._book(payment, f"{today - timedelta(days=days_ago)}T12:00:00")
    connection.execute(
        "DELETE FROM customers WHERE id NOT IN (SELECT id FROM customers ORDER BY last_seen DESC, id DESC LIMIT ?)",
        (MAX_CUSTOMERS,),
    )
    return row_id


def _now() -> str:
    return datetime.now().isoformat()
