-- What each user of the primary may do. The owner of the tables grants the rights after it has created the tables.
GRANT SELECT, INSERT, UPDATE, DELETE ON accounts, customers, products, orders, order_lines TO shop_app;
GRANT USAGE ON SEQUENCE accounts_id_seq, customers_id_seq, products_id_seq, orders_id_seq TO shop_app;
GRANT INSERT ON rowcast_outbox TO shop_app;
GRANT SELECT, INSERT, UPDATE ON rowcast_shape TO shop_app;
-- For named batches.
GRANT SELECT, INSERT, UPDATE, DELETE ON rowcast_batch TO shop_app;

GRANT SELECT, INSERT, UPDATE, DELETE
    ON rowcast_outbox, rowcast_lease, rowcast_claim, rowcast_snapshot, rowcast_parked, rowcast_relay TO rowcast_relay;
GRANT SELECT, UPDATE ON rowcast_shape TO rowcast_relay;
-- Snapshots read the existing rows.
GRANT SELECT ON accounts, customers, products, orders, order_lines TO rowcast_relay;

-- For rowcast status, check and verify.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO rowcast_reader;
