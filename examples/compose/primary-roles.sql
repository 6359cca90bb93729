-- The users of the primary. PostgreSQL's image runs this file when it creates the database.
CREATE ROLE shop_owner LOGIN PASSWORD 'owner-secret';
CREATE ROLE shop_app LOGIN PASSWORD 'app-secret';
CREATE ROLE rowcast_relay LOGIN PASSWORD 'relay-secret';
CREATE ROLE rowcast_reader LOGIN PASSWORD 'reader-secret';
-- The owner creates the shop's tables and the outbox. The application runs without this right.
GRANT CREATE ON SCHEMA public TO shop_owner;
